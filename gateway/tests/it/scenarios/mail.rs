//! One node of each: what becomes of a message, by what its destination does.

use super::CONTENT;
use crate::dns::Domain;
use crate::world::{Placement, Script, Settings, Step, World, count, law, of_kind, reply, time};
use bench::sink::{Action, Obliging};
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::convert::system_time;
use godwit_proto::tsa;
use std::time::Duration;

pub async fn delivered(placement: Placement) {
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

pub async fn deferred_then_delivered(placement: Placement) {
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

pub async fn bounced_once(placement: Placement) {
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

pub async fn some_recipients_refused(placement: Placement) {
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

pub async fn peer_disconnects_in_data(placement: Placement) {
    let script = Script::new([(Step::Content, "", Action::Close)]);
    let world = World::start(placement, script, Settings::default()).await;
    // More than sockets hold: the peer is gone before all of it is on its way.
    let large = format!("Subject: large\r\n\r\n{}", "line\r\n".repeat(2_000_000));
    world.send(&["a@one.test"], &large).await;
    let events = world.events_until(|events| count(events, EventKind::Delivery) == 1).await;
    law(&events);
    assert_eq!(count(&events, EventKind::TransientFailure), 1);
    assert!(!of_kind(&events, EventKind::TransientFailure)[0].maybe_delivered);
    assert_eq!(world.sink.count(), 1);
    world.stop().await;
}

pub async fn reply_to_the_message_lost(placement: Placement) {
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

pub async fn no_mx(placement: Placement) {
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

pub async fn null_mx(placement: Placement) {
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

pub async fn domain_that_does_not_exist(placement: Placement) {
    let world = World::start(placement, Obliging, Settings::default()).await;
    world.send(&["a@nowhere.test"], CONTENT).await;
    let events = world.events_until(|events| count(events, EventKind::Bounce) == 1).await;
    law(&events);
    let line = of_kind(&events, EventKind::Bounce)[0].reply.as_ref().unwrap().line();
    assert!(line.contains(" 5.1.2 "), "{line}");
    world.stop().await;
}

pub async fn connection_refused(placement: Placement) {
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

pub async fn slow_peer(placement: Placement) {
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

pub async fn throttled_then_delivered(placement: Placement) {
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

pub async fn suspended_then_resumed(placement: Placement) {
    let script = Script::new([(Step::Rcpt, "a@", reply("451 4.7.28 Too much mail"))]);
    let rule = "[[\"default\".automation]]\nregex = \"4\\\\.7\\\\.28\"\naction = \"Suspend\"\nduration = \"3s\"\n";
    let settings = Settings { shaping: rule.into(), ..Settings::default() };
    let world = World::start(placement, script, settings).await;
    world.send(&["a@one.test"], CONTENT).await;
    let automation = world.tsa_of("tsa");
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

pub async fn two_lanes_share_a_connection(placement: Placement) {
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
