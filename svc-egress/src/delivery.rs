//! One delivery over one session: the envelope as SMTP takes it, and what came of each recipient.

use crate::classify;
use crate::session::Session;
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use godwit_kit::call;
use godwit_proto::common::v1::{DsnReturn, Envelope, Notify, SmtpReply, body};
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::{LeasedDelivery, ReadBodyRequest, RecipientOutcome, RecipientResult, leased_delivery};
use godwit_smtp::address::{Address, ReversePath};
use godwit_smtp::command::{Notify as SmtpNotify, Orcpt, RcptParams, Ret};
use godwit_smtp::submit::{Delivery, Outcome, Recipient, Stage, Transaction};
use std::time::Duration;
use tonic::{Request, Status};

/// How long to wait for each piece of a body.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

/// What one attempt came to.
#[derive(Debug, Default)]
pub struct Attempted {
    pub recipients: Vec<RecipientOutcome>,
    /// The session may carry another.
    pub reusable: bool,
    /// The peer left before it had heard of this message: on a connection that has served before, that says nothing
    /// about the message.
    pub unheard: bool,
}

/// How a path wants transactions.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub recipients_max: usize,
    pub ignore_8bit: bool,
}

/// The message of a delivery, wherever it is.
///
/// # Errors
/// The queue's, where it could not be read.
pub async fn content(queue: &Queue, delivery: &mut LeasedDelivery) -> Result<Bytes, Status> {
    let body = delivery.body.take().unwrap_or_default();
    match body.content {
        Some(body::Content::Inline(content)) => Ok(content),
        Some(body::Content::Stored(message_id)) => {
            let request = ReadBodyRequest { message_id: Some(message_id), offset: 0 };
            let asked = queue.read_body(Request::new(request));
            let mut pieces = call::within(PIECE_TIMEOUT, asked).await?.into_inner();
            let mut content = BytesMut::new();
            // A queue that falls silent must not keep the connection, and all that it has leased, for ever.
            while let Some(piece) = call::within(PIECE_TIMEOUT, pieces.next().map(Option::transpose)).await? {
                content.extend_from_slice(&piece.content);
                if content.len() as u64 > body.size_bytes {
                    break;
                }
            }
            if content.len() as u64 != body.size_bytes {
                return Err(Status::internal(format!("body has {} of {} bytes", content.len(), body.size_bytes)));
            }
            Ok(content.freeze())
        }
        Some(body::Content::UploadId(_)) | None => Err(Status::internal("delivery without a body")),
    }
}

/// Sends it, in as many transactions as the path's limit on recipients asks for.
pub async fn attempt(session: &mut Session, delivery: &LeasedDelivery, content: Bytes, manner: Manner) -> Attempted {
    let envelope = delivery.envelope.clone().unwrap_or_default();
    let Ok(reverse_path) = envelope.reverse_path.parse::<ReversePath>() else {
        let refusal = SmtpReply::internal(553, (5, 1, 7), "Reverse-path is not an address");
        return all(&delivery.recipients, &refusal);
    };
    let mut attempted = Attempted { reusable: true, ..Attempted::default() };
    let mut addressed = Vec::with_capacity(delivery.recipients.len());
    for open in &delivery.recipients {
        match recipient(open) {
            Ok(recipient) => addressed.push((open.index, recipient)),
            Err(refusal) => attempted.recipients.push(outcome(open.index, refusal, RecipientResult::Bounced)),
        }
    }
    for chunk in addressed.chunks(manner.recipients_max.max(1)) {
        if !attempted.reusable {
            let lost = SmtpReply::internal(421, (4, 4, 2), "Connection ended before these recipients");
            attempted
                .recipients
                .extend(chunk.iter().map(|(index, _)| outcome(*index, lost.clone(), RecipientResult::Deferred)));
            continue;
        }
        let recipients = chunk.iter().map(|(_, recipient)| recipient.clone()).collect();
        let transaction = transaction(&envelope, reverse_path.clone(), recipients, content.clone());
        let transaction = Transaction { body_8bit: transaction.body_8bit && !manner.ignore_8bit, ..transaction };
        let sent = session.send(transaction).await;
        attempted.unheard = attempted.recipients.is_empty() && is_unheard(&sent);
        attempted.add(chunk, sent);
    }
    attempted
}

