//! What is kept in memory: where each live message and its newest states lie, and what each segment still holds.
//!
//! A message costs one map entry of 40 bytes (`hot_memory_is_small` below), 47 to 94 with the map's slack; states of its
//! parts, which most messages never get, 16 bytes each in a list of their own. Heads, envelopes and states stay on disk.
//! It says only what is durable: the committer changes it after the sync.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;

use super::record::{DELETES, Key, Kind};
use super::sidecar::Entry;
use super::types::Id;

/// Where a record lies. Segment numbers are never used again, so a place names one record for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

impl Place {
    fn before(&self, segment: u32, offset: u32) -> bool {
        (self.segment, self.offset) < (segment, offset)
    }

    pub fn is(&self, segment: u32, offset: u32) -> bool {
        (self.segment, self.offset) == (segment, offset)
    }
}

/// The newest that is known of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub part: u16,
    pub done: bool,
    pub place: Place,
}

// The box is one word in every message's slot where a Vec would be three.
#[expect(clippy::box_collection, reason = "see above")]
#[derive(Debug, Clone)]
pub struct Slot {
    pub place: Place,
    parts: Option<Box<Vec<Part>>>,
}

impl Slot {
    pub fn parts(&self) -> &[Part] {
        self.parts.as_ref().map_or(&[], |parts| parts)
    }

    pub fn part(&self, part: u16) -> Option<&Part> {
        self.parts().iter().find(|p| p.part == part)
    }

    /// Newest wins, and nothing comes after done.
    fn mark(&mut self, new: Part) {
        let parts = self.parts.get_or_insert_default();
        match parts.iter_mut().find(|p| p.part == new.part) {
            None => parts.push(new),
            Some(old) if old.done && !new.done => {}
            Some(old) if old.place.before(new.place.segment, new.place.offset) => *old = new,
            Some(_) => {}
        }
    }
}

// Two words and not one u128, whose alignment would cost 8 bytes a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Short(u64, u64);

