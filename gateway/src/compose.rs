//! Places the services: each that has a section is built here, leaves first, and handed to those that need it; each that
//! has none is reached at its peers. Near and far are the same handles.

use crate::config::{self, Config};
use crate::{http, node};
use anyhow::{Context, Result};
use godwit_kit::config::Document;
use godwit_kit::connect::{self, Road};
use godwit_kit::peers::{Peer, Peers};
use godwit_kit::{Host, health, serve};
use godwit_proto::{Wire, egress, ingress, proxy, queue, throttle, tsa};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::{Routes, RoutesBuilder};

/// How long a stop may take.
pub const GRACE: Duration = Duration::from_secs(30);
/// What of it is kept for the queue's log to be sealed.
const SEAL: Duration = Duration::from_secs(5);

/// A process that runs.
pub struct Running {
    pub host: Host,
    /// The gRPC listener.
    pub grpc: SocketAddr,
    pub http: Option<SocketAddr>,
    /// The SMTP listeners, in the order of the configuration.
    pub smtp: Vec<SocketAddr>,
    pub socks5: Option<SocketAddr>,
    queue: Option<Arc<svc_queue::Service>>,
}

impl Running {
    /// Stops accepting, finishes what is in hand, seals the queue's log, and ends; false where something still runs
    /// after [`GRACE`].
    pub async fn stop(&self) -> bool {
        let finished = self.host.stop.finish(GRACE.saturating_sub(SEAL)).await;
        let sealed = match &self.queue {
            Some(queue) => tokio::time::timeout(SEAL, queue.close()).await.is_ok(),
            None => true,
        };
        finished && sealed
    }
}

/// Starts what the document places here.
///
/// # Errors
/// Every fault of the document, or the first service that cannot start.
pub async fn start(document: &Document) -> Result<Running> {
    let config = Config::read(document)?;
    let host = Host::new(node::id(&config.server.node_id, &config.server.data_dir)?);
    start_on(config, host).await
}

/// The same on a host that was prepared: with another clock or network.
///
/// # Errors
/// As [`start`].
pub async fn start_on(config: Config, host: Host) -> Result<Running> {
    let started = build(config, &host).await;
    if started.is_err() {
        // What was built already must not go on alone.
        host.stop.finish(GRACE).await;
    }
    started
}

async fn build(config: Config, host: &Host) -> Result<Running> {
    let mut house = House { host: host.clone(), roads: roads(&config)?, routes: Routes::builder() };
    let data_dir = &config.server.data_dir;

    let throttle = match config.throttle {
        Some(section) => Some(house.throttle(section)),
        None => house.first("throttle", throttle::at),
    };
    let own_tsa = match config.tsa {
        Some(section) => Some(house.tsa(section, data_dir).await?),
        None => None,
    };
    let tsas = house.all("tsa", own_tsa, tsa::at);
    let (own_proxy, socks5) = match config.proxy {
        Some(section) => house.proxy(section).await.map(|(proxy, at)| (Some(proxy), Some(at)))?,
        None => (None, None),
    };
    let proxies = house.all("proxy", own_proxy, proxy::at);
    let own_queue = match config.queue {
        Some(section) => {
            let deps = svc_queue::Deps { tsa: tsas.clone(), throttle: throttle.clone() };
            Some(house.queue(section, deps, data_dir).await?)
        }
        None => None,
    };
    let own = own_queue.clone().map(|queue| -> queue::Queue { queue });
    let queues = house.all("queue", own, queue::at);
    let (own_ingress, smtp) = match config.ingress {
        Some(section) => house.ingress(section, queues.clone()).await.map(|(ingress, at)| (Some(ingress), at))?,
        None => (None, Vec::new()),
    };
    let ingresses = house.all("ingress", own_ingress, ingress::at);
    if let Some(section) = config.egress {
        let throttle = throttle.context("egress needs throttle")?;
        house.egress(section, svc_egress::Deps { queues, throttle, tsa: tsas, proxies }).await?;
    }
    let http = match config.gateway {
        Some(section) => Some(http::serve(&section, ingresses, host).await?),
        None => None,
    };
    house.watch_dependencies();
    let grpc = serve::serve(host, config.server.listen, house.routes.routes()).await?;
    tracing::info!(node = %host.node, %grpc, ?http, ?smtp, ?socks5, "godwit runs");
    Ok(Running { host: host.clone(), grpc, http, smtp, socks5, queue: own_queue })
}

/// The roads to all peers, by service.
fn roads(config: &Config) -> Result<HashMap<&'static str, Vec<Road>>> {
    let mut roads = HashMap::new();
    for service in config::SERVICES {
        let addresses = config.peers.of(service).iter();
        let opened =
            addresses.map(|address| connect::road(address).with_context(|| format!("peers.{service}: {address}")));
        roads.insert(service, opened.collect::<Result<Vec<_>>>()?);
    }
    Ok(roads)
}

