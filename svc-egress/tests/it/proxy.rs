//! Mail leaves through a SOCKS5 proxy, from the address that the source names.

use crate::sink::{Script, Sink};
use crate::world::Setup;
use godwit_kit::config::OneOrMany;
use godwit_proto::queue::v1::RecipientResult;
use godwit_proto::queue::v1::report_lane_request::State;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use svc_egress::{PoolConfig, SourceConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
