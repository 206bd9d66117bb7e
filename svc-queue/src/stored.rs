//! What the queue keeps in the spool: protobuf, so that fields can be added. Pure.

use bytes::Bytes;
use godwit_proto::common::v1::{Envelope, Received, TraceContext};
use prost::Message;
use std::collections::HashMap;

/// What scheduling knows of a message; read at every start.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    #[prost(string, tag = "1")]
    pub campaign: String,
    #[prost(string, tag = "2")]
    pub tenant: String,
    #[prost(string, tag = "3")]
    pub routing_domain: String,
    #[prost(string, tag = "4")]
    pub egress_pool: String,
    /// One a delivery, in the order of their parts.
    #[prost(string, repeated, tag = "5")]
    pub domains: Vec<String>,
    #[prost(uint64, tag = "6")]
    pub received_ms: u64,
    #[prost(uint64, tag = "7")]
    pub expires_ms: u64,
    #[prost(uint64, tag = "8")]
    pub due_ms: u64,
    #[prost(sint32, tag = "9")]
    pub priority: i32,
    #[prost(uint32, tag = "10")]
    pub attempts: u32,
    /// As [`crate::schedule::Window`] packs it; 0: none.
    #[prost(uint64, tag = "11")]
    pub window: u64,
    /// As [`crate::idempotency`] has them; empty: none.
    #[prost(bytes = "vec", tag = "12")]
    pub idempotency_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "13")]
    pub idempotency_content: Vec<u8>,
}

/// The rest of a message but its body; read for each attempt.
#[derive(Clone, PartialEq, Message)]
pub struct Meta {
    #[prost(message, optional, tag = "1")]
    pub envelope: Option<Envelope>,
    #[prost(map = "string, string", tag = "2")]
    pub metadata: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub received: Option<Received>,
    #[prost(message, optional, tag = "4")]
    pub trace: Option<TraceContext>,
    /// The part of each recipient; none: all are of the first.
    #[prost(uint32, repeated, tag = "5")]
    pub parts: Vec<u32>,
    #[prost(uint64, tag = "6")]
    pub received_ms: u64,
    /// As in the head.
    #[prost(bytes = "vec", tag = "7")]
    pub idempotency_key: Vec<u8>,
}

/// The newest of a delivery, where it differs from how it began.
#[derive(Clone, PartialEq, Message)]
pub struct State {
    /// Indexes of the recipients that are open.
    #[prost(uint32, repeated, tag = "1")]
    pub open: Vec<u32>,
    #[prost(uint32, tag = "2")]
    pub attempts: u32,
    #[prost(uint64, tag = "3")]
    pub due_ms: u64,
    /// Of the newest attempt.
    #[prost(message, optional, tag = "4")]
    pub trace: Option<TraceContext>,
    /// Code of the newest reply.
    #[prost(uint32, tag = "5")]
    pub reply_code: u32,
}

impl Meta {
    /// Recipients of one part, by index.
    pub fn recipients_of(&self, part: u16) -> Box<[u16]> {
        let count = self.envelope.as_ref().map_or(0, |envelope| envelope.recipients.len());
        let of = |index: &u16| self.parts.get(usize::from(*index)).copied().unwrap_or(0) == u32::from(part);
        (0..count as u16).filter(of).collect()
    }

    pub fn address(&self, index: u16) -> Option<&str> {
        let recipients = &self.envelope.as_ref()?.recipients;
        recipients.get(usize::from(index)).map(|recipient| recipient.address.as_str())
    }

    pub fn reverse_path(&self) -> &str {
        self.envelope.as_ref().map_or("", |envelope| &envelope.reverse_path)
    }
}

pub fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// Key of the mark that an id has been withdrawn before it came; the value is until when that counts.
const WITHDRAWN: &[u8] = b"withdrawn/";

pub fn withdrawn_key(id: u128) -> Bytes {
    [WITHDRAWN, &id.to_be_bytes()].concat().into()
}

/// The id and the instant, if that is what it is.
pub fn parse_withdrawn(key: &[u8], value: &[u8]) -> Option<(u128, u64)> {
    let id = key.strip_prefix(WITHDRAWN)?.try_into().ok()?;
    Some((u128::from_be_bytes(id), u64::from_be_bytes(value.try_into().ok()?)))
}

/// A trace context in 25 bytes, for deliveries in memory. The tracestate is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

impl Trace {
    /// `None` where it is empty or malformed.
    pub fn parse(context: &TraceContext) -> Option<Self> {
        let mut parts = context.traceparent.split('-');
        let (version, trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (version.len() == 2 && trace_id.len() == 32 && span_id.len() == 16 && flags.len() == 2).then_some(())?;
        Some(Self {
            trace_id: u128::from_str_radix(trace_id, 16).ok()?.to_be_bytes(),
            span_id: u64::from_str_radix(span_id, 16).ok()?.to_be_bytes(),
            flags: u8::from_str_radix(flags, 16).ok()?,
        })
    }

    pub fn wire(&self) -> TraceContext {
        let (trace_id, span_id) = (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        let traceparent = format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", self.flags);
        TraceContext { traceparent, tracestate: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::Recipient;

    #[test]
    fn recipients_are_found_by_part() {
        let recipients =
            ["a@x", "b@y", "c@x"].map(|address| Recipient { address: address.into(), ..Recipient::default() });
        let envelope = Some(Envelope { recipients: recipients.to_vec(), ..Envelope::default() });
        let split = Meta { envelope: envelope.clone(), parts: vec![0, 1, 0], ..Meta::default() };
        assert_eq!((&*split.recipients_of(0), &*split.recipients_of(1)), (&[0, 2][..], &[1][..]));
        let whole = Meta { envelope, ..Meta::default() };
        assert_eq!(&*whole.recipients_of(0), &[0, 1, 2]);
    }

    #[test]
    fn traces_are_read_back() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_string();
        let context = TraceContext { traceparent, tracestate: String::new() };
        assert_eq!(Trace::parse(&context).unwrap().wire(), context);
        assert_eq!(Trace::parse(&TraceContext::default()), None);
    }

    #[test]
    fn withdrawals_are_read_back() {
        assert_eq!(parse_withdrawn(&withdrawn_key(7), &9u64.to_be_bytes()), Some((7, 9)));
        assert_eq!(parse_withdrawn(b"other", &[]), None);
    }
}
