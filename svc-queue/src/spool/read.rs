//! Reads messages back: from the cache of the just accepted, else from the log, always verified.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{File, read_up_to};
use super::index::Place;
use super::record::{BLOCK, HEADER, Header, Key};
use super::segment::log_name;
use super::shared::{Shared, fault, lock};
use super::types::{Error, Id, Lookup, Piece, Stored, What};

/// A record may be moved while it is being looked for; more often than this it is not.
const TRIES: usize = 8;

/// What the cache has; `None` for the others.
pub fn from_cache(shared: &Shared, ids: &[Id]) -> Vec<Option<Lookup>> {
    let cache = lock(&shared.cache);
    ids.iter().map(|id| cache.get(*id).map(|(meta, body)| Lookup::Found(Stored { meta, body }))).collect()
}

/// Of a message whose body is not wanted, what is read at first: most envelopes are shorter.
const ENVELOPE_BYTES: usize = 4 << 10;

/// Blocks. Opens each segment once, in the order of places.
pub fn read_many(shared: &Shared, ids: &[Id], body_bytes_max: usize) -> Vec<Lookup> {
    let mut order: Vec<(Option<Place>, usize)> = {
        let index = lock(&shared.index);
        ids.iter().enumerate().map(|(i, id)| (index.get(*id).map(|slot| slot.place), i)).collect()
    };
    order.sort_unstable();
    let mut found = vec![Lookup::Missing; ids.len()];
    let mut open = None;
    for (place, i) in order.into_iter().filter(|(place, _)| place.is_some()) {
        let lookup = retry(shared, ids[i], place, Lookup::Missing, Lookup::Damaged, |place, key| {
            let file = file_of(shared, place, &mut open)?;
            let stored = read_record(&*file, place, key, body_bytes_max)?;
            Ok(stored.map(Lookup::Found))
        });
        // One bad place on the disk is no reason to withhold the others.
        found[i] = lookup.unwrap_or_else(|error| Lookup::Unreadable(error.to_string()));
    }
    found
}

/// `None`: what was read does not verify.
fn read_record(file: &dyn File, place: Place, key: &Key, body_bytes_max: usize) -> io::Result<Option<Stored>> {
    let (at, len) = (u64::from(place.offset), place.len as usize);
    // A record is not shorter than its body: one that fits is read at once.
    let mut record = read_up_to(file, at, if len <= body_bytes_max { len } else { len.min(ENVELOPE_BYTES) })?;
    let Some(header) = Header::parse(&record, key, place.offset) else { return Ok(None) };
    let wants_body = header.body_len as usize <= body_bytes_max;
    let wanted = if wants_body { header.total() } else { header.table_at() };
    if record.len() < wanted {
        let rest = read_up_to(file, at + record.len() as u64, wanted - record.len())?;
        record.extend_from_slice(&rest);
    }
    let parts = record.get(header.a_at()..header.b_at()).zip(record.get(header.b_at()..header.table_at()));
    let holds = match wants_body {
        true => header.content_holds(&record),
        false => parts.is_some_and(|(a, b)| header.a_holds(a) && header.b_holds(b)),
    };
    if !holds {
        return Ok(None);
    }
    let record = Bytes::from(record);
    let body = if wants_body { record.slice(header.body_at()..) } else { Bytes::new() };
    Ok(Some(Stored { meta: record.slice(header.b_at()..header.table_at()), body }))
}

/// Blocks. Reads the checksum blocks around the piece and no more.
pub fn read_piece(shared: &Shared, id: Id, offset: u64, bytes_max: usize) -> Result<Piece, Error> {
    if let Some((_, body)) = lock(&shared.cache).get(id) {
        let from = (offset as usize).min(body.len());
        let to = from.saturating_add(bytes_max).min(body.len());
        return Ok(Piece::Found { bytes: body.slice(from..to), body_bytes: body.len() as u64 });
    }
    let place = lock(&shared.index).get(id).map(|slot| slot.place);
    retry(shared, id, place, Piece::Missing, Piece::Damaged, |place, key| {
        let file = shared.disk.open(&log_name(place.segment))?;
        let at = u64::from(place.offset);
        let Some(header) = Header::parse(&read_up_to(&*file, at, HEADER)?, key, place.offset) else { return Ok(None) };
        let table = read_up_to(&*file, at + header.table_at() as u64, header.table_len())?;
        let body = header.body_len as usize;
        let from = (offset.min(body as u64)) as usize;
        let to = from.saturating_add(bytes_max).min(body);
        let (first, last) = if table.is_empty() { (0, 1) } else { (from / BLOCK, to.div_ceil(BLOCK)) };
        let until = if table.is_empty() { body } else { (last * BLOCK).min(body) };
        let start = (first * BLOCK).min(until);
        let bytes = read_up_to(&*file, at + (header.body_at() + start) as u64, until - start)?;
        let holds = bytes.len() == until - start && header.table_holds(&table);
        if !holds || (!bytes.is_empty() && !header.blocks_hold(&table, first, &bytes)) {
            return Ok(None);
        }
        let bytes = Bytes::from(bytes).slice(from.max(start) - start..to.max(start) - start);
        Ok(Some(Piece::Found { bytes, body_bytes: body as u64 }))
    })
}

fn file_of(shared: &Shared, place: Place, open: &mut Option<(u32, Arc<dyn File>)>) -> io::Result<Arc<dyn File>> {
    if let Some((number, file)) = open.as_ref().filter(|(number, _)| *number == place.segment) {
        debug_assert_eq!(*number, place.segment);
        return Ok(file.clone());
    }
    let file = shared.disk.open(&log_name(place.segment))?;
    *open = Some((place.segment, file.clone()));
    Ok(file)
}

/// Runs `get` where the message lies. When that fails it may have moved or ended meanwhile: only a failure at a place that
/// is still its place is damage.
fn retry<T>(
    shared: &Shared,
    id: Id,
    mut place: Option<Place>,
    missing: T,
    damaged: T,
    mut get: impl FnMut(Place, &Key) -> io::Result<Option<T>>,
) -> Result<T, Error> {
    for _ in 0..TRIES {
        let Some(at) = place else { return Ok(missing) };
        let key = lock(&shared.index).key(at.segment);
        let got = key.map_or(Ok(None), |key| get(at, &key));
        if let Ok(Some(found)) = got {
            return Ok(found);
        }
        place = lock(&shared.index).get(id).map(|slot| slot.place);
        if place != Some(at) {
            continue;
        }
        return match got {
            Ok(_) => {
                report(shared, id, at);
                Ok(damaged)
            }
            Err(error) => Err(Error::unavailable(error)),
        };
    }
    Err(Error::unavailable("the message keeps moving"))
}

fn report(shared: &Shared, id: Id, place: Place) {
    if !lock(&shared.damaged).insert((place.segment, place.offset)) {
        return;
    }
    let name = log_name(place.segment);
    let read = |file: Arc<dyn File>| read_up_to(&*file, u64::from(place.offset), place.len as usize);
    let bytes = shared.disk.open(&name).and_then(read).unwrap_or_default();
    let mut found = fault(name, u64::from(place.offset), u64::from(place.len), What::BadContent);
    found.id = Some(id);
    shared.set_aside(&found, &bytes);
}
