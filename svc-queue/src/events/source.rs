//! Where the log's bytes come from: the spool, or something else that numbers events.

use crate::spool::{Error, Events, Spool};
use tokio::sync::watch;

/// Durable events, numbered from 1 without holes.
#[tonic::async_trait]
pub trait Source: Send + Sync {
    /// Names the log; new when the disk is new.
    fn log_id(&self) -> u128;

    /// The newest durable number (0: none yet).
    fn newest(&self) -> watch::Receiver<u64>;

    /// Events from `from` on, at most so many and (beyond the first) so many bytes.
    async fn events(&self, from: u64, count_max: usize, bytes_max: usize) -> Result<Events, Error>;
}

#[tonic::async_trait]
impl Source for Spool {
    fn log_id(&self) -> u128 {
        Spool::log_id(self)
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.newest_event()
    }

    async fn events(&self, from: u64, count_max: usize, bytes_max: usize) -> Result<Events, Error> {
        Spool::events(self, from, count_max, bytes_max).await
    }
}
