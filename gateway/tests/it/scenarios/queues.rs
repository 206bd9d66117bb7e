//! Several queue nodes: who is given mail, who hands it out, and what becomes of it where one is away or dies.

use super::CONTENT;
use crate::world::{
    Client, HANG, Load, Placement, Script, Settings, Step, World, arrived, count, law, of_kind, send_to, told, until,
};
use bench::sink::{Action, Obliging};
use godwit_proto::common::v1::EventKind;
use std::time::Duration;
use tonic_health::pb::health_check_response::ServingStatus;

const BOTH: [&str; 2] = ["queue", "queue-2"];

pub async fn two_queues_one_away(placement: Placement) {
    let settings = Settings { without_egress: true, ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    let second = world.start_queue("queue-2").await;
    let ingress = world.start_ingress("ingress-2", &BOTH).await;
    let smtp = world.listener("ingress-2", "smtp");
    for _ in 0..20 {
        send_to(smtp, &["a@one.test"], CONTENT).await.unwrap();
    }
    let at_second = count(&told(&world.queue_of("queue-2")).await, EventKind::Reception);
    assert!(at_second > 0, "the second queue was given nothing");
    second.stop().await;
    // All of these must find the one that is left, without a duplicate.
    for _ in 0..20 {
        send_to(smtp, &["b@one.test"], CONTENT).await.unwrap();
    }
    let egress = world.start_egress("egress-1", &BOTH).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) >= 20).await;
    assert!(count(&events, EventKind::Delivery) < 40, "the second queue's mail came from the first");
    let second = world.start_queue("queue-2").await;
    tokio::time::timeout(HANG, world.sink.wait_for(40)).await.unwrap();
    let (first, rest) = (world.drained("queue").await, world.drained("queue-2").await);
    law(&first);
    law(&rest);
    assert_eq!(count(&first, EventKind::Delivery) + count(&rest, EventKind::Delivery), 40);
    assert_eq!(world.sink.count(), 40);
    egress.stop().await;
    ingress.stop().await;
    second.stop().await;
    world.stop().await;
}

pub async fn answer_to_enqueue_lost(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    let lossy = crate::world_lossy::start(world.queue.clone()).await;
    let ingress = world.start_ingress("ingress-2", &[&lossy.address]).await;
    for _ in 0..10 {
        send_to(world.listener("ingress-2", "smtp"), &["a@one.test"], CONTENT).await.unwrap();
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 10).await;
    law(&events);
    assert!(lossy.lost() > 0, "no answer was lost");
    assert_eq!((count(&events, EventKind::Reception), world.sink.count()), (10, 10));
    ingress.stop().await;
    world.stop().await;
}

pub async fn small_backlog_beside_a_large_one(placement: Placement) {
    // Slow to greet, so that both queues have told what they have before the one connection there is takes any of it.
    let script = Script::new([(Step::Connect, "", Action::Wait(Duration::from_secs(2)))]);
    let settings =
        Settings { without_egress: true, shaping_default: "connection_limit = 1".into(), ..Settings::default() };
    let world = World::start(placement, script, settings).await;
    let second = world.start_queue("queue-2").await;
    let ingress = world.start_ingress("ingress-2", &["queue-2"]).await;
    let fill = async |smtp, to, messages: usize| {
        let mut client = Client::connect(smtp).await.unwrap();
        for _ in 0..messages {
            client.send(&[to], CONTENT).await.unwrap();
        }
        client.quit().await.unwrap();
    };
    fill(world.smtp, "large@one.test", 500).await;
    fill(world.listener("ingress-2", "smtp"), "small@one.test", 20).await;
    let egress = world.start_egress("egress-1", &BOTH).await;
    tokio::time::timeout(HANG, world.sink.wait_for(520)).await.unwrap();
    let taken = world.sink.taken();
    let last = taken.iter().rposition(|taken| taken.recipients == ["small@one.test"]).unwrap();
    // By turns: the small one is done after a few leases, of at most 64 messages each.
    assert!(last < 20 + 3 * 64, "the last of the small backlog came {last}th of 520");
    law(&world.drained("queue").await);
    law(&world.drained("queue-2").await);
    assert_eq!(world.sink.connection_count(), 1);
    egress.stop().await;
    ingress.stop().await;
    second.stop().await;
    world.stop().await;
}

