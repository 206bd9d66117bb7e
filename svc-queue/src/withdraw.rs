//! Withdraw: mail that its receiver could not promise to the sender is taken back, or refused when it comes.

use crate::conclude;
use crate::core::{Claimed, Next, WITHDRAWN_MAX, Withdrawal};
use crate::error::Error;
use crate::idempotency::{Key, Reservation};
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
        // The id is refused from this moment on: nothing can come in between.
        let (found, marked) = node.with(|core, now_ms| {
            let found = core.withdraw(id.0);
            let marks = matches!(found, Withdrawal::Unknown | Withdrawal::Mine(_));
            (found, marks.then(|| (now_ms + REFUSED_MS, core.refuse_later(id.0, now_ms + REFUSED_MS))))
        });
        match (found, marked) {
            (Withdrawal::Arriving, _) => freed.await,
            (Withdrawal::TooLate, _) => return Ok(Outcome::TooLate),
            (Withdrawal::Done, _) => return Ok(Outcome::Withdrawn),
            (Withdrawal::Unknown, marked) => {
                keep_mark(node, id, marked).await?;
                return Ok(Outcome::Unknown);
            }
            (Withdrawal::Mine(claimed), marked) => {
                if let Err(error) = keep_mark(node, id, marked).await {
                    conclude::restore(node, &claimed);
                    return Err(error);
                }
                take_out(node, id, claimed).await?;
                return Ok(Outcome::Withdrawn);
            }
        }
    }
}

/// The mark of an id that is refused until an instant, if there was room for it in memory.
async fn keep_mark(node: &Node, id: MessageId, marked: Option<(u64, bool)>) -> Result<(), Error> {
    let Some((until_ms, true)) = marked else {
        return Err(Error::Full { limit: "withdrawn ids at once", value: WITHDRAWN_MAX as u64 });
    };
    let value = Some(Bytes::copy_from_slice(&until_ms.to_be_bytes()));
    node.spool.append(vec![Record::Admin { key: withdrawn_key(id.0), value }]).await?;
    Ok(())
}

/// Its key goes first, so that whoever sends with it again is not told of a message that is gone.
async fn take_out(node: &Arc<Node>, id: MessageId, claimed: Vec<Claimed>) -> Result<(), Error> {
    let freed_key = match free_key(node, id, &claimed).await {
        Ok(freed_key) => freed_key,
        Err(error) => {
            conclude::restore(node, &claimed);
            return Err(error);
        }
    };
    let now_ms = node.now_ms();
    let reply = SmtpReply::internal(451, (4, 3, 0), "withdrawn: its acceptance could not be promised");
    let concluded = conclude::conclude(node, claimed, |claimed, meta| {
        let event = about_open(EventKind::Rejection, claimed, meta, reply.clone(), now_ms);
        (Next::Finished, vec![event])
    });
    if let Err(error) = concluded.await {
        if let Some(freed_key) = freed_key
            && let Err(error) = freed_key.keep(|_| true).await
        {
            tracing::warn!(%error, message_id = %id, "idempotency key not kept");
        }
        return Err(error);
    }
    node.metrics.recipients.with_label_values(&["withdrawn"]).inc();
    Ok(())
}

async fn free_key(node: &Node, id: MessageId, claimed: &[Claimed]) -> Result<Option<Reservation>, Error> {
    let metas = conclude::read_metas(node, claimed.get(..1).unwrap_or_default()).await?;
    let key = metas.first().and_then(|meta| meta.idempotency_key.as_slice().try_into().ok()).map(Key);
    let Some(key) = key else { return Ok(None) };
    let freed = node.keys.forget(key, id, node.host.clock.now()).await;
    freed.map(Some).map_err(|error| Error::Keys(error.to_string()))
}
