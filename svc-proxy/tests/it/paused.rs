//! What depends on time, in memory and under a paused clock.

use crate::world::{Client, World, at, config, ip};
use godwit_kit::net::{Connection, Listener, Memory, Net};
use std::time::Duration;
use svc_proxy::Config;
use svc_proxy::socks5::Reply;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A proxy, and a destination in public.
async fn world(config: Config, destination: &str) -> (World, Listener) {
    let net = Net::Memory(Memory::default());
    let listener = net.listen(at(destination)).await.unwrap();
    (World::new(config, net).await, listener)
}

async fn tunnel(world: &World, listener: &Listener) -> (Client, Connection) {
    let mut client = world.greeted().await;
    assert_eq!(client.connect(listener.local_addr().unwrap()).await, Reply::Succeeded);
    (client, listener.accept().await.unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_handshake_has_a_deadline_however_slowly_it_goes_on() {
    let (world, _listener) = world(config(), "8.8.8.8:25").await;
    let started = Instant::now();
    assert_eq!(world.client().await.rest().await, b"");
    assert_eq!(started.elapsed(), Duration::from_secs(10));

    // A byte every three seconds, and a BIND, do not put it off.
    let mut client = world.client().await;
    let started = Instant::now();
    for byte in [5, 1, 0, 5] {
        client.send(&[byte]).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(client.rest().await, [5, 0]);
    assert!(started.elapsed() <= Duration::from_secs(12));
    assert_eq!(world.status().await.refused_total, 2);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn half_open_ones_make_room_when_their_time_is_over() {
    let (world, _listener) = world(Config { sessions_max: 50, ..config() }, "8.8.8.8:25").await;
    let mut half_open = Vec::new();
    for _ in 0..50 {
        half_open.push(world.greeted().await);
    }
    assert_eq!(world.client().await.rest().await, b"");
    for client in &mut half_open {
        assert_eq!(client.rest().await, b"");
    }
    world.greeted().await;
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_rests_too_long_is_closed_and_one_that_moves_is_not() {
    let (world, listener) = world(Config { timeout: Duration::from_secs(60), ..config() }, "8.8.8.8:25").await;
    let (mut client, mut server) = tunnel(&world, &listener).await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(55)).await;
        server.stream.write_all(b"x").await.unwrap();
        assert_eq!(client.take(1).await, b"x");
    }
    let started = Instant::now();
    assert_eq!(client.rest().await, b"");
    let rested = started.elapsed();
    assert!(rested >= Duration::from_secs(60) && rested <= Duration::from_secs(75), "{rested:?}");
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn smtps_ten_minutes_after_the_final_dot_are_waited_for() {
    let (world, listener) = world(config(), "8.8.8.8:25").await;
    let (mut client, mut server) = tunnel(&world, &listener).await;
    client.send(b"\r\n.\r\n").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    server.stream.write_all(b"250 ok\r\n").await.unwrap();
    assert_eq!(client.take(8).await, b"250 ok\r\n");
    drop((client, server));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_does_not_answer() {
    let (world, listener) = world(config(), "8.8.8.8:25").await;
    let mut waiting = Vec::new();
    for _ in 0..1_024 {
        waiting.push(world.host.net.connect(listener.local_addr().unwrap(), None).await.unwrap());
    }
    let mut client = world.greeted().await;
    assert_eq!(client.connect(at("8.8.8.8:25")).await, Reply::TtlExpired);
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ipv6_destinations_from_ipv6_sources() {
    let sources = vec![ip("203.0.113.1"), ip("2001:db8::5")];
    let (world, listener) = world(Config { sources, ..config() }, "[2a00:1450::1]:25").await;
    let (client, server) = tunnel(&world, &listener).await;
    assert_eq!(server.peer.ip(), ip("2001:db8::5"));
    drop((client, server));
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_lets_tunnels_finish_and_no_new_ones_in() {
    let (world, listener) = world(config(), "8.8.8.8:25").await;
    let (mut client, mut server) = tunnel(&world, &listener).await;
    let mut half_open = world.greeted().await;
    world.host.stop.request();
    assert_eq!(half_open.rest().await, b"", "what is not a tunnel yet ends at once");
    client.send(b"QUIT\r\n").await;
    let mut heard = [0; 6];
    server.stream.read_exact(&mut heard).await.unwrap();
    assert!(world.host.net.connect(world.proxy.listen_addr(), None).await.is_err());
    let started = Instant::now();
    drop((client, server));
    world.stop().await;
    assert_eq!(started.elapsed(), Duration::ZERO, "nothing was left to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_bounded() {
    let (world, listener) = world(config(), "8.8.8.8:25").await;
    let (mut client, _server) = tunnel(&world, &listener).await;
    let started = Instant::now();
    world.stop().await;
    assert_eq!(started.elapsed(), Duration::from_secs(20));
    assert_eq!(client.rest().await, b"");
}
