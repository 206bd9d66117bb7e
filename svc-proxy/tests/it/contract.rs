//! The contract of the proxy service: each case runs near and through the whole codec.

use crate::world::{World, at, config, ip};
use futures::StreamExt;
use godwit_kit::net::{Listener, Memory, Net};
use godwit_proto::common::v1::Page;
use godwit_proto::proxy::{self, Proxy, ProxyServiceServer, v1};
use std::future::Future;
use std::sync::Arc;
use svc_proxy::Config;
use svc_proxy::socks5::Reply;
use tonic::{Code, Request};

/// Runs `case` twice: with the service itself, and with a client of its server.
async fn near_and_far<F: Future<Output = World>>(case: impl Fn(Proxy, World, Listener) -> F) {
    for far in [false, true] {
        let net = Net::Memory(Memory::default());
        let listener = net.listen(at("8.8.8.8:25")).await.unwrap();
        let sources = vec![ip("203.0.113.2"), ip("203.0.113.1")];
        let world = World::new(Config { sources, advertise: "proxy-1:1080".into(), ..config() }, net).await;
        let service = Arc::new(world.proxy.clone());
        let handle: Proxy =
            if far { proxy::at(godwit_kit::connect::pipe(ProxyServiceServer::from_arc(service))) } else { service };
        case(handle, world, listener).await.stop().await;
    }
}

fn addresses_and_health(sources: &[v1::Source]) -> Vec<(&str, v1::Health)> {
    sources.iter().map(|source| (source.address.as_str(), source.health())).collect()
}

#[tokio::test(start_paused = true)]
async fn sources_are_listed_and_watched_until_drained() {
    near_and_far(|proxy, world, _listener| async move {
        let listed = proxy.list_sources(Request::new(v1::ListSourcesRequest {})).await.unwrap().into_inner();
        let ok = [("203.0.113.1", v1::Health::Ok), ("203.0.113.2", v1::Health::Ok)];
        assert_eq!(addresses_and_health(&listed.sources), ok);
        assert_eq!(listed.sources[0].protocols, ["SOCKS5"]);
        assert_eq!(listed.sources[0].listen, "proxy-1:1080");
        let mut watched = proxy.watch_sources(Request::new(v1::WatchSourcesRequest {})).await.unwrap().into_inner();
        assert_eq!(watched.next().await.unwrap().unwrap().sources, listed.sources);

        let request = v1::DrainRequest { reason: "moving house".into() };
        let drained = proxy.drain(Request::new(request)).await.unwrap().into_inner();
        assert_eq!(drained.active_session_count, 0);
        let sources = watched.next().await.unwrap().unwrap().sources;
        let draining = [("203.0.113.1", v1::Health::Draining), ("203.0.113.2", v1::Health::Draining)];
        assert_eq!(addresses_and_health(&sources), draining);
        world.host.stop.request();
        assert!(watched.next().await.is_none(), "a stop ends the watch");
        world
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_new_sessions_and_lets_those_that_run_end() {
    near_and_far(|proxy, world, listener| async move {
        let mut client = world.greeted().await;
        assert_eq!(client.connect(at("8.8.8.8:25")).await, Reply::Succeeded);
        let mut server = listener.accept().await.unwrap();
        let request = || Request::new(v1::DrainRequest { reason: "moving house".into() });
        assert_eq!(proxy.drain(request()).await.unwrap().into_inner().active_session_count, 1);
        assert_eq!(proxy.drain(request()).await.unwrap().into_inner().active_session_count, 1, "idempotent");
        tokio::task::yield_now().await;
        assert!(world.host.net.connect(world.proxy.listen_addr(), None).await.is_err());
        client.send(b"still here").await;
        let mut heard = [0; 10];
        tokio::io::AsyncReadExt::read_exact(&mut server.stream, &mut heard).await.unwrap();
        let status = proxy.status(Request::new(v1::StatusRequest {})).await.unwrap().into_inner();
        assert!(status.draining);
        assert_eq!(status.client_to_destination_bytes_total, 10);
        assert_eq!(world.host.health.causes()[0].reason, "draining: moving house");
        world
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn sessions_are_listed_page_by_page() {
    near_and_far(|proxy, world, listener| async move {
        let mut client = world.greeted().await;
        assert_eq!(client.connect(at("8.8.8.8:25")).await, Reply::Succeeded);
        let server = listener.accept().await.unwrap();
        let half_open = [world.greeted().await, world.greeted().await];
        let list = async |size, token: &str| {
            let page = Some(Page { size, token: token.into() });
            proxy.list_sessions(Request::new(v1::ListSessionsRequest { page })).await
        };
        let first = list(2, "").await.unwrap().into_inner();
        let destination = first.sessions[0].destination.as_ref().unwrap();
        assert_eq!((destination.address.as_str(), destination.port), ("8.8.8.8", 25));
        assert_eq!(first.sessions[0].source_address, "203.0.113.2");
        assert!(first.sessions[0].client.is_some() && first.sessions[0].started.is_some());
        assert_eq!((first.sessions.len(), &first.sessions[1].destination), (2, &None), "half-open");
        let second = list(2, &first.next_token).await.unwrap().into_inner();
        assert_eq!((second.sessions.len(), second.next_token.as_str()), (1, ""));
        assert_eq!(list(0, "").await.unwrap().into_inner().sessions.len(), 3);
        for (size, token, field) in [(1_001, "", "page.size"), (1, "junk", "page.token")] {
            let status = list(size, token).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{status:?}");
        }
        drop((client, server, half_open));
        world
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reason_is_bounded() {
    near_and_far(|proxy, world, _listener| async move {
        let request = v1::DrainRequest { reason: "x".repeat(1_025) };
        let status = proxy.drain(Request::new(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(!world.status().await.draining);
        world
    })
    .await;
}

#[tokio::test]
async fn where_it_cannot_listen_it_says_so() {
    let world = World::tcp(config()).await;
    let taken = Config { listen: world.proxy.listen_addr(), ..config() };
    let error = svc_proxy::build(taken, &world.host).await.err().unwrap().to_string();
    assert!(error.starts_with("proxy.listen: cannot listen at 127.0.0.1:"), "{error}");
    world.stop().await;
}
