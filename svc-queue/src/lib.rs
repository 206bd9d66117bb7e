//! The queue: holds accepted mail durably, says when each may be tried, hands it out under leases, and keeps the log of
//! what became of it.
//!
//! ```text
//! Enqueue ─► intake ─► spool (one append) ─► core ─► WatchDue, Lease ─► egress
//!                                             ▲                          │
//!                     events ◄── spool ◄── outcome ◄── Settle ◄──────────┘
//! ```
//! - [`service`]: the contract · `enqueue`, `leasing`, `settle`, `watch`, `withdraw`, `bodies`, `rates`: its calls
//! - `admin`, `selector`: what operators see and do
//! - [`core`]: every delivery in memory · [`lane`]: due order and fair turns · [`lease`], [`schedule`]: pure
//! - `intake`, `outcome`, [`stored`]: between the contract, the core and the spool; pure
//! - `driver`: what time does · `start`: recovery · `node`: what all of them share
//! - [`spool`]: durability · [`events`]: the log's readers · [`idempotency`]: senders' keys
//!
//! **Invariants**: memory says only what is durable: an operation owns its deliveries while it writes, and applies
//! afterwards. An event is in the same append as the change that it records. Time comes from the host's clock alone.

mod admin;
mod bodies;
mod conclude;
pub mod config;
pub mod core;
mod driver;
mod enqueue;
pub mod error;
pub mod events;
mod finished;
pub mod idempotency;
mod intake;
pub mod lane;
pub mod lease;
mod leasing;
mod metrics;
mod node;
mod outcome;
mod rates;
pub mod schedule;
mod selector;
pub mod service;
mod settle;
pub mod spool;
mod start;
pub mod stored;
mod watch;
mod withdraw;

pub use config::Config;
pub use error::{Error, StartError};
pub use service::Service;

use godwit_kit::{Host, House, peers::Peers, sized};
use godwit_proto::queue::{QueueAdminServiceServer, QueueServiceServer};
use godwit_proto::throttle::Throttle;
use godwit_proto::tsa::Tsa;
use std::path::Path;
use std::sync::Arc;

/// Whom the queue calls.
#[derive(Clone)]
pub struct Deps {
    /// Every one of them gets every event.
    pub tsa: Peers<Tsa>,
    /// Asked where `[queue]` limits the rate of queues.
    pub throttle: Option<Throttle>,
}

/// Opens the spool below `data_dir` and starts the queue on it; its tasks end with the host.
///
/// # Errors
/// The folder is in use or cannot be used. Damage is no error: it is reported and set aside.
pub async fn build(config: Config, data_dir: &Path, deps: Deps, host: &Host) -> Result<Service, StartError> {
    let (spool_config, dir) = (config.spool(), data_dir.join("spool"));
    let opened = tokio::task::spawn_blocking(move || spool::Spool::open(spool_config, &dir)).await;
    let (spool, _) = opened.map_err(|error| StartError::Other(error.to_string()))??;
    build_on(spool, config, data_dir, deps, host).await
}

/// Without these it is not ready.
pub const NEEDS: &[&str] = &["tsa", "throttle"];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub async fn place(config: Config, deps: Deps, house: &mut House) -> Result<Arc<Service>, StartError> {
    let service = Arc::new(build(config, &house.data_dir, deps, &house.host).await?);
    house.serve(sized!(QueueServiceServer::from_arc(service.clone())));
    house.serve(sized!(QueueAdminServiceServer::from_arc(service.clone())));
    house.placed("queue", NEEDS);
    Ok(service)
}

/// The same on a spool that is open, and from which nothing has been recovered yet.
///
/// # Errors
/// The spool cannot be read, or the folder of the keys not be used.
pub async fn build_on(
    spool: spool::Spool,
    config: Config,
    data_dir: &Path,
    deps: Deps,
    host: &Host,
) -> Result<Service, StartError> {
    let (dir, window) = (data_dir.join("idempotency"), config.idempotency_window);
    let keys = tokio::task::spawn_blocking(move || idempotency::Keys::open(&dir, window)).await;
    let keys = keys.map_err(|error| StartError::Other(error.to_string()))?;
    let keys = keys.map_err(|error| StartError::Other(error.to_string()))?;
    keys.prune_on(host);
    let core = start::recover(&config, &spool, &keys, host).await?;
    let log = events::Log::new(spool.clone(), host);
    events::tsa::start(&log, &deps.tsa, host);
    events::sinks::start(&config.sinks, data_dir, &log, host);
    let metrics = metrics::Metrics::new(&host.metrics);
    let (throttle, host) = (deps.throttle, host.clone());
    let node = node::Node::new(node::Parts { config, core, spool, log, keys, throttle, host, metrics });
    driver::start(&node);
    Ok(Service { node })
}
