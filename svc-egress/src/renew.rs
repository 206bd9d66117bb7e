//! Keeps the leases of one queue node alive, however long a peer takes.

use crate::held::Held;
use crate::meters::Meters;
use godwit_kit::call;
use godwit_proto::common::v1::{LeaseId, NodeId};
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::RenewRequest;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Leases of one call.
const BATCH_MAX: usize = 1_000;

/// Renews at one queue node.
pub struct Renewer {
    pub queue: Queue,
    pub egress_node: NodeId,
    pub held: Held,
    pub lease: Duration,
    pub meters: Meters,
}

impl Renewer {
    /// Runs until `done`: leases are needed until the last outcome is settled.
    pub async fn run(self, done: CancellationToken) {
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.renew().await,
                () = done.cancelled() => return,
            }
        }
    }

    /// Whatever is older than a quarter: none gets older than seven twelfths before it is asked for.
    async fn renew(&self) {
        let now = Instant::now();
        let Some(before) = now.checked_sub(self.lease / 4) else { return };
        let due = self.held.due(before);
        if due.is_empty() {
            return;
        }
        let mut ended = Vec::new();
        for leases in due.chunks(BATCH_MAX) {
            match self.call(leases).await {
                Ok(gone) => ended.extend(gone),
                // Nothing is noted as renewed: the next tick asks for all of them.
                Err(status) => {
                    return tracing::warn!(%status, leases = due.len(), "leases not renewed");
                }
            }
        }
        if !ended.is_empty() {
            tracing::warn!(leases = ended.len(), "leases ended while they were held");
            self.meters.leases_lost.inc_by(ended.len() as u64);
        }
        self.held.renewed(before, now, &ended);
    }

    async fn call(&self, leases: &[LeaseId]) -> Result<Vec<LeaseId>, Status> {
        let request = RenewRequest {
            egress_node: Some(self.egress_node.clone()),
            lease_ids: leases.to_vec(),
            lease_ms: self.lease.as_millis() as u64,
        };
        let answer = call::within(self.lease / 4, self.queue.renew(Request::new(request))).await?;
        Ok(answer.into_inner().ended)
    }
}
