//! The throttle and the TSA are asked, and obeyed.

use crate::sink::{Data, Script, Sink};
use crate::tsa::FakeTsa;
use crate::world::Setup;
use godwit_proto::convert::timestamp;
use godwit_proto::queue::v1::RecipientResult;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::tsa::v1::{Action, ActionKind, Scope};
use std::time::{Duration, SystemTime};

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

#[tokio::test]
async fn tokens_come_before_the_lease() {
    let sink = Sink::start(Script::default()).await;
    let setup = Setup::to(sink.at).shaping("[\"default\"]\nmax_message_rate = \"10/s\"\n");
    let short = Duration::from_millis(30);
    setup.throttle.0.lock().unwrap().waits = vec![short, short];
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    assert_eq!(world.queue.change(|state| state.lease_calls), 1, "nothing is leased while there are no tokens");
    let script = world.throttle.clone();
    world.finish().await;
    let script = script.0.lock().unwrap();
    assert_eq!(script.acquired[0].requests[0].limits[0].key, format!("egress:messages:{}:unspecified", sink.at));
    assert_eq!(script.acquired.len(), 3);
    assert_eq!(script.slots_given, script.slots_released, "no slot is kept");
}

#[tokio::test]
async fn tokens_that_came_to_nothing_are_given_back() {
    // Each connection sends one message and is lost: what else it had tokens for, it did not send.
    let sink = Sink::start(Script { data: Data::DisconnectAfter, ..Script::default() }).await;
    let shaping = "[\"default\"]\nmax_message_rate = \"1000/s\"\nconnection_limit = 1\n";
    let setup = Setup::to(sink.at).shaping(shaping);
    for _ in 0..5 {
        setup.queue.put(&["a@d.example"], MESSAGE);
    }
    let world = setup.start().await;
    world.queue.outcomes(5).await;
    let script = world.throttle.clone();
    world.finish().await;
    let script = script.0.lock().unwrap();
    let acquired: u64 = script.acquired.iter().map(|asked| asked.requests[0].limits[0].count).sum();
    assert!(acquired > 5, "more was asked for than one connection could use");
    assert_eq!(acquired - script.refunded_count, 5);
}

#[tokio::test]
async fn a_long_wait_ends_the_connection_and_is_reported() {
    let sink = Sink::start(Script::default()).await;
    let setup = Setup::to(sink.at).shaping("[\"default\"]\nmax_message_rate = \"1/d\"\nidle_timeout = \"1s\"\n");
    setup.throttle.0.lock().unwrap().waits = vec![Duration::from_secs(3600)];
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let report = world.queue.reported(State::Throttled).await;
    assert!(report.reason.contains("egress:messages:"), "{}", report.reason);
    assert_eq!(world.queue.change(|state| state.lease_calls), 0);
    world.finish().await;
    assert_eq!(sink.heard().quit_count, 1);
}

#[tokio::test]
async fn a_wait_ends_when_its_limit_is_lifted() {
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at).shaping("[\"default\"]\nmax_message_rate = \"1/d\"\nidle_timeout = \"1s\"\n");
    setup.throttle.0.lock().unwrap().waits = vec![Duration::from_secs(3600)];
    let tsa = FakeTsa::new(Vec::new());
    setup.tsa = Some(tsa.clone());
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.reported(State::Throttled).await;
    let lift = Action {
        id: "1".into(),
        scope: Some(Scope { site: sink.at.to_string(), ..Scope::default() }),
        kind: ActionKind::SetConfig.into(),
        name: "max_message_rate".into(),
        value: "\"100/s\"".into(),
        expires: Some(timestamp(SystemTime::now() + Duration::from_secs(3600))),
        ..Action::default()
    };
    tsa.0.send_replace(vec![lift]);
    world.queue.outcomes(1).await;
    world.finish().await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_who_waits_for_its_slot() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.outcomes(1).await;
    world.throttle.0.lock().unwrap().crowded = true;
    slots_are_released(&world).await;
    world.finish().await;
    assert_eq!(sink.heard().quit_count, 1);
}

/// Waits until the slots that were given are given back.
async fn slots_are_released(world: &crate::world::World) {
    let released = async {
        while world.throttle.0.lock().unwrap().slots_released == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), released).await.expect("the slot is given back");
}

