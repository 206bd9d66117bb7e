//! Traffic shaping automation: remotes' answers come in as events, suspensions and settings for their sites go out.
//!
//! The flow: [`Service`] takes `Observe` → [`rules`] says which rules match each event → [`ledger`] adds it to the window
//! of (rule, site, source) → [`window`] says what has fired → [`board`] tells the watchers what changed, at once →
//! [`state`] writes it down, and only then the sender hears how far it is held.
//!
//! **Invariants**
//! - Instances that were given the same set of events, in any order and batching, with repeats, hold the same actions at
//!   the same time. [`window`] says why.
//! - `next_seq` is answered only once everything before it is on disk; reactions do not wait for the disk.
//! - `rules`, `window`, `ledger`, `board`, `cursor` are pure; only `state.rs` says `sled::` and `std::fs`.
//! - What is on disk can be rebuilt by replaying events: damaged, it is set aside, and the senders start over.

mod board;
mod config;
mod cursor;
mod error;
mod ledger;
mod request;
mod rules;
mod service;
mod state;
mod watch;
mod window;
mod writer;

pub use config::Config;
pub use error::Error;
pub use service::Service;

use godwit_kit::config::Faults;
use godwit_kit::{Host, House, sized};
use godwit_proto::tsa::TsaServiceServer;
use godwit_shaping::Shaping;
use std::path::Path;
use std::sync::Arc;

/// Opens what is held in `data_dir` and starts the tasks that write and that let actions expire.
///
/// # Errors
/// Faults in the shaping files, or a folder that cannot be used.
pub async fn build(config: Config, data_dir: &Path, host: &Host) -> Result<Service, Error> {
    let mut faults = Faults::default();
    let shaping = Shaping::load(&config.shaping_files, &mut faults);
    if !faults.is_empty() {
        return Err(Error::Shaping(faults));
    }
    for warning in shaping.warnings() {
        tracing::warn!(key = %warning.key, what = %warning.what, "shaping");
    }
    let (disk, held) = state::Disk::open(data_dir.join("tsa")).await?;
    Ok(Service::start(&config, rules::Rules::new(&shaping), (disk, held), host))
}

/// It stands alone.
pub const NEEDS: &[&str] = &[];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub async fn place(config: Config, house: &mut House) -> Result<Arc<Service>, Error> {
    let service = Arc::new(build(config, &house.data_dir, &house.host).await?);
    house.serve(sized!(TsaServiceServer::from_arc(service.clone())));
    house.placed("tsa", NEEDS);
    Ok(service)
}
