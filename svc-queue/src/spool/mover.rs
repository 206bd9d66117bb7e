//! Carries events from the log to the event segments, so that the log's segments can go; and reads events for tailing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};

use bytes::Bytes;

use super::disk::{read_up_to, read_whole};
use super::events::EventWriter;
use super::index::State;
use super::keeper::Job;
use super::record::Header;
use super::segment::{log_name, scan};
use super::shared::{Shared, lock};
use super::types::{Error, Events};

/// What one round moves before it syncs.
const ROUND_BYTES_MAX: usize = 8 << 20;

pub struct Mover {
    pub shared: Arc<Shared>,
    pub stop: Receiver<()>,
    pub keeper: Sender<Job>,
}

impl Mover {
    pub fn run(self) {
        let mut writer = None;
        loop {
            let stopping = match self.stop.recv_timeout(self.shared.config.events_move_after) {
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            };
            while let Some(result) = self.round(&mut writer).transpose() {
                if let Err(error) = result {
                    tracing::warn!(%error, "events could not be moved out of the log; tried again later");
                    writer = None;
                    break;
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Moves some events; `None` when there are none to move.
    fn round(&self, writer: &mut Option<EventWriter>) -> io::Result<Option<()>> {
        let shared = &*self.shared;
        let newest = *shared.newest_event.borrow();
        let mut moved = lock(&shared.index).moved_event;
        if moved >= newest {
            return Ok(None);
        }
        if writer.as_ref().is_none_or(|writer| writer.is_full(&shared.config)) {
            *writer = Some(EventWriter::begin(&*shared.disk, shared.log_id, moved + 1)?);
        }
        let Some(writer) = writer.as_mut() else { return Ok(None) };
        let mut round_bytes = 0;
        while moved < newest && round_bytes < ROUND_BYTES_MAX && !writer.is_full(&shared.config) {
            let (events, upto) = next_events(shared, moved + 1, newest)?;
            for block in blocks(&events, shared.config.events_block_bytes) {
                writer.write(block)?;
            }
            round_bytes += events.iter().map(|(_, payload)| payload.len() + 64).sum::<usize>();
            moved = upto;
        }
        writer.sync()?;
        let expired = {
            let mut store = lock(&shared.events);
            writer.publish(&mut store);
            store.expire(&shared.config)
        };
        lock(&shared.index).moved_event = moved;
        for name in expired {
            tracing::info!(name, "events beyond the retention are gone");
            shared.disk.remove(&name)?;
        }
        let _ = self.keeper.send(Job::Look);
        Ok(Some(()))
    }
}

/// Cuts events into blocks: without a gap inside, and of about the size wanted.
fn blocks(events: &[(u64, Bytes)], bytes_max: usize) -> Vec<&[(u64, Bytes)]> {
    let mut blocks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, (seq, payload)) in events.iter().enumerate() {
        if i > start && (bytes >= bytes_max || events[i - 1].0 + 1 != *seq) {
            blocks.push(&events[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += payload.len();
    }
    blocks.extend((start < events.len()).then(|| &events[start..]));
    blocks
}

/// Unmoved events from `from` on, and up to which number that settles (lost ones included).
fn next_events(shared: &Shared, from: u64, newest: u64) -> io::Result<(Vec<(u64, Bytes)>, u64)> {
    if let Some(events) = lock(&shared.ring).from(from, usize::MAX, shared.config.events_block_bytes) {
        let upto = events.last().map_or(newest, |(seq, _)| *seq);
        return Ok((events, upto));
    }
    let ring_first = lock(&shared.ring).first;
    let holder = {
        let index = lock(&shared.index);
        let holder = index.segments.iter().find(|(_, s)| s.last_event >= from);
        holder.map(|(&number, s)| (number, s.clone()))
    };
    let Some((number, segment)) = holder else {
        // Not in the log either: lost to damage.
        return Ok((Vec::new(), if ring_first > from { ring_first - 1 } else { newest }));
    };
    let key = super::record::Key { nonce: segment.nonce, segment: number };
    let bytes = match segment.state {
        State::Open => read_up_to(&*shared.disk.open(&log_name(number))?, 0, segment.end as usize)?,
        State::Sealing | State::Sealed => read_whole(&*shared.disk, &log_name(number))?,
    };
    let found = scan(&bytes, &key, Some(segment.end));
    let wanted = found.events.iter().filter(|(seq, _)| (from..=segment.last_event).contains(seq));
    let events = wanted.filter_map(|&(seq, offset)| {
        let record = &bytes[offset as usize..];
        let header = Header::parse(record, &key, offset)?;
        Some((seq, Bytes::copy_from_slice(&record[header.b_at()..header.table_at()])))
    });
    Ok((events.collect(), segment.last_event))
}

/// The page of the event log that `Spool::events` answers with.
pub fn read_events(shared: &Shared, from: u64, count_max: usize, bytes_max: usize) -> Result<Events, Error> {
    let from = from.max(1);
    let mut page = Events { items: Vec::new(), gap: None, next: from };
    let mut bytes = 0;
    while page.items.len() < count_max.max(1) && (bytes < bytes_max || page.items.is_empty()) {
        let newest = *shared.newest_event.borrow();
        if page.next > newest {
            break;
        }
        let found = load(shared, page.next, newest).map_err(Error::unavailable)?;
        let first = found.first().map_or(newest + 1, |(seq, _)| *seq);
        if first > page.next {
            if !page.items.is_empty() {
                break;
            }
            page.gap = Some((from, first - 1));
            page.next = first;
        }
        for (seq, payload) in found {
            let full = page.items.len() >= count_max.max(1) || bytes + payload.len() > bytes_max;
            if seq != page.next || (full && !page.items.is_empty()) {
                return Ok(page);
            }
            bytes += payload.len();
            page.next = seq + 1;
            page.items.push((seq, payload));
        }
    }
    Ok(page)
}

/// Some events from `from` on, or of what comes first after it.
fn load(shared: &Shared, from: u64, newest: u64) -> io::Result<Vec<(u64, Bytes)>> {
    let mut from = from;
    while from <= newest {
        if let Some(events) = lock(&shared.ring).from(from, 4096, 1 << 20) {
            return Ok(events);
        }
        let located = lock(&shared.events).locate(from);
        if let Some(block) = located {
            match block.read(&*shared.disk) {
                Ok(Some(mut events)) => {
                    events.retain(|(seq, _)| *seq >= from);
                    return Ok(events);
                }
                Ok(None) => {
                    shared.set_aside(&block.fault(), &[]);
                    from = block.last() + 1;
                    continue;
                }
                // Retention may have taken it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
        }
        match next_events(shared, from, newest) {
            Ok((events, _)) if !events.is_empty() => return Ok(events),
            // They may have been moved, and their segment given back, just now: only what is in neither place is lost.
            Ok((_, upto)) if lock(&shared.events).locate(from).is_none() => from = upto + 1,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound && lock(&shared.index).moved_event >= from => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Vec::new())
}
