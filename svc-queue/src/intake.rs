//! From what Enqueue is given to what is stored: checks everything once, splits recipients by domain. Pure.

use crate::idempotency::{Claim, Content, Key};
use crate::schedule::{Schedule, Window, millis};
use crate::stored::{Head, Meta};
use bytes::Bytes;
use godwit_proto::common::v1::{Body, Envelope, body};
use godwit_proto::convert::system_time;
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::EnqueueMessage;
use prost::Message;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub const RECIPIENTS_MAX: usize = 1_000;
const ADDRESS_BYTES_MAX: usize = 1_024;
const NAME_BYTES_MAX: usize = 256;
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
const METADATA_BYTES_MAX: usize = 64 << 10;
const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;
const ATTEMPTS_MAX: u32 = 10_000;
/// How far clocks of nodes may differ.
const SKEW: Duration = Duration::from_secs(120);
/// All of a message but its body, as stored: an answer of Lease has room for it.
const META_BYTES_MAX: usize = 4 << 20;

/// What it is measured by.
#[derive(Debug, Clone)]
pub struct Limits {
    pub schedule: Schedule,
    pub message_bytes_max: u64,
}

/// A message that may be stored.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub id: MessageId,
    pub head: Head,
    pub meta: Meta,
    pub content: Source,
    pub claim: Option<Claim>,
}

/// Where its body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Inline(Bytes),
    /// Its id, and how many bytes must have been put under it (0: however many there are).
    Upload(String, u64),
}

/// Why a message is not taken: the field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct Refusal {
    pub field: String,
    pub what: String,
}

fn refuse<T>(field: impl Into<String>, what: impl ToString) -> Result<T, Refusal> {
    Err(Refusal { field: field.into(), what: what.to_string() })
}

/// Takes a message apart, its id having been read.
pub fn parse(id: MessageId, message: EnqueueMessage, limits: &Limits, now: SystemTime) -> Result<Incoming, Refusal> {
    let Some(envelope) = message.envelope.as_ref() else { return refuse("envelope", "missing") };
    let (domains, parts) = split(envelope)?;
    let times = Times::parse(&message, limits, now)?;
    check_name("campaign", &message.campaign)?;
    check_name("tenant", &message.tenant)?;
    check_name("egress_pool", &message.egress_pool)?;
    let routing_domain = message.routing_domain.to_lowercase();
    if !routing_domain.is_empty() {
        check_domain("routing_domain", &routing_domain)?;
    }
    check_rest(&message)?;
    let claim = claim(id, &message);
    let head = Head {
        domains,
        received_ms: times.received_ms,
        expires_ms: times.expires_ms,
        due_ms: times.due_ms,
        window: times.window.map_or(0, |window| window.pack()),
        priority: message.priority,
        attempts: message.attempts,
        idempotency_key: claim.map_or_else(Vec::new, |claim| claim.key.0.to_vec()),
        idempotency_content: claim.map_or_else(Vec::new, |claim| claim.content.0.to_vec()),
        campaign: message.campaign,
        tenant: message.tenant,
        routing_domain,
        egress_pool: if message.egress_pool.is_empty() { "default".into() } else { message.egress_pool },
    };
    let meta = Meta {
        envelope: message.envelope,
        metadata: message.metadata,
        received: message.received,
        trace: message.trace.filter(|trace| !trace.traceparent.is_empty()),
        parts,
        received_ms: times.received_ms,
        idempotency_key: head.idempotency_key.clone(),
    };
    let meta_bytes = meta.encoded_len();
    if meta_bytes > META_BYTES_MAX {
        return refuse("envelope", format!("{meta_bytes} bytes with metadata and trace, more than {META_BYTES_MAX}"));
    }
    Ok(Incoming { id, head, meta, content: source(message.body, limits)?, claim })
}

/// The domains in the order in which they come, and the part of each recipient; none where all are of the first.
fn split(envelope: &Envelope) -> Result<(Vec<String>, Vec<u32>), Refusal> {
    let count = envelope.recipients.len();
    if count == 0 || count > RECIPIENTS_MAX {
        return refuse("envelope.recipients", format!("{count}, not 1 to {RECIPIENTS_MAX}"));
    }
    check_address("envelope.reverse_path".into(), &envelope.reverse_path)?;
    let mut domains: Vec<String> = Vec::with_capacity(1);
    let mut places: HashMap<String, u32> = HashMap::new();
    let mut parts = Vec::new();
    for (index, recipient) in envelope.recipients.iter().enumerate() {
        let field = || format!("envelope.recipients[{index}].address");
        check_address(field(), &recipient.address)?;
        let domain = match recipient.address.rsplit_once('@') {
            Some((local, domain)) if !local.is_empty() && !domain.is_empty() => domain.to_lowercase(),
            Some(_) | None => return refuse(field(), "not of the form local@domain"),
        };
        // Nearly always all are of one domain: the map is for those that are not.
        if domains.len() == 1 && domains[0] == domain {
            parts.push(0);
            continue;
        }
        let part = *places.entry(domain).or_insert_with_key(|domain| {
            domains.push(domain.clone());
            domains.len() as u32 - 1
        });
        check_domain(&field(), &domains[part as usize])?;
        parts.push(part);
    }
    if domains.len() == 1 {
        parts.clear();
    }
    Ok((domains, parts))
}

