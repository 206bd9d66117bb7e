//! Inject, each case near and far (hostile inputs, row I7).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use godwit_kit::config::Size;
use godwit_proto::{
    common::v1::{Body, BodyType, Envelope, Peer, Received, Recipient, body},
    ingress::{
        Ingress, IngressServiceServer,
        v1::{
            InjectMessage, InjectRequest,
            inject_response::{Outcome, Result as InjectResult},
        },
    },
};
use svc_ingress::Config;
use tonic::{Code, Request, Status};

use crate::support::{Answer, FakeQueue, World, config, listener};

pub fn near(world: &World) -> Ingress {
    Arc::new(world.service.clone())
}

fn far(world: &World) -> Ingress {
    let server =
        IngressServiceServer::new(world.service.clone()).max_decoding_message_size(godwit_proto::CALL_BYTES_MAX);
    godwit_proto::ingress::at(godwit_kit::connect::pipe(server))
}

pub fn message() -> InjectMessage {
    let recipient = Recipient { address: "b@example.net".into(), ..Recipient::default() };
    InjectMessage {
        envelope: Some(Envelope {
            reverse_path: "a@example.com".into(),
            recipients: vec![recipient],
            ..Envelope::default()
        }),
        body: content("Subject: x\r\n\r\nhello\r\n"),
        ..InjectMessage::default()
    }
}

fn content(text: impl Into<Bytes>) -> Option<Body> {
    Some(Body { content: Some(body::Content::Inline(text.into())), size_bytes: 0 })
}

pub fn request(messages: Vec<InjectMessage>) -> InjectRequest {
    InjectRequest { messages, ..InjectRequest::default() }
}

/// Takes messages of 64 KiB.
fn small() -> Config {
    Config { max_message_size: Size(64 << 10), ..config(listener()) }
}

/// Runs the case near, then far, each in a world of its own.
macro_rules! both {
    ($($case:ident)*) => { $(
        mod $case {
            use super::*;
            #[tokio::test(start_paused = true)]
            async fn near_by() {
                let queue = FakeQueue::new();
                let world = World::new(small(), &[&queue]).await;
                super::$case(near(&world), queue).await;
            }
            #[tokio::test(start_paused = true)]
            async fn far_away() {
                let queue = FakeQueue::new();
                let world = World::new(small(), &[&queue]).await;
                super::$case(far(&world), queue).await;
            }
        }
    )* };
}

both!(takes refuses_by_field keys_make_duplicates bad_calls sends_on_what_it_was_told);

async fn results(ingress: &Ingress, messages: Vec<InjectMessage>) -> Vec<InjectResult> {
    ingress.inject(Request::new(request(messages))).await.unwrap().into_inner().results
}

async fn takes(ingress: Ingress, queue: Arc<FakeQueue>) {
    let bare = InjectMessage { body: content("Subject: ü\r\n\r\nno end"), ..message() };
    let with_header = InjectMessage { received_header: true, ..message() };
    let results = results(&ingress, vec![message(), bare, with_header]).await;
    assert!(results.iter().all(|result| result.outcome() == Outcome::Accepted), "{results:?}");
    let kept = queue.kept();
    assert_eq!(
        kept.iter().map(|kept| kept.message_id.clone()).collect::<Vec<_>>(),
        results.iter().map(|r| r.message_id.clone()).collect::<Vec<_>>()
    );
    let contents = queue.contents();
    assert_eq!(
        (&contents[0][..], &contents[1][..]),
        (&b"Subject: x\r\n\r\nhello\r\n"[..], "Subject: ü\r\n\r\nno end\r\n".as_bytes())
    );
    assert_eq!(kept[0].envelope.as_ref().unwrap().body_type(), BodyType::SevenBit);
    assert_eq!(kept[1].envelope.as_ref().unwrap().body_type(), BodyType::EightBitMime);
    let text = std::str::from_utf8(&contents[2]).unwrap();
    assert!(text.starts_with("Received: from unknown\r\n\tby mx.test (Godwit) with GRPC id msg_"), "{text}");
    assert!(text.ends_with("+0000\r\nSubject: x\r\n\r\nhello\r\n"), "{text}");
}

