//! Tells one queue node what attempts came to: in batches, several at once, and again until it is known to be on disk.

use crate::held::Ticket;
use crate::meters::Meters;
use crate::plan;
use godwit_kit::{Host, call, trace};
use godwit_proto::common::v1::NodeId;
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::{Outcome, RecipientOutcome, SettleRequest, settle_response};
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
/// Outcomes of one call, in bytes; a call may carry much more.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How often a queue that answers may fail to take the same outcomes.
const REFUSALS_MAX: u32 = 5;
/// How long a process that is to stop goes on trying.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// An outcome on its way, with all that must last until it has arrived.
pub struct Settling {
    pub outcome: Outcome,
    /// Of the attempt, where it is traced; it ends when the outcome is on disk.
    pub span: Span,
    /// Keeps the lease renewed.
    #[expect(dead_code, reason = "held, not read")]
    pub ticket: Ticket,
    /// The connection's allowance of unconfirmed outcomes.
    #[expect(dead_code, reason = "held, not read")]
    pub permit: OwnedSemaphorePermit,
}

/// Settles at one queue node.
#[derive(Clone)]
pub struct Settler {
    pub queue: Queue,
    pub egress_node: NodeId,
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

    /// In as many calls as it takes: too much for one, or refused for the sake of one among them, it goes in halves.
    async fn settle(&self, batch: Vec<Settling>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let size_bytes: usize = batch.iter().map(|settling| bytes_about(&settling.outcome)).sum();
            if batch.len() > 1 && size_bytes > BATCH_BYTES_MAX {
                let rest = batch.split_off(batch.len() / 2);
                batches.extend([rest, batch]);
                continue;
            }
            self.meters.settled.observe(batch.len() as f64);
            match self.persist(&batch).await {
                Ok(results) => self.count(&results),
                Err(status) if batch.len() > 1 && !self.host.stop.is_requested() => {
                    tracing::warn!(%status, outcomes = batch.len(), "outcomes refused: sent in halves");
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
                Err(status) => {
                    tracing::error!(%status, outcomes = batch.len(), "outcomes lost: their mail may be sent again");
                    self.meters.settlements.with_label_values(&["dropped"]).inc_by(batch.len() as u64);
                }
            }
        }
    }

    /// Calls until the queue has taken them. A queue that is away is called for as long as this process runs: nobody
    /// else has got the mail meanwhile. What waits is bounded by the connections' allowances.
    async fn persist(&self, batch: &[Settling]) -> Result<Vec<i32>, Status> {
        let outcomes: Vec<Outcome> = batch.iter().map(|settling| settling.outcome.clone()).collect();
        let (mut failures, mut refusals, mut stopping) = (0, 0, None);
        loop {
            let status = match self.call(&outcomes, batch).await {
                Ok(results) => return Ok(results),
                Err(status) => status,
            };
            failures += 1;
            refusals += u32::from(!is_away(&status));
            if self.host.stop.is_requested() && stopping.is_none() {
                stopping = Some(Instant::now());
            }
            let too_late = stopping.is_some_and(|since: Instant| since.elapsed() > STOP_TIMEOUT);
            if too_late || refusals > REFUSALS_MAX || !may_pass(&status) {
                return Err(status);
            }
            tracing::warn!(%status, outcomes = outcomes.len(), failures, "outcomes not settled yet");
            self.host.clock.sleep(plan::call_backoff(failures)).await;
        }
    }

    async fn call(&self, outcomes: &[Outcome], batch: &[Settling]) -> Result<Vec<i32>, Status> {
        let span = tracing::info_span!("settle", messages = outcomes.len());
        for attempt in batch.iter().map(|settling| &settling.span).filter(|attempt| !attempt.is_none()) {
            trace::link(&span, &trace::of(attempt));
            trace::link(attempt, &trace::of(&span));
        }
        let request = SettleRequest { egress_node: Some(self.egress_node.clone()), outcomes: outcomes.to_vec() };
        let answer = call::within(CALL_TIMEOUT, self.queue.settle(Request::new(request))).instrument(span).await?;
        Ok(answer.into_inner().results)
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

fn bytes_about(outcome: &Outcome) -> usize {
    let text = |recipient: &RecipientOutcome| recipient.reply.as_ref().map_or(0, |reply| reply.text.len()) + 64;
    512 + outcome.recipients.iter().map(text).sum::<usize>()
}

/// Nobody has looked at what was said.
fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled)
}

/// Whether the same call may succeed later.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    )
}
