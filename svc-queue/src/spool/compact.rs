//! Empties a sparse segment: copies what lives in it, with its newest states, to the head of the log.
//!
//! The committer admits a copy only while the original and its states are as they were read, so a copy never outdates.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::disk::{read_up_to, read_whole};
use super::index::{Place, Slot};
use super::keeper::Keeper;
use super::record::{Expect, Header, Key, Kind, MOVED, Prepared};
use super::segment::{log_name, marks_name};
use super::shared::lock;
use super::sidecar::parse_marks;
use super::types::{Error, Id};

/// What one batch of copies may hold, beyond its first message.
const BATCH_BYTES_MAX: usize = 8 << 20;

impl Keeper {
    /// Whether something came of it: then it is worth looking again.
    pub fn empty_by_copying(&self, number: u32) -> io::Result<bool> {
        let Some(segment) = lock(&self.shared.index).segments.get(&number).cloned() else { return Ok(false) };
        let sidecar = self.shared.sidecar_of(number, &segment)?;
        let marks = self.states_in_marks(number, segment.nonce);
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for entry in sidecar.entries().filter(|entry| entry.header.kind == Kind::Message) {
            let slot = lock(&self.shared.index).get(entry.header.id).cloned();
            let Some(slot) = slot.filter(|slot| slot.place.is(number, entry.offset)) else { continue };
            let Some(copies) = self.copies(entry.header.id, &slot, &marks)? else {
                if let Some(segment) = lock(&self.shared.index).segments.get_mut(&number) {
                    segment.stuck = true;
                }
                return Ok(true);
            };
            batch_bytes += copies.iter().map(Prepared::total).sum::<usize>();
            batch.extend(copies);
            if batch_bytes >= BATCH_BYTES_MAX {
                self.append(std::mem::take(&mut batch)).map_err(io::Error::other)?;
                batch_bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.append(batch).map_err(io::Error::other)?;
        }
        Ok(lock(&self.shared.index).segments.get(&number).is_some_and(|now| now.live < segment.live))
    }

    /// The message and its parts as new records, or `None` when one cannot be read.
    fn copies(&self, id: Id, slot: &Slot, marks: &HashMap<(u32, u32), Bytes>) -> io::Result<Option<Vec<Prepared>>> {
        let Some((header, record)) = self.record_at(slot.place)? else { return Ok(None) };
        let (a, b) = (record.slice(header.a_at()..header.b_at()), record.slice(header.b_at()..header.table_at()));
        let built = Prepared::build(Kind::Message, id, 0, &a, &b, record.slice(header.body_at()..), MOVED);
        let mut message = built.map_err(io::Error::other)?;
        message.expect = Some(Expect::Message(slot.place, slot.parts().to_vec()));
        let mut copies = vec![message];
        for part in slot.parts() {
            let (kind, state) = if part.done {
                (Kind::Done, Some(Bytes::new()))
            } else if let Some(state) = marks.get(&(part.place.segment, part.place.offset)) {
                (Kind::Change, Some(state.clone()))
            } else {
                let found = self.record_at(part.place)?;
                (Kind::Change, found.map(|(header, record)| record.slice(header.b_at()..header.table_at())))
            };
            let Some(state) = state else { return Ok(None) };
            let built: Result<Prepared, Error> = Prepared::build(kind, id, part.part, &[], &state, Bytes::new(), MOVED);
            let mut copy = built.map_err(io::Error::other)?;
            copy.expect = Some(Expect::CopyOf);
            copies.push(copy);
        }
        Ok(Some(copies))
    }

    fn record_at(&self, place: Place) -> io::Result<Option<(Header, Bytes)>> {
        let Some(key) = lock(&self.shared.index).key(place.segment) else { return Ok(None) };
        let file = self.shared.disk.open(&log_name(place.segment))?;
        let record = read_up_to(&*file, u64::from(place.offset), place.len as usize)?;
        let header = Header::parse(&record, &key, place.offset).filter(|header| header.content_holds(&record));
        Ok(header.map(|header| (header, Bytes::from(record))))
    }

    /// States whose own segment is gone, by the place they were written at.
    fn states_in_marks(&self, number: u32, nonce: u128) -> HashMap<(u32, u32), Bytes> {
        let Ok(file) = read_whole(&*self.shared.disk, &marks_name(number)) else { return HashMap::new() };
        let marks = parse_marks(&file, &Key { nonce, segment: number }).marks;
        let states = marks.iter().filter(|mark| mark.header.kind == Kind::Change);
        states.map(|mark| ((mark.segment, mark.offset), Bytes::copy_from_slice(mark.b()))).collect()
    }
}
