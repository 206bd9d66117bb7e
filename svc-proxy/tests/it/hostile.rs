//! What a proxy must refuse, over real sockets, with the bytes that it answers.

use crate::world::{World, at, config, destination, echo, ip, open_to};
use godwit_proto::proxy::{ProxyService, v1};
use svc_proxy::Config;
use svc_proxy::config::Secret;
use svc_proxy::socks5::{Command, Reply, Target};

fn with_password(config: Config) -> Config {
    Config { username: "user".into(), password: Secret("secret".into()), ..config }
}

fn name(name: &[u8]) -> Vec<u8> {
    [&[5, 1, 0, 3, u8::try_from(name.len()).unwrap()], name, &[0, 25]].concat()
}

#[tokio::test]
async fn authentication_that_is_required_and_not_offered() {
    let world = World::tcp(with_password(config())).await;
    for greeting in [&[5, 1, 0][..], &[5, 0], &[5, 2, 0, 1]] {
        let mut client = world.client().await;
        client.send(greeting).await;
        assert_eq!(client.rest().await, [5, 0xff], "{greeting:?}");
    }
    let none_required = World::tcp(config()).await;
    let mut client = none_required.client().await;
    client.send(&[5, 1, 2]).await;
    assert_eq!(client.rest().await, [5, 0xff]);
    assert_eq!(world.status().await.refused_total, 3);
    world.stop().await;
    none_required.stop().await;
}

#[tokio::test]
async fn wrong_credentials() {
    let world = World::tcp(with_password(config())).await;
    for (username, password) in [("user", "wrong"), ("other", "secret"), ("", ""), ("user", "")] {
        let mut client = world.client().await;
        assert_eq!(client.authenticate(username, password).await, [1, 1]);
        // What follows is not looked at.
        client.send(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 25]).await;
        assert_eq!(client.rest().await, b"");
    }
    let mut client = world.client().await;
    client.send(&[5, 1, 2, 5]).await;
    assert_eq!(client.rest().await, [5, 2], "a wrong version of RFC 1929 is closed upon");
    world.stop().await;
}

