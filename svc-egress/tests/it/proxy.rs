//! Mail leaves through a SOCKS5 proxy, from the address that the source names.

use crate::sink::{Script, Sink};
use crate::world::Setup;
use godwit_kit::config::OneOrMany;
use godwit_proto::Replies;
use godwit_proto::proxy::ProxyService;
use godwit_proto::proxy::v1::*;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::{RecipientResult, ReportLaneRequest};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use svc_egress::{PoolConfig, SourceConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// A proxy service that says what it owns.
#[derive(Clone)]
pub struct FakeProxy(pub Arc<watch::Sender<Vec<Source>>>);

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("egress does not call this"))
}

#[tonic::async_trait]
impl ProxyService for FakeProxy {
    type WatchSourcesStream = Replies<WatchSourcesResponse>;

    async fn watch_sources(
        &self,
        _: Request<WatchSourcesRequest>,
    ) -> Result<Response<Self::WatchSourcesStream>, Status> {
        let answers = futures::stream::unfold((self.0.subscribe(), true), |(mut owned, first)| async move {
            if !first {
                owned.changed().await.ok()?;
            }
            let sources = owned.borrow_and_update().clone();
            Some((Ok(WatchSourcesResponse { sources }), (owned, false)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn list_sources(&self, _: Request<ListSourcesRequest>) -> Result<Response<ListSourcesResponse>, Status> {
        unused()
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        unused()
    }
    async fn list_sessions(&self, _: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        unused()
    }
    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        unused()
    }
}

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

/// Serves one session: greeting, BIND, CONNECT, then bytes both ways. Notes (command, address).
async fn serve(mut client: TcpStream, noted: Arc<Mutex<Vec<(u8, SocketAddr)>>>) -> std::io::Result<()> {
    let mut greeting = [0; 3];
    client.read_exact(&mut greeting).await?;
    client.write_all(&[5, 0]).await?;
    loop {
        let mut request = [0; 10];
        client.read_exact(&mut request).await?;
        let address = Ipv4Addr::new(request[4], request[5], request[6], request[7]);
        let address = SocketAddr::from((address, u16::from_be_bytes([request[8], request[9]])));
        noted.lock().unwrap().push((request[1], address));
        client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 99]).await?;
        if request[1] == 1 {
            let mut server = TcpStream::connect(address).await?;
            tokio::io::copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
    }
}

fn setup(sink: SocketAddr, source: SourceConfig) -> Setup {
    let mut setup = Setup::to(sink);
    setup.config.sources.insert("ip-1".into(), source);
    setup.config.pools.insert("pool-1".into(), PoolConfig { sources: [("ip-1".to_string(), 1)].into() });
    setup
}

#[tokio::test]
async fn binds_the_source_address_then_connects() {
    let (sink, listener) = (Sink::start(Script::default()).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = listener.local_addr().unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let heard = noted.clone();
    let proxy = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        drop(serve(client, heard).await);
    });
    let source = SourceConfig {
        source_address: Some("127.0.0.1".parse().unwrap()),
        ehlo_domain: Some("mta1.example".into()),
        socks5_proxy: Some(OneOrMany::One(at.to_string())),
        ..SourceConfig::default()
    };
    let world = setup(sink.at, source).start().await;
    world.queue.put_in("pool-1", &["a@d.example"], MESSAGE);
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    assert_eq!((outcome.source.as_str(), outcome.source_address.as_str()), ("ip-1", "127.0.0.1"));
    world.finish().await;
    proxy.await.unwrap();
    assert_eq!(*noted.lock().unwrap(), [(2, "127.0.0.1:0".parse().unwrap()), (1, sink.at)]);
    assert!(sink.heard().commands.contains(&"EHLO mta1.example".to_string()));
}

#[tokio::test]
async fn the_proxy_that_owns_the_address_is_found_by_itself() {
    let (sink, listener) = (Sink::start(Script::default()).await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let at = listener.local_addr().unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let heard = noted.clone();
    let proxy = tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        drop(serve(client, heard).await);
    });
    let source = SourceConfig {
        source_address: Some("127.0.0.1".parse().unwrap()),
        socks5_proxy: Some(OneOrMany::One("auto".into())),
        ..SourceConfig::default()
    };
    let owned = |address: &str, health: Health| Source {
        address: address.into(),
        health: health.into(),
        listen: at.to_string(),
        ..Source::default()
    };
    let mut setup = setup(sink.at, source);
    // It owns another address, and ours only as one that it cannot use.
    let sources = vec![owned("127.0.0.9", Health::Ok), owned("127.0.0.1", Health::Unplumbed)];
    let service = FakeProxy(Arc::new(watch::Sender::new(sources)));
    setup.proxy = Some(service.clone());
    let world = setup.start().await;
    world.queue.put_in("pool-1", &["a@d.example"], MESSAGE);
    let report = world.queue.reported(State::NoSource).await;
    assert!(report.reason.contains("no proxy is known for source ip-1"), "{}", report.reason);
    service.0.send_replace(vec![owned("127.0.0.1", Health::Ok)]);
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    world.queue.change(|state| assert!(state.settled_lanes.is_empty(), "no attempt was counted"));
    world.finish().await;
    proxy.await.unwrap();
    assert_eq!(*noted.lock().unwrap(), [(2, "127.0.0.1:0".parse().unwrap()), (1, sink.at)]);
}

#[tokio::test]
async fn a_source_that_comes_back_serves_every_site_that_waited() {
    let (one, other) = (Sink::start(Script::default()).await, Sink::start(Script::default()).await);
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let source = SourceConfig {
        source_address: Some("127.0.0.1".parse().unwrap()),
        socks5_proxy: Some(OneOrMany::One(at.to_string())),
        ..SourceConfig::default()
    };
    let mut setup = setup(one.at, source);
    let hosts = vec![other.at.to_string()];
    setup.config.routes.insert("other.example".into(), svc_egress::Route { hosts });
    let world = setup.start().await;
    world.queue.put_in("pool-1", &["a@d.example"], MESSAGE);
    world.queue.reported(State::NoSource).await;
    // This site never tried: it heard that the source is down.
    world.queue.put_in("pool-1", &["a@other.example"], MESSAGE);
    let waits = |report: &ReportLaneRequest| {
        report.state() == State::NoSource && report.lane.as_ref().unwrap().routing_domain == "other.example"
    };
    world.queue.until("report", |state| state.reports.iter().any(waits).then_some(())).await;
    let listener = TcpListener::bind(at).await.unwrap();
    let proxy = tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, Arc::default()));
        }
    });
    world.queue.outcomes(2).await;
    world.finish().await;
    proxy.abort();
    assert_eq!((one.heard().messages.len(), other.heard().messages.len()), (1, 1));
}

#[tokio::test]
async fn a_source_that_is_not_here_is_reported_and_counts_no_attempt() {
    let sink = Sink::start(Script::default()).await;
    // TEST-NET-1: never on this host.
    let source = SourceConfig { source_address: Some("192.0.2.1".parse().unwrap()), ..SourceConfig::default() };
    let world = setup(sink.at, source).start().await;
    world.queue.put_in("pool-1", &["a@d.example"], MESSAGE);
    let report = world.queue.reported(State::NoSource).await;
    assert!(report.reason.contains("192.0.2.1"), "{}", report.reason);
    world.queue.change(|state| assert!(state.settled_lanes.is_empty() && state.outcomes.is_empty()));
    world.finish().await;
}
