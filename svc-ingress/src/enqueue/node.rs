//! One queue node: asks it for one message, through the batch, until the answer is known or the time is up.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use godwit_kit::{call::surely_not_started, peers::Peer, stop::Stop};
use godwit_proto::queue::{Queue, v1::EnqueueMessage};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tonic::{Code, Status};
use tracing::Span;

use super::{
    Queued,
    batch::{self, Failure, Item},
    withdraw,
};
use crate::meters::Meters;

/// Messages that wait for a call to this node.
const INBOX_MAX: usize = 4_096;
/// How long a node that failed is asked last.
const REST: Duration = Duration::from_secs(1);
/// Pauses between asks for the same message.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Withdrawals under way at once.
const WITHDRAWALS_MAX: usize = 4;

pub struct Node {
    pub(super) peer: Peer<Queue>,
    pub(super) stop: Stop,
    pub(super) meters: Arc<Meters>,
    pub(super) withdrawals: Arc<Semaphore>,
    /// The other end is held by the batch task, which ends when the node is dropped.
    inbox: mpsc::Sender<Item>,
    resting_until: Mutex<Option<Instant>>,
}

/// What asking came to.
#[derive(Debug)]
pub enum Asked {
    Answered(Queued),
    /// The node surely did not take the message.
    TurnedAway(Status),
    /// It may have taken it; nobody knows.
    Unknown,
}

impl Node {
    pub fn start(peer: Peer<Queue>, timeout: Duration, meters: Arc<Meters>, stop: Stop) -> Self {
        let (inbox, waiting) = mpsc::channel(INBOX_MAX);
        let calls = batch::Calls::new(peer.handle.clone(), timeout, meters.clone(), stop.clone());
        // Not among the tasks that a stop waits for: sessions are, they wait for their answers, and so for this.
        tokio::spawn(batch::run(calls, waiting));
        let withdrawals = Arc::new(Semaphore::new(WITHDRAWALS_MAX));
        Self { peer, stop, meters, withdrawals, inbox, resting_until: Mutex::default() }
    }

    /// Its id where it is known, else its address.
    pub fn name(&self) -> String {
        self.peer.node.get().map_or_else(|| self.peer.name.clone(), |node| node.to_string())
    }

    pub fn is_resting(&self) -> bool {
        let until = *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Asks until the outcome is known, or `deadline`, or a stop.
    pub async fn ask(&self, message: &EnqueueMessage, span: &Span, deadline: Instant) -> Asked {
        let mut pause = PAUSE_MIN;
        let (mut asked_before, mut alone) = (false, false);
        loop {
            let item = |answer| Item { message: message.clone(), span: span.clone(), alone, answer };
            let status = match self.ask_once(item, deadline).await {
                Ok(queued) => return Asked::Answered(own(queued, message)),
                Err(Failure::Call(status)) => status,
                Err(Failure::AskAlone) => {
                    alone = true;
                    continue;
                }
            };
            self.rest();
            if !asked_before && surely_not_started(&status) {
                return Asked::TurnedAway(status);
            }
            if !asked_before && status.code() == Code::InvalidArgument {
                tracing::error!(%status, node = self.name(), "queue refuses a message as malformed");
                return Asked::TurnedAway(status);
            }
            tracing::debug!(%status, node = self.name(), "outcome unknown, asking again");
            asked_before = true;
            let again = Instant::now() + pause;
            if again >= deadline || !self.sleep_until(again).await {
                return Asked::Unknown;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn ask_once(
        &self,
        item: impl FnOnce(oneshot::Sender<Result<Queued, Failure>>) -> Item,
        deadline: Instant,
    ) -> Result<Queued, Failure> {
        let (answer, answered) = oneshot::channel();
        if self.inbox.try_send(item(answer)).is_err() {
            let full = format!("{INBOX_MAX} messages wait for this queue node already");
            return Err(Failure::Call(Status::resource_exhausted(full)));
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::Call(Status::internal("the call to the queue was lost"))),
            Err(_) => Err(Failure::Call(Status::deadline_exceeded("no answer from the queue"))),
        }
    }

    /// False where a stop was asked for: then nobody waits for a node to come back.
    async fn sleep_until(&self, time: Instant) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(time) => true,
            () = self.stop.requested() => false,
        }
    }

    fn rest(&self) {
        *self.resting_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    /// # Errors
    /// `DeadlineExceeded`: the client must be told to come again.
    pub async fn withdraw(self: &Arc<Self>, message: &EnqueueMessage) -> Result<Queued, Status> {
        withdraw::withdraw(self.clone(), message.message_id.clone().unwrap_or_default()).await
    }
}

/// A duplicate of itself is a message whose first answer was lost: it is accepted, and only now known to be.
fn own(queued: Queued, message: &EnqueueMessage) -> Queued {
    match queued {
        Queued::Duplicate(id) if message.message_id.as_ref().is_some_and(|own| own.value == id.to_string()) => {
            Queued::Accepted(id)
        }
        Queued::Accepted(_) | Queued::Duplicate(_) | Queued::Refused { .. } => queued,
    }
}
