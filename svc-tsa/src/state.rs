//! What is held on disk: marks and cursors, in sled. The one file that says `sled::` and `std::fs`.
//!
//! All of it can be had again from the senders. So where it is damaged (sled's `open` may even panic), it is set aside and
//! begun anew: cursors then say 1, and the queues replay what they still have.

use crate::error::Error;
use crate::ledger::{Op, Record};
use crate::rules::digest;
use crate::window::{Log, Mark};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CACHE_BYTES: u64 = 8 << 20;
const MARK: u8 = b'e';
const CURSOR: u8 = b'c';

/// An open folder.
#[derive(Debug)]
pub struct Disk {
    db: sled::Db,
    /// sled's own file: its flush leaves the last step to us.
    file: std::fs::File,
}

/// What was in it.
#[derive(Debug, Default)]
pub struct Found {
    pub records: Vec<Record>,
    pub cursors: Vec<(Log, u64)>,
}

/// Why a folder cannot be read.
enum Failure {
    Damaged(String),
    /// It is another's, or the disk's: setting it aside would not help.
    Elsewhere(String),
}

impl Disk {
    /// # Errors
    /// Where the folder cannot be used at all; damage is none.
    pub async fn open(folder: PathBuf) -> Result<(Self, Found), Error> {
        let at = folder.display().to_string();
        let opened = tokio::task::spawn_blocking(move || open_or_begin(&folder)).await;
        let opened = opened.unwrap_or_else(|error| Err(error.to_string()));
        opened.map_err(|what| Error::State { folder: at, what })
    }

    /// Answers only once all of it is on disk, whole or not at all after a crash.
    ///
    /// # Errors
    /// What the disk says; the same may be written again.
    pub fn write(&self, ops: &[Op]) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Write(record) => batch.insert(mark_key(record), mark_value(record)),
                Op::Erase(record) => batch.remove(mark_key(record)),
                Op::Cursor(log, next_seq) => batch.insert(cursor_key(log), cursor_value(log, *next_seq)),
                Op::ForgetLog(log) => batch.remove(cursor_key(log)),
            }
        }
        let written = || -> Result<(), String> {
            self.db.apply_batch(batch).map_err(|error| error.to_string())?;
            self.db.flush().map_err(|error| error.to_string())?;
            // sled's flush is sync_file_range, which leaves the device's cache and the file's length alone.
            self.file.sync_data().map_err(|error| error.to_string())
        };
        catch_unwind(AssertUnwindSafe(written)).unwrap_or_else(|panic| Err(what_panicked(&*panic)))
    }
}

fn open_or_begin(folder: &Path) -> Result<(Disk, Found), String> {
    match open(folder) {
        Ok(opened) => Ok(opened),
        Err(Failure::Elsewhere(what)) => Err(what),
        Err(Failure::Damaged(what)) => {
            tracing::error!(folder = %folder.display(), %what, "state damaged: set aside, events are asked for again");
            set_aside(folder).map_err(|error| error.to_string())?;
            open(folder).map_err(|failure| match failure {
                Failure::Damaged(what) | Failure::Elsewhere(what) => what,
            })
        }
    }
}

fn open(folder: &Path) -> Result<(Disk, Found), Failure> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        std::fs::create_dir_all(folder).map_err(|error| Failure::Elsewhere(error.to_string()))?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(failure)?;
        let found = read(&db)?;
        let file = std::fs::File::open(folder.join("db")).map_err(|error| Failure::Elsewhere(error.to_string()))?;
        for path in [Some(folder), folder.parent()].into_iter().flatten() {
            let synced = std::fs::File::open(path).and_then(|directory| directory.sync_all());
            synced.map_err(|error| Failure::Elsewhere(error.to_string()))?;
        }
        Ok((Disk { db, file }, found))
    }));
    opened.unwrap_or_else(|panic| Err(Failure::Damaged(what_panicked(&*panic))))
}

fn failure(error: sled::Error) -> Failure {
    match &error {
        sled::Error::Io(io) => match io.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Failure::Damaged(error.to_string()),
            _ => Failure::Elsewhere(error.to_string()),
        },
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Corruption { .. } => Failure::Damaged(error.to_string()),
    }
}

/// One damaged folder is kept for whoever wants to look at it.
fn set_aside(folder: &Path) -> std::io::Result<()> {
    let aside = folder.with_extension("damaged");
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    std::fs::rename(folder, aside)
}

fn what_panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without a word"))
}

fn read(db: &sled::Db) -> Result<Found, Failure> {
    let mut found = Found::default();
    for row in db.iter() {
        let (key, value) = row.map_err(failure)?;
        let sound = match key.first() {
            Some(&MARK) => read_mark(&key, &value).map(|record| found.records.push(record)),
            Some(&CURSOR) => read_cursor(&value).map(|cursor| found.cursors.push(cursor)),
            Some(_) | None => None,
        };
        sound.ok_or_else(|| Failure::Damaged("a row that is none of ours".into()))?;
    }
    Ok(found)
}

/// Kind, law, scope, time, log, sequence: fixed lengths, names by their hashes.
fn mark_key(record: &Record) -> Vec<u8> {
    let scope = digest(&[record.site.as_bytes(), record.source.as_bytes()]);
    let log = log_hash(&record.mark.log);
    [&[MARK], &record.law[..], &scope, &record.mark.time.to_be_bytes(), &log, &record.mark.seq.to_be_bytes()].concat()
}

fn mark_value(record: &Record) -> Vec<u8> {
    let Log { node, log_id } = &*record.mark.log;
    let names = (&*record.site, &*record.source, node, log_id, &*record.reply);
    serde_json::to_vec(&names).expect("strings are JSON")
}

fn read_mark(key: &[u8], value: &[u8]) -> Option<Record> {
    let (law, rest) = key.get(1..)?.split_first_chunk::<16>()?;
    let (time, rest) = rest.get(16..)?.split_first_chunk::<8>()?;
    let seq: [u8; 8] = rest.get(16..)?.try_into().ok()?;
    let (site, source, node, log_id, reply): (String, String, String, String, String) =
        serde_json::from_slice(value).ok()?;
    let log = Arc::new(Log { node, log_id });
    let mark = Mark { time: u64::from_be_bytes(*time), log, seq: u64::from_be_bytes(seq) };
    Some(Record { law: *law, site: site.into(), source: source.into(), mark, reply: reply.into() })
}

fn log_hash(log: &Log) -> [u8; 16] {
    digest(&[log.node.as_bytes(), log.log_id.as_bytes()])
}

fn cursor_key(log: &Log) -> Vec<u8> {
    [&[CURSOR], &log_hash(log)[..]].concat()
}

fn cursor_value(log: &Log, next_seq: u64) -> Vec<u8> {
    serde_json::to_vec(&(&log.node, &log.log_id, next_seq)).expect("strings and a number are JSON")
}

fn read_cursor(value: &[u8]) -> Option<(Log, u64)> {
    let (node, log_id, next_seq) = serde_json::from_slice(value).ok()?;
    Some((Log { node, log_id }, next_seq))
}
