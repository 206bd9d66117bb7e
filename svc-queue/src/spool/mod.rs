//! The durable spool: what it has answered for is on the disk, and comes back after any crash.
//!
//! It holds opaque bytes and knows nothing of scheduling or gRPC. Use:
//!
//! ```ignore
//! let (spool, recovery) = Spool::open(Config::default(), dir)?;                   // blocking: once, at start
//! let mut pages = spool.recovered();
//! while let Some(page) = pages.next().await? { /* apply each Live in order, before serving */ }
//! drop(pages);
//! spool.append(vec![Record::Message { .. }, Record::Event { .. }]).await?;        // durable when it returns
//! ```
//!
//! Flow of an append: `record` checksums on the caller's side → inbox → `committer` takes all that waits, `stage` decides
//! verdicts and places, one vectored write, one sync → `index`, cache and event ring learn of it → answers.
//! Behind it: `keeper` (sidecars, marks, space), `compact` (sparse segments), `mover` (events out of the log).
//! At start: `recovery`, with `segment`'s scan where a sidecar is missing.
//!
//! Invariants:
//! - **Only the committer writes to the log, and the index changes only after the sync.**
//! - **No record counts that was not written by this spool, at this place** (`record::Key`).
//! - **A segment goes only after what it says about others has been carried over** (`keeper`).
//! - **`disk.rs` is the one file of the crate that touches the file system.**

mod committer;
mod compact;
pub mod disk;
mod events;
mod index;
mod keeper;
mod mover;
mod read;
mod record;
mod recovered;
mod recovery;
mod segment;
mod shared;
mod sidecar;
#[doc(hidden)]
pub mod sim;
mod stage;
mod types;

pub use recovered::Recovered;
pub use types::{
    Appended, Config, Error, Events, Fault, Health, Id, Live, Lookup, OpenError, Piece, Record, Recovery, Stats,
    Stored, Verdict, What,
};

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot, watch};

use committer::{Append, Committer, Finished, Request};
use keeper::{Job, Keeper, Preparer};
use mover::Mover;
use record::Prepared;
use recovery::Opened;
use shared::{Shared, lock};

/// Batches with more than this are checksummed on a blocking thread.
const CHECKSUM_INLINE_BYTES_MAX: usize = 1 << 20;
const BATCH_BYTES_MAX: usize = 2 << 30;

