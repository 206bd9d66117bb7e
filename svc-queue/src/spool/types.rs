//! The words of the spool's interface: what is appended, what is answered, what is read back. No files, no clocks.

use std::time::Duration;

use bytes::Bytes;

/// A message's id (a UUIDv7 as a number). The spool only compares it.
pub type Id = u128;

/// One line of the log. Records of one `append` are adjacent and are applied together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A new message. `head` is what the service's index needs at restart and is handed out by `recovered`; `meta` (the
    /// envelope) and `body` are only read by `read`. The body is never copied on its way to the disk.
    Message { id: Id, head: Bytes, meta: Bytes, body: Bytes },
    /// The newest state of a delivery (`part` is its number within the message). The newest wins.
    Change { id: Id, part: u16, state: Bytes },
    /// That delivery is finished. A later `Change` of the same part is ignored by recovery.
    Done { id: Id, part: u16 },
    /// The message is finished as a whole: its body may go. The spool does not count parts, so the service says this.
    End { id: Id },
    /// An event; it gets its number (dense, from 1) at the commit. With `of` set it is not written if that message,
    /// in the same batch, turns out to be a duplicate.
    Event { of: Option<Id>, payload: Bytes },
    /// Small durable state, kept whole in memory. The newest wins; `None` deletes.
    Admin { key: Bytes, value: Option<Bytes> },
}

/// What became of an `append`, once it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The number of the first event written by this batch (the others follow without a gap), if it wrote any.
    pub first_event_seq: Option<u64>,
    /// One verdict a `Record::Message`, in the batch's order.
    pub messages: Vec<Verdict>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// The id is in the spool, or was finished a short while ago: nothing was written for it.
    Duplicate,
}

/// Why the spool did not do what was asked. The three are never mixed up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The log belongs to somebody else now (a replicated spool's epoch has moved on). Never retried here.
    #[error("the spool is not ours any more")]
    Fenced,
    /// The commit's outcome is not known: it may or may not be there after a restart. Ask again with the same id.
    #[error("the outcome of the commit is not known")]
    Unknown,
    /// Nothing was written: no space, a sick disk, closed. May be tried again later or elsewhere.
    #[error("the spool is unavailable: {reason}")]
    Unavailable { reason: String },
}

impl Error {
    pub(super) fn unavailable(reason: impl ToString) -> Self {
        Error::Unavailable { reason: reason.to_string() }
    }
}

/// Why a spool could not be opened at all. Damage is never a reason: that is reported in [`Recovery`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another spool in this one) has this folder open.
    #[error("the spool is in use by another instance: {holder}")]
    InUse { holder: String },
    #[error("the spool's folder cannot be used: {0}")]
    Unusable(#[from] std::io::Error),
}

/// A message as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub meta: Bytes,
    /// Empty where it is larger than was asked for.
    pub body: Bytes,
}

/// The answer for one id of a `read`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Found(Stored),
    /// Never accepted, or finished.
    Missing,
    /// It is there but its checksum does not hold; the bytes have been set aside. It stays until the service ends it.
    Damaged,
    /// The disk would not give it just now; it may later.
    Unreadable(String),
}

impl Lookup {
    pub fn found(self) -> Option<Stored> {
        match self {
            Lookup::Found(stored) => Some(stored),
            Lookup::Missing | Lookup::Damaged | Lookup::Unreadable(_) => None,
        }
    }
}

/// The answer of `read_body`: a piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// `bytes` begins at the offset asked for and is shorter than asked only at the end of the body.
    Found {
        bytes: Bytes,
        body_bytes: u64,
    },
    Missing,
    Damaged,
}

/// A page of the event log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    /// In order, each with its number.
    pub items: Vec<(u64, Bytes)>,
    /// Numbers (both inclusive) that were asked for and are gone: older than the retention, or damaged. They come before
    /// all of `items`.
    pub gap: Option<(u64, u64)>,
    /// Where to go on. Equal to the newest durable number plus one when the page reaches the end.
    pub next: u64,
}