pub async fn queue_killed_under_load(placement: Placement) {
    let settings = Settings {
        without_egress: true,
        queue: "restart_grace = \"2s\"".into(),
        shaping_default: "connection_limit = 4".into(),
        ..Settings::default()
    };
    // Two messages that take longer than a queue needs to be back, and to hand out again what nobody says to hold.
    let slow = || (Step::Dot, "", Action::Wait(Duration::from_secs(8)));
    let world = World::start(placement, Script::new([slow(), slow()]), settings).await;
    let mut second = world.start_queue("queue-2").await;
    let ingress = world.start_ingress("ingress-2", &BOTH).await;
    let egress = world.start_egress("egress-1", &BOTH).await;
    let smtp = world.listener("ingress-2", "smtp");
    for _ in BOTH {
        send_to(smtp, &["slow@one.test"], CONTENT).await.unwrap();
    }
    tokio::time::timeout(HANG, world.sink.wait_for(2)).await.unwrap();
    let load = Load::start(8, smtp, "a@one.test");
    for _ in 0..2 {
        load.goes_on(100).await;
        second.kill().await;
        // What was not asked of it yet goes to the other; what was, waits for it.
        load.goes_on(50).await;
        second = world.start_queue("queue-2").await;
    }
    load.goes_on(100).await;
    let accepted = load.finish().await;
    arrived(&world.sink, &accepted).await;
    let (first, rest) = (world.drained("queue").await, world.drained("queue-2").await);
    law(&first);
    law(&rest);
    assert!(count(&rest, EventKind::Reception) > 50, "the one that was killed had too little to do");
    // An egress that lives on says what it holds, and settles what it sent: its queue's death makes nothing twice.
    let times = arrived(&world.sink, &accepted).await;
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    let slow = world.sink.taken().into_iter().filter(|taken| taken.recipients == ["slow@one.test"]).count();
    assert_eq!(slow, 2, "what was under way when its queue died went out again");
    egress.stop().await;
    ingress.stop().await;
    second.stop().await;
    world.stop().await;
}

pub async fn queue_on_a_new_disk(placement: Placement) {
    let settings = Settings { without_egress: true, ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    let second = world.start_queue("queue-2").await;
    let ingress = world.start_ingress("ingress-2", &BOTH).await;
    let egress = world.start_egress("egress-1", &BOTH).await;
    let smtp = world.listener("ingress-2", "smtp");
    let delivered = async |messages: usize| {
        for _ in 0..messages {
            send_to(smtp, &["a@one.test"], CONTENT).await.unwrap();
        }
        let (first, rest) = (world.drained("queue").await, world.drained("queue-2").await);
        law(&first);
        law(&rest);
        assert!(count(&rest, EventKind::Delivery) > 0, "the second queue was given nothing");
        (count(&first, EventKind::Delivery), count(&rest, EventKind::Delivery))
    };
    let (first, before) = delivered(20).await;
    assert_eq!(first + before, 20);
    let log = async || told(&world.queue_of("queue-2")).await[0].log_id.clone();
    let old = log().await;
    second.kill().await;
    std::fs::remove_dir_all(world.released("queue-2").await).unwrap();
    // Another node, at an address where all others knew the old one.
    let second = world.start_queue("queue-2").await;
    let (first, after) = delivered(20).await;
    assert_eq!((first + before + after, world.sink.count()), (40, 40));
    assert_ne!(log().await, old, "a new disk has a log of its own");
    egress.stop().await;
    ingress.stop().await;
    second.stop().await;
    world.stop().await;
}

pub async fn queue_away_when_ingress_starts(placement: Placement) {
    const CONTRACT: &str = "godwit.ingress.v1.IngressService";
    let settings = Settings { without_egress: true, ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    let ingress = world.start_ingress("ingress-2", &["queue-2"]).await;
    let smtp = world.listener("ingress-2", "smtp");
    let reply = send_to(smtp, &["a@one.test"], CONTENT).await.unwrap_err();
    assert!(reply.starts_with("451 4."), "{reply}");
    let says = async || (world.health("ingress-2", CONTRACT).await? == ServingStatus::NotServing).then_some(());
    until("word that ingress is not ready", says).await;
    let causes = ingress.running.host.health.causes();
    let lacks = causes.iter().find(|cause| (cause.service, cause.part.as_str()) == ("ingress", "queue"));
    assert!(lacks.is_some_and(|cause| cause.reason.contains(&world.url("queue-2"))), "{causes:?}");

    let queue = world.start_queue("queue-2").await;
    let egress = world.start_egress("egress-1", &["queue-2"]).await;
    world.ready("ingress-2", CONTRACT).await;
    send_to(smtp, &["b@one.test"], CONTENT).await.unwrap();
    let events = world.drained("queue-2").await;
    law(&events);
    assert_eq!(of_kind(&events, EventKind::Delivery)[0].recipients, ["b@one.test"]);
    assert_eq!(world.sink.count(), 1, "what was refused went out, too");
    egress.stop().await;
    ingress.stop().await;
    queue.stop().await;
    world.stop().await;
}

pub async fn queue_away_when_egress_starts(placement: Placement) {
    const CONTRACT: &str = "godwit.egress.v1.EgressService";
    let settings = Settings { without_egress: true, ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    let egress = world.start_egress("egress-1", &["queue-2"]).await;
    let says = async || (world.health("egress-1", CONTRACT).await? == ServingStatus::NotServing).then_some(());
    until("word that egress is not ready", says).await;
    let causes = egress.running.host.health.causes();
    let lacks = causes.iter().find(|cause| (cause.service, cause.part.as_str()) == ("egress", "queue"));
    assert!(lacks.is_some_and(|cause| cause.reason.contains(&world.url("queue-2"))), "{causes:?}");

    let queue = world.start_queue("queue-2").await;
    let ingress = world.start_ingress("ingress-2", &["queue-2"]).await;
    world.ready("egress-1", CONTRACT).await;
    send_to(world.listener("ingress-2", "smtp"), &["a@one.test"], CONTENT).await.unwrap();
    let events = world.drained("queue-2").await;
    law(&events);
    assert_eq!((count(&events, EventKind::Delivery), world.sink.count()), (1, 1));
    ingress.stop().await;
    egress.stop().await;
    queue.stop().await;
    world.stop().await;
}