impl From<Id> for Short {
    fn from(id: Id) -> Self {
        Short((id >> 64) as u64, id as u64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The committer writes to it.
    Open,
    /// Full; its sidecar is not on the disk yet.
    Sealing,
    Sealed,
}

#[derive(Debug, Clone)]
pub struct Segment {
    pub nonce: u128,
    pub state: State,
    pub capacity: u32,
    /// After the last durable record.
    pub end: u32,
    pub live: u32,
    pub live_bytes: u64,
    pub first_event: u64,
    pub last_event: u64,
    /// Other segments that its marks are about.
    pub targets: BTreeSet<u32>,
    /// Bytes of its marks file that count.
    pub marks_len: u64,
    /// A live message of it cannot be read, so that emptying it by copying is of no use.
    pub stuck: bool,
    /// Some of its messages were copied to a newer segment and the old copies are still in it: no newer segment may go
    /// before it, or what ended since would come back.
    pub draining: bool,
}

impl Segment {
    pub fn new(nonce: u128, capacity: u32) -> Segment {
        Segment {
            nonce,
            state: State::Open,
            capacity,
            end: 0,
            live: 0,
            live_bytes: 0,
            first_event: 0,
            last_event: 0,
            targets: BTreeSet::new(),
            marks_len: 0,
            stuck: false,
            draining: false,
        }
    }
}

#[derive(Default)]
pub struct Index {
    messages: HashMap<Short, Slot>,
    pub segments: BTreeMap<u32, Segment>,
    /// Value (or that it was deleted) and the segment that says so.
    pub admin: BTreeMap<Bytes, (Option<Bytes>, u32)>,
    /// Events up to here are in the event segments, or lost.
    pub moved_event: u64,
    pub live_bytes: u64,
}

impl Index {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn get(&self, id: Id) -> Option<&Slot> {
        self.messages.get(&Short::from(id))
    }

    pub fn key(&self, segment: u32) -> Option<Key> {
        self.segments.get(&segment).map(|s| Key { nonce: s.nonce, segment })
    }

    /// A message, new or copied to a new place (its parts stay).
    pub fn put_message(&mut self, id: Id, place: Place) {
        self.count(place, true);
        let slot = self.messages.entry(id.into()).or_insert(Slot { place, parts: None });
        let old = std::mem::replace(&mut slot.place, place);
        if old != place {
            self.count(old, false);
            if let Some(segment) = self.segments.get_mut(&old.segment) {
                segment.draining = true;
            }
        }
    }

    /// Whether the segment's last live message went with it.
    pub fn end(&mut self, id: Id) -> bool {
        match self.messages.remove(&Short::from(id)) {
            Some(slot) => self.count(slot.place, false),
            None => false,
        }
    }

    pub fn mark(&mut self, id: Id, part: Part, target: u32) {
        if let Some(segment) = self.segments.get_mut(&part.place.segment).filter(|_| target != part.place.segment) {
            segment.targets.insert(target);
        }
        if let Some(slot) = self.messages.get_mut(&Short::from(id)) {
            slot.mark(part);
        }
    }

    pub fn saw_target(&mut self, segment: u32, target: u32) {
        if let Some(segment) = self.segments.get_mut(&segment).filter(|_| segment != target) {
            segment.targets.insert(target);
        }
    }

    pub fn put_admin(&mut self, key: Bytes, value: Option<Bytes>, segment: u32) {
        self.admin.insert(key, (value, segment));
    }

    fn count(&mut self, place: Place, alive: bool) -> bool {
        let Some(segment) = self.segments.get_mut(&place.segment) else { return false };
        let bytes = u64::from(place.len);
        if alive {
            segment.live += 1;
            segment.live_bytes += bytes;
            self.live_bytes += bytes;
        } else {
            segment.live -= 1;
            segment.live_bytes -= bytes;
            self.live_bytes -= bytes;
        }
        segment.live == 0
    }

    /// Applies what recovery read, in the log's order (marks files may come early: places decide).
    pub fn recover(&mut self, entry: &Entry<'_>) {
        let header = &entry.header;
        let place = Place { segment: entry.segment, offset: entry.offset, len: header.total() as u32 };
        match header.kind {
            Kind::Message => self.put_message(header.id, place),
            Kind::Change | Kind::Done => {
                let done = header.kind == Kind::Done;
                self.mark(header.id, Part { part: header.part, done, place }, header.target);
            }
            Kind::End => {
                self.saw_target(entry.segment, header.target);
                if self.get(header.id).is_some_and(|slot| slot.place.before(entry.segment, entry.offset)) {
                    self.end(header.id);
                }
            }
            Kind::Admin => {
                let value = (header.flags & DELETES == 0).then(|| Bytes::copy_from_slice(entry.b()));
                self.put_admin(Bytes::copy_from_slice(entry.a()), value, entry.segment);
            }
            Kind::Event | Kind::Commit => {}
        }
    }

    /// Sealed segments that hold nothing any more, oldest first, as far as no older one stands in the way.
    pub fn droppable(&self) -> Vec<u32> {
        let in_the_way = |s: &Segment| s.state != State::Sealed || (s.draining && !self.is_empty(s));
        let may_go = self.segments.iter().take_while(|(_, s)| !in_the_way(s));
        may_go.filter(|(_, s)| self.is_empty(s)).map(|(&number, _)| number).collect()
    }

    fn is_empty(&self, segment: &Segment) -> bool {
        segment.live == 0 && segment.last_event <= self.moved_event
    }

    /// The segment to empty next: one that was begun, else the emptiest below that share of live bytes.
    pub fn sparse(&self, percent: u32) -> Option<u32> {
        let worth =
            |s: &Segment| s.state == State::Sealed && !s.stuck && s.live > 0 && s.last_event <= self.moved_event;
        let below = |s: &Segment| s.live_bytes * 100 < u64::from(s.capacity) * u64::from(percent);
        let candidates = self.segments.iter().filter(|(_, s)| worth(s) && (s.draining || below(s)));
        candidates.min_by_key(|(_, s)| (!s.draining, s.live_bytes)).map(|(&number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hot_memory_is_small() {
        assert_eq!(size_of::<(Short, Slot)>(), 40);
        assert_eq!(size_of::<Part>(), 16);
    }

    #[test]
    fn newest_wins_and_done_stays() {
        let mut index = Index::default();
        index.segments.insert(1, Segment::new(0, 100));
        let place = |offset| Place { segment: 1, offset, len: 72 };
        index.put_message(5, place(0));
        index.mark(5, Part { part: 0, done: false, place: place(20) }, 1);
        index.mark(5, Part { part: 0, done: false, place: place(10) }, 1);
        assert_eq!(index.get(5).unwrap().part(0).unwrap().place, place(20));
        index.mark(5, Part { part: 0, done: true, place: place(30) }, 1);
        index.mark(5, Part { part: 0, done: false, place: place(40) }, 1);
        assert!(index.get(5).unwrap().part(0).unwrap().done);
        assert!(index.end(5));
        assert_eq!(index.live_bytes, 0);
    }
}
