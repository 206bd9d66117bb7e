//! WatchDue: a snapshot of all lanes, then what changes, coalesced. There is no task: each answer is made when it is asked for.

use crate::error::Error;
use crate::lane::LaneDue;
use crate::leasing::egress_node;
use crate::node::Node;
use crate::outcome::instant;
use crate::schedule::millis;
use futures::stream;
use godwit_proto::Replies;
use godwit_proto::common::v1::Lane;
use godwit_proto::id::{DeliveryId, LeaseId};
use godwit_proto::queue::v1::{HeldLease, WatchDueRequest, WatchDueResponse, watch_due_response};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

const LANES_MAX: usize = 500;
/// Changes within this go out together.
const COALESCE: Duration = Duration::from_millis(2);

pub fn watch(node: &Arc<Node>, request: WatchDueRequest) -> Result<Replies<WatchDueResponse>, Error> {
    let egress = egress_node(&request.egress_node)?;
    let held = request.held.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    let seat = Seat::take(node)?;
    let ends_in_ms = millis(node.config.lease_duration);
    let count = held.len();
    let known = node.with(|core, now_ms| {
        held.into_iter().filter(|(lease, id)| core.hold(egress, *lease, *id, now_ms + ends_in_ms)).count()
    });
    if count > 0 {
        tracing::info!(%egress, count, known, "egress still holds mail");
    }
    let watcher = Watcher {
        node: node.clone(),
        changed: node.changed(),
        egress_pools: request.egress_pools,
        since: 0,
        snapshot_done: false,
        _seat: seat,
    };
    Ok(Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let stop = watcher.node.host.stop.clone();
        tokio::select! {
            answer = watcher.next() => Some((Ok(answer), watcher)),
            () = stop.requested() => None,
        }
    })))
}

fn parse((place, held): (usize, &HeldLease)) -> Result<(LeaseId, DeliveryId), Error> {
    let lease = LeaseId::try_from(&held.lease_id)
        .map_err(|invalid| Error::invalid(format!("held[{place}].lease_id"), invalid))?;
    let delivery = DeliveryId::try_from(&held.delivery_id)
        .map_err(|invalid| Error::invalid(format!("held[{place}].delivery_id"), invalid))?;
    Ok((lease, delivery))
}

/// One of `watchers_max`.
pub struct Seat(Arc<Node>);

impl Seat {
    pub fn take(node: &Arc<Node>) -> Result<Self, Error> {
        let seat = Self(node.clone());
        if node.watchers.fetch_add(1, Ordering::Relaxed) >= node.config.watchers_max {
            return Err(Error::Full { limit: "queue.watchers_max", value: node.config.watchers_max as u64 });
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Watcher {
    node: Arc<Node>,
    changed: watch::Receiver<u64>,
    egress_pools: Vec<String>,
    since: u64,
    snapshot_done: bool,
    _seat: Seat,
}

impl Watcher {
    async fn next(&mut self) -> WatchDueResponse {
        loop {
            // Seen before looking, so that no change falls between.
            self.changed.mark_unchanged();
            let (lanes, since) = self.node.with(|core, _| core.lanes.changes(self.since, LANES_MAX));
            self.since = since;
            let at_end = lanes.len() < LANES_MAX;
            let lanes: Vec<_> = lanes.into_iter().filter(|lane| self.wants(lane)).map(wire).collect();
            let snapshot_done = at_end && !self.snapshot_done;
            if !lanes.is_empty() || snapshot_done {
                self.snapshot_done |= at_end;
                return WatchDueResponse { lanes, snapshot_done };
            }
            if at_end {
                // Its sender lives in the node, which lives in `self`.
                let _ = self.changed.changed().await;
                tokio::time::sleep(COALESCE).await;
            }
        }
    }

    fn wants(&self, lane: &LaneDue) -> bool {
        self.egress_pools.is_empty() || self.egress_pools.contains(&lane.egress_pool)
    }
}

fn wire(lane: LaneDue) -> watch_due_response::LaneDue {
    watch_due_response::LaneDue {
        lane: Some(Lane { routing_domain: lane.routing_domain, egress_pool: lane.egress_pool }),
        due_count: lane.due_count,
        oldest_due: lane.oldest_due_ms.map(instant),
        site: lane.site,
        next_due: lane.next_due_ms.map(instant),
    }
}