impl Attempted {
    /// What became of a transaction that was cut short.
    pub fn cut_short(delivery: &LeasedDelivery, sent: &Outcome) -> Self {
        let doubtful = sent.deliveries.iter().any(|delivery| delivery.maybe_delivered);
        let reply = SmtpReply::internal(421, (4, 3, 2), "Stopped while sending");
        let recipients = delivery.recipients.iter().map(|open| RecipientOutcome {
            maybe_delivered: doubtful,
            ..outcome(open.index, reply.clone(), RecipientResult::Deferred)
        });
        Self { recipients: recipients.collect(), ..Self::default() }
    }

    /// The recipient that fared worst.
    pub fn worst(&self) -> Option<(RecipientResult, u32)> {
        let fate =
            |recipient: &RecipientOutcome| (recipient.result(), recipient.reply.as_ref().map_or(0, |reply| reply.code));
        self.recipients.iter().map(fate).max_by_key(|(result, _)| i32::from(*result))
    }

    fn add(&mut self, chunk: &[(u32, Recipient)], sent: Outcome) {
        self.reusable = sent.reusable;
        for ((index, _), Delivery { reply, stage, local, maybe_delivered }) in chunk.iter().zip(sent.deliveries) {
            let result = classify::result(stage, &reply);
            let reply = classify::wire_reply(&reply, classify::command(stage), local);
            self.recipients.push(RecipientOutcome { maybe_delivered, ..outcome(*index, reply, result) });
        }
    }
}

/// Everybody is told the same; nothing was sent.
pub fn all(recipients: &[leased_delivery::OpenRecipient], reply: &SmtpReply) -> Attempted {
    let result = if reply.code >= 500 { RecipientResult::Bounced } else { RecipientResult::Deferred };
    let recipients = recipients.iter().map(|open| outcome(open.index, reply.clone(), result)).collect();
    Attempted { recipients, reusable: true, unheard: false }
}

fn is_unheard(sent: &Outcome) -> bool {
    let early = |stage| matches!(stage, Stage::Rset | Stage::Mail | Stage::Idle);
    !sent.reusable && sent.deliveries.iter().all(|delivery| delivery.local && early(delivery.stage))
}

fn outcome(index: u32, reply: SmtpReply, result: RecipientResult) -> RecipientOutcome {
    RecipientOutcome {
        index,
        result: result.into(),
        bounce_class: classify::bounce_class(&reply).into(),
        reply: Some(reply),
        maybe_delivered: false,
    }
}

fn transaction(envelope: &Envelope, reverse_path: ReversePath, recipients: Vec<Recipient>, body: Bytes) -> Transaction {
    Transaction {
        reverse_path,
        recipients,
        body_8bit: !body.is_ascii(),
        body,
        smtputf8: envelope.smtputf8,
        requiretls: envelope.requiretls,
        ret: match envelope.ret() {
            DsnReturn::Full => Some(Ret::Full),
            DsnReturn::Headers => Some(Ret::Headers),
            DsnReturn::Unspecified => None,
        },
        envid: Some(envelope.envid.clone()).filter(|envid| !envid.is_empty()),
    }
}

fn recipient(open: &leased_delivery::OpenRecipient) -> Result<Recipient, SmtpReply> {
    let recipient = open.recipient.clone().unwrap_or_default();
    let address = Address::parse(&recipient.address)
        .map_err(|error| SmtpReply::internal(553, (5, 1, 3), format!("Recipient is not an address: {error}")))?;
    let asked: Vec<Notify> = recipient.notify().collect();
    let wants = |kind| asked.contains(&kind);
    let notify = match asked.as_slice() {
        [] => None,
        _ if wants(Notify::Never) => Some(SmtpNotify::Never),
        _ => Some(SmtpNotify::On {
            success: wants(Notify::Success),
            failure: wants(Notify::Failure),
            delay: wants(Notify::Delay),
        }),
    };
    let orcpt =
        recipient.orcpt.split_once(';').map(|(kind, address)| Orcpt { kind: kind.into(), address: address.into() });
    Ok(Recipient { address, params: RcptParams { notify, orcpt } })
}
