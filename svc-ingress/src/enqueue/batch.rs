//! Gathers messages of all sessions into few calls: whatever waits while calls are under way rides in the next one.

use std::{sync::Arc, time::Duration};

use godwit_kit::{call::within, stop::Stop, trace};
use godwit_proto::{
    CALL_BYTES_MAX,
    id::MessageId,
    queue::{
        Queue,
        v1::{EnqueueMessage, EnqueueRequest, EnqueueResponse, enqueue_response},
    },
};
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::{Code, Request, Status};
use tracing::{Instrument, Span};

use super::Queued;
use crate::meters::Meters;

/// Calls under way at once: one is written while the next gathers.
const CALLS_MAX: usize = 4;
/// `EnqueueRequest.messages`.
const MESSAGES_MAX: usize = 1_000;
/// Where a batch is cut off: large enough to be few, small enough that several are under way. One message may be larger.
const BATCH_BYTES_MAX: usize = CALL_BYTES_MAX / 8;
/// One call's time; the message's own deadline may be longer, and then it is asked again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One message that wants an answer.
#[derive(Debug)]
pub struct Item {
    pub message: EnqueueMessage,
    /// The message's own span, to be linked with the call's.
    pub span: Span,
    /// Rides with no other.
    pub alone: bool,
    /// Closed where nobody waits any more.
    pub answer: oneshot::Sender<Result<Queued, Failure>>,
}

/// Why there is no judgement of a message.
#[derive(Debug)]
pub enum Failure {
    Call(Status),
    /// The call was refused for another message's fault, perhaps.
    AskAlone,
}

/// How a node is called.
#[derive(Clone)]
pub struct Calls {
    queue: Queue,
    timeout: Duration,
    meters: Arc<Meters>,
    stop: Stop,
}

impl Calls {
    pub fn new(queue: Queue, timeout: Duration, meters: Arc<Meters>, stop: Stop) -> Self {
        Self { queue, timeout: timeout.min(CALL_TIMEOUT), meters, stop }
    }
}

/// Runs until the other end of `waiting` is dropped.
pub async fn run(calls: Calls, mut waiting: mpsc::Receiver<Item>) {
    let free = Arc::new(Semaphore::new(CALLS_MAX));
    let mut left = None;
    loop {
        let first = match left.take() {
            Some(item) => item,
            None => match waiting.recv().await {
                Some(item) => item,
                None => return,
            },
        };
        let permit = free.clone().acquire_owned().await.expect("the semaphore is never closed");
        // Sessions that are ready to send get to do it, and ride along.
        tokio::task::yield_now().await;
        let batch;
        (batch, left) = gather(first, &mut waiting);
        if !batch.is_empty() {
            calls.stop.spawn(send(calls.clone(), batch, permit));
        }
    }
}

/// `first` and what waits behind it, within the bounds; and the one that did not fit.
fn gather(first: Item, waiting: &mut mpsc::Receiver<Item>) -> (Vec<Item>, Option<Item>) {
    let mut batch: Vec<Item> = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(item) = next {
        if !item.answer.is_closed() {
            bytes += item.message.encoded_len();
            if !batch.is_empty() && (item.alone || bytes > BATCH_BYTES_MAX) {
                return (batch, Some(item));
            }
            batch.push(item);
        }
        let is_full = batch.len() >= MESSAGES_MAX || batch.last().is_some_and(|item| item.alone);
        next = if is_full { None } else { waiting.try_recv().ok() };
    }
    (batch, None)
}

async fn send(calls: Calls, batch: Vec<Item>, permit: OwnedSemaphorePermit) {
    let span = tracing::info_span!(parent: None, "enqueue batch", otel.kind = "client", messages = batch.len());
    let call_context = trace::of(&span);
    for item in &batch {
        if let Some(context) = &item.message.trace {
            trace::link(&span, context);
        }
        trace::link(&item.span, &call_context);
    }
    calls.meters.batch_messages.observe(batch.len() as f64);
    let (messages, waiters): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|item| (item.message, (item.span, item.answer))).unzip();
    let request = Request::new(EnqueueRequest { messages });
    let result = within(calls.timeout, calls.queue.enqueue(request)).instrument(span).await;
    drop(permit);
    if result.is_err() {
        calls.meters.calls_failed.inc();
    }
    let answers = match result {
        Ok(response) => judged(response.into_inner(), waiters.len()),
        // One of them is at fault. Each is asked alone, and only that one fails.
        Err(status) if status.code() == Code::InvalidArgument && waiters.len() > 1 => {
            waiters.iter().map(|_| Err(Failure::AskAlone)).collect()
        }
        Err(status) => waiters.iter().map(|_| Err(Failure::Call(status.clone()))).collect(),
    };
    for ((_span, waiter), answer) in waiters.into_iter().zip(answers) {
        let _ = waiter.send(answer);
    }
}

/// One judgement a message, whatever the queue says.
fn judged(response: EnqueueResponse, count: usize) -> Vec<Result<Queued, Failure>> {
    let broken = || Err(Failure::Call(Status::internal("the queue's answer is malformed")));
    let mut judgements: Vec<_> =
        response.results.into_iter().map(|result| judgement(result).map_or_else(broken, Ok)).collect();
    judgements.resize_with(count, broken);
    judgements
}

fn judgement(result: enqueue_response::Result) -> Option<Queued> {
    let id = || MessageId::try_from(&result.message_id).ok();
    Some(match result.outcome() {
        enqueue_response::Outcome::Accepted => Queued::Accepted(id()?),
        enqueue_response::Outcome::Duplicate => Queued::Duplicate(id()?),
        enqueue_response::Outcome::Refused => Queued::Refused { reason: result.reason, transient: result.transient },
        enqueue_response::Outcome::Unspecified => return None,
    })
}
