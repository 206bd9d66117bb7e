//! Lease, Renew, Release: due mail of a site in fair turns, read before it is leased.

use crate::config::LEASE_MAX;
use crate::core::{Granted, Picked, Terms};
use crate::error::Error;
use crate::intake::since_epoch_ms;
use crate::node::Node;
use crate::schedule::millis;
use crate::spool::{Lookup, Stored};
use crate::stored::Meta;
use crate::{outcome, rates};
use bytes::Bytes;
use godwit_kit::trace;
use godwit_proto::INLINE_BYTES_MAX;
use godwit_proto::common::v1::{self as common, Body, body};
use godwit_proto::convert::system_time;
use godwit_proto::id::{LeaseId, NodeId};
use godwit_proto::queue::v1::leased_delivery::OpenRecipient;
use godwit_proto::queue::v1::{
    LeaseRequest, LeaseResponse, LeasedDelivery, ReleaseRequest, ReleaseResponse, RenewRequest, RenewResponse,
};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tracing::Instrument;

const MESSAGES_MAX: u32 = 1_000;
const BYTES_DEFAULT: u64 = 16 << 20;
/// Bodies in sum, also those that are streamed afterwards.
const BYTES_MAX: u64 = 32 << 20;
const WAIT_MS_MAX: u64 = 30_000;
/// When what the disk would not give is asked for again.
const UNREADABLE_MS: u64 = 10_000;
/// What an answer may hold, envelopes included, beyond the first delivery.
const ANSWER_BYTES_MAX: usize = godwit_proto::CALL_BYTES_MAX / 2;

pub async fn lease(node: &Arc<Node>, request: LeaseRequest) -> Result<LeaseResponse, Error> {
    let egress = egress_node(&request.egress_node)?;
    if request.site.is_empty() {
        return Err(Error::invalid("site", "empty"));
    }
    if request.messages_max == 0 || request.messages_max > MESSAGES_MAX {
        return Err(Error::invalid("messages_max", format!("not 1 to {MESSAGES_MAX}")));
    }
    if request.wait_ms > WAIT_MS_MAX {
        return Err(Error::invalid("wait_ms", format!("above {WAIT_MS_MAX}")));
    }
    let lease_ms = lease_ms(node, request.lease_ms)?;
    if node.host.stop.is_requested() {
        return Err(Error::Stopping);
    }
    let hold = Hold::of(node, &request);
    let deadline = tokio::time::Instant::now() + Duration::from_millis(request.wait_ms);
    loop {
        let deliveries = take(node, &request, &hold, (egress, lease_ms)).await?;
        let waited = tokio::time::Instant::now() >= deadline || node.host.stop.is_requested();
        if !deliveries.is_empty() || waited {
            let (remaining_due, next_due) = node.with(|core, _| core.lanes.outlook(hold.site, &request.egress_pools));
            if !deliveries.is_empty() && remaining_due > 0 {
                // Whoever waits beside us may have been told of ours alone.
                hold.bell.notify_one();
            }
            return Ok(LeaseResponse { deliveries, remaining_due, next_due: next_due.map(outcome::instant) });
        }
        tokio::select! {
            () = hold.bell.notified() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = node.host.stop.requested() => {}
        }
    }
}

pub fn egress_node(wire: &Option<common::NodeId>) -> Result<NodeId, Error> {
    NodeId::try_from(wire).map_err(|invalid| Error::invalid("egress_node", invalid))
}

fn lease_ms(node: &Node, asked_ms: u64) -> Result<u64, Error> {
    match asked_ms {
        0 => Ok(millis(node.config.lease_duration)),
        asked if asked > millis(LEASE_MAX) => Err(Error::invalid("lease_ms", format!("above {}", millis(LEASE_MAX)))),
        asked => Ok(asked),
    }
}

/// A site, for as long as somebody asks for its mail.
struct Hold {
    node: Arc<Node>,
    site: u32,
    bell: Arc<Notify>,
}

impl Hold {
    fn of(node: &Arc<Node>, request: &LeaseRequest) -> Self {
        let site = node.with(|core, _| core.lanes.hold_site(&request.site));
        Self { node: node.clone(), site, bell: node.hunger(site, &request.egress_pools) }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.node.sated(self.site, std::mem::take(&mut self.bell));
        self.node.with(|core, _| core.lanes.release_site(self.site));
    }
}

