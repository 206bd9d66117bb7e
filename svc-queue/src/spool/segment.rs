//! A segment file: its header page, and the scan that finds which of its bytes are records. Pure: bytes in, findings out.

use super::record::{HEADER, Header, Key, Kind, MAGIC, sidecar_len, u32_at, u64_at, u128_at};
use super::types::{Id, What};

/// The header page: the header twice, so that one bad sector does not cost a segment.
pub const PAGE: usize = 4096;
const COPY_AT: usize = 2048;
const PAGE_MAGIC: &[u8; 8] = b"GODWITSG";
const PAGE_USED: usize = 80;
const VERSION: u32 = 1;
/// Zeros after the last record: the log ends here on purpose.
pub const END_MARK: [u8; HEADER] = [0; HEADER];

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub key: Key,
    pub log_id: u128,
    /// The segment before this one, and how far it counts: what lies beyond was never acknowledged.
    pub prev: u32,
    pub prev_end: u32,
    pub capacity: u32,
}

impl SegmentHeader {
    pub fn page(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(PAGE_USED);
        header.extend_from_slice(PAGE_MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&self.key.segment.to_le_bytes());
        header.extend_from_slice(&self.key.nonce.to_le_bytes());
        header.extend_from_slice(&self.log_id.to_le_bytes());
        [self.prev, self.prev_end, self.capacity, 0].iter().for_each(|n| header.extend_from_slice(&n.to_le_bytes()));
        header.resize(PAGE_USED - 8, 0);
        header.extend_from_slice(&self.key.check(0, &header).to_le_bytes());
        let mut page = vec![0; PAGE];
        page[..PAGE_USED].copy_from_slice(&header);
        page[COPY_AT..COPY_AT + PAGE_USED].copy_from_slice(&header);
        page
    }

    pub fn parse(page: &[u8]) -> Option<SegmentHeader> {
        [0, COPY_AT].iter().find_map(|&at| Self::parse_copy(page.get(at..at + PAGE_USED)?))
    }

    fn parse_copy(bytes: &[u8]) -> Option<SegmentHeader> {
        if &bytes[..8] != PAGE_MAGIC || u32_at(bytes, 8) != VERSION {
            return None;
        }
        let key = Key { segment: u32_at(bytes, 12), nonce: u128_at(bytes, 16) };
        (u64_at(bytes, PAGE_USED - 8) == key.check(0, &bytes[..PAGE_USED - 8])).then(|| SegmentHeader {
            key,
            log_id: u128_at(bytes, 32),
            prev: u32_at(bytes, 48),
            prev_end: u32_at(bytes, 52),
            capacity: u32_at(bytes, 56),
        })
    }
}

pub fn log_name(segment: u32) -> String {
    format!("seg-{segment:08}.log")
}

pub fn sidecar_name(segment: u32) -> String {
    format!("seg-{segment:08}.idx")
}

pub fn marks_name(segment: u32) -> String {
    format!("seg-{segment:08}.marks")
}

/// The number in a name of ours with that ending.
pub fn number_in(name: &str, ending: &str) -> Option<u32> {
    name.strip_prefix("seg-")?.strip_suffix(ending)?.strip_suffix('.')?.parse().ok()
}

/// Bytes in a segment that are no good record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    pub from: u32,
    pub to: u32,
    pub what: What,
    pub id: Option<Id>,
}

/// What a scan accepted. `entries` is in the sidecar's form (see `sidecar`).
#[derive(Default)]
pub struct Scan {
    pub entries: Vec<u8>,
    /// After the last accepted record.
    pub end: u32,
    pub first_event: u64,
    pub last_event: u64,
    pub holes: Vec<Hole>,
    /// Places of the accepted events, for moving them out of the log.
    pub events: Vec<(u64, u32)>,
}

/// Reads a whole segment. `limit` is where it is known to have been synced up to when the log went on elsewhere; without
/// it this is the log's tail, of which only whole batches before the first hole count (below what records themselves say
/// was synced, damage is damage and everything else counts).
pub fn scan(bytes: &[u8], key: &Key, limit: Option<u32>) -> Scan {
    let until = limit.map_or(bytes.len(), |limit| bytes.len().min(limit as usize));
    let mut walk = Walk { bytes, key, until, synced: limit.unwrap_or(0), found: Vec::new(), holes: Vec::new() };
    walk.run();
    if let Some(limit) = limit.filter(|&limit| (limit as usize) > bytes.len()) {
        walk.holes.push(Hole { from: bytes.len() as u32, to: limit, what: What::Truncated, id: None });
    }
    walk.accept(limit)
}

