//! The throttle service: limits that hold across nodes, as rates and as counted slots.
//!
//! A call is read into the store's terms ([`ask`]), the store is asked ([`store`]), and its answer is given ([`service`]).
//! The one store of this version is memory ([`memory`]); what it decides is decided by two pure cores: [`bucket`] for
//! rates, [`lease`] for slots.
//!
//! **Invariants**: the cores see no clock; the store owns the one clock that counts; a refusal is an answer, not an error;
//! a call that fails has taken nothing.

pub mod ask;
pub mod bucket;
pub mod config;
pub mod error;
pub mod grain;
pub mod lease;
pub mod memory;
pub mod service;
pub mod share;
pub mod store;
pub mod take;

pub use config::Config;
pub use error::Error;
pub use service::Service;

use godwit_kit::{Host, House, sized};
use godwit_proto::throttle::ThrottleServiceServer;
use std::sync::Arc;

/// The service over a store in memory, and the task that forgets its idle keys.
pub fn build(config: Config, host: &Host) -> Service {
    let prune_interval = config.prune_interval;
    let memory = Arc::new(memory::Memory::new(&config, host.clock.clone()));
    host.health.set(service::NAME, "store", Ok(()));
    host.stop.spawn(prune(memory.clone(), prune_interval, host.clone()));
    Service::new(memory, host)
}

/// It stands alone.
pub const NEEDS: &[&str] = &[];

/// Builds the service in `house`, which serves it.
pub fn place(config: Config, house: &mut House) -> Arc<Service> {
    let service = Arc::new(build(config, &house.host));
    house.serve(sized!(ThrottleServiceServer::from_arc(service.clone())));
    house.placed("throttle", NEEDS);
    service
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