/// A change to a good message, the field that must be named, and the code.
type Fault = (fn(&mut InjectMessage), &'static str, u32);

fn envelope(message: &mut InjectMessage) -> &mut Envelope {
    message.envelope.as_mut().unwrap()
}

fn recipient(message: &mut InjectMessage) -> &mut Recipient {
    &mut envelope(message).recipients[0]
}

const FAULTS: [Fault; 30] = [
    (|m| m.envelope = None, "envelope", 554),
    (|m| envelope(m).reverse_path = "a@b>\r\nRCPT TO:<c@d".into(), "envelope.reverse_path", 501),
    (|m| envelope(m).reverse_path = "ü@b".into(), "envelope.reverse_path", 553),
    (|m| envelope(m).recipients.clear(), "envelope.recipients", 554),
    (|m| envelope(m).recipients = vec![recipient(m).clone(); 1_001], "envelope.recipients", 550),
    (|m| recipient(m).address = "a@b>\r\nRCPT TO:<c@d".into(), "envelope.recipients[0].address", 501),
    (|m| recipient(m).address = "<a@b>".into(), "envelope.recipients[0].address", 501),
    (|m| recipient(m).address = String::new(), "envelope.recipients[0].address", 501),
    (|m| recipient(m).orcpt = "rfc822;a\r\nb".into(), "envelope.recipients[0].orcpt", 554),
    (|m| recipient(m).notify = vec![1, 2], "envelope.recipients[0].notify", 554),
    (|m| recipient(m).notify = vec![77], "envelope.recipients[0].notify", 554),
    (|m| envelope(m).envid = "a\r\nb".into(), "envelope.envid", 554),
    (|m| envelope(m).ret = 9, "envelope.ret", 554),
    (|m| envelope(m).body_type = BodyType::BinaryMime.into(), "envelope.body_type", 554),
    (|m| m.body = None, "body", 554),
    (|m| m.body = content("Subject: x\r\nBcc: v@y\n\r\n"), "body", 550),
    (|m| m.body = content("Subject: x\r\n\r\na\n.\nb\r\n"), "body", 550),
    (|m| m.body = content("Subject: x\rBcc: v@y\r\n\r\n"), "body", 550),
    (|m| m.body = content("Subject: x\r\n\r\na\r"), "body", 550),
    (|m| m.body = content("Subject: x\r\n\r\na\0b\r\n"), "body", 554),
    (|m| m.body = content("x".repeat(999)), "body", 554),
    (|m| m.body = content("x\r\n".repeat(22_000)), "body", 552),
    (|m| m.body = content("Received: x\r\n".repeat(100)), "body", 554),
    (|m| m.body.as_mut().unwrap().content = Some(body::Content::UploadId("u".into())), "body", 554),
    (|m| m.tenant = "a@b".into(), "tenant", 554),
    (|m| m.campaign = "a\nb".into(), "campaign", 554),
    (|m| m.routing_domain = "a b".into(), "routing_domain", 554),
    (|m| m.priority = 101, "priority", 554),
    (|m| m.idempotency_key = "k".repeat(257), "idempotency_key", 554),
    (|m| m.expires = Some(prost_types::Timestamp { seconds: 1_000, nanos: 0 }), "expires", 554),
];

async fn refuses_by_field(ingress: Ingress, queue: Arc<FakeQueue>) {
    for (change, field, code) in FAULTS {
        let mut bad = message();
        change(&mut bad);
        let before = queue.kept().len();
        let results = results(&ingress, vec![message(), bad]).await;
        assert_eq!(results[0].outcome(), Outcome::Accepted, "{field}: the other goes on");
        let refused = &results[1];
        assert_eq!(
            (refused.outcome(), refused.field.as_str()),
            (Outcome::Refused, format!("messages[1].{field}").as_str())
        );
        assert_eq!(refused.reply.as_ref().unwrap().code, code, "{field}: {:?}", refused.reply);
        assert_eq!(queue.kept().len(), before + 1, "{field}");
    }
}

async fn keys_make_duplicates(ingress: Ingress, queue: Arc<FakeQueue>) {
    let call = || InjectRequest { idempotency_key: "call".into(), ..request(vec![message(), message()]) };
    let first = ingress.inject(Request::new(call())).await.unwrap().into_inner().results;
    let again = ingress.inject(Request::new(call())).await.unwrap().into_inner().results;
    assert_eq!(first.iter().map(InjectResult::outcome).collect::<Vec<_>>(), [Outcome::Accepted; 2]);
    assert_eq!(again.iter().map(InjectResult::outcome).collect::<Vec<_>>(), [Outcome::Duplicate; 2]);
    assert_eq!(
        first.iter().map(|r| &r.message_id).collect::<Vec<_>>(),
        again.iter().map(|r| &r.message_id).collect::<Vec<_>>()
    );
    assert_eq!(queue.kept().iter().map(|kept| kept.idempotency_key.clone()).collect::<Vec<_>>(), ["call/0", "call/1"]);
    let own = InjectMessage { idempotency_key: "own".into(), ..message() };
    let mixed = InjectRequest { idempotency_key: "call".into(), ..request(vec![own, message()]) };
    ingress.inject(Request::new(mixed)).await.unwrap();
    assert_eq!(queue.kept()[2..].iter().map(|kept| kept.idempotency_key.clone()).collect::<Vec<_>>(), ["own", ""]);
}

async fn bad_calls(ingress: Ingress, queue: Arc<FakeQueue>) {
    let calls = [
        (request(vec![]), "messages: "),
        (request(vec![message(); 1_001]), "messages: "),
        (InjectRequest { idempotency_key: "k".repeat(253), ..request(vec![message()]) }, "idempotency_key: "),
    ];
    for (call, field) in calls {
        let status = ingress.inject(Request::new(call)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{status}");
    }
    assert_eq!(queue.call_count(), 0);
}

async fn sends_on_what_it_was_told(ingress: Ingress, queue: Arc<FakeQueue>) {
    let sent = InjectMessage {
        metadata: [("a".to_string(), "b".to_string())].into(),
        campaign: "spring".into(),
        tenant: "acme".into(),
        routing_domain: "Relay.Example:2525".into(),
        egress_pool: "pool-1".into(),
        first_attempt: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
        expires: Some(prost_types::Timestamp { seconds: 1_900_000_000, nanos: 0 }),
        priority: -5,
        received_header: true,
        ..message()
    };
    let peer = Peer { address: "2001:db8::1".into(), ..Peer::default() };
    let received =
        Received { protocol: "HTTP".into(), peer: Some(peer), helo: "a;\r\nb".into(), ..Received::default() };
    let call = InjectRequest { received: Some(received.clone()), ..request(vec![sent.clone()]) };
    ingress.inject(Request::new(call)).await.unwrap();
    let kept = queue.kept().remove(0);
    assert_eq!((kept.campaign, kept.tenant, kept.egress_pool), (sent.campaign, sent.tenant, sent.egress_pool));
    assert_eq!((kept.routing_domain.as_str(), kept.priority, kept.metadata), ("relay.example:2525", -5, sent.metadata));
    assert_eq!((kept.first_attempt, kept.expires, kept.received), (sent.first_attempt, sent.expires, Some(received)));
    let text = queue.contents().remove(0);
    let expected = "Received: from a???b ([IPv6:2001:db8::1])\r\n\tby mx.test (Godwit) with HTTP id ";
    assert!(text.starts_with(expected.as_bytes()), "{text:?}");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_fails_is_told_a_message_at_a_time() {
    let queue = FakeQueue::always(Answer::Fail(Status::resource_exhausted("full")));
    let world = World::new(config(listener()), &[&queue]).await;
    let results = results(&near(&world), vec![message(), message()]).await;
    for result in results {
        assert_eq!((result.outcome(), result.field.as_str()), (Outcome::Refused, ""));
        assert_eq!(result.reply.unwrap().line(), "452 4.3.1 Insufficient storage, try again later");
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_key_goes_to_the_same_node() {
    let queues = [FakeQueue::new(), FakeQueue::new(), FakeQueue::new()];
    let world = World::new(config(listener()), &[&queues[0], &queues[1], &queues[2]]).await;
    for place in 0..20 {
        let keyed = InjectMessage { idempotency_key: format!("key-{place}"), ..message() };
        let twice =
            [results(&near(&world), vec![keyed.clone()]).await, results(&near(&world), vec![keyed]).await].concat();
        assert_eq!((twice[0].outcome(), twice[1].outcome()), (Outcome::Accepted, Outcome::Duplicate), "{place}");
    }
    assert!(queues.iter().all(|queue| !queue.kept().is_empty()), "keys are spread over the nodes");
}

/// The caller goes away while the queue thinks: nothing hangs, nothing breaks.
#[tokio::test(start_paused = true)]
async fn a_caller_may_leave() {
    let queue = FakeQueue::scripted([Answer::KeepAndHang]);
    let world = World::new(config(listener()), &[&queue]).await;
    let ingress = near(&world);
    let call = ingress.inject(Request::new(request(vec![message()])));
    assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
    assert_eq!(results(&ingress, vec![message()]).await[0].outcome(), Outcome::Accepted);
    assert!(world.host.stop.finish(Duration::from_secs(60)).await);
}
