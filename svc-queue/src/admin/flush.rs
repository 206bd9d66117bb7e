//! Flush: what matches and waits is due now.

use crate::conclude::{self, Plan};
use crate::core::{Claimed, Next};
use crate::error::Error;
use crate::events::codec;
use crate::node::Node;
use crate::outcome::instant;
use crate::selector::Selector;
use crate::spool::Record;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::{FlushRequest, FlushResponse};
use std::sync::Arc;

/// Deliveries that are looked at, and that are changed, while the core is locked.
const SEEN_MAX: usize = 10_000;
const CHANGED_MAX: usize = 1_000;

pub async fn flush(node: &Arc<Node>, request: FlushRequest) -> Result<FlushResponse, Error> {
    let selector = Selector::parse(request.selector)?;
    node.run(flush_all(node.clone(), selector, request.dry_run, request.reason)).await
}

async fn flush_all(node: Arc<Node>, selector: Selector, dry_run: bool, reason: String) -> Result<FlushResponse, Error> {
    let operation_id = MessageId::new().to_string().replace("msg_", "op_");
    let now_ms = node.now_ms();
    let mut matched_count = 0;
    let mut from = Some(0);
    while let Some(start) = from {
        let (claimed, next) = node.with(|core, _| {
            let matches = |label: &_, message| selector.matches(label, message);
            let (keys, next) = core.page(start, (CHANGED_MAX, SEEN_MAX), matches);
            let waits =
                |key: &u32| core.view(*key).is_some_and(|view| view.due_ms > now_ms && !view.leased && !view.aside);
            let keys: Vec<u32> = keys.into_iter().filter(waits).collect();
            matched_count += keys.len() as u64;
            let claimed: Vec<Claimed> =
                if dry_run { Vec::new() } else { keys.into_iter().filter_map(|key| core.claim_idle(key)).collect() };
            (claimed, next)
        });
        make_due(&node, claimed, now_ms).await?;
        from = next;
        tokio::task::yield_now().await;
    }
    if !dry_run {
        let event = Event {
            kind: EventKind::Audit.into(),
            time: Some(instant(now_ms)),
            metadata: [
                ("operation".to_string(), "flush".to_string()),
                ("operation_id".to_string(), operation_id.clone()),
                ("reason".to_string(), reason),
                ("matched_count".to_string(), matched_count.to_string()),
            ]
            .into(),
            ..Event::default()
        };
        node.spool.append(vec![Record::Event { of: None, payload: codec::encode(&event) }]).await?;
    }
    Ok(FlushResponse { matched_count, operation_id })
}

async fn make_due(node: &Arc<Node>, claimed: Vec<Claimed>, now_ms: u64) -> Result<(), Error> {
    if claimed.is_empty() {
        return Ok(());
    }
    let plan = |claimed: &Claimed| Plan {
        claimed: claimed.clone(),
        next: Next::Rescheduled { due_ms: now_ms },
        events: Vec::new(),
    };
    let plans: Vec<Plan> = claimed.iter().map(plan).collect();
    let written = conclude::commit(node, &plans).await;
    if written.is_err() {
        conclude::restore(node, &claimed);
    }
    written
}
