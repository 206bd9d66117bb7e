//! The throttle service: limits that hold across nodes, as rates and as counted slots.
//!
//! A call is read into the store's terms ([`ask`]), the store is asked ([`store`]), and its answer is given ([`service`]).
//! There are two stores: memory ([`memory`]), where two pure cores decide ([`bucket`] for rates, [`lease`] for slots), and
//! Redis ([`redis`]), where scripts decide the same for several nodes. When Redis is away each node goes on with its share
//! of each limit: [`tenure`] says from when on, [`share`] how much.
//!
//! **Invariants**: the cores see no clock; the store owns the one clock that counts; a refusal is an answer, not an error;
//! a call that fails has taken nothing; a limit is not exceeded in sum, whoever can reach whom.

pub mod ask;
pub mod bucket;
pub mod config;
pub mod error;
pub mod grain;
pub mod lease;
pub mod memory;
pub mod redis;
pub mod service;
pub mod share;
pub mod store;
pub mod take;
pub mod tenure;

pub use config::Config;
pub use error::Error;
pub use service::Service;

use crate::redis as shared;
use godwit_kit::{Host, House, sized};
use godwit_proto::throttle::ThrottleServiceServer;
use std::sync::Arc;

/// The service over its store. Redis need not answer yet.
///
/// # Errors
/// An address of Redis, or a file, that cannot be read.
pub fn build(config: Config, host: &Host) -> Result<Service, Error> {
    if config.is_shared() {
        return Ok(Service::new(Arc::new(shared::Shared::open(config, host)?), host));
    }
    let prune_interval = config.prune_interval;
    let memory = Arc::new(memory::Memory::new(&config, host.clock.clone()));
    host.health.set(service::NAME, "store", Ok(()));
    host.stop.spawn(prune(memory.clone(), prune_interval, host.clone()));
    Ok(Service::new(memory, host))
}

/// It stands alone.
pub const NEEDS: &[&str] = &[];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub fn place(config: Config, house: &mut House) -> Result<Arc<Service>, Error> {
    let service = Arc::new(build(config, &house.host)?);
    house.serve(sized!(ThrottleServiceServer::from_arc(service.clone())));
    house.placed("throttle", NEEDS);
    Ok(service)
}

async fn prune(memory: Arc<memory::Memory>, interval: std::time::Duration, host: Host) {
    let keys = host.metrics.gauge("godwit_throttle_keys_count", "Keys held in memory");
    let prune = async {
        loop {
            host.clock.sleep(interval).await;
            memory.prune();
            keys.set(i64::try_from(memory.key_count()).unwrap_or(i64::MAX));
        }
    };
    host.stop.token().run_until_cancelled(prune).await;
}
