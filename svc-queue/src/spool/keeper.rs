//! The housekeeper: writes sidecars, gives space back, makes segments ready. Never in the committer's path.
//!
//! **Nothing is resurrected**: before a segment goes, what it says about messages of other segments is written, synced, to
//! those segments' marks files, and the admin values that only it has are appended again.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::committer::{Append, Request};
use super::disk::{File, read_up_to, read_whole, replace};
use super::index::{Segment, State};
use super::record::{Expect, HEADER, Kind, Prepared};
use super::segment::{PAGE, log_name, marks_name, scan, sidecar_name};
use super::shared::{Shared, lock};
use super::sidecar::{Entry, Sidecar, push_mark};
use super::types::{Appended, Error, Record};

const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A segment file ready for use, its name durable and its header page empty.
pub struct Fresh {
    pub number: u32,
    pub file: Arc<dyn File>,
    pub capacity: u32,
}

pub enum Job {
    /// A segment is full (or was left): write its sidecar.
    Seal { sidecar: Sidecar },
    /// Nothing in it was ever acknowledged: remove it.
    Burn { number: u32 },
    /// Something may have become free.
    Look,
    /// The committer is gone.
    Stop,
}

pub struct Keeper {
    pub shared: Arc<Shared>,
    pub jobs: Receiver<Job>,
    /// Weak, so that the committer ends when the last user of the spool is gone.
    pub inbox: mpsc::WeakSender<Request>,
    pub stop_mover: Sender<()>,
    /// Sidecars that could not be written yet, oldest first.
    pub unsealed: Vec<Sidecar>,
}

