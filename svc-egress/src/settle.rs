//! Tells one queue node what attempts came to: in batches, several at once, and again until it is known to be on disk.

use crate::held::Ticket;
use crate::meters::Meters;
use crate::plan;
use godwit_kit::{Host, call, trace};
use godwit_proto::common::v1::NodeId;
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::{Outcome, SettleRequest, settle_response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tracing::{Instrument, Span};

/// Outcomes of one call.
const BATCH_MAX: usize = 1_000;
const IN_FLIGHT_MAX: usize = 4;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Leases that an outcome outlives; then the queue has long given the delivery to another attempt.
const LEASES_MAX: u32 = 10;
/// How long a process that is to stop goes on trying.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// An outcome on its way, with all that must last until it has arrived.
pub struct Settling {
    pub outcome: Outcome,
    /// Of the attempt, where it is traced; it ends when the outcome is on disk.
    pub span: Span,
    /// Keeps the lease renewed.
    pub ticket: Ticket,
    /// The connection's allowance of unconfirmed outcomes.
    pub permit: OwnedSemaphorePermit,
}

/// Settles at one queue node.
#[derive(Clone)]
pub struct Settler {
    pub queue: Queue,
    pub egress_node: NodeId,
    pub lease: Duration,
    pub host: Host,
    pub meters: Meters,
}

impl Settler {
    /// Goes on until `ended` (no connection lives that could send) and all has been said, or could not be.
    pub async fn run(self, mut outcomes: mpsc::Receiver<Settling>, ended: impl Future<Output = ()>) {
        let mut ended = std::pin::pin!(ended);
        let mut is_ended = false;
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        loop {
            // First the way, then the batch: what comes while the way is busy goes along.
            let way = in_flight.clone().acquire_owned().await.expect("the semaphore is never closed");
            let mut batch = Vec::new();
            tokio::select! {
                _ = outcomes.recv_many(&mut batch, BATCH_MAX) => {}
                () = &mut ended, if !is_ended => {
                    is_ended = true;
                    outcomes.close();
                    continue;
                }
            }
            if batch.is_empty() {
                break;
            }
            let settler = self.clone();
            self.host.stop.spawn(async move {
                settler.settle(batch).await;
                drop(way);
            });
        }
        let _ = in_flight.acquire_many(IN_FLIGHT_MAX as u32).await;
    }

    async fn settle(&self, batch: Vec<Settling>) {
        self.meters.settled.observe(batch.len() as f64);
        let (mut outcomes, mut spans, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for Settling { outcome, span, ticket, permit } in batch {
            outcomes.push(outcome);
            spans.extend((!span.is_none()).then_some(span));
            kept.push((ticket, permit));
        }
        let started = Instant::now();
        let mut failures = 0;
        loop {
            match self.call(&outcomes, &spans).await {
                Ok(results) => return self.count(&results),
                Err(status) if !may_pass(&status) || started.elapsed() > self.patience() => {
                    tracing::error!(%status, outcomes = outcomes.len(), "outcomes lost: their mail may be sent again");
                    return self.meters.settlements.with_label_values(&["dropped"]).inc_by(outcomes.len() as u64);
                }
                Err(status) => {
                    failures += 1;
                    tracing::warn!(%status, outcomes = outcomes.len(), failures, "outcomes not settled yet");
                    self.host.clock.sleep(plan::call_backoff(failures)).await;
                }
            }
        }
    }

    async fn call(&self, outcomes: &[Outcome], attempts: &[Span]) -> Result<Vec<i32>, Status> {
        let span = tracing::info_span!("settle", messages = outcomes.len());
        for attempt in attempts {
            trace::link(&span, &trace::of(attempt));
            trace::link(attempt, &trace::of(&span));
        }
        let request = SettleRequest { egress_node: Some(self.egress_node.clone()), outcomes: outcomes.to_vec() };
        let answer = call::within(CALL_TIMEOUT, self.queue.settle(Request::new(request))).instrument(span).await?;
        Ok(answer.into_inner().results)
    }

    fn patience(&self) -> Duration {
        if self.host.stop.is_requested() { STOP_TIMEOUT } else { self.lease * LEASES_MAX }
    }

    fn count(&self, results: &[i32]) {
        use settle_response::Result::{Applied, LeaseExpiredApplied, Stale, Unknown, Unspecified};
        for (result, label) in [
            (Applied, "applied"),
            (LeaseExpiredApplied, "expired"),
            (Stale, "stale"),
            (Unknown, "unknown"),
            (Unspecified, "unknown"),
        ] {
            let count = results.iter().filter(|told| **told == i32::from(result)).count();
            if count > 0 {
                self.meters.settlements.with_label_values(&[label]).inc_by(count as u64);
            }
        }
    }
}

/// Whether the same call may succeed later.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::Unimplemented
    )
}
