//! Several ingresses behind one HTTP door.

use crate::front::http;
use crate::world::{Placement, Settings, World, count, law, until};
use bench::sink::Obliging;
use godwit_proto::common::v1::EventKind;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

async fn inject(at: SocketAddr) {
    let request = json!({"envelope_sender": "s@client.test", "recipients": [{"email": "a@one.test"}], "content": "Subject: x\n\ny\n"});
    let (status, answer) = http(at, "POST /api/inject/v1", &request.to_string()).await;
    assert_eq!(status, 200, "{answer}");
}

pub async fn two_ingresses_one_away(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    let gateway = world.start_gateway("gateway-2", &["ingress-2", "ingress"]).await;
    let door = world.listener("gateway-2", "http");
    for _ in 0..5 {
        inject(door).await;
    }
    let second = world.start_ingress("ingress-2", &["queue"]).await;
    let injected = AtomicUsize::new(5);
    let shares = async || {
        inject(door).await;
        injected.fetch_add(1, Ordering::Relaxed);
        (second.figure("godwit_ingress_messages_total") > 0).then_some(())
    };
    until("a share for the one that is back", shares).await;
    second.kill().await;
    for _ in 0..5 {
        inject(door).await;
    }
    let events = world.drained("queue").await;
    law(&events);
    let injected = injected.into_inner() + 5;
    assert_eq!((count(&events, EventKind::Delivery), world.sink.count()), (injected, injected));
    gateway.stop().await;
    world.stop().await;
}
