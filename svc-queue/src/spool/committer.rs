//! The one writer of the log: takes all that waits, writes it with one vectored write and one sync, then answers.
//!
//! It decides what is a duplicate, numbers events, and changes the index, always after the sync. Sealing, sidecars and
//! new files are other threads' work.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc as std_mpsc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::disk::File;
use super::index::Segment;
use super::keeper::{Fresh, Job};
use super::record::{Fill, HEADER, Key, Prepared};
use super::segment::{END_MARK, PAGE, SegmentHeader};
use super::shared::{Shared, lock};
use super::sidecar::Sidecar;
use super::stage::Stage;
use super::types::{Appended, Error, Health, Id};

pub enum Request {
    Append(Append),
    Close,
}

pub struct Append {
    pub batch: Vec<Prepared>,
    pub reply: oneshot::Sender<Result<Appended, Error>>,
}

impl Append {
    pub fn size_bytes(&self) -> usize {
        self.batch.iter().map(Prepared::total).sum()
    }
}

pub struct Committer {
    pub shared: Arc<Shared>,
    pub inbox: mpsc::Receiver<Request>,
    pub fresh: std_mpsc::Receiver<Result<Fresh, String>>,
    pub keeper: std_mpsc::Sender<Job>,
    pub active: Option<Active>,
    /// The last segment with something acknowledged in it, and how far it counts.
    pub prev: (u32, u32),
    pub next_event: u64,
    pub finished: Finished,
    pub retry_at: Option<Instant>,
}

/// The segment that is being written.
pub struct Active {
    pub file: Arc<dyn File>,
    pub key: Key,
    pub capacity: u32,
    /// After the last durable record.
    pub at: u32,
    /// The header page goes out with the first commit.
    pub page_written: bool,
    pub sidecar: Sidecar,
}

impl Committer {
    pub fn run(mut self) {
        let mut open = true;
        while open && let Some(first) = self.inbox.blocking_recv() {
            let mut group = VecDeque::new();
            open = self.gather(first, &mut group);
            self.commit(group);
            if self.inbox.is_empty() {
                self.note_synced();
            }
        }
        self.inbox.close();
        while let Ok(Request::Append(append)) = self.inbox.try_recv() {
            let _ = append.reply.send(Err(Error::unavailable("the spool is closed")));
        }
        self.seal();
        self.shared.health.send_replace(Health::Closed);
        let _ = self.keeper.send(Job::Stop);
    }

