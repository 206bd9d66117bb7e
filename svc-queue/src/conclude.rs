//! Operations on claimed deliveries: read their envelopes, write what becomes of them in one append, then apply it.

use crate::core::{Claimed, Next};
use crate::error::Error;
use crate::node::Node;
use crate::spool::{self, Lookup, Record};
use crate::stored::Meta;
use crate::{events, outcome};
use bytes::Bytes;
use godwit_proto::common::v1::Event;
use prost::Message;
use std::sync::Arc;

/// Deliveries of one step, each with an envelope to be read.
pub const STEP_COUNT_MAX: usize = 250;

/// What is to become of one delivery.
pub struct Plan {
    pub claimed: Claimed,
    pub next: Next,
    pub events: Vec<Event>,
}

/// The envelopes of deliveries, as far as they can be read: a damaged one is empty.
///
/// # Errors
/// The disk gives none of those that have to be read.
pub async fn read_metas(node: &Node, claimed: &[Claimed]) -> Result<Vec<Meta>, Error> {
    let missing: Vec<u128> =
        claimed.iter().filter(|claimed| claimed.meta.is_empty()).map(|claimed| claimed.id.message.0).collect();
    let read = if missing.is_empty() { Vec::new() } else { node.spool.read_up_to(missing, 0).await? };
    if let Some(Lookup::Unreadable(reason)) = read.first()
        && read.iter().all(|lookup| matches!(lookup, Lookup::Unreadable(_)))
    {
        return Err(spool::Error::Unavailable { reason: reason.clone() }.into());
    }
    let mut read = read.into_iter();
    let meta = |claimed: &Claimed| {
        let stored = if claimed.meta.is_empty() {
            read.next().and_then(Lookup::found).map(|stored| stored.meta).unwrap_or_default()
        } else {
            claimed.meta.clone()
        };
        decode(stored, claimed)
    };
    Ok(claimed.iter().map(meta).collect())
}

fn decode(stored: Bytes, claimed: &Claimed) -> Meta {
    Meta::decode(stored).unwrap_or_else(|error| {
        tracing::error!(delivery = %claimed.id, %error, "the stored envelope cannot be read");
        Meta::default()
    })
}

/// Writes and applies. On failure nothing has changed, and the deliveries are still claimed.
pub async fn commit(node: &Arc<Node>, plans: &[Plan]) -> Result<(), Error> {
    let mut records = Vec::with_capacity(2 * plans.len());
    for Plan { claimed, next, events } in plans {
        let payload = |event| Record::Event { of: None, payload: events::codec::encode(event) };
        records.extend(events.iter().map(payload));
        records.push(outcome::record(claimed, next));
    }
    if !records.is_empty() {
        node.spool.append(records).await?;
    }
    let ends = node.with(|core, now_ms| {
        let apply = |plan: &Plan| {
            let id = plan.claimed.id.message.0;
            core.apply(&plan.claimed, plan.next.clone(), now_ms).then_some(Record::End { id })
        };
        plans.iter().filter_map(apply).collect::<Vec<_>>()
    });
    node.append_later(ends, "the end of messages");
    Ok(())
}

/// Gives deliveries back as they were.
pub fn restore<'a>(node: &Node, claimed: impl IntoIterator<Item = &'a Claimed>) {
    node.with(|core, now_ms| claimed.into_iter().for_each(|claimed| core.restore(claimed.key, now_ms)));
}

/// Does the same to many: `plan` says what. On failure they are given back as they were.
pub async fn conclude(
    node: &Arc<Node>,
    claimed: Vec<Claimed>,
    plan: impl Fn(&Claimed, &mut Meta) -> (Next, Vec<Event>),
) -> Result<(), Error> {
    let written = try_conclude(node, &claimed, plan).await;
    if written.is_err() {
        restore(node, &claimed);
    }
    written
}

/// The same; on failure they are still claimed.
pub async fn try_conclude(
    node: &Arc<Node>,
    claimed: &[Claimed],
    plan: impl Fn(&Claimed, &mut Meta) -> (Next, Vec<Event>),
) -> Result<(), Error> {
    let metas = read_metas(node, claimed).await?;
    let plans: Vec<Plan> = claimed
        .iter()
        .zip(metas)
        .map(|(claimed, mut meta)| {
            let (next, events) = plan(claimed, &mut meta);
            Plan { claimed: claimed.clone(), next, events }
        })
        .collect();
    commit(node, &plans).await
}
