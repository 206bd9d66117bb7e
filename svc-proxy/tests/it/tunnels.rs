//! What a proxy must carry, over real sockets.

use crate::world::{World, at, destination, echo, ip, open_to};
use svc_proxy::Config;
use svc_proxy::socks5::{Command, Greeting, Reply, Request, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn bytes_go_both_ways_and_are_counted() {
    let (serving, destination) = echo().await;
    let world = World::tcp(open_to(destination.port())).await;
    let mut client = world.greeted().await;
    let (reply, bound) = client.request(Command::Connect, Target::Address(destination)).await;
    assert_eq!(reply, Reply::Succeeded);
    let body: Vec<u8> = (0..300_000u32).map(|place| (place * 7 % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(client.stream);
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut echoed = Vec::new();
    read.read_to_end(&mut echoed).await.unwrap();
    sending.await.unwrap();
    assert!(echoed == body);
    assert_eq!(bound, Target::Address(serving.await.unwrap()), "the reply names the address that the destination sees");
    world.host.stop.finish(std::time::Duration::from_secs(60)).await;
    let status = world.status().await;
    assert_eq!(
        (status.client_to_destination_bytes_total, status.destination_to_client_bytes_total),
        (300_000, 300_000)
    );
    assert_eq!((status.active_session_count, status.refused_total, status.failed_total), (0, 0, 0));
}

#[tokio::test]
async fn bind_with_an_owned_source_chooses_it_for_the_connect_that_follows() {
    for source in ["127.0.0.2", "127.0.0.3"] {
        let (serving, destination) = echo().await;
        let sources = vec![ip("127.0.0.2"), ip("127.0.0.3")];
        let world = World::tcp(Config { sources, ..open_to(destination.port()) }).await;
        let mut client = world.greeted().await;
        let bound = Target::Address(std::net::SocketAddr::new(ip(source), 0));
        assert_eq!(client.bind(source).await, (Reply::Succeeded, bound));
        assert_eq!(client.connect(destination).await, Reply::Succeeded);
        drop(client);
        assert_eq!(serving.await.unwrap().ip(), ip(source));
        world.stop().await;
    }
}

#[tokio::test]
async fn without_a_bind_the_first_owned_source_is_used() {
    let (serving, destination) = echo().await;
    let sources = vec![ip("::1"), ip("127.0.0.4"), ip("127.0.0.5")];
    let world = World::tcp(Config { sources, ..open_to(destination.port()) }).await;
    let mut client = world.greeted().await;
    assert_eq!(client.connect(destination).await, Reply::Succeeded);
    drop(client);
    assert_eq!(serving.await.unwrap().ip(), ip("127.0.0.4"));
    world.stop().await;
}

#[tokio::test]
async fn a_name_is_connected_to() {
    let (serving, destination) = echo().await;
    let world = World::tcp(open_to(destination.port())).await;
    let mut client = world.greeted().await;
    let target = Target::Name("localhost".into(), destination.port());
    assert_eq!(client.request(Command::Connect, target).await.0, Reply::Succeeded);
    drop(client);
    serving.await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn an_address_that_carries_ipv4_in_ipv6_is_that_address() {
    let (serving, destination) = echo().await;
    let world = World::tcp(open_to(destination.port())).await;
    let mapped = at(&format!("[::ffff:127.0.0.1]:{}", destination.port()));
    let mut client = world.greeted().await;
    assert_eq!(client.connect(mapped).await, Reply::Succeeded);
    drop(client);
    serving.await.unwrap();
    world.stop().await;
}

/// All that a client says: greeting, BIND, CONNECT, and the first bytes for the destination.
fn conversation(destination: std::net::SocketAddr) -> Vec<u8> {
    let request = |command, to| Request { command, target: Target::Address(to) }.encode();
    let greeting = Greeting { methods: vec![0, 1, 2] }.encode();
    let bind = request(Command::Bind, at("127.0.0.2:0"));
    [greeting, bind, request(Command::Connect, destination), b"EHLO me\r\n".into()].concat()
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let (serving, destination) = echo().await;
    let world = World::tcp(Config { sources: vec![ip("127.0.0.2")], ..open_to(destination.port()) }).await;
    let mut client = world.client().await;
    for byte in conversation(destination) {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    client.stream.shutdown().await.unwrap();
    assert!(client.rest().await.ends_with(b"EHLO me\r\n"));
    assert_eq!(serving.await.unwrap().ip(), ip("127.0.0.2"));
    world.stop().await;
}

#[tokio::test]
async fn all_at_once() {
    let (serving, destination) = echo().await;
    let world = World::tcp(Config { sources: vec![ip("127.0.0.2")], ..open_to(destination.port()) }).await;
    let mut client = world.client().await;
    client.send(&conversation(destination)).await;
    client.stream.shutdown().await.unwrap();
    let answer = client.rest().await;
    assert!(answer.starts_with(&[5, 0, 5, 0, 0, 1, 127, 0, 0, 2, 0, 0, 5, 0, 0, 1, 127, 0, 0, 2]), "{answer:?}");
    assert!(answer.ends_with(b"EHLO me\r\n"));
    serving.await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn half_close_by_the_client_leaves_the_way_back_open() {
    let (listener, destination) = destination().await;
    let world = World::tcp(open_to(destination.port())).await;
    let mut client = world.greeted().await;
    assert_eq!(client.connect(destination).await, Reply::Succeeded);
    let (mut server, _) = listener.accept().await.unwrap();
    client.send(b"QUIT\r\n").await;
    client.stream.shutdown().await.unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).await.unwrap();
    assert_eq!(heard, "QUIT\r\n");
    server.write_all(b"221 bye\r\n").await.unwrap();
    assert_eq!(client.take(9).await, b"221 bye\r\n");
    server.write_all(b"and more").await.unwrap();
    drop(server);
    assert_eq!(client.rest().await, b"and more");
    world.stop().await;
}

#[tokio::test]
async fn half_close_by_the_destination_leaves_the_way_there_open() {
    let (listener, destination) = destination().await;
    let world = World::tcp(open_to(destination.port())).await;
    let mut client = world.greeted().await;
    assert_eq!(client.connect(destination).await, Reply::Succeeded);
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"421 closing\r\n").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.rest().await, b"421 closing\r\n");
    client.send(b"still here").await;
    let mut heard = [0; 10];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    client.stream.shutdown().await.unwrap();
    assert_eq!(server.read(&mut heard).await.unwrap(), 0);
    world.stop().await;
}