#[tokio::test]
async fn right_credentials() {
    let (serving, destination) = echo().await;
    let world = World::tcp(with_password(open_to(destination.port()))).await;
    let mut client = world.client().await;
    assert_eq!(client.authenticate("user", "secret").await, [1, 0]);
    assert_eq!(client.connect(destination).await, Reply::Succeeded);
    drop(client);
    serving.await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn destinations_that_are_not_public_or_our_own() {
    let world = World::tcp(Config { sources: vec![ip("127.0.0.1")], ..config() }).await;
    let denied = [
        "127.0.0.1:25",
        "127.9.9.9:25",
        "10.0.0.1:25",
        "192.168.1.1:25",
        "169.254.169.254:25",
        "224.0.0.1:25",
        "0.0.0.0:25",
        "[::1]:25",
        "[::ffff:127.0.0.1]:25",
        "[::ffff:10.0.0.1]:25",
        "[fe80::1]:25",
        "[fc00::1]:25",
        "[ff02::1]:25",
    ];
    for to in denied {
        let mut client = world.greeted().await;
        assert_eq!(client.connect(at(to)).await, Reply::NotAllowed, "{to}");
        assert_eq!(client.rest().await, b"", "closed");
    }
    assert_eq!(world.status().await.refused_total, denied.len() as u64);
    world.stop().await;

    // The listener itself is not reached even where its network and port are allowed.
    let (listener, itself) = destination().await;
    drop(listener);
    let world = World::tcp(Config { listen: itself, ..open_to(itself.port()) }).await;
    assert_eq!(world.greeted().await.connect(itself).await, Reply::NotAllowed);
    world.stop().await;
}

#[tokio::test]
async fn ports_that_are_not_listed() {
    let (listener, destination) = destination().await;
    let world = World::tcp(Config { ports: config().ports, ..open_to(0) }).await;
    assert_eq!(world.greeted().await.connect(destination).await, Reply::NotAllowed);
    assert_eq!(world.greeted().await.connect(at("8.8.8.8:80")).await, Reply::NotAllowed);
    drop(listener);
    world.stop().await;
}

#[tokio::test]
async fn bind_of_what_is_not_owned_and_any_other_bind() {
    let world = World::tcp(Config { sources: vec![ip("127.0.0.2")], ..config() }).await;
    for source in ["127.0.0.3", "0.0.0.0", "::1", "8.8.8.8"] {
        let mut client = world.greeted().await;
        assert_eq!(client.bind(source).await.0, Reply::NotAllowed, "{source}");
        assert_eq!(client.rest().await, b"");
    }
    let by_name = Target::Name("localhost".into(), 0);
    assert_eq!(world.greeted().await.request(Command::Bind, by_name).await.0, Reply::NotAllowed);
    let mut client = world.greeted().await;
    assert_eq!(client.bind("127.0.0.2").await.0, Reply::Succeeded);
    assert_eq!(client.bind("127.0.0.2").await.0, Reply::NotAllowed, "a second one");
    world.stop().await;
    let owns_none = World::tcp(config()).await;
    assert_eq!(owns_none.greeted().await.bind("127.0.0.1").await.0, Reply::NotAllowed);
    owns_none.stop().await;
}

#[tokio::test]
async fn commands_and_address_types_that_are_not_supported() {
    let world = World::tcp(Config { sources: vec![ip("127.0.0.2")], ..config() }).await;
    let anywhere = || Target::Address(at("8.8.8.8:25"));
    for command in [Command::UdpAssociate, Command::Unknown(0), Command::Unknown(9)] {
        let mut client = world.greeted().await;
        assert_eq!(client.request(command, anywhere()).await.0, Reply::CommandNotSupported);
        assert_eq!(client.rest().await, b"");
    }
    let mut client = world.greeted().await;
    client.send(&[5, 1, 0, 9]).await;
    assert_eq!(client.rest().await, [5, 8, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut client = world.greeted().await;
    client.bind("127.0.0.2").await;
    assert_eq!(client.connect(at("[2a00:1450::1]:25")).await, Reply::AddressTypeNotSupported, "another family");
    world.stop().await;
}

#[tokio::test]
async fn names_are_resolved_and_then_checked() {
    let world = World::tcp(config()).await;
    for to in ["localhost", "127.0.0.1", "::1", "0x7f000001", "127.1", "::ffff:127.0.0.1"] {
        let target = Target::Name(to.into(), 25);
        let (reply, _) = world.greeted().await.request(Command::Connect, target).await;
        assert!(matches!(reply, Reply::NotAllowed | Reply::HostUnreachable), "{to}: {reply:?}");
        if to == "localhost" || to == "127.0.0.1" {
            assert_eq!(reply, Reply::NotAllowed, "{to}");
        }
    }
    for junk in [&b""[..], &[b'a'; 255], b"localhost\0", b"\0", b"a b"] {
        let mut client = world.greeted().await;
        client.send(&name(junk)).await;
        assert_eq!(client.rest().await, [5, 1, 0, 1, 0, 0, 0, 0, 0, 0], "{junk:?}");
    }
    world.stop().await;
}

#[tokio::test]
async fn what_is_not_socks5_is_closed_without_a_word() {
    let world = World::tcp(config()).await;
    let junk = [
        &b"\x04\x01\x00\x19\x08\x08\x08\x08\x00"[..],
        b"CONNECT example.com:25 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"EHLO example.com\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        &[0; 2_000],
    ];
    for bytes in junk {
        let mut client = world.client().await;
        client.send(bytes).await;
        // With bytes unread the system may reset instead of closing; nothing is sent either way.
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut answer).await;
        assert_eq!(answer, b"");
    }
    let mut client = world.greeted().await;
    client.send(b"GET").await;
    assert_eq!(client.rest().await, b"", "after the greeting too");
    world.stop().await;
}

#[tokio::test]
async fn clients_from_elsewhere() {
    let world = World::tcp(Config { clients: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..config() }).await;
    assert_eq!(world.client().await.rest().await, b"");
    assert_eq!(world.status().await.refused_total, 1);
    world.stop().await;
}

#[tokio::test]
async fn many_half_open_ones_hinder_nobody_and_are_bounded() {
    let (serving, destination) = echo().await;
    let world = World::tcp(Config { sessions_max: 301, ..open_to(destination.port()) }).await;
    let mut half_open = Vec::new();
    for _ in 0..300 {
        half_open.push(world.greeted().await);
    }
    let mut client = world.greeted().await;
    assert_eq!(client.connect(destination).await, Reply::Succeeded);
    assert_eq!(world.client().await.rest().await, b"", "one too many");
    let status = world.status().await;
    assert_eq!((status.active_session_count, status.accepted_total, status.refused_total), (301, 302, 1));
    drop((client, half_open));
    serving.await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_source_that_is_not_on_this_host_is_known_to_be_away() {
    let (listener, destination) = destination().await;
    let away = ip("203.0.113.9");
    let world = World::tcp(Config { sources: vec![ip("127.0.0.2"), away], ..open_to(destination.port()) }).await;
    let mut client = world.greeted().await;
    assert_eq!(client.bind("203.0.113.9").await.0, Reply::Succeeded);
    assert_eq!(client.connect(destination).await, Reply::Failure);
    let listed = world.proxy.list_sources(tonic::Request::new(v1::ListSourcesRequest {})).await.unwrap().into_inner();
    let health: Vec<_> = listed.sources.iter().map(|source| (source.address.as_str(), source.health())).collect();
    assert_eq!(health, [("127.0.0.2", v1::Health::Ok), ("203.0.113.9", v1::Health::Unplumbed)]);
    assert_eq!(world.status().await.failed_total, 1);
    assert_eq!(world.host.health.causes(), [], "the other one can be used");
    drop(listener);
    world.stop().await;

    let world = World::tcp(Config { sources: vec![away], ..config() }).await;
    assert_eq!(world.host.health.causes()[0].part, "sources");
    world.stop().await;
}

#[tokio::test]
async fn a_destination_that_refuses() {
    let (listener, destination) = destination().await;
    drop(listener);
    let world = World::tcp(open_to(destination.port())).await;
    let mut client = world.greeted().await;
    assert_eq!(client.connect(destination).await, Reply::Refused);
    assert_eq!(client.rest().await, b"");
    assert_eq!(world.status().await.failed_total, 1);
    world.stop().await;
}
