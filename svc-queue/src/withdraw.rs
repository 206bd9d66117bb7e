//! Withdraw: mail that its receiver could not promise to the sender is taken back, or refused when it comes.

use crate::conclude;
use crate::core::{Next, WITHDRAWN_MAX, Withdrawal};
use crate::error::Error;
use crate::node::Node;
use crate::outcome::about_open;
use crate::spool::Record;
use crate::stored::withdrawn_key;
use bytes::Bytes;
use godwit_proto::common::v1::{EventKind, SmtpReply};
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::withdraw_response::Outcome;
use godwit_proto::queue::v1::{WithdrawRequest, WithdrawResponse};
use std::sync::Arc;

const IDS_MAX: usize = 1_000;
/// How long an id that was withdrawn before it came is refused.
const REFUSED_MS: u64 = 3_600_000;

pub async fn withdraw(node: &Arc<Node>, request: WithdrawRequest) -> Result<WithdrawResponse, Error> {
    if request.message_ids.is_empty() || request.message_ids.len() > IDS_MAX {
        return Err(Error::invalid("message_ids", format!("{}, not 1 to {IDS_MAX}", request.message_ids.len())));
    }
    let parse = |(place, id)| {
        MessageId::try_from(id).map_err(|invalid| Error::invalid(format!("message_ids[{place}]"), invalid))
    };
    let ids = request.message_ids.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
    node.run(withdraw_all(node.clone(), ids)).await
}

async fn withdraw_all(node: Arc<Node>, ids: Vec<MessageId>) -> Result<WithdrawResponse, Error> {
    let mut outcomes = Vec::with_capacity(ids.len());
    for id in ids {
        let outcome = withdraw_one(&node, id).await?;
        tracing::info!(message_id = %id, ?outcome, "withdrawn");
        outcomes.push(outcome.into());
    }
    Ok(WithdrawResponse { outcomes })
}

async fn withdraw_one(node: &Arc<Node>, id: MessageId) -> Result<Outcome, Error> {
    loop {
        let freed = node.freed();
        tokio::pin!(freed);
        freed.as_mut().enable();
        // An id that is unknown is refused from this moment on: nothing can come in between.
        let (found, marked, until_ms) = node.with(|core, now_ms| {
            let found = core.withdraw(id.0);
            let until_ms = now_ms + REFUSED_MS;
            let marked = !matches!(found, Withdrawal::Unknown) || core.refuse_later(id.0, until_ms);
            (found, marked, until_ms)
        });
        match found {
            Withdrawal::Arriving => freed.await,
            Withdrawal::TooLate => return Ok(Outcome::TooLate),
            Withdrawal::Unknown if !marked => {
                return Err(Error::Full { limit: "withdrawn ids at once", value: WITHDRAWN_MAX as u64 });
            }
            Withdrawal::Unknown => {
                let value = Some(Bytes::copy_from_slice(&until_ms.to_be_bytes()));
                node.spool.append(vec![Record::Admin { key: withdrawn_key(id.0), value }]).await?;
                return Ok(Outcome::Unknown);
            }
            Withdrawal::Mine(claimed) => {
                let now_ms = node.now_ms();
                let reply = SmtpReply::internal(451, (4, 3, 0), "withdrawn: its acceptance could not be promised");
                conclude::conclude(node, claimed, |claimed, meta| {
                    let event = about_open(EventKind::Rejection, claimed, meta, reply.clone(), now_ms);
                    (Next::Finished, vec![event])
                })
                .await?;
                node.metrics.recipients.with_label_values(&["withdrawn"]).inc();
                return Ok(Outcome::Withdrawn);
            }
        }
    }
}
