//! The scenarios: one list, passed by the MTA in one process and by every service on a port of its own.

use crate::dns::Domain;
use crate::world::{HANG, Placement, Script, Settings, Step, World, events_until, of_kind, reply, send_to};
use bench::sink::{Action, Behaviour, Obliging};
use godwit_kit::connect;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::convert::system_time;
use godwit_proto::{queue, tsa};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Each scenario twice.
macro_rules! scenarios {
    ($($name:ident)*) => {
        mod near {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Placement::Near).await;
            })*
        }
        mod spread {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(super::Placement::Spread).await;
            })*
        }
    };
}

scenarios! {
    delivered
    deferred_then_delivered
    bounced_once
    some_recipients_refused
    peer_disconnects_in_data
    reply_to_the_message_lost
    no_mx
    null_mx
    domain_that_does_not_exist
    connection_refused
    slow_peer
    egress_dies
    throttled_then_delivered
    suspended_then_resumed
    two_lanes_share_a_connection
    two_queues_one_away
    answer_to_enqueue_lost
    through_the_proxy
}

const CONTENT: &str = "Subject: hi\r\n\r\nhello";

fn count(events: &[Event], kind: EventKind) -> usize {
    of_kind(events, kind).len()
}

fn time(event: &Event) -> SystemTime {
    system_time(event.time.as_ref().unwrap()).unwrap()
}

/// Every message that was accepted has come to its end, for each of its recipients exactly once.
fn law(events: &[Event]) {
    let ends = [EventKind::Delivery, EventKind::Bounce, EventKind::Expiration];
    for reception in of_kind(events, EventKind::Reception) {
        let same = events.iter().filter(|event| event.message_id == reception.message_id);
        let mut ended: Vec<_> =
            same.filter(|event| ends.contains(&event.kind())).flat_map(|event| event.recipients.clone()).collect();
        let mut open = reception.recipients.clone();
        ended.sort();
        open.sort();
        assert_eq!(ended, open, "{reception:?}");
    }
}

async fn delivered(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(world.send(&["a@one.test"], &format!("X-Bench-Id: {number}\r\n\r\n.dots\r\n..\r\n\u{fc}")).await);
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 20).await;
    law(&events);
    let mut delivered: Vec<_> = of_kind(&events, EventKind::Delivery);
    delivered.sort_by_key(|event| event.message_id.clone().unwrap().value);
    let expected: Vec<_> = ids.iter().map(|id| id.to_string()).collect();
    assert_eq!(delivered.iter().map(|event| event.message_id.clone().unwrap().value).collect::<Vec<_>>(), expected);
    let mut numbers: Vec<u32> = world.sink.taken().iter().map(|taken| taken.id().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    for taken in world.sink.taken() {
        assert!(taken.content.starts_with(b"Received: "), "{:?}", taken.content);
        assert!(taken.content.ends_with("\r\n\r\n.dots\r\n..\r\n\u{fc}\r\n".as_bytes()), "{:?}", taken.content);
        assert_eq!(
            (taken.reverse_path.as_str(), taken.recipients.as_slice()),
            ("sender@client.test", &["a@one.test".to_string()][..])
        );
    }
    world.stop().await;
}

