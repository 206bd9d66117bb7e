//! What stands beside a sealed segment: the sidecar (all that a restart needs of it, without envelopes and bodies) and the
//! marks file (what later, dropped segments said about its messages). Pure formats.

use super::record::{HEADER, Header, Key, Kind, Prepared, reseal, sidecar_len, u32_at, u64_at, u128_at};
use super::segment::Scan;

const MAGIC: &[u8; 8] = b"GODWITIX";
const FIXED: usize = 80;

/// A sidecar, or the same made by a scan.
#[derive(Clone)]
pub struct Sidecar {
    pub key: Key,
    pub log_id: u128,
    pub end: u32,
    pub first_event: u64,
    pub last_event: u64,
    /// Each: offset (4 bytes), then the record without its envelope and body. Events are left out.
    pub entries: Vec<u8>,
}

impl Sidecar {
    pub fn new(key: Key, log_id: u128) -> Sidecar {
        Sidecar { key, log_id, end: 0, first_event: 0, last_event: 0, entries: Vec::new() }
    }

    pub fn push(&mut self, offset: u32, record: &Prepared) {
        let part = record.sidecar_part();
        if !part.is_empty() {
            self.entries.extend_from_slice(&offset.to_le_bytes());
            self.entries.extend_from_slice(part);
        }
    }

    pub fn saw_event(&mut self, seq: u64) {
        self.first_event = if self.first_event == 0 { seq } else { self.first_event };
        self.last_event = seq;
    }

    pub fn from_scan(key: Key, log_id: u128, scan: &mut Scan) -> Sidecar {
        let entries = std::mem::take(&mut scan.entries);
        Sidecar { key, log_id, end: scan.end, first_event: scan.first_event, last_event: scan.last_event, entries }
    }

    /// The fixed part of the file; the entries follow it.
    pub fn fixed(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FIXED);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.key.segment.to_le_bytes());
        out.extend_from_slice(&self.end.to_le_bytes());
        out.extend_from_slice(&self.key.nonce.to_le_bytes());
        out.extend_from_slice(&self.log_id.to_le_bytes());
        out.extend_from_slice(&self.first_event.to_le_bytes());
        out.extend_from_slice(&self.last_event.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&self.entries).to_le_bytes());
        let check = self.key.check(u32::MAX, &out);
        out.extend_from_slice(&check.to_le_bytes());
        out
    }

    pub fn parse(mut file: Vec<u8>) -> Option<Sidecar> {
        if file.len() < FIXED || &file[..8] != MAGIC {
            return None;
        }
        let key = Key { segment: u32_at(&file, 8), nonce: u128_at(&file, 16) };
        let (len, crc) = (u32_at(&file, 64) as usize, u32_at(&file, 68));
        if u64_at(&file, 72) != key.check(u32::MAX, &file[..72]) || file.len() != FIXED + len {
            return None;
        }
        let (end, log_id) = (u32_at(&file, 12), u128_at(&file, 32));
        let (first_event, last_event) = (u64_at(&file, 48), u64_at(&file, 56));
        file.drain(..FIXED);
        (crc32fast::hash(&file) == crc).then_some(Sidecar { key, log_id, end, first_event, last_event, entries: file })
    }

    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut rest = &self.entries[..];
        std::iter::from_fn(move || {
            let offset = u32_at(rest.get(..4)?, 0);
            let header = Header::parse(&rest[4..], &self.key, offset)?;
            let len = 4 + sidecar_len(header.kind, header.a_len, header.b_len);
            let raw = rest.get(4..len)?;
            rest = &rest[len..];
            Some(Entry { segment: self.key.segment, offset, header, raw })
        })
    }
}

/// One record as a sidecar or a marks file has it, with the place in the log that it was written at.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub segment: u32,
    pub offset: u32,
    pub header: Header,
    /// Header, `a` and (unless a message) `b`.
    pub raw: &'a [u8],
}

impl Entry<'_> {
    pub fn a(&self) -> &[u8] {
        &self.raw[HEADER..HEADER + self.header.a_len as usize]
    }

    pub fn b(&self) -> &[u8] {
        &self.raw[HEADER + self.header.a_len as usize..]
    }
}

/// Adds a mark to the bytes that will be appended to the marks file of the segment that `key` is of.
pub fn push_mark(out: &mut Vec<u8>, key: &Key, entry: &Entry<'_>) {
    out.extend_from_slice(&entry.segment.to_le_bytes());
    out.extend_from_slice(&entry.offset.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(entry.raw);
    reseal(&mut out[at..], &mark_key(key, entry.segment), entry.offset);
}

/// A mark is bound to the file it lies in and to the place it was written at.
fn mark_key(key: &Key, source: u32) -> Key {
    Key { nonce: key.nonce ^ 0x6d61_726b_7300, segment: source }
}

/// A marks file's contents: good marks, how many bytes of it were read as such, and whether any were not.
pub struct Marks<'a> {
    pub marks: Vec<Entry<'a>>,
    pub bad: bool,
}

pub fn parse_marks<'a>(file: &'a [u8], key: &Key) -> Marks<'a> {
    let mut marks = Vec::new();
    let mut bad = false;
    let mut at = 0;
    while at + 8 + HEADER <= file.len() {
        match parse_mark(file, at, key) {
            Some(mark) => {
                at += 8 + mark.raw.len();
                marks.push(mark);
            }
            None => {
                bad = true;
                let next =
                    memchr::memmem::find_iter(&file[at + 9..], &super::record::MAGIC).map(|found| at + 1 + found);
                match next.into_iter().find(|&next| parse_mark(file, next, key).is_some()) {
                    Some(next) => at = next,
                    None => return Marks { marks, bad },
                }
            }
        }
    }
    Marks { marks, bad: bad || at != file.len() }
}

fn parse_mark<'a>(file: &'a [u8], at: usize, key: &Key) -> Option<Entry<'a>> {
    let (segment, offset) = (u32_at(file.get(at..at + 8)?, 0), u32_at(file, at + 4));
    let header = Header::parse(&file[at + 8..], &mark_key(key, segment), offset)?;
    if !header.kind.is_mark() {
        return None;
    }
    let raw = file.get(at + 8..at + 8 + sidecar_len(header.kind, header.a_len, header.b_len))?;
    let entry = Entry { segment, offset, header, raw };
    (header.kind != Kind::Change || header.b_holds(entry.b())).then_some(entry)
}
