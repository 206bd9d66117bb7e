//! Opens the log: reads sidecars, scans what has none, sets damage aside, and loads everything else. Damage never stops it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, atomic::Ordering};

use tokio::sync::watch;

use super::disk::{Disk, File, read_up_to, read_whole, replace};
use super::events::EventStore;
use super::index::{Index, Segment, State};
use super::record::{Key, Kind, u32_at, u128_at};
use super::segment::{PAGE, SegmentHeader, log_name, marks_name, number_in, scan, sidecar_name};
use super::shared::{Cache, Counters, Ring, Shared, fault, quarantine};
use super::sidecar::{Sidecar, parse_marks};
use super::types::{Config, Fault, Health, Id, OpenError, Recovery, What};

pub struct Opened {
    pub shared: Arc<Shared>,
    pub recovery: Recovery,
    /// The newest segment that counts, and how far.
    pub prev: (u32, u32),
    pub next_segment: u32,
    /// Ids that ended, as far as the log still says.
    pub ended: Vec<Id>,
    pub unsealed: Vec<Sidecar>,
}

struct Opening {
    config: Config,
    disk: Arc<dyn Disk>,
    counters: Counters,
    log_id: Option<u128>,
    index: Index,
    recovery: Recovery,
    prev: (u32, u32),
    next_segment: u32,
    ended: Vec<Id>,
    unsealed: Vec<Sidecar>,
    spares: Vec<String>,
}

/// A segment file and what is known of it before it is read.
struct Candidate {
    number: u32,
    size: u64,
    header: Option<SegmentHeader>,
    sidecar: Option<Sidecar>,
}

pub fn open(config: Config, disk: Arc<dyn Disk>) -> Result<Opened, OpenError> {
    let Some(guard) = disk.lock()? else { return Err(OpenError::InUse { holder: disk.describe() }) };
    disk.make_folder("events")?;
    disk.make_folder("quarantine")?;
    disk.sync_dir("")?;
    let mut opening = Opening {
        config,
        disk: disk.clone(),
        counters: Counters::default(),
        log_id: None,
        index: Index::default(),
        recovery: Recovery::default(),
        prev: (0, 0),
        next_segment: 1,
        ended: Vec::new(),
        unsealed: Vec::new(),
        spares: Vec::new(),
    };
    let kept = disk.list("quarantine")?.iter().map(|(_, size)| size).sum();
    opening.counters.quarantine_bytes.store(kept, Ordering::Relaxed);
    opening.load_log()?;
    opening.finish(guard)
}

impl Opening {
    fn load_log(&mut self) -> io::Result<()> {
        let names = self.disk.list("")?;
        let mut candidates = self.candidates(&names);
        self.log_id = self.read_log_id(&candidates);
        let fresh = candidates.is_empty();
        if self.log_id.is_none() && !fresh {
            tracing::warn!("the log's id cannot be read; it gets a new one");
        }
        let chain: Vec<(u32, u32, u32)> =
            candidates.values().filter_map(|c| c.header.map(|h| (c.number, h.prev, h.prev_end))).collect();
        for candidate in std::mem::take(&mut candidates).into_values() {
            self.next_segment = candidate.number + 1;
            let next = chain.iter().find(|(number, ..)| *number > candidate.number);
            match next {
                // The log went on from an older segment: this one's only commit failed, and nobody was told otherwise.
                Some((_, prev, _)) if *prev < candidate.number && candidate.sidecar.is_none() => {
                    let _ = self.disk.remove(&log_name(candidate.number));
                }
                Some((_, prev, end)) if *prev == candidate.number => self.load_segment(candidate, Some(*end)),
                Some(_) | None => self.load_segment(candidate, None),
            }
        }
        self.clear_orphans(&names);
        Ok(())
    }