async fn deferred_then_delivered(placement: Placement) {
    let script = Script::new([(Step::Rcpt, "a@", reply("451 4.7.1 Later"))]);
    let world = World::start(placement, script, Settings::default()).await;
    world.send(&["a@one.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    let failure = of_kind(&events, EventKind::TransientFailure);
    assert_eq!((failure.len(), failure[0].attempt), (1, 1));
    assert_eq!(failure[0].reply.as_ref().unwrap().code, 451);
    assert_eq!(of_kind(&events, EventKind::Delivery)[0].attempt, 2);
    world.stop().await;
}

async fn bounced_once(placement: Placement) {
    let script = Script::new([(Step::Rcpt, "a@", reply("550 5.1.1 No such user"))]);
    let world = World::start(placement, script, Settings::default()).await;
    world.send(&["a@one.test"], CONTENT).await;
    world.events_until(|events| count(events, EventKind::Bounce) == 1).await;
    // Were it tried again, it would be before this one.
    world.send(&["b@one.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    assert_eq!(count(&events, EventKind::Bounce), 1);
    let bounce = of_kind(&events, EventKind::Bounce)[0];
    assert_eq!((bounce.attempt, bounce.reply.as_ref().unwrap().code), (1, 550));
    assert_eq!(bounce.recipients, ["a@one.test"]);
    world.stop().await;
}

async fn some_recipients_refused(placement: Placement) {
    let script =
        Script::new([(Step::Rcpt, "b@", reply("550 5.1.1 No such user")), (Step::Rcpt, "c@", reply("452 4.2.2 Full"))]);
    let world = World::start(placement, script, Settings::default()).await;
    world.send(&["a@one.test", "b@one.test", "c@one.test", "d@two.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 3).await;
    law(&events);
    let recipients =
        |kind| of_kind(&events, kind).iter().flat_map(|event| event.recipients.clone()).collect::<Vec<_>>();
    assert_eq!(recipients(EventKind::Bounce), ["b@one.test"]);
    assert_eq!(recipients(EventKind::TransientFailure), ["c@one.test"]);
    let mut taken: Vec<_> = world.sink.taken().into_iter().map(|taken| taken.recipients).collect();
    taken.sort();
    assert_eq!(taken, [["a@one.test"], ["c@one.test"], ["d@two.test"]]);
    world.stop().await;
}

async fn peer_disconnects_in_data(placement: Placement) {
    let script = Script::new([(Step::Content, "", Action::Close)]);
    let world = World::start(placement, script, Settings::default()).await;
    let large = format!("Subject: large\r\n\r\n{}", "line\r\n".repeat(200_000));
    world.send(&["a@one.test"], &large).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    assert_eq!(count(&events, EventKind::TransientFailure), 1);
    assert!(!of_kind(&events, EventKind::TransientFailure)[0].maybe_delivered);
    assert_eq!(world.sink.count(), 1);
    world.stop().await;
}

async fn reply_to_the_message_lost(placement: Placement) {
    let script = Script::new([(Step::Dot, "", Action::TakeAndClose)]);
    let world = World::start(placement, script, Settings::default()).await;
    world.send(&["a@one.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    let failures = of_kind(&events, EventKind::TransientFailure);
    assert_eq!(failures.len(), 1);
    assert!(failures[0].maybe_delivered, "{:?}", failures[0]);
    // At least once: the peer has it twice, and the event said that it might.
    assert_eq!(world.sink.count(), 2);
    world.stop().await;
}

async fn no_mx(placement: Placement) {
    let host = Domain { a: vec![[127, 0, 0, 1].into()], ..Domain::default() };
    let settings =
        Settings { domains: vec![("host.test", host), ("bare.test", Domain::default())], ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    world.send(&["a@host.test", "a@bare.test"], CONTENT).await;
    let over = |events: &[Event]| count(events, EventKind::Delivery) + count(events, EventKind::Bounce) == 2;
    let events = world.events_until(over).await;
    law(&events);
    // RFC 5321 section 5.1: the domain's own address stands in for an MX; where there is none either, the mail cannot go.
    assert_eq!(of_kind(&events, EventKind::Delivery)[0].recipients, ["a@host.test"]);
    assert_eq!(of_kind(&events, EventKind::Bounce)[0].recipients, ["a@bare.test"]);
    assert_eq!(world.sink.count(), 1);
    world.stop().await;
}

async fn null_mx(placement: Placement) {
    let domain = Domain { mx: vec![(0, ".")], ..Domain::default() };
    let settings = Settings { domains: vec![("null.test", domain)], ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    world.send(&["a@null.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Bounce) == 1).await;
    law(&events);
    let line = of_kind(&events, EventKind::Bounce)[0].reply.as_ref().unwrap().line();
    assert!(line.starts_with("556 5.1.10 "), "{line}");
    world.stop().await;
}

async fn domain_that_does_not_exist(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    world.send(&["a@nowhere.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Bounce) == 1).await;
    law(&events);
    let line = of_kind(&events, EventKind::Bounce)[0].reply.as_ref().unwrap().line();
    assert!(line.contains(" 5.1.2 "), "{line}");
    world.stop().await;
}

async fn connection_refused(placement: Placement) {
    let domain = Domain { mx: vec![(10, "dead.test.")], ..Domain::default() };
    let host = Domain { a: vec![[127, 0, 0, 9].into()], ..Domain::default() };
    let settings = Settings {
        domains: vec![("refusing.test", domain), ("dead.test", host)],
        queue: "max_age = \"4s\"".into(),
        ..Settings::default()
    };
    let world = World::start(placement, Obliging, settings).await;
    for number in 0..10 {
        world.send(&[&format!("r{number}@refusing.test")], CONTENT).await;
        world.send(&[&format!("r{number}@one.test")], CONTENT).await;
    }
    let events = world.events_until(|events| count(events, EventKind::Expiration) == 10).await;
    law(&events);
    // The lane backed off as a whole, what was tried says why, and the other lane went on.
    let failures = of_kind(&events, EventKind::TransientFailure);
    assert!(!failures.is_empty());
    for failure in failures {
        assert_eq!(failure.queue_name.as_ref().unwrap().domain, "refusing.test");
        assert_eq!(failure.reply.as_ref().unwrap().code, 451, "{failure:?}");
    }
    assert_eq!(count(&events, EventKind::Delivery), 10);
    assert_eq!(world.sink.count(), 10);
    world.stop().await;
}

async fn slow_peer(placement: Placement) {
    let script = Script::new([(Step::Dot, "", Action::Wait(Duration::from_secs(4)))]);
    let settings = Settings { egress: "lease = \"1s\"".into(), ..Settings::default() };
    let world = World::start(placement, script, settings).await;
    world.send(&["a@one.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    // Four leases long, and never handed out twice.
    assert_eq!(of_kind(&events, EventKind::Delivery)[0].attempt, 1);
    assert_eq!((count(&events, EventKind::TransientFailure), world.sink.count()), (0, 1));
    world.stop().await;
}

/// Keeps the first client that says DATA waiting for ever.
struct Stalling(Arc<AtomicBool>);

impl Behaviour for Stalling {
    fn data(&self) -> Action {
        if self.0.swap(true, Ordering::SeqCst) { Action::Usual } else { Action::Wait(2 * HANG) }
    }
}

async fn egress_dies(placement: Placement) {
    let stalled = Arc::new(AtomicBool::new(false));
    let settings = Settings { egress: "lease = \"1s\"".into(), without_egress: true, ..Settings::default() };
    let world = World::start(placement, Stalling(stalled.clone()), settings).await;
    let dying = world.start_egress("egress-1", &[&world.queue_address]).await;
    world.send(&["a@one.test"], CONTENT).await;
    while !stalled.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    drop(dying);
    let second = world.start_egress("egress-2", &[&world.queue_address]).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    assert_eq!((count(&events, EventKind::TransientFailure), world.sink.count()), (0, 1));
    second.stop().await;
    world.stop().await;
}

async fn throttled_then_delivered(placement: Placement) {
    let settings = Settings { shaping_default: "max_message_rate = \"2/s,max_burst=1\"".into(), ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    for _ in 0..4 {
        world.send(&["a@one.test"], CONTENT).await;
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 4).await;
    law(&events);
    let mut times: Vec<_> = of_kind(&events, EventKind::Delivery).into_iter().map(time).collect();
    times.sort();
    // Four at two a second, one at once: the last is at least 1.5 s after the first, less what a settle may lag behind.
    let took = times[3].duration_since(times[0]).unwrap();
    assert!(took >= Duration::from_millis(1_200), "{took:?}");
    assert_eq!(count(&events, EventKind::TransientFailure), 0, "waiting for a limit is no attempt");
    world.stop().await;
}

async fn suspended_then_resumed(placement: Placement) {
    let script = Script::new([(Step::Rcpt, "a@", reply("451 4.7.28 Too much mail"))]);
    let rule = "[[\"default\".automation]]\nregex = \"4\\\\.7\\\\.28\"\naction = \"Suspend\"\nduration = \"3s\"\n";
    let settings = Settings { shaping: rule.into(), ..Settings::default() };
    let world = World::start(placement, script, settings).await;
    world.send(&["a@one.test"], CONTENT).await;
    let automation = tsa::at(connect::road(&world.tsa_address, None).unwrap().wire);
    let action = loop {
        let listed = automation.list(tonic::Request::new(tsa::v1::ListRequest::default())).await.unwrap().into_inner();
        match listed.actions.into_iter().next() {
            Some(action) => break action,
            None => tokio::task::yield_now().await,
        }
    };
    assert_eq!(action.kind(), tsa::v1::ActionKind::Suspend);
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    let expires = system_time(action.expires.as_ref().unwrap()).unwrap();
    let delivery = of_kind(&events, EventKind::Delivery)[0];
    assert!(time(delivery) >= expires, "delivered while suspended");
    assert_eq!(delivery.attempt, 2);
    world.stop().await;
}

async fn two_lanes_share_a_connection(placement: Placement) {
    let settings = Settings { shaping_default: "connection_limit = 1".into(), ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    for _ in 0..10 {
        world.send(&["a@one.test"], CONTENT).await;
        world.send(&["a@two.test"], CONTENT).await;
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 20).await;
    law(&events);
    assert_eq!((world.sink.count(), world.sink.connection_count()), (20, 1));
    let sites: std::collections::BTreeSet<_> =
        of_kind(&events, EventKind::Delivery).into_iter().map(|event| event.site.clone()).collect();
    assert_eq!(sites.len(), 1, "{sites:?}");
    world.stop().await;
}

async fn two_queues_one_away(placement: Placement) {
    let settings = Settings { without_egress: true, ..Settings::default() };
    let world = World::start(placement, Obliging, settings).await;
    let second = world.start_queue("queue-2", "127.0.0.1:0").await;
    let second_at = second.running.grpc;
    let queues = [world.queue_address.as_str(), &second.address()];
    let ingress = world.start_ingress("ingress-2", &queues).await;
    let smtp = ingress.running.smtp[0];
    for _ in 0..20 {
        send_to(smtp, &["a@one.test"], CONTENT).await.unwrap();
    }
    let second_queue = queue::at(connect::road(&second.address(), None).unwrap().wire);
    let at_second = count(&events_until(&second_queue, |events| !events.is_empty()).await, EventKind::Reception);
    assert!(at_second > 0, "the second queue was given nothing");
    second.stop().await;
    // All of these must find the one that is left, without a duplicate.
    for _ in 0..20 {
        send_to(smtp, &["b@one.test"], CONTENT).await.unwrap();
    }
    let egress = world.start_egress("egress-1", &queues).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) >= 20).await;
    assert!(count(&events, EventKind::Delivery) < 40, "the second queue's mail came from the first");
    let second = world.start_queue("queue-2", &second_at.to_string()).await;
    tokio::time::timeout(HANG, world.sink.wait_for(40)).await.unwrap();
    let first =
        world.events_until(|events| count(events, EventKind::Delivery) == count(events, EventKind::Reception)).await;
    let first_count = count(&first, EventKind::Delivery);
    let rest = events_until(&second_queue, |events| count(events, EventKind::Delivery) == 40 - first_count).await;
    law(&first);
    law(&rest);
    assert_eq!(world.sink.count(), 40);
    egress.stop().await;
    ingress.stop().await;
    second.stop().await;
    world.stop().await;
}

async fn answer_to_enqueue_lost(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    let lossy = crate::world_lossy::start(world.queue.clone()).await;
    let ingress = world.start_ingress("ingress-2", &[&lossy.address]).await;
    for _ in 0..10 {
        send_to(ingress.running.smtp[0], &["a@one.test"], CONTENT).await.unwrap();
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 10).await;
    law(&events);
    assert!(lossy.lost() > 0, "no answer was lost");
    assert_eq!((count(&events, EventKind::Reception), world.sink.count()), (10, 10));
    ingress.stop().await;
    world.stop().await;
}

async fn through_the_proxy(placement: Placement) {
    let settings = Settings { without_egress: true, ..Settings::default() };
    let mut world = World::start(placement, Obliging, settings).await;
    let sink_port = world.sink.address().port();
    let proxy = crate::world::Process::start(&format!(
        "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {:?}\n[proxy]\nlisten = \"127.0.0.1:0\"\nsources = [\"127.0.0.7\"]\n\
         username = \"u\"\npassword = \"p\"\nports = [{sink_port}]\nallow_networks = [\"127.0.0.0/8\"]\n",
        world.folder.path().join("proxy-2")
    ))
    .await
    .unwrap();
    let at = proxy.running.socks5.unwrap();
    world.set_egress(&format!(
        "[egress.sources.\"s\"]\nsource_address = \"127.0.0.7\"\nsocks5_proxy = \"{at}\"\nsocks5_username = \"u\"\n\
         socks5_password = \"p\"\n[egress.pools.\"default\"]\nsources = {{ \"s\" = 1 }}\n"
    ));
    let egress = world.start_egress("egress-1", &[&world.queue_address]).await;
    for _ in 0..5 {
        world.send(&["a@one.test"], CONTENT).await;
    }
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 5).await;
    law(&events);
    let delivery = of_kind(&events, EventKind::Delivery)[0];
    assert_eq!((delivery.source.as_str(), world.sink.count()), ("s", 5));
    assert!(world.sink.peers().iter().all(|peer| peer.ip().to_string() == "127.0.0.7"), "{:?}", world.sink.peers());
    egress.stop().await;
    proxy.stop().await;
    world.stop().await;
}