#[tokio::test]
async fn a_connection_without_its_slot_ends() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.outcomes(1).await;
    world.throttle.0.lock().unwrap().lost = true;
    slots_are_released(&world).await;
    world.finish().await;
    assert_eq!(sink.heard().quit_count, 0, "its place may be taken: it waits for no farewell");
}

#[tokio::test]
async fn a_connection_that_is_being_opened_ends_without_its_slot() {
    // It is taken by the system and never greeted.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = Setup::to(silent.local_addr().unwrap()).start().await;
    world.throttle.0.lock().unwrap().lost = true;
    world.queue.put(&["a@d.example"], MESSAGE);
    slots_are_released(&world).await;
    world.queue.change(|state| assert!(state.settled_lanes.is_empty(), "the peer had its time"));
    world.finish().await;
}

#[tokio::test]
async fn a_limit_that_is_not_configured_is_not_asked_for() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.outcomes(1).await;
    let script = world.throttle.clone();
    world.finish().await;
    let script = script.0.lock().unwrap();
    assert_eq!((script.acquired.len(), script.slots_given), (0, 1));
}

#[tokio::test]
async fn suspended_then_resumed() {
    let sink = Sink::start(Script::default()).await;
    let suspend = Action {
        id: "1".into(),
        rule: "r".into(),
        scope: Some(Scope { site: sink.at.to_string(), source: "unspecified".into(), ..Scope::default() }),
        kind: ActionKind::Suspend.into(),
        expires: Some(timestamp(SystemTime::now() + Duration::from_secs(3600))),
        reason: "too many complaints".into(),
        ..Action::default()
    };
    let tsa = FakeTsa::new(vec![suspend]);
    let open = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at);
    setup.config.routes.insert("open.example".into(), svc_egress::Route { hosts: vec![open.at.to_string()] });
    setup.tsa = Some(tsa.clone());
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let report = world.queue.reported(State::Suspended).await;
    assert_eq!(report.reason, "too many complaints");
    assert!(report.until.is_some());
    // Time enough for a connection that should not be: another site's mail comes and goes.
    for count in 1..=10 {
        world.queue.put(&["a@open.example"], MESSAGE);
        world.queue.outcomes(count).await;
    }
    assert_eq!(sink.heard().connection_count, 0, "orders are known before the first message is sent");
    tsa.0.send_replace(Vec::new());
    let outcome = world.queue.outcomes(11).await.remove(10);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    world.queue.reported(State::Draining).await;
    world.finish().await;
}

#[tokio::test]
async fn a_suspension_ends_by_itself_when_the_tsa_is_silent() {
    let sink = Sink::start(Script::default()).await;
    let suspend = Action {
        id: "1".into(),
        scope: Some(Scope { site: sink.at.to_string(), ..Scope::default() }),
        kind: ActionKind::Suspend.into(),
        expires: Some(timestamp(SystemTime::now() + Duration::from_secs(1))),
        ..Action::default()
    };
    let mut setup = Setup::to(sink.at);
    setup.tsa = Some(FakeTsa::new(vec![suspend]));
    setup.queue.put(&["a@d.example"], MESSAGE);
    let world = setup.start().await;
    world.queue.reported(State::Suspended).await;
    world.queue.outcomes(1).await;
    world.finish().await;
}

#[tokio::test]
async fn an_override_changes_the_path() {
    let sink = Sink::start(Script::default()).await;
    let limit = Action {
        id: "1".into(),
        rule: "r".into(),
        scope: Some(Scope { site: sink.at.to_string(), ..Scope::default() }),
        kind: ActionKind::SetConfig.into(),
        name: "max_message_rate".into(),
        value: "\"1/min\"".into(),
        expires: Some(timestamp(SystemTime::now() + Duration::from_secs(3600))),
        ..Action::default()
    };
    let mut setup = Setup::to(sink.at);
    let tsa = FakeTsa::new(Vec::new());
    setup.tsa = Some(tsa.clone());
    let world = setup.start().await;
    world.queue.put(&["a@d.example"], MESSAGE);
    world.queue.outcomes(1).await;
    assert_eq!(world.throttle.0.lock().unwrap().acquired.len(), 0);
    tsa.0.send_replace(vec![limit]);
    // Until the order has come through, mail goes on as before.
    for n in 2.. {
        world.queue.put(&["a@d.example"], MESSAGE);
        world.queue.outcomes(n).await;
        if !world.throttle.0.lock().unwrap().acquired.is_empty() {
            break;
        }
    }
    world.finish().await;
}