fn check_address(field: String, address: &str) -> Result<(), Refusal> {
    if address.len() > ADDRESS_BYTES_MAX {
        return refuse(field, format!("longer than {ADDRESS_BYTES_MAX} bytes"));
    }
    if address.chars().any(|c| c.is_control() || c == '<' || c == '>') {
        return refuse(field, "holds a control character or an angle bracket");
    }
    Ok(())
}

fn check_domain(field: &str, domain: &str) -> Result<(), Refusal> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '!' | '@' | '/');
    if domain.len() > NAME_BYTES_MAX || domain.chars().any(odd) {
        return refuse(field, "no domain");
    }
    Ok(())
}

/// Parts of a queue name must not look like its separators.
fn check_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.len() > NAME_BYTES_MAX {
        return refuse(field, format!("longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(|c| c.is_control() || c == ':') {
        return refuse(field, "holds a control character or a colon");
    }
    Ok(())
}

fn check_rest(message: &EnqueueMessage) -> Result<(), Refusal> {
    if !PRIORITIES.contains(&message.priority) {
        return refuse("priority", format!("not from {} to {}", PRIORITIES.start(), PRIORITIES.end()));
    }
    if message.attempts > ATTEMPTS_MAX {
        return refuse("attempts", format!("above {ATTEMPTS_MAX}"));
    }
    if message.idempotency_key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return refuse("idempotency_key", format!("longer than {IDEMPOTENCY_KEY_BYTES_MAX} bytes"));
    }
    if message.metadata.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > METADATA_BYTES_MAX {
        return refuse("metadata", format!("more than {METADATA_BYTES_MAX} bytes"));
    }
    Ok(())
}

struct Times {
    received_ms: u64,
    due_ms: u64,
    expires_ms: u64,
    window: Option<Window>,
}

impl Times {
    fn parse(message: &EnqueueMessage, limits: &Limits, now: SystemTime) -> Result<Self, Refusal> {
        let instant = |field: &str, wire: &Option<prost_types::Timestamp>| match wire {
            None => Ok(None),
            Some(wire) => match system_time(wire) {
                Some(time) => Ok(Some(since_epoch_ms(time))),
                None => refuse(field, "not an instant since 1970"),
            },
        };
        let now_ms = since_epoch_ms(now);
        let received_ms = instant("first_received", &message.first_received)?.unwrap_or(now_ms);
        if received_ms > now_ms + millis(SKEW) {
            return refuse("first_received", "in the future");
        }
        let window = match message.window.as_ref().map(Window::parse).transpose() {
            Ok(window) => window,
            Err(fault) => return refuse(format!("window.{}", fault.field), fault.what),
        };
        let first_ms = instant("first_attempt", &message.first_attempt)?.unwrap_or(now_ms).max(now_ms);
        let due_ms = window.map_or(first_ms, |window| window.next(first_ms));
        let expires = instant("expires", &message.expires)?;
        let expires_ms = expires.unwrap_or_else(|| limits.schedule.expires_at(received_ms));
        if expires_ms <= now_ms {
            return refuse(if expires.is_some() { "expires" } else { "first_received" }, "it has expired already");
        }
        if due_ms >= expires_ms {
            let field = if window.is_some() && first_ms < expires_ms { "window" } else { "first_attempt" };
            return refuse(field, "no attempt before it expires");
        }
        Ok(Self { received_ms, due_ms, expires_ms, window })
    }
}

pub fn since_epoch_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn source(body: Option<Body>, limits: &Limits) -> Result<Source, Refusal> {
    let Some(Body { content: Some(content), size_bytes }) = body else { return refuse("body", "missing") };
    match content {
        body::Content::Inline(inline) if size_bytes != 0 && size_bytes != inline.len() as u64 => {
            refuse("body.size_bytes", format!("{size_bytes}, but the body has {}", inline.len()))
        }
        body::Content::Inline(inline) => check_size(inline.len() as u64, limits).map(|()| Source::Inline(inline)),
        body::Content::UploadId(id) => check_size(size_bytes, limits).map(|()| Source::Upload(id, size_bytes)),
        body::Content::Stored(_) => refuse("body.stored", "a message brings its own body"),
    }
}

pub fn check_size(size_bytes: u64, limits: &Limits) -> Result<(), Refusal> {
    if size_bytes > limits.message_bytes_max {
        return refuse("body", format!("larger than queue.message_bytes_max ({})", limits.message_bytes_max));
    }
    Ok(())
}

