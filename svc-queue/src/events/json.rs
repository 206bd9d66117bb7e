//! An event as a line of JSON, with the field names that log pipelines of this field already read.

use godwit_proto::common::v1::{Event, EventKind, Gap, NodeId};
use prost_types::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// The kind's name in the record, and in `[[queue.sinks]] events`.
pub fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Unspecified => "Unspecified",
        EventKind::Reception => "Reception",
        EventKind::Delivery => "Delivery",
        EventKind::TransientFailure => "TransientFailure",
        EventKind::Bounce => "Bounce",
        EventKind::Expiration => "Expiration",
        EventKind::Rejection => "Rejection",
        EventKind::Delayed => "Delayed",
        EventKind::AdminBounce => "AdminBounce",
        EventKind::AdminRebind => "AdminRebind",
        EventKind::Oob => "OOB",
        EventKind::Feedback => "Feedback",
        EventKind::TransferOut => "XferOut",
        EventKind::TransferIn => "XferIn",
        EventKind::Audit => "Audit",
    }
}

/// The kind of that name.
pub fn kind(text: &str) -> Option<EventKind> {
    (1..=EventKind::Audit.into()).filter_map(|kind| EventKind::try_from(kind).ok()).find(|kind| name(*kind) == text)
}

/// Adds the event as one line.
pub fn write_line(line: &mut Vec<u8>, event: &Event) {
    append(line, &Record::of(event));
}

/// Adds a line that says which events are missing here.
pub fn write_gap(line: &mut Vec<u8>, gap: &Gap, log_id: &str, node: &NodeId) {
    append(line, &Missing { kind: "Gap", from: gap.from, to: gap.to, log_id, nodeid: &node.value });
}

fn append(line: &mut Vec<u8>, record: &impl Serialize) {
    serde_json::to_writer(&mut *line, record)
        .expect("strings, numbers and maps of strings always serialise, to memory");
    line.push(b'\n');
}

#[derive(Serialize)]
struct Missing<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    from: u64,
    to: u64,
    log_id: &'a str,
    nodeid: &'a str,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    sender: &'a str,
    recipient: OneOrMany<'a>,
    queue: String,
    site: &'a str,
    size: u64,
    response: Response<'a>,
    peer_address: Option<Peer<'a>>,
    /// Whole seconds since 1970, for programs; `event_time` is the same to the microsecond.
    timestamp: i64,
    event_time: String,
    created: i64,
    created_time: String,
    num_attempts: u32,
    bounce_classification: &'a str,
    egress_pool: Option<&'a str>,
    egress_source: Option<&'a str>,
    source_address: Option<SourceAddress<'a>>,
    feedback_report: Option<BTreeMap<&'a str, &'a str>>,
    meta: BTreeMap<&'a str, &'a str>,
    headers: BTreeMap<&'a str, &'a str>,
    delivery_protocol: Option<&'a str>,
    reception_protocol: Option<&'a str>,
    nodeid: &'a str,
    tls_cipher: Option<&'a str>,
    tls_protocol_version: Option<&'a str>,
    tls_peer_subject_name: Option<&'a str>,
    session_id: Option<&'a str>,
    provider_name: Option<&'a str>,
    // Ours, beyond the usual.
    seq: u64,
    log_id: &'a str,
    delivery_id: Option<&'a str>,
    trace_id: Option<&'a str>,
    maybe_delivered: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum OneOrMany<'a> {
    One(&'a str),
    Many(&'a [String]),
}

#[derive(Serialize)]
struct Response<'a> {
    code: u32,
    enhanced_code: Option<EnhancedCode>,
    content: &'a str,
    command: Option<&'a str>,
}

#[derive(Serialize)]
struct EnhancedCode {
    class: u32,
    subject: u32,
    detail: u32,
}

#[derive(Serialize)]
struct Peer<'a> {
    name: &'a str,
    addr: &'a str,
}

#[derive(Serialize)]
struct SourceAddress<'a> {
    address: &'a str,
    protocol: Option<&'a str>,
    server: Option<&'a str>,
}