    /// Takes what waits; false when that included the request to close.
    fn gather(&mut self, first: Request, group: &mut VecDeque<Append>) -> bool {
        let mut size_bytes = 0;
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Append(append) => {
                    size_bytes += append.size_bytes();
                    group.push_back(append);
                }
                Request::Close => return false,
            }
            next = if size_bytes < self.shared.config.commit_bytes_max { self.inbox.try_recv().ok() } else { None };
        }
        true
    }

    fn commit(&mut self, mut group: VecDeque<Append>) {
        while let Some(first) = group.front() {
            if let Err(error) = self.make_room(first.size_bytes()) {
                group.into_iter().for_each(|append| drop(append.reply.send(Err(error.clone()))));
                return;
            }
            let stage = self.stage(&mut group);
            self.commit_stage(stage);
        }
    }

    /// Everything of the group that fits the active segment, sealed and with its verdicts.
    fn stage(&mut self, group: &mut VecDeque<Append>) -> Stage {
        let active = self.active.as_ref().expect("make_room has just seen to it");
        self.finished.forget_old(self.shared.config.finished_for);
        let index = lock(&self.shared.index);
        let mut stage = Stage::new(active.key, active.at, self.next_event);
        while let Some(append) = group.front() {
            if stage.at as usize + append.size_bytes() > active.capacity as usize && stage.at > active.at {
                break;
            }
            let append = group.pop_front().expect("it was there a line ago");
            stage.add(append, &index, &self.finished, active.at);
        }
        stage
    }

    fn commit_stage(&mut self, stage: Stage) {
        let written = stage.at > self.active.as_ref().map_or(0, |active| active.at);
        let result = if written { self.write(&stage) } else { Ok(()) };
        match result {
            Ok(()) => {
                if written {
                    self.recovered_health();
                }
                let emptied = self.apply(&stage);
                stage.answer();
                if emptied {
                    let _ = self.keeper.send(Job::Look);
                }
            }
            Err(error) => stage.refuse(&error),
        }
    }

    /// One write, one sync.
    fn write(&mut self, stage: &Stage) -> Result<(), Error> {
        let active = self.active.as_mut().expect("a stage is made for the active segment");
        let page = if active.page_written { Vec::new() } else { self.shared.page_of(active, self.prev) };
        let start = if active.page_written { active.at } else { 0 };
        let room_for_mark = stage.at as usize + HEADER <= active.capacity as usize;
        let mark: &[u8] = if room_for_mark { &END_MARK } else { &[] };
        let records = stage.records().flat_map(|record| [IoSlice::new(&record.prefix), IoSlice::new(&record.body)]);
        let parts = std::iter::once(IoSlice::new(&page)).chain(records).chain([IoSlice::new(mark)]);
        let mut parts: Vec<IoSlice<'_>> = parts.filter(|part| !part.is_empty()).collect();
        let file = active.file.clone();
        if let Err(error) = file.write_at(u64::from(start), &mut parts) {
            return Err(self.write_failed(start, &error));
        }
        if let Err(error) = file.sync_data() {
            return Err(self.sync_failed(&error));
        }
        active.page_written = true;
        active.at = stage.at;
        let counters = &self.shared.counters;
        counters.commits.fetch_add(1, Ordering::Relaxed);
        counters.records.fetch_add(stage.records().count() as u64, Ordering::Relaxed);
        counters.written_bytes.fetch_add(u64::from(stage.at - start), Ordering::Relaxed);
        Ok(())
    }

    /// A failed write may have left whole batches behind. If the place can be marked as the end, durably, then surely
    /// nothing happened; otherwise the segment is left where it last was good and nobody knows.
    fn write_failed(&mut self, start: u32, error: &std::io::Error) -> Error {
        let active = self.active.as_ref().expect("it was just written to");
        let zeros = if start == 0 { vec![0; PAGE + HEADER] } else { END_MARK.to_vec() };
        let undone = active.file.write_at(u64::from(start), &mut [IoSlice::new(&zeros)]);
        if let Err(undo) = undone.and_then(|()| active.file.sync_data()) {
            tracing::warn!(error = %undo, "a failed write could not be undone");
            return self.sync_failed(error);
        }
        self.sicken(error);
        Error::unavailable(error)
    }

    /// After a failed sync the kernel may have dropped the pages: this file is not written again (nor synced again).
    fn sync_failed(&mut self, error: &std::io::Error) -> Error {
        self.sicken(error);
        self.seal();
        Error::Unknown
    }

    fn sicken(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the spool's disk failed a commit");
        self.retry_at = Some(Instant::now() + self.shared.config.retry_after);
        self.shared.health.send_replace(Health::Sick { reason: error.to_string() });
    }

    fn recovered_health(&mut self) {
        if self.retry_at.take().is_some() {
            tracing::info!("the spool's disk works again");
            self.shared.health.send_replace(Health::Ok);
        }
    }

    /// Leaves the active segment: the keeper writes its sidecar, or removes it if nothing in it was ever acknowledged.
    fn seal(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        let number = active.key.segment;
        if !active.page_written {
            lock(&self.shared.index).segments.remove(&number);
            let _ = self.keeper.send(Job::Burn { number });
            return;
        }
        self.prev = (number, active.at);
        active.sidecar.end = active.at;
        let mut index = lock(&self.shared.index);
        if let Some(segment) = index.segments.get_mut(&number) {
            segment.state = super::index::State::Sealing;
        }
        let _ = self.keeper.send(Job::Seal { sidecar: active.sidecar });
    }

    /// An active segment with room for so many bytes.
    fn make_room(&mut self, size_bytes: usize) -> Result<(), Error> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Err(Error::unavailable("the disk failed a moment ago"));
        }
        let fits = |active: &Active| active.at as usize + size_bytes <= active.capacity as usize;
        if self.active.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.seal();
        // An error may have been waiting since long ago: ask twice.
        let fresh = (0..2).find_map(|_| self.fresh.recv().ok()?.ok());
        let fresh = fresh.ok_or_else(|| self.no_segment("no new segment can be made"))?;
        let need = PAGE + size_bytes + HEADER;
        let mut capacity = fresh.capacity;
        if need > capacity as usize {
            capacity =
                u32::try_from(need).map_err(|_| Error::unavailable("a batch is larger than a segment can be"))?;
            if let Err(error) = fresh.file.allocate(u64::from(capacity)) {
                let _ = self.keeper.send(Job::Burn { number: fresh.number });
                return Err(self.no_segment(&error.to_string()));
            }
        }
        self.begin(fresh, capacity);
        Ok(())
    }

    fn no_segment(&mut self, reason: &str) -> Error {
        self.sicken(&std::io::Error::other(reason.to_owned()));
        Error::unavailable(reason)
    }

    fn begin(&mut self, fresh: Fresh, capacity: u32) {
        let key = Key { nonce: rand::random(), segment: fresh.number };
        lock(&self.shared.index).segments.insert(fresh.number, Segment::new(key.nonce, capacity));
        let sidecar = Sidecar::new(key, self.shared.log_id);
        let at = PAGE as u32;
        self.active = Some(Active { file: fresh.file, key, capacity, at, page_written: false, sidecar });
    }

    /// Makes what is now durable visible. True when a segment has lost its last message.
    fn apply(&mut self, stage: &Stage) -> bool {
        let active = self.active.as_mut().expect("a stage is made for the active segment");
        let config = &self.shared.config;
        let mut index = lock(&self.shared.index);
        let mut cache = lock(&self.shared.cache);
        let mut ring = lock(&self.shared.ring);
        let mut emptied = false;
        for (record, offset) in stage.placed() {
            let place = super::index::Place { segment: active.key.segment, offset, len: record.total() as u32 };
            active.sidecar.push(offset, record);
            emptied |= stage.apply(record, place, &mut index, &mut cache, config.cache_bytes_max);
            if let Some((seq, payload)) = record.event() {
                active.sidecar.saw_event(seq);
                ring.push(seq, payload, config.events_ring_bytes_max);
            }
        }
        if let Some(segment) = index.segments.get_mut(&active.key.segment) {
            segment.end = active.at;
            segment.first_event = active.sidecar.first_event;
            segment.last_event = active.sidecar.last_event;
        }
        drop((index, cache, ring));
        stage.ended().for_each(|id| self.finished.insert(id, config.finished_max));
        if stage.next_event != self.next_event {
            self.next_event = stage.next_event;
            self.shared.newest_event.send_replace(self.next_event - 1);
        }
        emptied
    }

    /// When there is time: tells a later recovery that all of this was acknowledged, so that damage in it is not taken for
    /// a torn tail. Needs no sync of its own.
    fn note_synced(&mut self) {
        let Some(active) = self.active.as_mut().filter(|active| active.page_written) else { return };
        if active.at as usize + 2 * HEADER > active.capacity as usize || self.retry_at.is_some() {
            return;
        }
        let mut note = Prepared::commit();
        note.seal(&active.key, active.at, &Fill { id: 0, target: 0, batch_left: 0, synced: active.at });
        let mut parts = [IoSlice::new(&note.prefix), IoSlice::new(&END_MARK)];
        if active.file.write_at(u64::from(active.at), &mut parts).is_ok() {
            active.at += HEADER as u32;
        }
    }
}

impl Shared {
    fn page_of(&self, active: &Active, (prev, prev_end): (u32, u32)) -> Vec<u8> {
        let (key, capacity) = (active.key, active.capacity);
        SegmentHeader { key, log_id: self.log_id, prev, prev_end, capacity }.page()
    }
}

/// Ids finished a short while ago: asked for again, they are duplicates and not new mail.
#[derive(Default)]
pub struct Finished {
    order: VecDeque<(Instant, Id)>,
    ids: HashMap<Id, u32>,
}

impl Finished {
    pub fn contains(&self, id: Id) -> bool {
        self.ids.contains_key(&id)
    }

    pub fn insert(&mut self, id: Id, count_max: usize) {
        self.order.push_back((Instant::now(), id));
        *self.ids.entry(id).or_default() += 1;
        while self.order.len() > count_max {
            self.forget_oldest();
        }
    }

    fn forget_old(&mut self, after: std::time::Duration) {
        while self.order.front().is_some_and(|(when, _)| when.elapsed() > after) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, id)) = self.order.pop_front() else { return };
        if let std::collections::hash_map::Entry::Occupied(mut count) = self.ids.entry(id) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