/// What `recovered` hands out, in an order in which it can be applied: a message always before its states. Of states only
/// the newest comes, and nothing of a message that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Live {
    Message { id: Id, head: Bytes, body_bytes: u32 },
    State { id: Id, part: u16, state: Bytes },
    Done { id: Id, part: u16 },
    Admin { key: Bytes, value: Bytes },
}

/// What opening the spool found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    pub messages: u64,
    pub segments: u64,
    /// Segments that had to be read in full, for want of a good sidecar.
    pub segments_scanned: u64,
    pub newest_event_seq: u64,
    /// Each has been logged, and its bytes copied to `quarantine/`.
    pub faults: Vec<Fault>,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the piece of the log in which it lies.
    pub segment: String,
    pub offset: u64,
    pub size_bytes: u64,
    pub what: What,
    /// The message that is lost, where that is known.
    pub id: Option<Id>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The end of the log was being written at the crash. Nothing in it was acknowledged.
    TornTail,
    /// Bytes that are no record of this log (flipped, overwritten, stale or forged).
    Garbage,
    /// A record's header holds, its content does not.
    BadContent,
    /// The file ends before its records do.
    Truncated,
    /// A segment whose header is beyond reading: all of it was set aside.
    BadHeader,
    /// A sidecar that had to be rebuilt, or a mark file with damage.
    BadSidecar,
    BadMarks,
    /// A damaged block or file of moved events.
    BadEvents,
    /// The file system refused to read it.
    Unreadable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Ok,
    /// The last commit failed; the next append after a short while tries the disk again.
    Sick {
        reason: String,
    },
    Closed,
}

/// Figures for metrics; all are read without touching the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub messages: u64,
    pub segments: u64,
    pub live_bytes: u64,
    /// Bytes of all segment files, spares not counted.
    pub disk_bytes: u64,
    pub spares: u64,
    pub cache_bytes: u64,
    pub events_newest_seq: u64,
    pub events_oldest_seq: u64,
    /// Up to here events have left the log for the event segments.
    pub events_moved_seq: u64,
    pub events_bytes: u64,
    /// Appends waiting for the committer, and how many may wait.
    pub inbox: u64,
    pub inbox_max: u64,
    pub commits: u64,
    pub records: u64,
    pub written_bytes: u64,
    /// Damage met since the start, recovery included.
    pub faults: u64,
}

/// Every bound of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A segment's size. A batch that does not fit gets a segment of its own size.
    pub segment_bytes: u32,
    /// Appends that may wait; further callers wait for room.
    pub inbox_max: usize,
    /// What one `fdatasync` may cover.
    pub commit_bytes_max: usize,
    /// Just accepted messages kept in memory for the first attempt.
    pub cache_bytes_max: usize,
    /// How long, and how many, finished ids are remembered as duplicates (about 60 bytes each).
    pub finished_for: Duration,
    pub finished_max: usize,
    /// Retention of the event segments.
    pub events_bytes_max: u64,
    pub events_age_max: Option<Duration>,
    /// Newest events kept in memory for tailing.
    pub events_ring_bytes_max: usize,
    /// Events are moved out of the log when this many bytes wait, or after `events_move_after`.
    pub events_block_bytes: usize,
    pub events_move_after: Duration,
    /// Emptied segments kept for writing over.
    pub spares_max: usize,
    /// A sealed segment with less than this share of it alive is emptied by copying.
    pub compact_below_percent: u32,
    /// After a failed commit, how long appends are refused before the disk is tried again.
    pub retry_after: Duration,
    pub quarantine_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            inbox_max: 4096,
            commit_bytes_max: 8 << 20,
            cache_bytes_max: 64 << 20,
            finished_for: Duration::from_secs(120),
            finished_max: 1_000_000,
            events_bytes_max: 1 << 30,
            events_age_max: None,
            events_ring_bytes_max: 16 << 20,
            events_block_bytes: 256 << 10,
            events_move_after: Duration::from_secs(1),
            spares_max: 4,
            compact_below_percent: 20,
            retry_after: Duration::from_secs(1),
            quarantine_bytes_max: 1 << 30,
        }
    }
}
