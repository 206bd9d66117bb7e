//! What works is not held up, nor its mail counted as tried, by what does not.

use crate::sink::{Data, Script, Sink};
use crate::world::Setup;
use godwit_kit::config::OneOrMany;
use godwit_proto::queue::v1::RecipientResult;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use svc_egress::{PoolConfig, SourceConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

/// A door to `sink` that lets one connection through and turns all others away.
async fn one_at_a_time(sink: SocketAddr) -> (SocketAddr, JoinSet<()>, Arc<Semaphore>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, turned_away) = (listener.local_addr().unwrap(), Arc::new(Semaphore::new(0)));
    let (mut tasks, noted) = (JoinSet::new(), turned_away.clone());
    tasks.spawn(async move {
        let mut through = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            if through.is_empty() {
                through.spawn(async move {
                    let mut server = TcpStream::connect(sink).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            } else {
                let _ = client.write_all(b"421 4.7.0 too many connections\r\n").await;
                noted.add_permits(1);
            }
        }
    });
    (at, tasks, turned_away)
}

#[tokio::test]
async fn a_site_that_takes_no_more_connections_is_not_out_of_reach() {
    let gate = Arc::new(Semaphore::new(0));
    let sink = Sink::start(Script { data: Data::Wait(gate.clone()), ..Script::default() }).await;
    let (door, _tasks, turned_away) = one_at_a_time(sink.at).await;
    let shaping = "[\"default\"]\nconnection_limit = 10\nconsecutive_connection_failures_before_delay = 3\n";
    let world = Setup::to(door).shaping(shaping).start().await;
    for _ in 0..200 {
        world.queue.put(&["a@d.example"], MESSAGE);
    }
    let refused = turned_away.acquire_many(8);
    drop(tokio::time::timeout(Duration::from_secs(20), refused).await.expect("it tries more connections"));
    world.queue.change(|state| assert!(state.settled_lanes.is_empty(), "its mail was put off"));
    gate.add_permits(200);
    let outcomes = world.queue.outcomes(200).await;
    assert!(outcomes.iter().all(|outcome| outcome.recipients[0].result() == RecipientResult::Delivered));
    world.queue.change(|state| assert!(state.settled_lanes.is_empty(), "its mail was put off"));
    world.finish().await;
}

/// A SOCKS5 proxy: answers the greeting and BIND where `binds`, and never anything else.
async fn silent_proxy(binds: bool) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, mut tasks) = (listener.local_addr().unwrap(), JoinSet::new());
    tasks.spawn(async move {
        let mut sessions = JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            sessions.spawn(async move {
                let mut bytes = [0; 13];
                if binds {
                    client.read_exact(&mut bytes[..3]).await.unwrap();
                    client.write_all(&[5, 0]).await.unwrap();
                    client.read_exact(&mut bytes[..10]).await.unwrap();
                    client.write_all(&[5, 0, 0, 1, 127, 0, 0, 3, 0, 0]).await.unwrap();
                }
                while client.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    (at, tasks)
}

fn source(address: &str, proxies: Vec<SocketAddr>) -> SourceConfig {
    let proxies: Vec<String> = proxies.iter().map(SocketAddr::to_string).collect();
    SourceConfig {
        source_address: Some(address.parse().unwrap()),
        socks5_proxy: (!proxies.is_empty()).then_some(OneOrMany::Many(proxies)),
        ..SourceConfig::default()
    }
}

#[tokio::test]
async fn a_source_that_cannot_get_through_holds_up_no_other() {
    let sink = Sink::start(Script::default()).await;
    let (stuck, _tasks) = silent_proxy(true).await;
    let mut setup = Setup::to(sink.at);
    setup.config.sources.insert("good".into(), source("127.0.0.2", Vec::new()));
    setup.config.sources.insert("stuck".into(), source("127.0.0.3", vec![stuck]));
    let sources = [("good".to_string(), 1), ("stuck".to_string(), 1)].into();
    setup.config.pools.insert("p".into(), PoolConfig { sources });
    for _ in 0..500 {
        setup.queue.put_in("p", &["a@d.example"], MESSAGE);
    }
    let world = setup.start().await;
    let outcomes = world.queue.outcomes(500).await;
    assert!(outcomes.iter().all(|outcome| outcome.source == "good"));
    world.finish().await;
}

#[tokio::test]
async fn a_proxy_that_is_silent_is_the_sources_fault() {
    let sink = Sink::start(Script::default()).await;
    let (silent, _tasks) = silent_proxy(false).await;
    let mut setup = Setup::to(sink.at).shaping("[\"default\"]\nconnect_timeout = \"200ms\"\n");
    setup.config.sources.insert("s".into(), source("127.0.0.2", vec![silent]));
    setup.config.pools.insert("p".into(), PoolConfig { sources: [("s".to_string(), 1)].into() });
    setup.queue.put_in("p", &["a@d.example"], MESSAGE);
    let world = setup.start().await;
    let report = world.queue.reported(godwit_proto::queue::v1::report_lane_request::State::NoSource).await;
    assert!(report.reason.contains(&silent.to_string()), "{}", report.reason);
    world.queue.change(|state| assert!(state.settled_lanes.is_empty(), "an attempt was counted"));
    world.finish().await;
}
