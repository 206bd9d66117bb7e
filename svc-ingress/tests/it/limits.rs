//! Every bound, and what is said when it is reached.

use godwit_kit::config::Size;
use svc_ingress::{Config, config::Listener};

use crate::support::{FakeQueue, World, config, listener};

#[tokio::test(start_paused = true)]
async fn connections_are_limited() {
    let listener = Listener { max_connections: 3, max_connections_per_peer: 2, ..listener() };
    let world = World::new(config(listener), &[&FakeQueue::new()]).await;
    let (_first, second) = (world.connect().await, world.connect().await);
    assert_eq!(world.connect_silently(None).await.rest().await, ["421 4.7.0"], "two of one peer");
    let _third = world.connect_from(Some("192.0.2.1".parse().unwrap())).await;
    let other = Some("192.0.2.2".parse().unwrap());
    assert_eq!(world.connect_silently(other).await.rest().await, ["421 4.3.2"], "three in all");
    assert_eq!(world.metric("godwit_ingress_connections"), "3");
    assert_eq!(world.metric("godwit_ingress_connections_total{outcome=\"refused\"}"), "2");
    let mut second = second;
    assert_eq!(second.say_last("QUIT\r\n").await, ["221 2.0.0"]);
    drop(second);
    while world.metric("godwit_ingress_connections") != "2" {
        tokio::task::yield_now().await;
    }
    world.connect().await;
}

#[tokio::test(start_paused = true)]
async fn recipients_are_limited_and_the_others_are_kept() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    client.say("MAIL FROM:<a@b>\r\n", 1).await;
    let recipients: String = (0..1_001).map(|place| format!("RCPT TO:<{place}@example.net>\r\n")).collect();
    let codes = client.say(recipients, 1_001).await;
    assert!(codes[..1_000].iter().all(|code| code == "250 2.1.5"));
    assert_eq!(codes[1_000], "452 4.5.3");
    assert_eq!(client.say("DATA\r\n", 1).await, ["354"]);
    assert_eq!(client.say("x\r\n.\r\n", 1).await, ["250 2.0.0"]);
    assert_eq!(queue.kept()[0].envelope.as_ref().unwrap().recipients.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_connection_are_limited() {
    let listener = Listener { max_messages_per_connection: 2, ..listener() };
    let world = World::new(config(listener), &[&FakeQueue::new()]).await;
    let mut client = world.greeted().await;
    assert_eq!((client.message().await, client.message().await), ("250 2.0.0".into(), "250 2.0.0".into()));
    assert_eq!(client.say_last("MAIL FROM:<a@b>\r\n").await, ["421 4.7.0"]);
}

#[tokio::test(start_paused = true)]
async fn messages_in_hand_are_limited() {
    let tight = Config { max_data_in_flight: Size(1 << 20), ..config(listener()) };
    let queue = FakeQueue::new();
    let world = World::new(tight, &[&queue]).await;
    let mut first = world.greeted().await;
    let mut second = world.greeted().await;
    let half = "0123456789abcd\r\n".repeat(40 << 10);
    first.open().await;
    first.send(&half).await;
    second.open().await;
    second.send(&half).await;
    assert_eq!(second.rest().await, ["421 4.3.1"]);
    assert_eq!(first.say(".\r\n", 1).await, ["250 2.0.0"]);
    let mut third = world.greeted().await;
    third.open().await;
    assert_eq!(third.say(format!("{half}.\r\n"), 1).await, ["250 2.0.0"], "what was held is given back");
    assert_eq!(queue.kept().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_goes_round_is_refused() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut client = world.greeted().await;
    for (hops, expected) in [(99, "250 2.0.0"), (100, "554 5.4.6")] {
        client.open().await;
        let content = format!("{}Subject: x\r\n\r\nx\r\n.\r\n", "Received: from a by b\r\n".repeat(hops));
        assert_eq!(client.say(content, 1).await, [expected], "{hops}");
    }
    assert_eq!(queue.kept().len(), 1);
}