/// The one type that the service sees. Cheap to clone; all clones are one spool.
#[derive(Clone)]
pub struct Spool {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Request>,
    keeper: std_mpsc::Sender<Job>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Spool {
    /// Opens (or makes) a spool in a folder. Blocks while it reads sidecars and the log's tail.
    pub fn open(config: Config, dir: &Path) -> Result<(Spool, Recovery), OpenError> {
        Self::open_on(config, Arc::new(disk::RealDisk::at(dir)?))
    }

    /// The same on any disk.
    pub fn open_on(config: Config, disk: Arc<dyn disk::Disk>) -> Result<(Spool, Recovery), OpenError> {
        let opened = recovery::open(config, disk)?;
        let recovery = opened.recovery.clone();
        let spool = Self::start(opened)?;
        let Recovery { messages, segments, segments_scanned, newest_event_seq, faults } = &recovery;
        let faults = faults.len();
        tracing::info!(messages, segments, segments_scanned, newest_event_seq, faults, "spool open");
        Ok((spool, recovery))
    }

    fn start(opened: Opened) -> std::io::Result<Spool> {
        let Opened { shared, prev, next_segment, ended, unsealed, .. } = opened;
        let (inbox, requests) = mpsc::channel(shared.config.inbox_max);
        let (keeper_jobs, jobs) = std_mpsc::channel();
        let (stop_mover, stop) = std_mpsc::channel();
        let (ready, fresh) = std_mpsc::sync_channel(0);
        let mut finished = Finished::default();
        ended.into_iter().for_each(|id| finished.insert(id, shared.config.finished_max));
        let next_event = *shared.newest_event.borrow() + 1;
        let preparer = Preparer { shared: shared.clone(), next: next_segment, ready };
        let keeper = Keeper { shared: shared.clone(), jobs, inbox: inbox.downgrade(), stop_mover, unsealed };
        let mover = Mover { shared: shared.clone(), stop, keeper: keeper_jobs.clone() };
        let committer = Committer {
            shared: shared.clone(),
            inbox: requests,
            fresh,
            keeper: keeper_jobs.clone(),
            active: None,
            prev,
            next_event,
            finished,
            retry_at: None,
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(format!("spool-{name}")).spawn(run)
        };
        let threads = vec![
            spawn("prepare", Box::new(|| preparer.run()))?,
            spawn("keep", Box::new(|| keeper.run()))?,
            spawn("events", Box::new(|| mover.run()))?,
            spawn("commit", Box::new(|| committer.run()))?,
        ];
        Ok(Spool { shared, inbox, keeper: keeper_jobs, threads: Arc::new(Mutex::new(threads)) })
    }

    /// Appends one batch; returns once it is durable. Waits while the inbox is full. Marks of unknown (ended) messages are
    /// accepted and do nothing. Dropping the future does not undo it.
    pub async fn append(&self, batch: Vec<Record>) -> Result<Appended, Error> {
        let size_bytes: usize = batch.iter().map(Record::size_bytes).sum();
        if size_bytes > BATCH_BYTES_MAX {
            return Err(Error::unavailable("a batch is larger than the spool takes"));
        }
        let prepare = move || batch.into_iter().map(Prepared::new).collect::<Result<Vec<_>, _>>();
        let batch = if size_bytes > CHECKSUM_INLINE_BYTES_MAX { blocking(prepare).await? } else { prepare()? };
        let (reply, answer) = oneshot::channel();
        let closed = |_| Error::unavailable("the spool is closed");
        self.inbox.send(Request::Append(Append { batch, reply })).await.map_err(closed)?;
        // A request that was taken but not answered: the committer is gone, in the middle of it.
        answer.await.map_err(|_| Error::Unknown)?
    }

    /// Whole messages, in the order asked.
    pub async fn read(&self, ids: Vec<Id>) -> Result<Vec<Lookup>, Error> {
        self.read_up_to(ids, usize::MAX).await
    }

    /// The same without bodies that are larger than `body_bytes_max`: those come empty, and are neither read nor verified.
    pub async fn read_up_to(&self, ids: Vec<Id>, body_bytes_max: usize) -> Result<Vec<Lookup>, Error> {
        let mut found = read::from_cache(&self.shared, &ids);
        let missing: Vec<usize> = (0..ids.len()).filter(|&i| found[i].is_none()).collect();
        if !missing.is_empty() {
            let shared = self.shared.clone();
            let wanted: Vec<Id> = missing.iter().map(|&i| ids[i]).collect();
            let lookups = blocking(move || Ok(read::read_many(&shared, &wanted, body_bytes_max))).await?;
            missing.into_iter().zip(lookups).for_each(|(i, lookup)| found[i] = Some(lookup));
        }
        Ok(found.into_iter().map(|lookup| lookup.unwrap_or(Lookup::Missing)).collect())
    }

    /// A piece of a body, for streaming large ones; reads and verifies no more than the blocks around it.
    pub async fn read_body(&self, id: Id, offset: u64, bytes_max: usize) -> Result<Piece, Error> {
        let shared = self.shared.clone();
        blocking(move || read::read_piece(&shared, id, offset, bytes_max)).await
    }

    /// Events from `from` on, at most so many and (beyond the first) so many bytes. Empty at the end of the log.
    pub async fn events(&self, from: u64, count_max: usize, bytes_max: usize) -> Result<Events, Error> {
        let recent = lock(&self.shared.ring).from(from, count_max, bytes_max);
        if let Some(items) = recent {
            let next = items.last().map_or(from, |(seq, _)| seq + 1);
            return Ok(Events { items, gap: None, next });
        }
        let shared = self.shared.clone();
        blocking(move || mover::read_events(&shared, from, count_max, bytes_max)).await
    }

    /// The newest durable event's number (0: none yet); changes at each commit that wrote events.
    pub fn newest_event(&self) -> watch::Receiver<u64> {
        self.shared.newest_event.subscribe()
    }

    /// Names this log; new when the disk is new, so that a cursor is (log_id, seq).
    pub fn log_id(&self) -> u128 {
        self.shared.log_id
    }

    /// Live messages, states and admin values as they were at open. Iterate it to the end before serving, then drop it: only
    /// then does the spool begin to give space back.
    pub fn recovered(&self) -> Recovered {
        Recovered::new(self.shared.clone(), self.keeper.clone())
    }

    /// A sick disk is a state, not a crash.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let newest = *self.shared.newest_event.borrow();
        let (inbox_max, inbox_free) = (self.inbox.max_capacity() as u64, self.inbox.capacity() as u64);
        let (events_bytes, moved_oldest) = {
            let events = lock(&self.shared.events);
            (events.bytes, events.oldest())
        };
        let index = lock(&self.shared.index);
        let in_log = index.segments.values().filter(|s| s.first_event > 0).map(|s| s.first_event).min();
        Stats {
            messages: index.len() as u64,
            segments: index.segments.len() as u64,
            live_bytes: index.live_bytes,
            disk_bytes: index.segments.values().map(|s| u64::from(s.capacity)).sum(),
            spares: lock(&self.shared.spares).len() as u64,
            cache_bytes: lock(&self.shared.cache).bytes as u64,
            events_newest_seq: newest,
            events_oldest_seq: moved_oldest.or(in_log).unwrap_or(newest + 1),
            events_moved_seq: index.moved_event,
            events_bytes,
            inbox: inbox_max - inbox_free,
            inbox_max,
            commits: counters.commits.load(Ordering::Relaxed),
            records: counters.records.load(Ordering::Relaxed),
            written_bytes: counters.written_bytes.load(Ordering::Relaxed),
            faults: counters.faults.load(Ordering::Relaxed),
        }
    }

    /// Commits what waits, seals the log, stops the threads. Later calls answer `Unavailable`.
    pub async fn close(&self) {
        let _ = self.inbox.send(Request::Close).await;
        let threads = std::mem::take(&mut *lock(&self.threads));
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
        let _ = joined.await;
    }
}

impl Record {
    fn size_bytes(&self) -> usize {
        match self {
            Record::Message { head, meta, body, .. } => head.len() + meta.len() + body.len(),
            Record::Change { state, .. } => state.len(),
            Record::Done { .. } | Record::End { .. } => 0,
            Record::Event { payload, .. } => payload.len(),
            Record::Admin { key, value } => key.len() + value.as_ref().map_or(0, bytes::Bytes::len),
        }
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(run).await.map_err(Error::unavailable)?
}
