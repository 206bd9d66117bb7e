//! What the spool's threads and its callers share. std's mutexes: none is held across an await or a disk call.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::disk::{Disk, File};
use super::events::EventStore;
use super::index::Index;
use super::types::{Config, Fault, Health, Id, What};

pub struct Shared {
    pub config: Config,
    pub disk: Arc<dyn Disk>,
    pub log_id: u128,
    pub index: Mutex<Index>,
    pub cache: Mutex<Cache>,
    pub ring: Mutex<Ring>,
    pub events: Mutex<EventStore>,
    pub newest_event: watch::Sender<u64>,
    pub health: watch::Sender<Health>,
    /// `Recovered`s that are being read: while there are any, nothing is moved or dropped. One is held from the start for
    /// the first of them, so that nothing moves before it has been asked for.
    pub holds: AtomicUsize,
    pub first_hold: AtomicBool,
    pub counters: Counters,
    /// Records met as damaged when read, so that each is reported once. Bounded by the records there are.
    pub damaged: Mutex<HashSet<(u32, u32)>>,
    /// Names of emptied segments that wait to be written over.
    pub spares: Mutex<Vec<String>>,
    /// Held until the last thread is gone.
    pub _lock: Box<dyn Send + Sync>,
}

#[derive(Default)]
pub struct Counters {
    pub commits: AtomicU64,
    pub records: AtomicU64,
    pub written_bytes: AtomicU64,
    pub faults: AtomicU64,
    pub quarantine_bytes: AtomicU64,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Reports damage once, where it is met, and puts a copy of the bytes aside.
    pub fn set_aside(&self, fault: &Fault, bytes: &[u8]) {
        self.counters.faults.fetch_add(1, Ordering::Relaxed);
        quarantine(&*self.disk, &self.config, &self.counters, fault, bytes);
    }
}

pub fn quarantine(disk: &dyn Disk, config: &Config, counters: &Counters, fault: &Fault, bytes: &[u8]) {
    let Fault { segment, offset, size_bytes, what, id } = fault;
    let message_id = id.map(|id| format!("{id:032x}"));
    tracing::error!(segment, offset, size_bytes, ?what, message_id, "damage in the spool; the rest is loaded");
    let room = config.quarantine_bytes_max.saturating_sub(counters.quarantine_bytes.load(Ordering::Relaxed));
    if bytes.is_empty() || bytes.len() as u64 > room {
        return;
    }
    let name = format!("quarantine/{}-{offset}.bin", segment.replace('/', "-"));
    let put = || -> std::io::Result<()> {
        let file: Arc<dyn File> = disk.create(&name)?;
        file.write_at(0, &mut [std::io::IoSlice::new(bytes)])?;
        file.sync_data()?;
        disk.sync_dir("quarantine")
    };
    match put() {
        Ok(()) => {
            counters.quarantine_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Err(error) => tracing::warn!(name, %error, "damaged bytes could not be set aside"),
    }
}

pub fn fault(segment: impl Into<String>, offset: u64, size_bytes: u64, what: What) -> Fault {
    Fault { segment: segment.into(), offset, size_bytes, what, id: None }
}

/// Messages just accepted, so that the first attempt reads no disk. The oldest leave when it is full.
#[derive(Default)]
pub struct Cache {
    map: HashMap<Id, (Bytes, Bytes)>,
    order: VecDeque<Id>,
    pub bytes: usize,
}

impl Cache {
    pub fn get(&self, id: Id) -> Option<(Bytes, Bytes)> {
        self.map.get(&id).cloned()
    }

    pub fn put(&mut self, id: Id, meta: Bytes, body: Bytes, bytes_max: usize) {
        let size = meta.len() + body.len();
        if size > bytes_max / 8 {
            return;
        }
        self.bytes += size;
        self.map.insert(id, (meta, body));
        self.order.push_back(id);
        while self.bytes > bytes_max {
            let Some(oldest) = self.order.pop_front() else { return };
            self.remove(oldest);
        }
        if self.order.len() > 2 * self.map.len() + 1024 {
            self.order.retain(|id| self.map.contains_key(id));
        }
    }

    pub fn remove(&mut self, id: Id) {
        if let Some((meta, body)) = self.map.remove(&id) {
            self.bytes -= meta.len() + body.len();
        }
    }
}

/// The newest durable events, for tailing and for moving without a read.
#[derive(Default)]
pub struct Ring {
    /// The number of the first in `events`.
    pub first: u64,
    pub events: VecDeque<Bytes>,
    bytes: usize,
}

impl Ring {
    pub fn push(&mut self, seq: u64, payload: Bytes, bytes_max: usize) {
        if self.events.is_empty() {
            self.first = seq;
        }
        self.bytes += payload.len();
        self.events.push_back(payload);
        while self.bytes > bytes_max && self.events.len() > 1 {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.len();
                self.first += 1;
            }
        }
    }

    /// Events from `from` on, if the ring goes back that far.
    pub fn from(&self, from: u64, count_max: usize, bytes_max: usize) -> Option<Vec<(u64, Bytes)>> {
        if self.events.is_empty() || from < self.first {
            return None;
        }
        let skip = (from - self.first) as usize;
        let mut bytes = 0;
        let items = self.events.iter().enumerate().skip(skip).take(count_max);
        let items = items.take_while(|(i, payload)| {
            bytes += payload.len();
            *i == skip || bytes <= bytes_max
        });
        Some(items.map(|(i, payload)| (self.first + i as u64, payload.clone())).collect())
    }
}