/// Picks, reads and leases. What is leased for somebody who has gone is given back.
async fn take(
    node: &Arc<Node>,
    request: &LeaseRequest,
    hold: &Hold,
    (egress, lease_ms): (NodeId, u64),
) -> Result<Vec<LeasedDelivery>, Error> {
    let asked = if request.bytes_max == 0 { BYTES_DEFAULT } else { request.bytes_max };
    let terms = Terms {
        site: hold.site,
        egress_pools: &request.egress_pools,
        count_max: request.messages_max as usize,
        bytes_max: asked.min(BYTES_MAX),
    };
    let picked = node.with(|core, _| core.pick(&terms));
    if picked.is_empty() {
        return Ok(Vec::new());
    }
    let span = tracing::info_span!("queue.lease", messaging.batch.message_count = picked.len());
    let (reader, giver) = (node.clone(), node.clone());
    let work = async move { read(reader, picked, egress, lease_ms).await }.instrument(span);
    node.run_for(work, move |deliveries: Vec<LeasedDelivery>| {
        let ids = deliveries.iter().filter_map(|delivery| LeaseId::try_from(&delivery.lease_id).ok()).collect();
        giver.with(|core, now_ms| core.release(ids, egress, now_ms, now_ms));
    })
    .await
}

async fn read(
    node: Arc<Node>,
    picked: Vec<Picked>,
    egress: NodeId,
    lease_ms: u64,
) -> Result<Vec<LeasedDelivery>, Error> {
    let picked = rates::allow(&node, picked).await;
    let messages = picked.iter().map(|picked| picked.message).collect();
    let lookups = match node.spool.read_up_to(messages, INLINE_BYTES_MAX).await {
        Ok(lookups) => lookups,
        Err(error) => {
            node.with(|core, now_ms| picked.iter().for_each(|picked| core.put_back(picked.key, 0, now_ms)));
            return Err(error.into());
        }
    };
    let readable = fit(&node, sort(&node, picked, lookups));
    let granted = node.with(|core, now_ms| {
        let grant = |(picked, stored, meta): (Picked, Stored, Meta)| {
            let body = body_of(&picked, stored.body);
            (core.grant(picked.key, egress, now_ms + lease_ms, stored.meta), body, meta)
        };
        readable.into_iter().map(grant).collect::<Vec<_>>()
    });
    node.metrics.leases_granted.inc_by(granted.len() as u64);
    node.metrics.lease_deliveries.observe(granted.len() as f64);
    Ok(granted.into_iter().map(|(granted, body, meta)| leased(granted, body, meta)).collect())
}

/// Those that can be read; the others are set aside.
fn sort(node: &Arc<Node>, picked: Vec<Picked>, lookups: Vec<Lookup>) -> Vec<(Picked, Stored, Meta)> {
    let mut readable = Vec::with_capacity(picked.len());
    for (picked, lookup) in picked.into_iter().zip(lookups) {
        let message_id = godwit_proto::id::MessageId(picked.message);
        match lookup {
            Lookup::Found(stored) => match Meta::decode(stored.meta.clone()) {
                Ok(meta) => readable.push((picked, stored, meta)),
                Err(error) => {
                    tracing::error!(%message_id, %error, "a stored envelope cannot be decoded: set aside");
                    set_aside(node, &picked);
                }
            },
            Lookup::Damaged => {
                tracing::error!(%message_id, "a stored message is damaged: set aside until it expires");
                set_aside(node, &picked);
            }
            Lookup::Unreadable(error) => {
                tracing::error!(%message_id, error, "a stored message cannot be read just now: tried again later");
                node.with(|core, now_ms| core.put_back(picked.key, now_ms + UNREADABLE_MS, now_ms));
            }
            Lookup::Missing => {
                tracing::error!(%message_id, "a queued message is not in the spool: forgotten");
                node.metrics.deliveries_damaged.inc();
                node.with(|core, now_ms| core.vanish(picked.key, now_ms));
            }
        }
    }
    readable
}