impl Keeper {
    pub fn run(mut self) {
        let mut stopping = false;
        while !stopping {
            // What failed is tried again even when nothing new comes.
            let mut next = match self.jobs.recv_timeout(RETRY_AFTER) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => Some(Job::Look),
                Err(RecvTimeoutError::Disconnected) => Some(Job::Stop),
            };
            while let Some(job) = next {
                match job {
                    Job::Seal { sidecar } => self.unsealed.push(sidecar),
                    Job::Burn { number } => self.burn(number),
                    Job::Look => {}
                    Job::Stop => stopping = true,
                }
                next = self.jobs.try_recv().ok();
            }
            if let Err(error) = self.seal_all() {
                tracing::warn!(%error, "a sidecar could not be written; tried again later");
            } else if !stopping && self.shared.holds.load(Ordering::Acquire) == 0 {
                self.give_back();
            }
        }
        let _ = self.stop_mover.send(());
    }

    fn seal_all(&mut self) -> io::Result<()> {
        while let Some(sidecar) = self.unsealed.first() {
            let number = sidecar.key.segment;
            replace(&*self.shared.disk, &sidecar_name(number), &[&sidecar.fixed(), &sidecar.entries])?;
            if let Some(segment) = lock(&self.shared.index).segments.get_mut(&number) {
                segment.state = State::Sealed;
            }
            self.unsealed.remove(0);
        }
        Ok(())
    }

    fn burn(&self, number: u32) {
        let gone = self.shared.disk.remove(&log_name(number)).and_then(|()| self.shared.disk.sync_dir(""));
        if let Err(error) = gone {
            tracing::warn!(number, %error, "an unused segment could not be removed");
        }
    }

    fn give_back(&self) {
        loop {
            let droppable = lock(&self.shared.index).droppable();
            // One that cannot go stands in the way of the newer ones.
            let dropped = droppable.iter().try_for_each(|&number| self.drop_segment(number));
            if let Err(error) = dropped {
                tracing::warn!(%error, "a segment could not be given back; tried again later");
                return;
            }
            let sparse = lock(&self.shared.index).sparse(self.shared.config.compact_below_percent);
            let Some(number) = sparse else { return };
            match self.empty_by_copying(number) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(number, %error, "a sparse segment could not be emptied; tried again later");
                    return;
                }
            }
        }
    }

    fn drop_segment(&self, number: u32) -> io::Result<()> {
        self.carry_admin(number)?;
        let Some(segment) = lock(&self.shared.index).segments.get(&number).cloned() else { return Ok(()) };
        self.carry_marks(number, &segment)?;
        let disk = &*self.shared.disk;
        let spares = lock(&self.shared.spares).len();
        let reuse = spares < self.shared.config.spares_max && segment.capacity == self.shared.config.segment_bytes;
        let spare = format!("spare-{number:08}.log");
        let gone = if reuse { disk.rename(&log_name(number), &spare) } else { disk.remove(&log_name(number)) };
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) if reuse => lock(&self.shared.spares).push(spare),
            Ok(()) | Err(_) => {}
        }
        // Its marks go only when it is surely gone itself.
        disk.sync_dir("")?;
        lock(&self.shared.index).segments.remove(&number);
        lock(&self.shared.damaged).retain(|(segment, _)| *segment != number);
        let _ = (disk.remove(&sidecar_name(number)), disk.remove(&marks_name(number)));
        Ok(())
    }

    /// Appends again what only this segment says of admin keys. A deletion matters while an older segment exists.
    fn carry_admin(&self, number: u32) -> io::Result<()> {
        let batch: Vec<Prepared> = {
            let mut index = lock(&self.shared.index);
            let oldest = index.segments.keys().next() == Some(&number);
            index.admin.retain(|_, (value, segment)| value.is_some() || !oldest || *segment != number);
            let here = index.admin.iter().filter(|(_, (_, segment))| *segment == number);
            let copies = here.map(|(key, (value, _))| {
                let mut copy = Prepared::new(Record::Admin { key: key.clone(), value: value.clone() })?;
                copy.expect = Some(Expect::Admin(number));
                Ok(copy)
            });
            copies.collect::<Result<_, Error>>().map_err(io::Error::other)?
        };
        if batch.is_empty() {
            return Ok(());
        }
        self.append(batch).map(drop).map_err(io::Error::other)
    }

    pub fn append(&self, batch: Vec<Prepared>) -> Result<Appended, Error> {
        let (reply, answer) = oneshot::channel();
        let closed = || Error::unavailable("the spool is closing");
        let inbox = self.inbox.upgrade().ok_or_else(closed)?;
        inbox.blocking_send(Request::Append(Append { batch, reply })).map_err(|_| closed())?;
        drop(inbox);
        answer.blocking_recv().map_err(|_| closed())?
    }

    fn carry_marks(&self, number: u32, segment: &Segment) -> io::Result<()> {
        let disk = &*self.shared.disk;
        let mut marks: BTreeMap<u32, Vec<u8>> = {
            let index = lock(&self.shared.index);
            let there = segment.targets.iter().filter(|&&t| t != number && index.segments.contains_key(&t));
            there.map(|&target| (target, Vec::new())).collect()
        };
        if marks.is_empty() {
            return Ok(());
        }
        let sidecar = self.shared.sidecar_of(number, segment)?;
        for entry in sidecar.entries().filter(|entry| entry.header.kind.is_mark()) {
            let target = entry.header.target;
            let Some(bytes) = marks.get_mut(&target) else { continue };
            let index = lock(&self.shared.index);
            if let Some(key) = index.key(target).filter(|_| matters(&index, &entry)) {
                push_mark(bytes, &key, &entry);
            }
        }
        marks.retain(|_, bytes| !bytes.is_empty());
        for (&target, bytes) in &marks {
            let name = marks_name(target);
            let at = lock(&self.shared.index).segments.get(&target).map_or(0, |s| s.marks_len);
            let file = if at == 0 { disk.create(&name)? } else { disk.open(&name)? };
            file.write_at(at, &mut [IoSlice::new(bytes)])?;
            file.sync_data()?;
        }
        if !marks.is_empty() {
            disk.sync_dir("")?;
        }
        let mut index = lock(&self.shared.index);
        for (target, bytes) in marks {
            if let Some(segment) = index.segments.get_mut(&target) {
                segment.marks_len += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

/// An end always; a state only while it is the newest. What the index knows is durable, so what is newer will not vanish.
fn matters(index: &super::index::Index, entry: &Entry<'_>) -> bool {
    if entry.header.kind == Kind::End {
        return true;
    }
    let newest = index.get(entry.header.id).and_then(|slot| slot.part(entry.header.part));
    newest.is_some_and(|part| part.place.is(entry.segment, entry.offset))
}

impl Shared {
    /// A segment's sidecar, from its file or else from the segment itself.
    pub fn sidecar_of(&self, number: u32, segment: &Segment) -> io::Result<Sidecar> {
        let key = super::record::Key { nonce: segment.nonce, segment: number };
        let file = read_whole(&*self.disk, &sidecar_name(number)).ok();
        if let Some(sidecar) = file.and_then(Sidecar::parse).filter(|sidecar| sidecar.key == key) {
            return Ok(sidecar);
        }
        let bytes = read_up_to(&*self.disk.open(&log_name(number))?, 0, segment.end as usize)?;
        let mut found = scan(&bytes, &key, Some(segment.end));
        Ok(Sidecar::from_scan(key, self.log_id, &mut found))
    }
}

/// Makes one segment ready ahead of need, so that the committer never waits for a directory's sync.
pub struct Preparer {
    pub shared: Arc<Shared>,
    pub next: u32,
    pub ready: SyncSender<Result<Fresh, String>>,
}

impl Preparer {
    pub fn run(mut self) {
        loop {
            let number = self.next;
            self.next += 1;
            let made = self.make(number).map_err(|error| error.to_string());
            let failed = made.is_err();
            if self.ready.send(made).is_err() {
                let _ = self.shared.disk.remove(&log_name(number));
                return;
            }
            if failed {
                let _ = self.shared.disk.remove(&log_name(number));
            }
        }
    }

    fn make(&self, number: u32) -> io::Result<Fresh> {
        let (disk, capacity) = (&*self.shared.disk, self.shared.config.segment_bytes);
        let name = log_name(number);
        let spare = lock(&self.shared.spares).pop();
        let file = match spare {
            Some(spare) => {
                let file = disk.open(&spare)?;
                file.write_at(0, &mut [IoSlice::new(&[0; PAGE + HEADER])])?;
                file.sync_data()?;
                disk.rename(&spare, &name)?;
                file
            }
            None => {
                let file = disk.create(&name)?;
                file.allocate(u64::from(capacity))?;
                file.sync_data()?;
                file
            }
        };
        disk.sync_dir("")?;
        Ok(Fresh { number, file, capacity })
    }
}
