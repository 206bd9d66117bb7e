//! Takes a message back whose outcome nobody knows, before its client is told to bring it again.

use std::{sync::Arc, time::Duration};

use godwit_kit::call::within;
use godwit_proto::{
    common::v1,
    id::MessageId,
    queue::v1::{WithdrawRequest, withdraw_response::Outcome},
};
use tokio::sync::oneshot;
use tonic::{Request, Status};

use super::{Queued, node::Node};

/// One try's time, which the client waits for as well.
const TRY_TIMEOUT: Duration = Duration::from_secs(5);
/// Then the message may be delivered although its client brings it again: at least once.
const TRIES_MAX: usize = 12;

/// Waits for the first try; the others go on in the background.
///
/// # Errors
/// `DeadlineExceeded`, unless the queue has the message and works on it already: then it is accepted after all.
pub async fn withdraw(node: Arc<Node>, id: v1::MessageId) -> Result<Queued, Status> {
    node.meters.withdrawals.inc();
    let (tell, told) = oneshot::channel();
    let task = node.clone();
    let message_id = id.clone();
    node.stop.spawn(async move { keep_trying(task, message_id, tell).await });
    let outcome = told.await.ok().flatten();
    match (outcome, MessageId::try_from(&Some(id))) {
        (Some(Outcome::TooLate), Ok(id)) => Ok(Queued::Accepted(id)),
        (_, _) => Err(Status::deadline_exceeded("no queue said what became of the message; it was taken back")),
    }
}

async fn keep_trying(node: Arc<Node>, id: v1::MessageId, tell: oneshot::Sender<Option<Outcome>>) {
    let mut tell = Some(tell);
    for _ in 0..TRIES_MAX {
        let outcome = try_once(&node, &id).await;
        if let Some(tell) = tell.take() {
            let _ = tell.send(outcome.as_ref().ok().copied());
        }
        match outcome {
            Ok(_) => return,
            Err(status) => tracing::debug!(message_id = id.value, %status, "withdrawal failed"),
        }
        tokio::select! {
            () = tokio::time::sleep(TRY_TIMEOUT) => {}
            () = node.stop.requested() => break,
        }
    }
    tracing::warn!(message_id = id.value, node = node.name(), "message not withdrawn: it may be delivered twice");
}

async fn try_once(node: &Node, id: &v1::MessageId) -> Result<Outcome, Status> {
    let call = async {
        let _permit = node.withdrawals.acquire().await.expect("the semaphore is never closed");
        let request = WithdrawRequest { message_ids: vec![id.clone()] };
        node.peer.handle.withdraw(Request::new(request)).await
    };
    let response = within(TRY_TIMEOUT, call).await?.into_inner();
    Ok(response.outcomes().next().unwrap_or(Outcome::Unspecified))
}