/// Those that an answer has room for; the others are due as before.
fn fit(node: &Node, mut readable: Vec<(Picked, Stored, Meta)>) -> Vec<(Picked, Stored, Meta)> {
    let mut bytes = 0;
    let fitting = readable.iter().take_while(|(_, stored, _)| {
        let is_first = bytes == 0;
        bytes += stored.meta.len() + stored.body.len().min(INLINE_BYTES_MAX);
        is_first || bytes <= ANSWER_BYTES_MAX
    });
    let left = readable.split_off(fitting.count());
    if !left.is_empty() {
        node.with(|core, now_ms| left.iter().for_each(|(picked, ..)| core.put_back(picked.key, 0, now_ms)));
    }
    readable
}

fn set_aside(node: &Node, picked: &Picked) {
    node.metrics.deliveries_damaged.inc();
    node.with(|core, now_ms| core.set_aside(picked.key, now_ms));
}

/// A large one stays in the spool.
fn body_of(picked: &Picked, body: Bytes) -> Body {
    let size_bytes = u64::from(picked.size_bytes);
    let content = if size_bytes > INLINE_BYTES_MAX as u64 {
        body::Content::Stored(godwit_proto::id::MessageId(picked.message).into())
    } else {
        body::Content::Inline(body)
    };
    Body { content: Some(content), size_bytes }
}

fn leased(granted: Granted, body: Body, mut meta: Meta) -> LeasedDelivery {
    let span = tracing::Span::current();
    if let Some(context) = &meta.trace {
        trace::link(&span, context);
    }
    let open = granted.open.unwrap_or_else(|| meta.recipients_of(granted.id.part));
    let mut envelope = meta.envelope.take().unwrap_or_default();
    let mut recipients = std::mem::take(&mut envelope.recipients);
    let open = open.iter().filter_map(|index| {
        let recipient = recipients.get_mut(usize::from(*index)).map(std::mem::take)?;
        Some(OpenRecipient { index: u32::from(*index), recipient: Some(recipient) })
    });
    LeasedDelivery {
        recipients: open.collect(),
        delivery_id: Some(granted.id.into()),
        message_id: Some(granted.id.message.into()),
        lease_id: Some(granted.lease.into()),
        attempt: granted.attempts + 1,
        envelope: Some(envelope),
        body: Some(body),
        metadata: meta.metadata,
        queue_name: Some(granted.label.queue_name()),
        egress_pool: granted.label.egress_pool.as_ref().into(),
        trace: meta.trace,
        previous_attempt: granted.previous.map(|previous| previous.wire()),
        due: Some(outcome::instant(granted.due_ms)),
        first_received: Some(outcome::instant(meta.received_ms)),
    }
}

pub fn renew(node: &Node, request: &RenewRequest) -> Result<RenewResponse, Error> {
    let egress = egress_node(&request.egress_node)?;
    let lease_ms = lease_ms(node, request.lease_ms)?;
    let ids = lease_ids(&request.lease_ids)?;
    let ended = node.with(|core, now_ms| core.renew(ids, egress, now_ms + lease_ms));
    Ok(RenewResponse { ended: ended.into_iter().map(Into::into).collect() })
}

pub fn release(node: &Node, request: &ReleaseRequest) -> Result<ReleaseResponse, Error> {
    let egress = egress_node(&request.egress_node)?;
    let ids = lease_ids(&request.lease_ids)?;
    let not_before_ms = match &request.not_before {
        None => 0,
        Some(wire) => match system_time(wire) {
            Some(time) => since_epoch_ms(time),
            None => return Err(Error::invalid("not_before", "not an instant since 1970")),
        },
    };
    let count = ids.len();
    let ended = node.with(|core, now_ms| core.release(ids, egress, not_before_ms.max(now_ms), now_ms));
    tracing::debug!(count, ended = ended.len(), reason = %request.reason, "leases released");
    Ok(ReleaseResponse { ended: ended.into_iter().map(Into::into).collect() })
}

const LEASE_IDS_MAX: usize = 10_000;

fn lease_ids(wire: &[common::LeaseId]) -> Result<Vec<LeaseId>, Error> {
    if wire.len() > LEASE_IDS_MAX {
        return Err(Error::invalid("lease_ids", format!("more than {LEASE_IDS_MAX}")));
    }
    let parse = |(place, id): (usize, &common::LeaseId)| {
        LeaseId::try_from(id).map_err(|invalid| Error::invalid(format!("lease_ids[{place}]"), invalid))
    };
    wire.iter().enumerate().map(parse).collect()
}
