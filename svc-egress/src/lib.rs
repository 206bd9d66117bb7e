//! The way out: takes due mail from the queues, by pull, and hands it to the hosts that take it.
//!
//! The flow, from due to settled:
//! 1. [`watch`] hears from each queue node which lanes have mail due; [`dispatch`] owns what is known of them.
//! 2. [`route`] finds the hosts of a routing domain, [`site`] names the set; the queues are told by [`announce`].
//! 3. [`plan`] says how many connections a backlog is worth; [`limits`] asks the throttle for their slots.
//! 4. [`worker`] lives one connection's life: token → [`connect`] ([`dial`], [`socks5`], [`mod@tls`]) → tokens → Lease →
//!    [`delivery`] over a [`session`] → [`settle`]; [`renew`] keeps what is [`held`].
//! 5. What never reaches a connection is settled lane by lane ([`lane_work`]); the TSA's orders ([`actions`]) close and
//!    open sites and change their [`path`].
//!
//! **Invariants**
//! - No mail is held while waiting for a throttle: tokens come before Lease, what is left over is given back.
//! - A lane's or a site's failure holds up no other: each crew waits for itself, the dispatcher for nobody.
//! - Each event costs what it changed; nothing looks at all lanes but a queue node's new snapshot.
//! - Pure: site, classify, path, plan, source, guard, actions, lanes. Only `route` knows the DNS resolver.
//! - A worker's outcomes that the queue has not confirmed are bounded: connections × that bound may be sent twice.

mod actions;
mod announce;
mod attempt;
mod classify;
mod config;
mod connect;
mod crew;
mod delivery;
mod dial;
mod dispatch;
mod error;
mod guard;
mod held;
mod lane_work;
mod lanes;
mod limits;
mod meters;
mod node;
mod path;
mod plan;
mod proxies;
mod renew;
mod route;
mod service;
mod session;
mod settle;
mod shared;
mod site;
mod socks5;
mod source;
mod tls;
mod tsa_watch;
mod watch;
mod worker;

pub use config::{Config, PoolConfig, Route, SourceConfig, TlsConfig};
pub use error::Error;
pub use service::Service;

use crate::dispatch::Dispatcher;
use crate::limits::Limits;
use crate::meters::Meters;
use crate::node::{Around, Node};
use crate::route::{Found, Router};
use crate::shared::{Event, Shared};
use godwit_kit::config::Faults;
use godwit_kit::peers::Peers;
use godwit_kit::{Host, House, sized};
use godwit_proto::egress::EgressServiceServer;
use godwit_proto::proxy::Proxy;
use godwit_proto::queue::Queue;
use godwit_proto::throttle::Throttle;
use godwit_proto::tsa::Tsa;
use godwit_shaping::Shaping;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events that wait for the dispatcher; who finds no room waits.
const EVENTS_MAX: usize = 4_096;

/// Whom egress calls.
pub struct Deps {
    pub queues: Peers<Queue>,
    pub throttle: Throttle,
    /// May be empty: then nothing is shaped automatically.
    pub tsa: Peers<Tsa>,
    /// May be empty; needed where a source's proxy is `auto`.
    pub proxies: Peers<Proxy>,
}

/// Builds the service and starts its tasks, which end with `host.stop`: mail that is being sent is finished within
/// the grace, what is leased and unsent is given back, outcomes are settled.
///
/// # Errors
/// Where shaping files or secrets cannot be read, or no queue is named.
pub async fn build(config: Config, deps: Deps, host: &Host) -> Result<Service, Error> {
    if deps.queues.is_empty() {
        return Err(Error::Config("egress needs a queue: neither here nor a peer".into()));
    }
    let mut faults = Faults::default();
    let shaping = Shaping::load(&config.shaping(), &mut faults);
    if !faults.is_empty() {
        return Err(Error::Config(faults.to_string()));
    }
    let (events, heard) = mpsc::channel(EVENTS_MAX);
    let shared = Arc::new(share(&config, &deps, host, events)?);
    let actions = Arc::new(Mutex::default());
    let files = Arc::new(Mutex::new(shaping.clone()));
    let dispatcher = Dispatcher::new(shared.clone(), Arc::clone(&actions), files.clone());
    host.stop.spawn(dispatcher.run(heard));
    host.stop.spawn(tsa_watch::run(shared.clone(), deps.tsa, Arc::clone(&actions)));
    host.stop.spawn(find_sites(shared.clone(), shaping));
    start_limits(&shared);
    for node in &shared.nodes {
        start_node(&shared, node);
    }
    Ok(Service { shared, actions, shaping: files })
}