/// The same sender, recipients and queue are the same message to its key; the body has headers that differ in each try.
fn claim(message_id: MessageId, message: &EnqueueMessage) -> Option<Claim> {
    if message.idempotency_key.is_empty() {
        return None;
    }
    let envelope = message.envelope.as_ref()?;
    let recipients = envelope.recipients.iter().map(|recipient| recipient.address.as_bytes());
    let parts = [envelope.reverse_path.as_bytes(), message.campaign.as_bytes()].into_iter().chain(recipients);
    let key = Key::of(&message.tenant, &message.idempotency_key);
    Some(Claim { key, content: Content::of(parts), message_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::{Recipient, SendWindow};
    use godwit_proto::convert::timestamp;

    const NOW: SystemTime = UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(1_000_000)
    }

    fn limits() -> Limits {
        let schedule = Schedule {
            retry_interval: Duration::from_secs(60),
            max_retry_interval: None,
            max_age: Duration::from_secs(86_400),
        };
        Limits { schedule, message_bytes_max: 1 << 21 }
    }

    fn message(recipients: &[&str]) -> EnqueueMessage {
        let recipient = |address: &&str| Recipient { address: (*address).into(), ..Recipient::default() };
        EnqueueMessage {
            envelope: Some(Envelope {
                reverse_path: "a@sender.example".into(),
                recipients: recipients.iter().map(recipient).collect(),
                ..Envelope::default()
            }),
            body: Some(Body { content: Some(body::Content::Inline(Bytes::from_static(b"x\r\n"))), size_bytes: 3 }),
            ..EnqueueMessage::default()
        }
    }

    fn parsed(message: EnqueueMessage) -> Result<Incoming, Refusal> {
        parse(MessageId(1), message, &limits(), now())
    }

    #[test]
    fn recipients_are_split_by_domain() {
        let incoming = parsed(message(&["a@X.example", "b@y.example", "c@x.example"])).unwrap();
        assert_eq!(incoming.head.domains, ["x.example", "y.example"]);
        assert_eq!(incoming.meta.parts, [0, 1, 0]);
        let incoming = parsed(message(&["a@x.example", "b@x.EXAMPLE"])).unwrap();
        assert_eq!((incoming.head.domains.len(), incoming.meta.parts.len()), (1, 0));
        assert_eq!((incoming.head.egress_pool.as_str(), incoming.head.due_ms), ("default", 1_000_000_000));
        assert_eq!(incoming.head.expires_ms, 1_086_400_000);
    }

    #[test]
    fn nonsense_is_named_by_its_field() {
        let check = |change: &dyn Fn(&mut EnqueueMessage), field: &str| {
            let mut given = message(&["a@x.example", "b@x.example"]);
            change(&mut given);
            assert_eq!(parsed(given).unwrap_err().field, field);
        };
        let at = |seconds: u64| Some(timestamp(NOW + Duration::from_secs(seconds)));
        let recipient = |given: &mut EnqueueMessage, address: &str| {
            given.envelope.as_mut().unwrap().recipients[1].address = address.into();
        };
        check(&|m| m.envelope = None, "envelope");
        check(&|m| m.envelope.as_mut().unwrap().recipients.clear(), "envelope.recipients");
        check(&|m| recipient(m, "nobody"), "envelope.recipients[1].address");
        check(&|m| recipient(m, "@x"), "envelope.recipients[1].address");
        check(&|m| recipient(m, "a@x\r\nRCPT"), "envelope.recipients[1].address");
        check(&|m| recipient(m, "a@x y"), "envelope.recipients[1].address");
        check(&|m| m.envelope.as_mut().unwrap().reverse_path = "<a@b>".into(), "envelope.reverse_path");
        check(&|m| m.body = None, "body");
        check(&|m| m.body.as_mut().unwrap().size_bytes = 9, "body.size_bytes");
        check(&|m| m.campaign = "a:b".into(), "campaign");
        check(&|m| m.routing_domain = "a b".into(), "routing_domain");
        check(&|m| m.priority = 101, "priority");
        check(&|m| m.idempotency_key = "x".repeat(257), "idempotency_key");
        check(&|m| m.expires = at(999_999), "expires");
        check(&|m| m.first_received = at(2_000_000), "first_received");
        check(&|m| m.first_received = at(1), "first_received");
        check(&|m| m.first_attempt = at(2_000_000), "first_attempt");
        check(&|m| m.window = Some(SendWindow { days: vec![9], ..SendWindow::default() }), "window.days");
        let shut = SendWindow { start_minute: 0, end_minute: 1, ..SendWindow::default() };
        check(&|m| (m.window, m.expires) = (Some(shut.clone()), at(1_000_060)), "window");
        let large = Body { content: Some(body::Content::Inline(vec![b'x'; (1 << 21) + 1].into())), size_bytes: 0 };
        check(&|m| m.body = Some(large.clone()), "body");
    }

    #[test]
    fn an_idempotency_key_speaks_of_sender_and_recipients() {
        let keyed = |recipient: &str, tenant: &str| {
            let message =
                EnqueueMessage { idempotency_key: "k".into(), tenant: tenant.into(), ..message(&[recipient]) };
            parsed(message).unwrap().claim.unwrap()
        };
        let first = keyed("a@x", "t");
        assert_eq!(first, keyed("a@x", "t"));
        assert_ne!(first.content, keyed("b@x", "t").content);
        assert_ne!(first.key, keyed("a@x", "u").key);
    }
}
