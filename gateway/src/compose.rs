//! Places the services: each that has a section is built here, leaves first, and handed to those that need it; each that
//! has none is reached at its peers. Near and far are the same handles.

use crate::config::{self, Config, Gateway};
use crate::http;
use anyhow::{Context, Result};
use godwit_kit::alone::CLOSING;
pub use godwit_kit::alone::GRACE;
use godwit_kit::config::Document;
use godwit_kit::{Host, House, disk};
use godwit_proto::{ingress, proxy, queue, throttle, tsa};
use std::net::SocketAddr;
use std::sync::Arc;

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
        let finished = self.host.stop.finish(GRACE.saturating_sub(CLOSING)).await;
        let sealed = match &self.queue {
            Some(queue) => tokio::time::timeout(CLOSING, queue.close()).await.is_ok(),
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
    let host = Host::new(disk::node_id(&config.server.node_id, &config.server.data_dir)?);
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
    let tokens = config.gateway.as_ref().map(Gateway::tokens).unwrap_or_default();
    let mut house = House::new(&config.server, &config.peers, tokens.clone(), host)?;

    let throttle = match config.throttle {
        Some(section) => Some(svc_throttle::place(section, &mut house).context("throttle")? as throttle::Throttle),
        None => house.first("throttle", throttle::at),
    };
    let own_tsa = match config.tsa {
        Some(section) => Some(svc_tsa::place(section, &mut house).await.context("tsa")? as tsa::Tsa),
        None => None,
    };
    let tsas = house.all("tsa", own_tsa, tsa::at);
    let own_proxy = match config.proxy {
        Some(section) => Some(svc_proxy::place(section, &mut house).await.context("proxy")?),
        None => None,
    };
    let socks5 = own_proxy.as_ref().map(|proxy| proxy.listen_addr());
    let proxies = house.all("proxy", own_proxy.map(|proxy| proxy as proxy::Proxy), proxy::at);
    let own_queue = match config.queue {
        Some(section) => {
            let deps = svc_queue::Deps { tsa: tsas.clone(), throttle: throttle.clone() };
            Some(svc_queue::place(section, deps, &mut house).await.context("queue")?)
        }
        None => None,
    };
    let queues = house.all("queue", own_queue.clone().map(|queue| queue as queue::Queue), queue::at);
    let own_ingress = match config.ingress {
        Some(section) => Some(svc_ingress::place(section, queues.clone(), &mut house).await.context("ingress")?),
        None => None,
    };
    let smtp = own_ingress.as_ref().map(|ingress| ingress.listen_addrs().to_vec()).unwrap_or_default();
    let ingresses = house.all("ingress", own_ingress.map(|ingress| ingress as ingress::Ingress), ingress::at);
    if let Some(section) = config.egress {
        let throttle = throttle.context("egress needs throttle")?;
        let deps = svc_egress::Deps { queues, throttle, tsa: tsas, proxies };
        svc_egress::place(section, deps, &mut house).await.context("egress")?;
    }
    let http = match config.gateway {
        Some(section) => {
            house.placed("gateway", config::GATEWAY_NEEDS);
            house.forward();
            Some(http::serve(&section, ingresses, host).await?)
        }
        None => None,
    };
    house.tell(&config.telemetry).await?;
    let grpc = house.open().await?;
    tracing::info!(node = %host.node, %grpc, ?http, ?smtp, ?socks5, "godwit runs");
    Ok(Running { host: host.clone(), grpc, http, smtp, socks5, queue: own_queue })
}