/// Without these it is not ready.
pub const NEEDS: &[&str] = &["queue", "throttle", "tsa"];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub async fn place(config: Config, deps: Deps, house: &mut House) -> Result<Arc<Service>, Error> {
    let service = Arc::new(build(config, deps, &house.host).await?);
    house.serve(sized!(EgressServiceServer::from_arc(service.clone())));
    house.placed("egress", NEEDS);
    Ok(service)
}

fn share(config: &Config, deps: &Deps, host: &Host, events: mpsc::Sender<Event>) -> Result<Shared, Error> {
    let sources = config.sources().map_err(Error::Config)?;
    let pools = config.pools(&sources);
    let meters = Meters::new(&host.metrics);
    let workers = TaskTracker::new();
    let around = Around { host, meters: &meters, lease: config.lease, workers: &workers };
    let nodes = deps.queues.all().iter().enumerate();
    let nodes = nodes.map(|(index, peer)| Arc::new(Node::start(index, peer.clone(), &around))).collect();
    let own = sources.iter().filter_map(|source| source.address).collect();
    let guard = guard::Guard { allow_networks: config.allow_networks.clone(), own };
    let router = Router::new(config);
    let proxies = proxies::Proxies::watch(&deps.proxies, host);
    let dialer = dial::Dialer { net: host.net.clone(), router: router.clone(), guard: Arc::new(guard), proxies };
    let authorities = config.tls.authorities().map_err(Error::Config)?;
    let tls = tls::Connector::new(authorities, host)
        .map_err(|error| Error::Config(format!("egress.tls.ca: {}: {error}", config.tls.ca.display())))?;
    Ok(Shared {
        host: host.clone(),
        nodes,
        queues: deps.queues.clone(),
        sources: sources.into_iter().map(Arc::new).collect(),
        pools,
        router,
        dialer,
        tls,
        limits: Limits::new(deps.throttle.clone(), host),
        meters,
        ehlo_domain: config.ehlo_domain(),
        unsettled_per_connection_max: config.unsettled_per_connection_max,
        stop_grace: config.stop_grace,
        lookups_max: config.lookups_max,
        connections: Arc::new(Semaphore::new(config.connections_max)),
        workers,
        orders_known: CancellationToken::new(),
        events,
    })
}

fn start_node(shared: &Arc<Shared>, node: &Arc<Node>) {
    shared.host.stop.spawn(watch::run(shared.clone(), node.clone()));
    shared.host.stop.spawn(node.announcer.clone().run(shared.clone(), node.index));
}

/// The heartbeat outlives the connections.
fn start_limits(shared: &Arc<Shared>) {
    let ended = CancellationToken::new();
    shared.host.stop.spawn(shared.limits.clone().run(ended.clone()));
    let (stop, workers) = (shared.host.stop.clone(), shared.workers.clone());
    shared.host.stop.spawn(async move {
        stop.requested().await;
        workers.wait().await;
        ended.cancel();
    });
}

/// Finds the sites of the shaping files' domains, so that their blocks hold for all that share them. Not of those that
/// merely go where everything goes: their limits are not that host's.
async fn find_sites(shared: Arc<Shared>, shaping: Shaping) {
    for domain in shaping.domains_rolled_up().filter(|domain| !shared.router.is_catch_all(domain)) {
        let found = tokio::select! {
            found = shared.router.find(domain) => found,
            () = shared.host.stop.requested() => return,
        };
        if let Found::Route(route) = found {
            shared.say(Event::Sited { domain: domain.into(), site: route.site.clone() }).await;
        }
    }
}
