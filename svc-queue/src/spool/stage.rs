//! What one commit will write: verdicts, event numbers and places are decided here, in memory, before anything is written.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::committer::{Append, Finished};
use super::index::{Index, Part, Place};
use super::record::{Expect, Fill, Kept, Key, Kind, Prepared};
use super::shared::Cache;
use super::types::{Appended, Error, Id, Verdict};

pub struct Stage {
    key: Key,
    /// Where the next record goes.
    pub at: u32,
    pub next_event: u64,
    batches: Vec<Batch>,
    /// What this commit does to messages, which the index does not know yet.
    messages: HashMap<Id, Staged>,
    marked: HashSet<Id>,
    copied: HashSet<Id>,
    admin: HashSet<Bytes>,
}

struct Batch {
    records: Vec<(Prepared, u32)>,
    targets: Vec<u32>,
    appended: Appended,
    reply: oneshot::Sender<Result<Appended, Error>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Staged {
    Here,
    Ended,
}

impl Stage {
    pub fn new(key: Key, at: u32, next_event: u64) -> Stage {
        let (marked, copied, admin) = (HashSet::new(), HashSet::new(), HashSet::new());
        Stage { key, at, next_event, batches: Vec::new(), messages: HashMap::new(), marked, copied, admin }
    }

    /// `synced` is the segment's durable end before this commit.
    pub fn add(&mut self, append: Append, index: &Index, finished: &Finished, synced: u32) {
        let mut appended = Appended { first_event_seq: None, messages: Vec::new() };
        let mut refused: Vec<Id> = Vec::new();
        let mut kept = Vec::with_capacity(append.batch.len());
        for mut record in append.batch {
            let target = match record.kind {
                Kind::Message if record.expect.is_some() => self.admit_copy(&record, index),
                Kind::Message => {
                    let target = self.admit_message(record.id, index, finished);
                    let verdict = if target.is_some() { Verdict::Accepted } else { Verdict::Duplicate };
                    appended.messages.push(verdict);
                    refused.extend(target.is_none().then_some(record.id));
                    target
                }
                Kind::Change | Kind::Done | Kind::End => self.admit_mark(&record, index),
                Kind::Event if record.of.is_some_and(|id| refused.contains(&id)) => None,
                Kind::Event => {
                    appended.first_event_seq.get_or_insert(self.next_event);
                    record.id = Id::from(self.next_event);
                    self.next_event += 1;
                    Some(0)
                }
                Kind::Admin => self.admit_admin(&record, index).then_some(0),
                Kind::Commit => None,
            };
            kept.extend(target.map(|target| (record, target)));
        }
        self.place(kept, appended, append.reply, synced);
    }

    fn place(
        &mut self,
        kept: Vec<(Prepared, u32)>,
        appended: Appended,
        reply: oneshot::Sender<Result<Appended, Error>>,
        synced: u32,
    ) {
        let mut left = kept.len() as u32;
        let mut batch = Batch { records: Vec::with_capacity(kept.len()), targets: Vec::new(), appended, reply };
        for (mut record, target) in kept {
            left -= 1;
            record.seal(&self.key, self.at, &Fill { id: record.id, target, batch_left: left, synced });
            let offset = self.at;
            self.at += record.total() as u32;
            batch.records.push((record, offset));
            batch.targets.push(target);
        }
        self.batches.push(batch);
    }

    /// The segment of a message as this commit will leave it.
    fn segment_of(&self, id: Id, index: &Index) -> Option<u32> {
        match self.messages.get(&id) {
            Some(Staged::Here) => Some(self.key.segment),
            Some(Staged::Ended) => None,
            None => index.get(id).map(|slot| slot.place.segment),
        }
    }

    fn admit_message(&mut self, id: Id, index: &Index, finished: &Finished) -> Option<u32> {
        if self.messages.contains_key(&id) || index.get(id).is_some() || finished.contains(id) {
            return None;
        }
        self.messages.insert(id, Staged::Here);
        Some(self.key.segment)
    }

    /// A copy counts only while the original and all its states are as they were read.
    fn admit_copy(&mut self, record: &Prepared, index: &Index) -> Option<u32> {
        let Some(Expect::Message(place, parts)) = &record.expect else { return None };
        let slot = index.get(record.id)?;
        let untouched = !self.messages.contains_key(&record.id) && !self.marked.contains(&record.id);
        (untouched && slot.place == *place && slot.parts() == parts).then(|| {
            self.messages.insert(record.id, Staged::Here);
            self.copied.insert(record.id);
            self.key.segment
        })
    }

    fn admit_mark(&mut self, record: &Prepared, index: &Index) -> Option<u32> {
        if record.expect.is_some() {
            return self.copied.contains(&record.id).then_some(self.key.segment);
        }
        let target = self.segment_of(record.id, index)?;
        self.marked.insert(record.id);
        if record.kind == Kind::End {
            self.messages.insert(record.id, Staged::Ended);
        }
        Some(target)
    }

    /// A copy of an admin value counts only while the original is the newest.
    fn admit_admin(&mut self, record: &Prepared, index: &Index) -> bool {
        let Kept::Admin(key, _) = &record.kept else { return false };
        let Some(Expect::Admin(segment)) = &record.expect else {
            self.admin.insert(key.clone());
            return true;
        };
        let same = index.admin.get(key).is_some_and(|(_, newest)| newest == segment);
        same && !self.admin.contains(key)
    }

    pub fn records(&self) -> impl Iterator<Item = &Prepared> {
        self.placed().map(|(record, _)| record)
    }

    pub fn placed(&self) -> impl Iterator<Item = (&Prepared, u32)> {
        self.batches.iter().flat_map(|batch| batch.records.iter().map(|(record, offset)| (record, *offset)))
    }

    pub fn ended(&self) -> impl Iterator<Item = Id> {
        self.messages.iter().filter(|(_, staged)| **staged == Staged::Ended).map(|(id, _)| *id)
    }

    /// Changes the index as the record says. True when a segment lost its last message.
    pub fn apply(
        &self,
        record: &Prepared,
        place: Place,
        index: &mut Index,
        cache: &mut Cache,
        cache_max: usize,
    ) -> bool {
        match record.kind {
            Kind::Message => {
                index.put_message(record.id, place);
                if let Kept::Meta(meta) = &record.kept {
                    cache.put(record.id, meta.clone(), record.body.clone(), cache_max);
                }
                // A copy may have emptied the segment it came from.
                record.expect.is_some()
            }
            Kind::Change | Kind::Done => {
                let done = record.kind == Kind::Done;
                index.mark(record.id, Part { part: record.part, done, place }, record.target());
                false
            }
            Kind::End => {
                index.saw_target(place.segment, record.target());
                cache.remove(record.id);
                index.end(record.id)
            }
            Kind::Admin => {
                if let Kept::Admin(key, value) = &record.kept {
                    index.put_admin(key.clone(), value.clone(), place.segment);
                }
                false
            }
            Kind::Event | Kind::Commit => false,
        }
    }

    pub fn answer(self) {
        for batch in self.batches {
            let _ = batch.reply.send(Ok(batch.appended));
        }
    }

    pub fn refuse(self, error: &Error) {
        for batch in self.batches {
            let _ = batch.reply.send(Err(error.clone()));
        }
    }
}

impl Prepared {
    pub fn event(&self) -> Option<(u64, Bytes)> {
        match &self.kept {
            Kept::Event(payload) => Some((self.id as u64, payload.clone())),
            Kept::Nothing | Kept::Meta(_) | Kept::Admin(..) => None,
        }
    }

    fn target(&self) -> u32 {
        super::record::u32_at(&self.prefix, 32)
    }
}
