//! Judges one injected message, as strictly as if it had come by SMTP, and makes it what a queue wants. Pure.

mod envelope;
mod names;

use std::time::SystemTime;

use bytes::Bytes;
use godwit_proto::{
    common::v1::{Body, Received, body},
    convert::{system_time, timestamp},
    id::MessageId,
    ingress::v1::InjectMessage,
    queue::v1::EnqueueMessage,
};
use godwit_smtp::{Reply, data};

use crate::message;

/// `InjectMessage.idempotency_key`.
pub const KEY_BYTES_MAX: usize = 256;
/// Of all keys and values of one message, its recipients' included.
const METADATA_BYTES_MAX: usize = 64 << 10;
const PRIORITY_MAX: i32 = 100;
const DAY_MINUTES: u32 = 24 * 60;

/// What holds for every message of a call.
#[derive(Debug)]
pub struct Terms<'c> {
    pub hostname: &'c str,
    pub size_bytes_max: usize,
    pub now: SystemTime,
    pub received: Received,
}

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reply: Reply,
    /// Within the message: `envelope.recipients[2].address`.
    pub field: String,
}

impl Refused {
    fn new(field: impl Into<String>, code: u16, enhanced: (u8, u16, u16), text: impl Into<String>) -> Self {
        Self { reply: Reply::new(code, enhanced, text), field: field.into() }
    }

    /// What no standard has a code for.
    fn field(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(field, 554, (5, 5, 4), text)
    }
}

/// The message under a new id, all of it checked.
///
/// # Errors
/// The first field that is at fault.
pub fn parse(message: InjectMessage, terms: &Terms<'_>) -> Result<EnqueueMessage, Refused> {
    let content = content(message.body, terms)?;
    let envelope = message.envelope.ok_or_else(|| Refused::new("envelope", 554, (5, 5, 1), "No envelope"))?;
    let envelope = envelope::parse(envelope, &content)?;
    let metadata_bytes = |metadata: &std::collections::HashMap<String, String>| -> usize {
        metadata.iter().map(|(key, value)| key.len() + value.len()).sum()
    };
    let of_recipients: usize = envelope.recipients.iter().map(|recipient| metadata_bytes(&recipient.metadata)).sum();
    if of_recipients + metadata_bytes(&message.metadata) > METADATA_BYTES_MAX {
        return Err(Refused::field("metadata", format!("metadata is longer than {METADATA_BYTES_MAX} bytes in sum")));
    }
    if message.idempotency_key.len() > KEY_BYTES_MAX {
        return Err(Refused::field("idempotency_key", format!("must be at most {KEY_BYTES_MAX} bytes")));
    }
    if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&message.priority) {
        return Err(Refused::field("priority", format!("must be -{PRIORITY_MAX} to {PRIORITY_MAX}")));
    }
    names::check_label("campaign", &message.campaign)?;
    names::check_label("tenant", &message.tenant)?;
    names::check_label("egress_pool", &message.egress_pool)?;
    let routing_domain = names::routing_domain(&message.routing_domain)?;
    check_times(message.first_attempt.as_ref(), message.expires.as_ref(), terms.now)?;
    check_window(message.window.as_ref())?;

    let id = MessageId::new();
    let field = match (message.received_header, &envelope.recipients[..]) {
        (false, _) => String::new(),
        (true, [one]) => received(terms, id, Some(&one.address)),
        (true, [..]) => received(terms, id, None),
    };
    let content = message::assemble(&field, content);
    Ok(EnqueueMessage {
        message_id: Some(id.into()),
        body: Some(Body { size_bytes: content.len() as u64, content: Some(body::Content::Inline(content)) }),
        envelope: Some(envelope),
        metadata: message.metadata,
        campaign: message.campaign,
        tenant: message.tenant,
        routing_domain,
        egress_pool: message.egress_pool,
        first_attempt: message.first_attempt,
        expires: message.expires,
        window: message.window,
        priority: message.priority,
        idempotency_key: message.idempotency_key,
        trace: message.trace,
        received: Some(terms.received.clone()),
        attempts: 0,
        first_received: Some(timestamp(terms.now)),
    })
}

fn received(terms: &Terms<'_>, id: MessageId, recipient: Option<&str>) -> String {
    let peer = terms.received.peer.as_ref().and_then(|peer| peer.address.parse().ok());
    let Received { helo, protocol, tls, .. } = &terms.received;
    let field = message::Received {
        helo,
        peer,
        tls: tls.as_ref(),
        by: terms.hostname,
        with: protocol,
        id,
        recipient,
        time: terms.now,
    };
    field.to_string()
}

fn content(body: Option<Body>, terms: &Terms<'_>) -> Result<Bytes, Refused> {
    let refuse = |code, enhanced, text: &str| Refused::new("body", code, enhanced, text);
    let content = match body.and_then(|body| body.content) {
        Some(body::Content::Inline(content)) => content,
        Some(body::Content::UploadId(_) | body::Content::Stored(_)) => {
            return Err(refuse(554, (5, 3, 3), "Content must be inline"));
        }
        None => return Err(refuse(554, (5, 6, 0), "No content")),
    };
    let limits = data::Limits { size_bytes_max: terms.size_bytes_max, ..data::Limits::default() };
    data::check(&content, &limits).map_err(|fault| match fault {
        data::Fault::TooLarge => refuse(552, (5, 3, 4), "Message is too large"),
        data::Fault::LineTooLong => refuse(554, (5, 6, 0), "Message has a line that is too long"),
        data::Fault::Nul => refuse(554, (5, 6, 0), "Message contains NUL"),
        data::Fault::BareLf => refuse(550, (5, 5, 2), "Message contains bare LF"),
        data::Fault::BareCr => refuse(550, (5, 5, 2), "Message contains bare CR"),
    })?;
    if message::hops(&content) >= message::HOPS_MAX {
        return Err(refuse(554, (5, 4, 6), "Too many hops: this message goes round in circles"));
    }
    Ok(content)
}

fn check_times(
    first_attempt: Option<&prost_types::Timestamp>,
    expires: Option<&prost_types::Timestamp>,
    now: SystemTime,
) -> Result<(), Refused> {
    let instant = |field: &str, given: Option<&prost_types::Timestamp>| match given.map(system_time) {
        None => Ok(None),
        Some(Some(time)) => Ok(Some(time)),
        Some(None) => Err(Refused::field(field, "no instant after 1970")),
    };
    let first_attempt = instant("first_attempt", first_attempt)?;
    let expires = instant("expires", expires)?;
    match expires {
        Some(expires) if expires <= first_attempt.unwrap_or(now).max(now) => {
            Err(Refused::field("expires", "it would expire before its first attempt"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_window(window: Option<&godwit_proto::common::v1::SendWindow>) -> Result<(), Refused> {
    let Some(window) = window else { return Ok(()) };
    if !window.days.iter().all(|day| (1..=7).contains(day)) {
        return Err(Refused::field("window.days", "must be 1 (Monday) to 7 (Sunday)"));
    }
    if window.start_minute >= DAY_MINUTES || window.end_minute > DAY_MINUTES {
        return Err(Refused::field("window", "minutes of a day are 0 to 1,439; the end may be 1,440"));
    }
    names::check_label("window.time_zone", &window.time_zone)
}
