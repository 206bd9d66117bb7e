//! One egress with the scripts around it; ended, with all that it started, by `finish`.

use crate::proxy::FakeProxy;
use crate::queue::FakeQueue;
use crate::throttle::FakeThrottle;
use crate::tsa::FakeTsa;
use godwit_kit::Host;
use godwit_kit::net::Net;
use godwit_kit::peers::{NodeCell, Peer, Peers};
use godwit_proto::id::{MessageId, NodeId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use svc_egress::{Config, Deps, Route, Service};

pub struct World {
    pub queue: FakeQueue,
    pub throttle: FakeThrottle,
    pub host: Host,
    pub service: Service,
    files: Vec<PathBuf>,
}

/// What a test changes.
pub struct Setup {
    pub config: Config,
    pub queue: FakeQueue,
    pub throttle: FakeThrottle,
    pub tsa: Option<FakeTsa>,
    pub proxy: Option<FakeProxy>,
    /// Beside `queue`.
    pub other_queue: Option<FakeQueue>,
    /// Of `queue` and `other_queue`.
    pub queue_nodes: [NodeCell; 2],
    pub net: Net,
    files: Vec<PathBuf>,
}

impl Setup {
    /// All mail to one peer.
    pub fn to(sink: SocketAddr) -> Self {
        let mut setup = Self::new();
        setup.config.routes.insert("*".into(), Route { hosts: vec![sink.to_string()] });
        setup
    }

    pub fn new() -> Self {
        let config = Config { hostname: "egress.example".into(), shaping_files: Some(Vec::new()), ..Config::default() };
        Self {
            config,
            queue: FakeQueue::new(),
            throttle: FakeThrottle::default(),
            tsa: None,
            proxy: None,
            other_queue: None,
            queue_nodes: [NodeId::new().into(), NodeId::new().into()],
            net: Net::Tcp,
            files: Vec::new(),
        }
    }

    pub fn shaping(mut self, text: &str) -> Self {
        self.config.shaping_files = Some(vec![self.file("toml", text)]);
        self
    }

    /// Believes an authority.
    pub fn trusting(mut self, pem: &str) -> Self {
        self.config.tls.ca = self.file("pem", pem);
        self
    }

    /// Removed with the world.
    fn file(&mut self, kind: &str, text: &str) -> PathBuf {
        let file = std::env::temp_dir().join(format!("{}.{kind}", MessageId::new()));
        std::fs::write(&file, text).unwrap();
        self.files.push(file.clone());
        file
    }

    pub async fn start(self) -> World {
        let host = Host { net: self.net, ..Host::new(NodeId::new()) };
        let tsa = self.tsa.map(|tsa| Peers::here(NodeId::new(), Arc::new(tsa) as godwit_proto::tsa::Tsa));
        let queues = [Some(self.queue.clone()), self.other_queue].into_iter().flatten();
        let queue = |(queue, node)| {
            let handle = Arc::new(queue) as godwit_proto::queue::Queue;
            Peer { name: "a queue".into(), handle, node }
        };
        let queues = queues.zip(self.queue_nodes).map(queue).collect();
        let proxy = |proxy| Peer::here(NodeId::new(), Arc::new(proxy) as godwit_proto::proxy::Proxy);
        let proxies = self.proxy.into_iter().map(proxy);
        let deps = Deps {
            queues: Peers::new(queues),
            throttle: Arc::new(self.throttle.clone()),
            tsa: tsa.unwrap_or_else(|| Peers::new(Vec::new())),
            proxies: Peers::new(proxies.collect()),
        };
        let service = svc_egress::build(self.config, deps, &host).await.unwrap();
        World { queue: self.queue, throttle: self.throttle, host, service, files: self.files }
    }
}

impl World {
    /// Stops it; everything must end by itself.
    pub async fn finish(self) {
        assert!(self.host.stop.finish(Duration::from_secs(15)).await, "tasks still run");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