    /// Segment files in order; those that were made ready and never used become spares.
    fn candidates(&mut self, names: &[(String, u64)]) -> BTreeMap<u32, Candidate> {
        let mut candidates = BTreeMap::new();
        for (name, size) in names {
            if name.starts_with("spare-") {
                self.keep_spare(name, *size);
            }
            let Some(number) = number_in(name, "log") else { continue };
            let page = self.disk.open(name).and_then(|file: Arc<dyn File>| read_up_to(&*file, 0, PAGE));
            let page = match page {
                Ok(page) => page,
                Err(error) => {
                    tracing::error!(name, %error, "a segment cannot be read");
                    self.report(fault(name.clone(), 0, *size, What::Unreadable), &[]);
                    self.next_segment = self.next_segment.max(number + 1);
                    continue;
                }
            };
            let sidecar = read_whole(&*self.disk, &sidecar_name(number)).ok().map(Sidecar::parse);
            if let Some(None) = &sidecar {
                self.report(fault(sidecar_name(number), 0, 0, What::BadSidecar), &[]);
            }
            let sidecar = sidecar.flatten().filter(|sidecar| sidecar.key.segment == number);
            let header = SegmentHeader::parse(&page).filter(|header| header.key.segment == number);
            if header.is_none() && sidecar.is_none() && page.iter().all(|&byte| byte == 0) {
                self.next_segment = self.next_segment.max(number + 1);
                let _ = self.disk.remove(name);
                continue;
            }
            candidates.insert(number, Candidate { number, size: *size, header, sidecar });
        }
        candidates
    }

    fn keep_spare(&mut self, name: &str, size: u64) {
        if self.spares.len() < self.config.spares_max && size == u64::from(self.config.segment_bytes) {
            self.spares.push(name.to_owned());
        } else {
            let _ = self.disk.remove(name);
        }
    }

    fn read_log_id(&self, candidates: &BTreeMap<u32, Candidate>) -> Option<u128> {
        let file = read_whole(&*self.disk, "log-id").unwrap_or_default();
        if file.len() == 20 && crc32fast::hash(&file[..16]) == u32_at(&file, 16) {
            return Some(u128_at(&file, 0));
        }
        candidates
            .values()
            .find_map(|c| c.header.map(|header| header.log_id).or(c.sidecar.as_ref().map(|sidecar| sidecar.log_id)))
    }

    fn load_segment(&mut self, candidate: Candidate, limit: Option<u32>) {
        let Candidate { number, size, header, sidecar } = candidate;
        let name = log_name(number);
        let nonce = header.map(|header| header.key.nonce).or(sidecar.as_ref().map(|sidecar| sidecar.key.nonce));
        let Some(nonce) = nonce else {
            return self.set_segment_aside(&name, size);
        };
        let key = Key { nonce, segment: number };
        let capacity = header.map_or(size as u32, |header| header.capacity);
        let whole = sidecar.filter(|sidecar| u64::from(sidecar.end) <= size && sidecar.key == key);
        let sealed = whole.is_some();
        let sidecar = match whole {
            Some(sidecar) => sidecar,
            None => match self.scan_segment(&name, key, capacity, limit) {
                Ok(sidecar) => sidecar,
                Err(error) => {
                    tracing::error!(name, %error, "a segment cannot be read");
                    return self.report(fault(name, 0, size, What::Unreadable), &[]);
                }
            },
        };
        self.prev = (number, sidecar.end);
        let mut segment = Segment::new(nonce, capacity);
        segment.state = if sealed { State::Sealed } else { State::Sealing };
        segment.end = sidecar.end;
        segment.first_event = sidecar.first_event;
        segment.last_event = sidecar.last_event;
        self.index.segments.insert(number, segment);
        for entry in sidecar.entries() {
            self.index.recover(&entry);
            if entry.header.kind == Kind::End {
                self.ended.push(entry.header.id);
            }
        }
        self.load_marks(number, &key);
        if !sealed {
            self.unsealed.push(sidecar);
        }
    }

    fn scan_segment(&mut self, name: &str, key: Key, capacity: u32, limit: Option<u32>) -> io::Result<Sidecar> {
        self.recovery.segments_scanned += 1;
        let bytes = read_whole(&*self.disk, name)?;
        let mut found = scan(&bytes, &key, limit);
        if bytes.len() < capacity as usize && !found.holes.iter().any(|hole| hole.what == What::Truncated) {
            let missing = u64::from(capacity) - bytes.len() as u64;
            self.report(fault(name, bytes.len() as u64, missing, What::Truncated), &[]);
        }
        for hole in std::mem::take(&mut found.holes) {
            let (from, to) = (hole.from as usize, (hole.to as usize).min(bytes.len()));
            let size_bytes = u64::from(hole.to - hole.from);
            let mut damage = fault(name, u64::from(hole.from), size_bytes, hole.what);
            damage.id = hole.id;
            self.report(damage, bytes.get(from..to).unwrap_or_default());
        }
        Ok(Sidecar::from_scan(key, self.log_id.unwrap_or_default(), &mut found))
    }

