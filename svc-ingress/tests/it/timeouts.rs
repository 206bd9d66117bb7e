//! Slow clients, under a paused clock: each is told 421 4.4.2 when its time is up, and not before.

use std::time::Duration;

use svc_ingress::config::Listener;
use tokio::time::{Instant, sleep};

use crate::support::{Client, FakeQueue, World, config, listener};

async fn world() -> World {
    let listener =
        Listener { client_timeout: Duration::from_secs(60), message_timeout: Duration::from_secs(600), ..listener() };
    World::new(config(listener), &[&FakeQueue::new()]).await
}

/// When the session is over, in seconds from now.
async fn seconds_until_421(client: &mut Client) -> u64 {
    let start = Instant::now();
    assert_eq!(client.replies(1).await, ["421 4.4.2"]);
    start.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_silent_client() {
    let world = world().await;
    assert_eq!(seconds_until_421(&mut world.connect().await).await, 60);
    let mut client = world.greeted().await;
    sleep(Duration::from_secs(50)).await;
    client.say("NOOP\r\n", 1).await;
    assert_eq!(seconds_until_421(&mut client).await, 60, "each command has its own time");
}

#[tokio::test(start_paused = true)]
async fn a_command_a_byte_at_a_time() {
    let world = world().await;
    let mut client = world.greeted().await;
    let start = Instant::now();
    for byte in ["N", "O", "O"] {
        client.send(byte).await;
        sleep(Duration::from_secs(19)).await;
    }
    assert_eq!(client.replies(1).await, ["421 4.4.2"]);
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stops() {
    let world = world().await;
    let mut client = world.greeted().await;
    client.open().await;
    client.send("x\r\n".repeat(40_000)).await;
    assert_eq!(seconds_until_421(&mut client).await, 60);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles() {
    let world = world().await;
    let mut client = world.greeted().await;
    client.open().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(59) {
        client.send("x").await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(client.replies(1).await, ["421 4.4.2"]);
    assert_eq!(start.elapsed().as_secs(), 60, "59 bytes a minute are less than 500 a second");
}

#[tokio::test(start_paused = true)]
async fn a_message_without_end() {
    let world = world().await;
    let mut client = world.greeted().await;
    client.open().await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(590) {
        client.send("0123456789abcd\r\n".repeat(400)).await;
        sleep(Duration::from_secs(10)).await;
    }
    assert_eq!(client.replies(1).await, ["421 4.4.2"]);
    assert_eq!(start.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads() {
    let world = world().await;
    let mut client = world.greeted().await;
    // Message after message until its replies are more than the pipe holds: the session waits to write, and gives up.
    let start = Instant::now();
    for step in ["MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n", "x\r\n.\r\n"].iter().cycle() {
        if client.try_send(step).await.is_err() {
            break;
        }
        // Until all is quiet.
        sleep(Duration::from_millis(1)).await;
    }
    assert!((60..90).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(world.metric("godwit_ingress_connections"), "0");
}
