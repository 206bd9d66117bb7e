//! Several egress nodes over one queue, and the proxy that they share.

use super::CONTENT;
use crate::world::{Client, HANG, Load, Placement, Process, Settings, World, arrived, count, law, of_kind, until};
use bench::sink::{Action, Behaviour, Sink};
use godwit_proto::common::v1::{Event, EventKind, Selector};
use godwit_proto::queue::v1::SummariseRequest;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::Request;

/// Keeps the first client that says DATA waiting for ever.
struct Stalling(Arc<AtomicBool>);

impl Behaviour for Stalling {
    fn data(&self) -> Action {
        if self.0.swap(true, Ordering::SeqCst) { Action::Usual } else { Action::Wait(2 * HANG) }
    }
}

async fn stalls(stalled: &AtomicBool) {
    until("client that waits", async || stalled.load(Ordering::SeqCst).then_some(())).await;
}

/// Takes its time over each message.
struct Unhurried;

impl Behaviour for Unhurried {
    fn dot(&self, _content: &[u8]) -> Action {
        Action::Wait(Duration::from_millis(40))
    }
}

/// An egress whose mail leaves from this address, under the same source's name whichever it is.
fn from(address: &str) -> String {
    format!(
        "lease = \"1s\"\nunsettled_per_connection_max = 4\n[egress.sources.\"s\"]\nsource_address = \"{address}\"\n\
         [egress.pools.\"default\"]\nsources = {{ \"s\" = 1 }}\n"
    )
}

/// Where the sink's clients came from.
fn origins(sink: &Sink) -> BTreeSet<String> {
    sink.peers().iter().map(|peer| peer.ip().to_string()).collect()
}

pub async fn egress_dies(placement: Placement) {
    let stalled = Arc::new(AtomicBool::new(false));
    let settings = Settings { egress: "lease = \"1s\"".into(), without_egress: true, ..Settings::default() };
    let world = World::start(placement, Stalling(stalled.clone()), settings).await;
    let dying = world.start_egress("egress-1", &["queue"]).await;
    world.send(&["a@one.test"], CONTENT).await;
    stalls(&stalled).await;
    drop(dying);
    let second = world.start_egress("egress-2", &["queue"]).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    assert_eq!((count(&events, EventKind::TransientFailure), world.sink.count()), (0, 1));
    second.stop().await;
    world.stop().await;
}

pub async fn two_egresses_share_a_queue(placement: Placement) {
    let settings = Settings {
        without_egress: true,
        // Few, and given back soon: whoever waits has its turn.
        shaping_default: "connection_limit = 3\nmax_deliveries_per_connection = 5".into(),
        ..Settings::default()
    };
    let mut world = World::start(placement, Unhurried, settings).await;
    let mut client = Client::connect(world.smtp).await.unwrap();
    for number in 0..100 {
        client.send(&["a@one.test"], &format!("X-Bench-Id: {number}\r\n\r\nx")).await.unwrap();
    }
    // Each has enough to do for all the connections that the site allows.
    world.set_egress(&from("127.0.0.21"));
    let first = world.start_egress("egress-1", &["queue"]).await;
    world.set_egress(&from("127.0.0.22"));
    let second = world.start_egress("egress-2", &["queue"]).await;
    let numbers: Vec<usize> = (0..100).collect();
    let times = arrived(&world.sink, &numbers).await;
    law(&world.drained("queue").await);
    assert_eq!((times.len(), world.sink.count()), (100, 100), "each exactly once");
    assert_eq!(origins(&world.sink), ["127.0.0.21".to_string(), "127.0.0.22".into()].into(), "both send");
    let most = world.sink.connections_max();
    assert!(most <= 3, "{most} connections at once: the limit is one for both");
    second.stop().await;
    first.stop().await;
    world.stop().await;
}

pub async fn egress_killed_under_load(placement: Placement) {
    let stalled = Arc::new(AtomicBool::new(false));
    let settings = Settings { without_egress: true, ..Settings::default() };
    let mut world = World::start(placement, Stalling(stalled.clone()), settings).await;
    world.set_egress(&from("127.0.0.21"));
    let first = world.start_egress("egress-1", &["queue"]).await;
    world.send(&["held@one.test"], CONTENT).await;
    stalls(&stalled).await;
    world.set_egress(&from("127.0.0.22"));
    let second = world.start_egress("egress-2", &["queue"]).await;
    let load = Load::start(4, world.smtp, "a@one.test");
    load.goes_on(200).await;
    first.kill().await;
    load.goes_on(100).await;
    let accepted = load.finish().await;
    arrived(&world.sink, &accepted).await;
    let events = world.drained("queue").await;
    law(&events);
    let held = world.sink.taken().into_iter().filter(|taken| taken.recipients == ["held@one.test"]).count();
    assert_eq!(held, 1, "what the dead one was at is delivered by the other");
    assert_eq!(origins(&world.sink), ["127.0.0.21".to_string(), "127.0.0.22".into()].into(), "both sent");
    // What it had sent and not settled comes twice, and no more than that.
    let again: usize = arrived(&world.sink, &accepted).await.values().map(|times| times - 1).sum();
    let bound = 4 * world.sink.connections_max();
    assert!(again <= bound, "{again} came twice, with at most {bound} unsettled");
    second.stop().await;
    world.stop().await;
}

