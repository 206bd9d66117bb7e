//! An event's form in the spool: protobuf, without what the log itself knows of it (sequence, log id, node).

use bytes::Bytes;
use godwit_proto::common::v1::{Event, EventKind, NodeId};
use prost::Message;

/// The key of field `kind` on the wire: number 4, a varint. It comes first, since the fields before it are not stored.
const KIND_KEY: u8 = 4 << 3;

/// What the spool is given. The sequence, log id and node of `event` are left out, set or not.
pub fn encode(event: &Event) -> Bytes {
    if event.seq == 0 && event.log_id.is_empty() && event.node.is_none() {
        return event.encode_to_vec().into();
    }
    let bare = Event { seq: 0, log_id: String::new(), node: None, ..event.clone() };
    bare.encode_to_vec().into()
}

/// The event, with what the log knows of it. One that cannot be read is logged and comes with nothing else, so that the log
/// has no hole.
pub fn decode(payload: Bytes, seq: u64, log_id: &str, node: &NodeId) -> Event {
    let event = Event::decode(payload).unwrap_or_else(|error| {
        tracing::error!(seq, %error, "an event of the log cannot be read");
        Event::default()
    });
    Event { seq, log_id: log_id.to_owned(), node: Some(node.clone()), ..event }
}

/// The kind, without decoding the rest.
pub fn kind(payload: &[u8]) -> EventKind {
    match payload {
        [KIND_KEY, kind, ..] if *kind < 0x80 => EventKind::try_from(i32::from(*kind)).unwrap_or_default(),
        _ => Event::decode(payload).map(|event| event.kind()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::MessageId;

    #[test]
    fn what_was_encoded_comes_back_stamped() {
        let node = NodeId { value: "node_1".into() };
        let event = Event {
            kind: EventKind::Bounce.into(),
            message_id: Some(MessageId { value: "msg_1".into() }),
            recipients: vec!["a@b".into()],
            ..Event::default()
        };
        let stamped = Event { seq: 7, log_id: "l".into(), node: Some(node.clone()), ..event.clone() };
        for given in [&event, &stamped] {
            let payload = encode(given);
            assert_eq!(kind(&payload), EventKind::Bounce);
            assert_eq!(decode(payload, 7, "l", &node), stamped);
        }
    }

    #[test]
    fn the_kind_is_found_whatever_is_stored() {
        for number in 0..=14 {
            let event = Event { kind: number, attempt: 3, ..Event::default() };
            assert_eq!(i32::from(kind(&encode(&event))), number);
        }
        assert_eq!(kind(&[0xff, 0xff]), EventKind::Unspecified);
    }

    #[test]
    fn damage_leaves_no_hole() {
        let event = decode(Bytes::from_static(&[0xff, 0xff]), 9, "l", &NodeId::default());
        assert_eq!((event.seq, event.kind()), (9, EventKind::Unspecified));
    }
}
