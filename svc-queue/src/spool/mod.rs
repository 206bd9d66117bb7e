//! The durable spool: what it has answered for is on the disk, and comes back after any crash.
//!
//! It holds opaque bytes and knows nothing of scheduling or gRPC. Use:
//!
//! ```ignore
//! let (spool, recovery) = Spool::open(Config::default(), RealDisk::at(dir)?)?;   // blocking: once, at start
//! let mut pages = spool.recovered();
//! while let Some(page) = pages.next().await? { /* apply each Live in order, before serving */ }
//! spool.append(vec![Record::Message { .. }, Record::Event { .. }]).await?;       // durable when it returns
//! ```

mod types;

pub use types::{
    Appended, Config, Error, Events, Fault, Health, Id, Live, Lookup, OpenError, Piece, Record, Recovery, Stats,
    Stored, Verdict, What,
};

use std::sync::Arc;

use tokio::sync::watch;

/// The one type that the service sees. Cheap to clone; all clones are one spool.
#[derive(Clone)]
pub struct Spool {
    inner: Arc<()>,
}

/// The pages of live messages at open. While it exists nothing is moved or dropped.
pub struct Recovered {}

impl Recovered {
    /// The next page (about one segment's worth), or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Live>>, Error> {
        Ok(None)
    }
}

impl Spool {
    /// Opens (or makes) a spool in a folder. Blocks while it reads sidecars and the log's tail.
    pub fn open(_config: Config, _dir: &std::path::Path) -> Result<(Spool, Recovery), OpenError> {
        Ok((Spool { inner: Arc::new(()) }, Recovery::default()))
    }

    /// Appends one batch; returns once it is durable. Waits while the inbox is full. Marks of unknown (ended) messages are
    /// accepted and do nothing. Dropping the future does not undo it.
    pub async fn append(&self, _batch: Vec<Record>) -> Result<Appended, Error> {
        let _ = &self.inner;
        Err(Error::unavailable("not built yet"))
    }

    /// Whole messages, in the order asked.
    pub async fn read(&self, _ids: Vec<Id>) -> Result<Vec<Lookup>, Error> {
        Err(Error::unavailable("not built yet"))
    }

    /// A piece of a body, for streaming large ones; reads and verifies no more than the blocks around it.
    pub async fn read_body(&self, _id: Id, _offset: u64, _bytes_max: usize) -> Result<Piece, Error> {
        Err(Error::unavailable("not built yet"))
    }

    /// Events from `from` on, at most so many and (beyond the first) so many bytes.
    pub async fn events(&self, _from: u64, _count_max: usize, _bytes_max: usize) -> Result<Events, Error> {
        Err(Error::unavailable("not built yet"))
    }

    /// The newest durable event's number (0: none yet); changes at each commit that wrote events.
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    /// Names this log; new when the disk is new, so that a cursor is (log_id, seq).
    pub fn log_id(&self) -> u128 {
        0
    }

    /// Live messages, states and admin values as they were at open. Iterate it to the end before serving.
    pub fn recovered(&self) -> Recovered {
        Recovered {}
    }

    /// A sick disk is a state, not a crash.
    pub fn health(&self) -> watch::Receiver<Health> {
        watch::channel(Health::Ok).1
    }

    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Commits what waits, seals the log, stops the threads. Later calls answer `Unavailable`.
    pub async fn close(&self) {}
}