struct Walk<'a> {
    bytes: &'a [u8],
    key: &'a Key,
    until: usize,
    synced: u32,
    found: Vec<(u32, Header)>,
    holes: Vec<Hole>,
}

impl Walk<'_> {
    fn run(&mut self) {
        let mut at = PAGE;
        while at + HEADER <= self.until {
            let Some(header) = Header::parse(&self.bytes[at..], self.key, at as u32) else {
                match self.next_header(at + 1) {
                    Some(next) => {
                        self.hole(at, next, What::Garbage, None);
                        at = next;
                        continue;
                    }
                    None => return self.tail(at),
                }
            };
            self.synced = self.synced.max(header.synced);
            let end = at + header.total();
            let id = (header.kind == Kind::Message).then_some(header.id);
            if end > self.until {
                // Its end is missing; other records may still lie in what follows the header.
                let next = self.next_header(at + HEADER).unwrap_or(self.until);
                self.hole(at, next, What::Truncated, id);
                at = next;
            } else if header.content_holds(&self.bytes[at..end]) {
                self.found.push((at as u32, header));
                at = end;
            } else {
                self.hole(at, end, What::BadContent, id);
                at = end;
            }
        }
    }

    fn next_header(&self, from: usize) -> Option<usize> {
        let area = self.bytes.get(from..self.until)?;
        memchr::memmem::find_iter(area, &MAGIC)
            .map(|at| from + at)
            .find(|&at| Header::parse(&self.bytes[at..self.until], self.key, at as u32).is_some())
    }

    /// Nothing valid follows: the end, if it was marked or everything known to be synced has been seen.
    fn tail(&mut self, at: usize) {
        if self.bytes[at..at + HEADER] == END_MARK && at as u32 >= self.synced {
            return;
        }
        let to = if (at as u32) < self.synced { self.synced as usize } else { self.until.min(at + (64 << 10)) };
        self.hole(at, to.min(self.until), What::Garbage, None);
    }

    fn hole(&mut self, from: usize, to: usize, what: What, id: Option<Id>) {
        self.holes.push(Hole { from: from as u32, to: to as u32, what, id });
    }

    /// Whole batches; in the unsynced tail only those before the first hole.
    fn accept(mut self, limit: Option<u32>) -> Scan {
        let synced = self.synced;
        let stop = self.holes.iter().map(|hole| hole.from).find(|&from| from >= synced && limit.is_none());
        let stop = stop.unwrap_or(u32::MAX);
        let mut scan = Scan { end: PAGE as u32, ..Scan::default() };
        let mut batch: Vec<(u32, Header)> = Vec::new();
        for (offset, header) in std::mem::take(&mut self.found) {
            if offset < synced {
                scan.take(self.bytes, offset, &header);
            } else if offset < stop {
                batch.push((offset, header));
                if header.batch_left == 0 {
                    batch.drain(..).for_each(|(offset, header)| scan.take(self.bytes, offset, &header));
                }
            } else {
                batch.push((offset, header));
            }
        }
        if let (Some((first, _)), Some((last, header))) = (batch.first(), batch.last()) {
            let to = last + header.total() as u32;
            self.holes.push(Hole { from: *first, to, what: What::TornTail, id: None });
        }
        for hole in self.holes.iter_mut().filter(|hole| limit.is_none() && hole.from >= synced) {
            hole.what = What::TornTail;
        }
        scan.end = scan.end.max(synced);
        scan.holes = self.holes;
        scan
    }
}

impl Scan {
    fn take(&mut self, bytes: &[u8], offset: u32, header: &Header) {
        let at = offset as usize;
        self.end = (at + header.total()) as u32;
        if header.kind == Kind::Event {
            let seq = header.id as u64;
            self.first_event = if self.first_event == 0 { seq } else { self.first_event };
            self.last_event = seq;
            self.events.push((seq, offset));
        }
        let kept = sidecar_len(header.kind, header.a_len, header.b_len);
        if kept > 0 {
            self.entries.extend_from_slice(&offset.to_le_bytes());
            self.entries.extend_from_slice(&bytes[at..at + kept]);
        }
    }
}
