//! A world of its own for each test.

mod client;
mod queue;
mod tls;

pub use client::Client;
pub use queue::{Answer, FakeQueue};
pub use tls::{Certificates, Trust, client_hello};

use std::{net::IpAddr, sync::Arc, time::Duration};

use godwit_kit::{
    Host,
    clock::Clock,
    net::{Memory, Net},
    peers::{NodeCell, Peer, Peers},
};
use godwit_proto::{
    CALL_BYTES_MAX,
    id::NodeId,
    queue::{Queue, QueueServiceServer},
};
use svc_ingress::{Config, Service, config};

/// How the queues are reached, and so which world the test runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    Near,
    /// Through the whole codec, without a socket.
    Far,
}

pub struct World {
    pub host: Host,
    pub service: Service,
}

/// One listener on a free port, named `mx.test`.
pub fn listener() -> config::Listener {
    config::Listener {
        listen: "127.0.0.1:0".parse().unwrap(),
        hostname: "mx.test".into(),
        ..config::Listener::default()
    }
}

pub fn config(listener: config::Listener) -> Config {
    Config { hostname: "mx.test".into(), listeners: vec![listener], ..Config::default() }
}

pub fn handle(queue: &Arc<FakeQueue>, road: Road) -> Queue {
    match road {
        Road::Near => queue.clone(),
        Road::Far => {
            let server = QueueServiceServer::from_arc(queue.clone()).max_decoding_message_size(CALL_BYTES_MAX);
            godwit_proto::queue::at(godwit_kit::connect::pipe(server))
        }
    }
}

impl World {
    /// In memory, so that the clock may be paused.
    pub async fn new(config: Config, queues: &[&Arc<FakeQueue>]) -> Self {
        Self::on(Net::Memory(Memory::default()), config, queues, Road::Near).await
    }

    pub async fn on(net: Net, config: Config, queues: &[&Arc<FakeQueue>], road: Road) -> Self {
        let peer = |(place, queue): (usize, &&Arc<FakeQueue>)| Peer {
            name: format!("queue-{place}"),
            handle: handle(queue, road),
            node: NodeCell::default(),
        };
        Self::over(net, config, Peers::new(queues.iter().enumerate().map(peer).collect())).await
    }

    pub async fn over(net: Net, config: Config, peers: Peers<Queue>) -> Self {
        let mut host = Host::new(NodeId::new());
        host.clock = Clock::tokio(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        host.net = net;
        let service = svc_ingress::build(config, peers, &host).await.unwrap();
        Self { host, service }
    }

    pub async fn connect(&self) -> Client {
        self.connect_from(None).await
    }

    /// Reads the greeting.
    pub async fn connect_from(&self, from: Option<IpAddr>) -> Client {
        let mut client = self.connect_silently(from).await;
        assert_eq!(client.replies(1).await, ["220"]);
        client
    }

    pub async fn connect_silently(&self, from: Option<IpAddr>) -> Client {
        Client::new(self.host.net.connect(self.service.listen_addrs()[0], from).await.unwrap())
    }

    /// A client that has said EHLO.
    pub async fn greeted(&self) -> Client {
        let mut client = self.connect().await;
        assert_eq!(client.say("EHLO client.test\r\n", 1).await, ["250"]);
        client
    }

    /// The value of a line of the metrics' text.
    pub fn metric(&self, name: &str) -> String {
        let text = self.host.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("{name} in {text}"))
    }
}
