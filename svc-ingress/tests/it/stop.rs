//! A graceful stop: idle clients are told, messages in hand are finished, and nobody is waited for without end.

use std::time::Duration;

use godwit_proto::ingress::v1::{KillSessionRequest, ListSessionsRequest};
use tonic::{Code, Request, Status};

use crate::{
    inject::near,
    support::{Answer, FakeQueue, World, config, listener},
};

#[tokio::test(start_paused = true)]
async fn idle_clients_are_told_and_messages_in_hand_are_finished() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let (mut idle, mut begun, mut busy) = (world.greeted().await, world.greeted().await, world.greeted().await);
    begun.say("MAIL FROM:<a@b>\r\n", 1).await;
    busy.open().await;
    busy.send("half of ").await;
    world.host.stop.request();
    assert_eq!((idle.rest().await, begun.rest().await), (vec!["421 4.3.2".into()], vec!["421 4.3.2".into()]));
    assert_eq!(busy.say_last("it\r\n.\r\n").await, ["250 2.0.0", "421 4.3.2"]);
    assert_eq!(queue.bodies(), ["half of it\r\n"]);
    assert!(world.host.stop.finish(Duration::from_secs(60)).await);
    assert!(world.host.net.connect(world.service.listen_addrs()[0], None).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_is_left_after_the_grace() {
    let world = World::new(config(listener()), &[&FakeQueue::new()]).await;
    let mut slow = world.greeted().await;
    slow.open().await;
    slow.send("for ever and ").await;
    let start = tokio::time::Instant::now();
    assert!(world.host.stop.finish(Duration::from_secs(60)).await);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(slow.rest().await, ["421 4.3.2"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_away_does_not_hold_the_stop() {
    let queue = FakeQueue::always(Answer::Fail(Status::unavailable("stopping too")));
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    client.open().await;
    client.send("x\r\n.\r\n").await;
    queue.until(|queue| queue.call_count() > 0).await;
    let start = tokio::time::Instant::now();
    assert!(world.host.stop.finish(Duration::from_secs(60)).await);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    assert_eq!(client.rest().await, ["451 4.4.5", "421 4.3.2"]);
    let refused = near(&world).inject(Request::new(crate::inject::request(vec![crate::inject::message()]))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_recorded_before_the_end() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.connect_from(Some("192.0.2.9".parse().unwrap())).await;
    client.say("EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<t@third>\r\n", 3).await;
    assert!(world.host.stop.finish(Duration::from_secs(60)).await);
    assert_eq!(queue.events.lock().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_and_killed() {
    let world = World::new(config(listener()), &[&FakeQueue::new()]).await;
    let (mut victim, mut other) = (world.greeted().await, world.greeted().await);
    other.message().await;
    victim.open().await;
    victim.send("half").await;
    let ingress = near(&world);
    let listed =
        ingress.list_sessions(Request::new(ListSessionsRequest::default())).await.unwrap().into_inner().sessions;
    assert_eq!(listed.iter().map(|session| session.message_count).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((listed[0].state.as_str(), listed[0].helo.as_str()), ("data", "client.test"));
    let kill = |session_id: &str| KillSessionRequest { session_id: session_id.into(), reason: "enough".into() };
    ingress.kill_session(Request::new(kill(&listed[0].session_id))).await.unwrap();
    assert_eq!(victim.line().await.unwrap(), "421 4.3.2 mx.test enough");
    assert_eq!(other.say("NOOP\r\n", 1).await, ["250 2.0.0"]);
    let unknown = ingress.kill_session(Request::new(kill("session_x"))).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}