/// What is being built: the services that run here are served, too.
struct House {
    host: Host,
    roads: HashMap<&'static str, Vec<Road>>,
    routes: RoutesBuilder,
}

impl House {
    fn throttle(&mut self, section: svc_throttle::Config) -> throttle::Throttle {
        let service = Arc::new(svc_throttle::build(section, &self.host));
        self.routes.add_service(sized!(throttle::ThrottleServiceServer::from_arc(service.clone())));
        self.placed("throttle");
        service
    }

    async fn tsa(&mut self, section: svc_tsa::Config, data_dir: &std::path::Path) -> Result<tsa::Tsa> {
        let service = Arc::new(svc_tsa::build(section, data_dir, &self.host).await.context("tsa")?);
        self.routes.add_service(sized!(tsa::TsaServiceServer::from_arc(service.clone())));
        self.placed("tsa");
        Ok(service)
    }

    async fn proxy(&mut self, section: svc_proxy::Config) -> Result<(proxy::Proxy, SocketAddr)> {
        let service = Arc::new(svc_proxy::build(section, &self.host).await.context("proxy")?);
        self.routes.add_service(sized!(proxy::ProxyServiceServer::from_arc(service.clone())));
        self.placed("proxy");
        let at = service.listen_addr();
        Ok((service, at))
    }

    async fn queue(
        &mut self,
        section: svc_queue::Config,
        deps: svc_queue::Deps,
        data_dir: &std::path::Path,
    ) -> Result<Arc<svc_queue::Service>> {
        let service = Arc::new(svc_queue::build(section, data_dir, deps, &self.host).await.context("queue")?);
        self.routes.add_service(sized!(queue::QueueServiceServer::from_arc(service.clone())));
        self.routes.add_service(sized!(queue::QueueAdminServiceServer::from_arc(service.clone())));
        self.placed("queue");
        Ok(service)
    }

    async fn ingress(
        &mut self,
        section: svc_ingress::Config,
        queues: Peers<queue::Queue>,
    ) -> Result<(ingress::Ingress, Vec<SocketAddr>)> {
        let service = Arc::new(svc_ingress::build(section, queues, &self.host).await.context("ingress")?);
        self.routes.add_service(sized!(ingress::IngressServiceServer::from_arc(service.clone())));
        self.placed("ingress");
        let at = service.listen_addrs().to_vec();
        Ok((service, at))
    }

    async fn egress(&mut self, section: svc_egress::Config, deps: svc_egress::Deps) -> Result<()> {
        let service = Arc::new(svc_egress::build(section, deps, &self.host).await.context("egress")?);
        self.routes.add_service(sized!(egress::EgressServiceServer::from_arc(service)));
        self.placed("egress");
        Ok(())
    }

    /// It runs here, and says so to health checks.
    fn placed(&self, service: &'static str) {
        self.host.health.set(service, "started", Ok(()));
    }

    /// The first peer of a service of which a process has one.
    fn first<T>(&self, service: &str, at: impl Fn(Wire) -> T) -> Option<T> {
        self.roads[service].first().map(|road| at(road.wire.clone()))
    }

    /// The one that runs here, if any, and the peers.
    fn all<T: Clone>(&self, service: &str, own: Option<T>, at: impl Fn(Wire) -> T) -> Peers<T> {
        let own = own.map(|handle| Peer::here(self.host.node, handle));
        Peers::new(own.into_iter().chain(self.roads[service].iter().map(|road| road.peer(&at))).collect())
    }

    /// A service is ready while each service that it needs answers, here or at one of its peers.
    fn watch_dependencies(&self) {
        let placed: Vec<_> = self.host.health.services();
        for (dependency, roads) in &self.roads {
            let here = placed.contains(dependency);
            let needing = |service: &&'static str| config::needs(service).contains(dependency);
            let dependents: Vec<_> = placed.iter().copied().filter(needing).collect();
            if roads.is_empty() {
                continue;
            }
            // What runs here as well does not wait for its peers; the probe still learns which nodes they are.
            let dependents = if here { Vec::new() } else { dependents };
            self.host.stop.spawn(health::probe(self.host.clone(), dependents, dependency, roads.clone()));
        }
    }
}

/// A generated server with the sizes that mail needs.
macro_rules! sized {
    ($server:expr) => {
        $server
            .max_decoding_message_size(godwit_proto::CALL_BYTES_MAX)
            .max_encoding_message_size(godwit_proto::CALL_BYTES_MAX)
    };
}
use sized;