/// Mail leaves from 127.0.0.7, which belongs to a proxy.
fn by_proxy(world: &World) -> String {
    format!(
        "[egress.sources.\"s\"]\nsource_address = \"127.0.0.7\"\nsocks5_proxy = \"{}\"\nsocks5_username = \"u\"\n\
         socks5_password = \"p\"\n[egress.pools.\"default\"]\nsources = {{ \"s\" = 1 }}\n",
        world.listener("proxy-2", "socks5")
    )
}

pub async fn through_the_proxy(placement: Placement) {
    let settings = Settings { without_egress: true, ..Settings::default() };
    let mut world = World::start(placement, bench::sink::Obliging, settings).await;
    let proxy = world.start_proxy("proxy-2", "127.0.0.7").await;
    world.set_egress(&by_proxy(&world));
    let egress = world.start_egress("egress-1", &["queue"]).await;
    for _ in 0..5 {
        world.send(&["a@one.test"], CONTENT).await;
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 5).await;
    law(&events);
    let delivery = of_kind(&events, EventKind::Delivery)[0];
    assert_eq!((delivery.source.as_str(), world.sink.count()), ("s", 5));
    assert_eq!(origins(&world.sink), ["127.0.0.7".to_string()].into());
    egress.stop().await;
    proxy.stop().await;
    world.stop().await;
}

pub async fn two_egresses_share_a_proxy(placement: Placement) {
    let settings = Settings {
        without_egress: true,
        shaping_default: "connection_limit = 3\nmax_deliveries_per_connection = 2".into(),
        ..Settings::default()
    };
    let mut world = World::start(placement, Unhurried, settings).await;
    let mut proxy = world.start_proxy("proxy-2", "127.0.0.7").await;
    world.set_egress(&by_proxy(&world));
    let first = world.start_egress("egress-1", &["queue"]).await;
    let second = world.start_egress("egress-2", &["queue"]).await;
    for _ in 0..40 {
        world.send(&["a@one.test"], CONTENT).await;
    }
    world.drained("queue").await;
    assert!(delivered(&first) > 0 && delivered(&second) > 0, "{} and {}", delivered(&first), delivered(&second));

    for suddenly in [true, false] {
        if suddenly {
            proxy.kill().await;
        } else {
            proxy.stop().await;
        }
        for _ in 0..10 {
            world.send(&["b@one.test"], CONTENT).await;
        }
        let why = async || waits_for(&world).await.filter(|why| why.contains("proxy"));
        until("word that the source cannot send", why).await;
        proxy = world.start_proxy("proxy-2", "127.0.0.7").await;
        world.drained("queue").await;
    }
    let events = world.drained("queue").await;
    law(&events);
    assert_eq!((count(&events, EventKind::Delivery), world.sink.count()), (60, 60));
    let attempts: BTreeSet<u32> = of_kind(&events, EventKind::Delivery).iter().map(|event| event.attempt).collect();
    assert_eq!(attempts, [1].into(), "waiting for a source is no attempt: {:#?}", failures(&events));
    assert_eq!(origins(&world.sink), ["127.0.0.7".to_string()].into(), "never from elsewhere");
    second.stop().await;
    first.stop().await;
    proxy.stop().await;
    world.stop().await;
}

/// Recipients that an egress has delivered to.
fn delivered(egress: &Process) -> u64 {
    egress.figure("godwit_egress_delivered_recipients_total")
}

/// Why the queue's mail waits, as far as it was told.
async fn waits_for(world: &World) -> Option<String> {
    let selector = Some(Selector { all: true, ..Selector::default() });
    let request = SummariseRequest { selector, ..SummariseRequest::default() };
    let summary = world.admin_of("queue").summarise(Request::new(request)).await.ok()?.into_inner();
    summary.queues.into_iter().map(|queue| queue.waiting_for).find(|why| !why.is_empty())
}

fn failures(events: &[Event]) -> Vec<&Event> {
    of_kind(events, EventKind::TransientFailure)
}
