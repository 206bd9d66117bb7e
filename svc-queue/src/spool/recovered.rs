//! The pages of what was alive at open: read from sidecars, one segment at a time, so that never all of it is in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use bytes::Bytes;

use super::disk::read_whole;
use super::index::Index;
use super::keeper::Job;
use super::record::{Key, Kind};
use super::segment::marks_name;
use super::shared::{Shared, lock};
use super::sidecar::{Entry, parse_marks};
use super::types::{Error, Live};

/// The pages of live messages at open. While it exists nothing is moved or dropped.
pub struct Recovered {
    shared: Arc<Shared>,
    keeper: Sender<Job>,
    segments: VecDeque<u32>,
    admin_given: bool,
}

impl Recovered {
    pub(super) fn new(shared: Arc<Shared>, keeper: Sender<Job>) -> Recovered {
        if !shared.first_hold.swap(false, Ordering::AcqRel) {
            shared.holds.fetch_add(1, Ordering::AcqRel);
        }
        let segments = lock(&shared.index).segments.keys().copied().collect();
        Recovered { shared, keeper, segments, admin_given: false }
    }

    /// The next page (about one segment's worth), or `None` at the end. Admin values come first.
    pub async fn next(&mut self) -> Result<Option<Vec<Live>>, Error> {
        if !std::mem::replace(&mut self.admin_given, true) {
            let index = lock(&self.shared.index);
            let values = index.admin.iter().filter_map(|(key, (value, _))| Some((key.clone(), value.clone()?)));
            return Ok(Some(values.map(|(key, value)| Live::Admin { key, value }).collect()));
        }
        let Some(&number) = self.segments.front() else { return Ok(None) };
        let shared = self.shared.clone();
        let page = tokio::task::spawn_blocking(move || page(&shared, number)).await;
        let page = page.map_err(Error::unavailable)?.map_err(Error::unavailable)?;
        self.segments.pop_front();
        Ok(Some(page))
    }
}

impl Drop for Recovered {
    fn drop(&mut self) {
        self.shared.holds.fetch_sub(1, Ordering::AcqRel);
        let _ = self.keeper.send(Job::Look);
    }
}

fn page(shared: &Shared, number: u32) -> io::Result<Vec<Live>> {
    let Some(segment) = lock(&shared.index).segments.get(&number).cloned() else { return Ok(Vec::new()) };
    let sidecar = shared.sidecar_of(number, &segment)?;
    let marks = if segment.marks_len > 0 { read_whole(&*shared.disk, &marks_name(number))? } else { Vec::new() };
    let marks = parse_marks(&marks, &Key { nonce: segment.nonce, segment: number }).marks;
    let index = lock(&shared.index);
    let entries = sidecar.entries().chain(marks);
    Ok(entries.filter_map(|entry| live(&index, &entry)).collect())
}

/// The entry, if it is what counts now.
fn live(index: &Index, entry: &Entry<'_>) -> Option<Live> {
    let header = &entry.header;
    let (id, part) = (header.id, header.part);
    match header.kind {
        Kind::Message => {
            index.get(id).filter(|slot| slot.place.is(entry.segment, entry.offset))?;
            Some(Live::Message { id, head: Bytes::copy_from_slice(entry.a()), body_bytes: header.body_len })
        }
        Kind::Change | Kind::Done => {
            let newest = index.get(id)?.part(part)?;
            newest.place.is(entry.segment, entry.offset).then(|| match header.kind {
                Kind::Done => Live::Done { id, part },
                _ => Live::State { id, part, state: Bytes::copy_from_slice(entry.b()) },
            })
        }
        Kind::End | Kind::Admin | Kind::Event | Kind::Commit => None,
    }
}