impl<'a> Record<'a> {
    fn of(event: &'a Event) -> Self {
        let tls = event.tls.as_ref();
        let (received, sent) = if came_in(event.kind()) { (&*event.protocol, "") } else { ("", &*event.protocol) };
        let (timestamp, event_time) = time(event.time.as_ref());
        let (created, created_time) = time(event.created.as_ref().or(event.time.as_ref()));
        let meta: BTreeMap<_, _> = event.metadata.iter().map(|(key, value)| (&**key, &**value)).collect();
        Self {
            kind: name(event.kind()),
            id: event.message_id.as_ref().map_or("", |id| &id.value),
            sender: &event.reverse_path,
            recipient: match &*event.recipients {
                [] => OneOrMany::One(""),
                [one] => OneOrMany::One(one),
                many => OneOrMany::Many(many),
            },
            queue: event.queue_name.as_ref().map(ToString::to_string).unwrap_or_default(),
            site: &event.site,
            size: event.size_bytes,
            response: Response::of(event),
            peer_address: event.peer.as_ref().map(|peer| Peer { name: &peer.name, addr: &peer.address }),
            timestamp,
            event_time,
            created,
            created_time,
            num_attempts: event.attempt,
            bounce_classification: given(&event.bounce_class).unwrap_or("Uncategorized"),
            egress_pool: given(&event.egress_pool),
            egress_source: given(&event.source),
            source_address: given(&event.source_address).map(|address| SourceAddress {
                address,
                protocol: None,
                server: None,
            }),
            feedback_report: None,
            meta,
            headers: BTreeMap::new(),
            delivery_protocol: given(sent),
            reception_protocol: given(received),
            nodeid: event.node.as_ref().map_or("", |node| &node.value),
            tls_cipher: tls.and_then(|tls| given(&tls.cipher)),
            tls_protocol_version: tls.and_then(|tls| given(&tls.version)),
            tls_peer_subject_name: tls.and_then(|tls| given(&tls.peer_subject)),
            session_id: given(&event.session_id),
            provider_name: given(&event.provider),
            seq: event.seq,
            log_id: &event.log_id,
            delivery_id: event.delivery_id.as_ref().map(|id| &*id.value),
            // `version-traceid-parentid-flags` (W3C Trace Context).
            trace_id: event.trace.as_ref().and_then(|trace| trace.traceparent.split('-').nth(1)),
            maybe_delivered: event.maybe_delivered,
        }
    }
}

impl<'a> Response<'a> {
    /// A reception without a reply was answered 250; any other event without one has code 0.
    fn of(event: &'a Event) -> Self {
        let Some(reply) = &event.reply else {
            let code = if event.kind() == EventKind::Reception { 250 } else { 0 };
            return Self { code, enhanced_code: None, content: "", command: None };
        };
        Self {
            code: reply.code,
            enhanced_code: reply.enhanced.as_ref().map(|enhanced| EnhancedCode {
                class: enhanced.code_class,
                subject: enhanced.subject,
                detail: enhanced.detail,
            }),
            content: &reply.text,
            command: given(&reply.command),
        }
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Whether `protocol` says how it came in, rather than how it went out.
fn came_in(kind: EventKind) -> bool {
    match kind {
        EventKind::Reception | EventKind::Rejection | EventKind::Oob | EventKind::Feedback | EventKind::TransferIn => {
            true
        }
        EventKind::Unspecified
        | EventKind::Delivery
        | EventKind::TransientFailure
        | EventKind::Bounce
        | EventKind::Expiration
        | EventKind::Delayed
        | EventKind::AdminBounce
        | EventKind::AdminRebind
        | EventKind::TransferOut
        | EventKind::Audit => false,
    }
}

/// The last of the year 9999: RFC 3339 goes no further.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Seconds, and RFC 3339 in UTC.
fn time(time: Option<&Timestamp>) -> (i64, String) {
    let time = time.and_then(godwit_proto::convert::system_time).unwrap_or(std::time::UNIX_EPOCH);
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(SECONDS_MAX);
    let shown = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, since.subsec_nanos());
    (seconds as i64, humantime::format_rfc3339_micros(shown).to_string())
}

#[cfg(test)]
mod tests;