    fn load_marks(&mut self, number: u32, key: &Key) {
        let name = marks_name(number);
        let Ok(file) = read_whole(&*self.disk, &name) else { return };
        let mut found = parse_marks(&file, key);
        if found.bad {
            self.report(fault(name, 0, file.len() as u64, What::BadMarks), &file);
        }
        found.marks.sort_by_key(|mark| (mark.segment, mark.offset));
        found.marks.iter().for_each(|mark| self.index.recover(mark));
        if let Some(segment) = self.index.segments.get_mut(&number) {
            segment.marks_len = file.len() as u64;
        }
    }

    /// A segment without a readable header is of no use to us, but may be to a person.
    fn set_segment_aside(&mut self, name: &str, size: u64) {
        self.report(fault(name, 0, size, What::BadHeader), &[]);
        if let Err(error) = self.disk.rename(name, &format!("quarantine/{name}")) {
            tracing::warn!(name, %error, "a damaged segment could not be set aside");
        }
    }

    fn report(&mut self, damage: Fault, bytes: &[u8]) {
        self.counters.faults.fetch_add(1, Ordering::Relaxed);
        quarantine(&*self.disk, &self.config, &self.counters, &damage, bytes);
        self.recovery.faults.push(damage);
    }

    /// Sidecars and marks without a segment, and unfinished files.
    fn clear_orphans(&self, names: &[(String, u64)]) {
        let there: HashSet<u32> = self.index.segments.keys().copied().collect();
        for (name, _) in names {
            let number = number_in(name, "idx").or(number_in(name, "marks"));
            if name.ends_with(".tmp") || number.is_some_and(|number| !there.contains(&number)) {
                let _ = self.disk.remove(name);
            }
        }
    }

    fn finish(mut self, guard: Box<dyn Send + Sync>) -> Result<Opened, OpenError> {
        let log_id = match self.log_id {
            Some(log_id) => log_id,
            None => rand::random(),
        };
        let id = log_id.to_le_bytes();
        let kept = replace(&*self.disk, "log-id", &[&id, &crc32fast::hash(&id).to_le_bytes()]);
        if let Err(error) = kept {
            tracing::warn!(%error, "the log's id could not be written");
        }
        self.unsealed.iter_mut().for_each(|sidecar| sidecar.log_id = log_id);
        let in_log =
            |seq| self.index.segments.values().any(|s| (s.first_event..=s.last_event).contains(&seq) && seq > 0);
        let (events, moved) = match EventStore::recover(&*self.disk, in_log) {
            Ok((events, moved, faults)) => {
                faults.into_iter().for_each(|damage| self.report(damage, &[]));
                (events, moved)
            }
            Err(error) => {
                tracing::error!(%error, "the moved events cannot be read");
                self.report(fault("events", 0, 0, What::Unreadable), &[]);
                (EventStore::default(), 0)
            }
        };
        self.index.moved_event = moved;
        let newest = self.index.segments.values().map(|s| s.last_event).max().unwrap_or(0).max(moved);
        self.recovery.messages = self.index.len() as u64;
        self.recovery.segments = self.index.segments.len() as u64;
        self.recovery.newest_event_seq = newest;
        let Opening { config, disk, counters, index, recovery, prev, next_segment, ended, unsealed, spares, .. } = self;
        let shared = Shared {
            config,
            disk,
            log_id,
            index: Mutex::new(index),
            cache: Mutex::new(Cache::default()),
            ring: Mutex::new(Ring::default()),
            events: Mutex::new(events),
            newest_event: watch::Sender::new(newest),
            health: watch::Sender::new(Health::Ok),
            holds: AtomicUsize::new(1),
            first_hold: AtomicBool::new(true),
            counters,
            damaged: Mutex::default(),
            spares: Mutex::new(spares),
            _lock: guard,
        };
        Ok(Opened { shared: Arc::new(shared), recovery, prev, next_segment, ended, unsealed })
    }
}
