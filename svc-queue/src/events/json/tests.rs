//! The shape of a line, kind by kind.

use super::*;
use godwit_proto::common::v1::{DeliveryId, EnhancedStatusCode, MessageId, Peer, SmtpReply, Tls, TraceContext};
use serde_json::{Value, json};

fn line(event: &Event) -> Value {
    let mut line = Vec::new();
    write_line(&mut line, event);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
    serde_json::from_slice(&line).unwrap()
}

fn full() -> Event {
    Event {
        seq: 7,
        log_id: "0f".into(),
        node: Some(NodeId { value: "node_1".into() }),
        kind: EventKind::TransientFailure.into(),
        message_id: Some(MessageId { value: "msg_1".into() }),
        delivery_id: Some(DeliveryId { value: "dlv_1-0".into() }),
        time: Some(Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 }),
        queue_name: Some("camp:acme@example.com".parse().unwrap()),
        site: "mx.example.com".into(),
        source: "ip-1".into(),
        egress_pool: "pool-1".into(),
        provider: "Example".into(),
        reverse_path: "a@sender.test".into(),
        recipients: vec!["b@example.com".into(), "c@example.com".into()],
        reply: Some(SmtpReply {
            code: 451,
            enhanced: Some(EnhancedStatusCode { code_class: 4, subject: 7, detail: 1 }),
            text: "slow\ndown".into(),
            command: "RCPT TO:<b@example.com>".into(),
            internal: false,
        }),
        bounce_class: "RateLimited".into(),
        attempt: 3,
        size_bytes: 1_234,
        peer: Some(Peer { name: "mx1.example.com".into(), address: "192.0.2.1".into(), port: 25 }),
        tls: Some(Tls {
            version: "TLSv1.3".into(),
            cipher: "TLS13_AES_256_GCM_SHA384".into(),
            peer_subject: "CN=mx1".into(),
            verified: true,
        }),
        session_id: "s-1".into(),
        metadata: [("k".to_string(), "v".to_string())].into(),
        trace: Some(TraceContext {
            traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
            tracestate: String::new(),
        }),
        created: Some(Timestamp { seconds: 1_699_999_000, nanos: 0 }),
        maybe_delivered: true,
        protocol: "ESMTP".into(),
        source_address: "10.0.0.1".into(),
    }
}

#[test]
fn an_attempt_with_everything() {
    let expected = json!({
        "type": "TransientFailure",
        "id": "msg_1",
        "sender": "a@sender.test",
        "recipient": ["b@example.com", "c@example.com"],
        "queue": "camp:acme@example.com",
        "site": "mx.example.com",
        "size": 1234,
        "response": {
            "code": 451,
            "enhanced_code": {"class": 4, "subject": 7, "detail": 1},
            "content": "slow\ndown",
            "command": "RCPT TO:<b@example.com>",
        },
        "peer_address": {"name": "mx1.example.com", "addr": "192.0.2.1"},
        "timestamp": 1_700_000_000,
        "event_time": "2023-11-14T22:13:20.123456Z",
        "created": 1_699_999_000,
        "created_time": "2023-11-14T21:56:40.000000Z",
        "num_attempts": 3,
        "bounce_classification": "RateLimited",
        "egress_pool": "pool-1",
        "egress_source": "ip-1",
        "source_address": {"address": "10.0.0.1", "protocol": null, "server": null},
        "feedback_report": null,
        "meta": {"k": "v"},
        "headers": {},
        "delivery_protocol": "ESMTP",
        "reception_protocol": null,
        "nodeid": "node_1",
        "tls_cipher": "TLS13_AES_256_GCM_SHA384",
        "tls_protocol_version": "TLSv1.3",
        "tls_peer_subject_name": "CN=mx1",
        "session_id": "s-1",
        "provider_name": "Example",
        "seq": 7,
        "log_id": "0f",
        "delivery_id": "dlv_1-0",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "maybe_delivered": true,
    });
    assert_eq!(line(&full()), expected);
}

#[test]
fn a_reception_and_one_recipient() {
    let event = Event {
        kind: EventKind::Reception.into(),
        recipients: vec!["b@example.com".into()],
        reply: None,
        bounce_class: String::new(),
        peer: None,
        tls: None,
        trace: None,
        created: None,
        source_address: String::new(),
        ..full()
    };
    let line = line(&event);
    assert_eq!(line["recipient"], json!("b@example.com"));
    assert_eq!(line["response"], json!({"code": 250, "enhanced_code": null, "content": "", "command": null}));
    assert_eq!((&line["reception_protocol"], &line["delivery_protocol"]), (&json!("ESMTP"), &Value::Null));
    assert_eq!(line["created"], line["timestamp"]);
    assert_eq!(line["bounce_classification"], "Uncategorized");
    for field in ["peer_address", "source_address", "tls_cipher", "trace_id"] {
        assert_eq!(line[field], Value::Null, "{field}");
    }
}

#[test]
fn every_kind_has_its_name() {
    let names = "Reception Delivery TransientFailure Bounce Expiration Rejection Delayed AdminBounce AdminRebind OOB \
                 Feedback XferOut XferIn Audit";
    for (place, name) in names.split_whitespace().enumerate() {
        let number = place as i32 + 1;
        assert_eq!(line(&Event { kind: number, ..Event::default() })["type"], name);
        assert_eq!(kind(name).map(i32::from), Some(number));
    }
    assert_eq!(kind("Unspecified"), None);
}

#[test]
fn a_gap_is_a_line_too() {
    let mut line = Vec::new();
    write_gap(&mut line, &Gap { from: 3, to: 9 }, "0f", &NodeId { value: "node_1".into() });
    let line: Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line, json!({"type": "Gap", "from": 3, "to": 9, "log_id": "0f", "nodeid": "node_1"}));
}

#[test]
fn no_instant_is_too_late_for_a_line() {
    for seconds in [253_402_300_799, 253_402_300_800, i64::MAX] {
        let event = Event { time: Some(Timestamp { seconds, nanos: 1 }), ..full() };
        assert_eq!(line(&event)["event_time"], "9999-12-31T23:59:59.000000Z");
    }
}
