//! The format of one record, pure. Content checksums are made by the caller; the small keyed header checksum, which
//! binds the record to its segment and place, by the committer.
//!
//! A record is a header of 72 bytes, then part `a` (head, or an admin key), part `b` (meta, state, payload or value), for
//! a large body its table of block checksums, and the body. All numbers are little-endian.

use std::hash::Hasher;
#[expect(deprecated, reason = "std's SipHash-2-4 with a key of ours; the replacement it names has no key")]
use std::hash::SipHasher;

use bytes::Bytes;

use super::index::{Part, Place};
use super::types::{Error, Id, Record};

pub const HEADER: usize = 72;
pub const MAGIC: [u8; 4] = [0xa7, b'G', b'w', 0x1e];
const VERSION: u8 = 1;
/// Bodies larger than this carry a checksum for each such block, so that a piece can be read and verified alone.
pub const BLOCK: usize = 256 << 10;
/// Parts `a` and `b` together, and a body: beyond these a record is refused.
const PARTS_BYTES_MAX: usize = 16 << 20;
const BODY_BYTES_MAX: usize = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Message,
    Change,
    Done,
    End,
    Event,
    Admin,
    /// Says only how far the log was synced.
    Commit,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{Admin, Change, Commit, Done, End, Event, Message};
        [Message, Change, Done, End, Event, Admin, Commit].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Records whose effect is on a message of an earlier (or this) segment.
    pub fn is_mark(self) -> bool {
        matches!(self, Kind::Change | Kind::Done | Kind::End)
    }
}

/// An admin record that deletes.
pub const DELETES: u32 = 1;
/// A copy made when a segment was emptied: no new acceptance.
pub const MOVED: u32 = 2;

/// What a record's checksum is bound to: the segment's secret, its number, and the place in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub nonce: u128,
    pub segment: u32,
}

impl Key {
    pub fn check(&self, offset: u32, bytes: &[u8]) -> u64 {
        #[expect(deprecated, reason = "see above")]
        let mut hasher = SipHasher::new_with_keys(self.nonce as u64, (self.nonce >> 64) as u64);
        let mut place = [0; 8];
        place[..4].copy_from_slice(&self.segment.to_le_bytes());
        place[4..].copy_from_slice(&offset.to_le_bytes());
        hasher.write(&place);
        hasher.write(bytes);
        hasher.finish()
    }
}

/// The header, as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    pub part: u16,
    /// Records of the same batch that follow.
    pub batch_left: u32,
    /// Everything of the segment before this offset was synced when the record was written.
    pub synced: u32,
    /// The message; for an event its number.
    pub id: Id,
    /// The segment of the message that a mark is about.
    pub target: u32,
    pub a_len: u32,
    pub b_len: u32,
    pub body_len: u32,
    a_crc: u32,
    b_crc: u32,
    body_crc: u32,
    pub flags: u32,
}

impl Header {
    /// `None` unless it was written by this spool, into this segment, at this place.
    pub fn parse(bytes: &[u8], key: &Key, offset: u32) -> Option<Header> {
        let bytes = bytes.get(..HEADER)?;
        if bytes[..4] != MAGIC || bytes[4] != VERSION || u64_at(bytes, 64) != key.check(offset, &bytes[..64]) {
            return None;
        }
        Some(Header {
            kind: Kind::from_byte(bytes[5])?,
            part: u16::from_le_bytes([bytes[6], bytes[7]]),
            batch_left: u32_at(bytes, 8),
            synced: u32_at(bytes, 12),
            id: u128_at(bytes, 16),
            target: u32_at(bytes, 32),
            a_len: u32_at(bytes, 36),
            b_len: u32_at(bytes, 40),
            body_len: u32_at(bytes, 44),
            a_crc: u32_at(bytes, 48),
            b_crc: u32_at(bytes, 52),
            body_crc: u32_at(bytes, 56),
            flags: u32_at(bytes, 60),
        })
    }

    pub fn a_at(&self) -> usize {
        HEADER
    }

    pub fn b_at(&self) -> usize {
        HEADER + self.a_len as usize
    }

    pub fn table_at(&self) -> usize {
        self.b_at() + self.b_len as usize
    }

    pub fn table_len(&self) -> usize {
        table_len(self.body_len as usize)
    }

    pub fn body_at(&self) -> usize {
        self.table_at() + self.table_len()
    }

    pub fn total(&self) -> usize {
        self.body_at() + self.body_len as usize
    }

    pub fn a_holds(&self, a: &[u8]) -> bool {
        a.len() == self.a_len as usize && crc32fast::hash(a) == self.a_crc
    }

    pub fn b_holds(&self, b: &[u8]) -> bool {
        b.len() == self.b_len as usize && crc32fast::hash(b) == self.b_crc
    }

    /// The table of a large body, verified; empty for a small one.
    pub fn table_holds(&self, table: &[u8]) -> bool {
        table.len() == self.table_len() && (table.is_empty() || crc32fast::hash(table) == self.body_crc)
    }

    /// Whether the blocks from number `first` on, which `bytes` is made of, are what was written.
    pub fn blocks_hold(&self, table: &[u8], first: usize, bytes: &[u8]) -> bool {
        if table.is_empty() {
            return bytes.len() == self.body_len as usize && crc32fast::hash(bytes) == self.body_crc;
        }
        bytes.chunks(BLOCK).enumerate().all(|(i, block)| {
            let at = (first + i) * 4;
            at + 4 <= table.len() && crc32fast::hash(block) == u32_at(table, at)
        })
    }

    /// Whether everything after the header holds. `record` is the whole record.
    pub fn content_holds(&self, record: &[u8]) -> bool {
        if record.len() != self.total() {
            return false;
        }
        let table = &record[self.table_at()..self.body_at()];
        self.a_holds(&record[self.a_at()..self.b_at()])
            && self.b_holds(&record[self.b_at()..self.table_at()])
            && self.table_holds(table)
            && self.blocks_hold(table, 0, &record[self.body_at()..])
    }
}

fn table_len(body: usize) -> usize {
    if body > BLOCK { body.div_ceil(BLOCK) * 4 } else { 0 }
}

/// A record ready to be written but for what only the committer knows.
pub struct Prepared {
    pub kind: Kind,
    pub id: Id,
    pub part: u16,
    /// The message that an event is about.
    pub of: Option<Id>,
    /// Header, parts and table; the body is written from where it lies.
    pub prefix: Vec<u8>,
    pub body: Bytes,
    /// Kept for the cache and the admin map: slices without the body.
    pub kept: Kept,
    /// For copies: what must still be so when this is committed.
    pub expect: Option<Expect>,
}

pub enum Expect {
    /// The message lies there, and those are its parts' newest states.
    Message(Place, Vec<Part>),
    /// The message was copied in this same batch.
    CopyOf,
    /// The admin key's newest value is in that segment.
    Admin(u32),
}

pub enum Kept {
    Nothing,
    Meta(Bytes),
    Event(Bytes),
    Admin(Bytes, Option<Bytes>),
}

/// What the committer fills in.
pub struct Fill {
    pub id: Id,
    pub target: u32,
    pub batch_left: u32,
    pub synced: u32,
}

impl Prepared {
    /// Checksums everything (on the caller's side) and refuses what is too large.
    pub fn new(record: Record) -> Result<Prepared, Error> {
        let none = Bytes::new();
        Ok(match record {
            Record::Message { id, head, meta, body } => {
                let mut prepared = Self::build(Kind::Message, id, 0, &head, &meta, body, 0)?;
                prepared.kept = Kept::Meta(meta);
                prepared
            }
            Record::Change { id, part, state } => Self::build(Kind::Change, id, part, &none, &state, none.clone(), 0)?,
            Record::Done { id, part } => Self::build(Kind::Done, id, part, &none, &none, none.clone(), 0)?,
            Record::End { id } => Self::build(Kind::End, id, 0, &none, &none, none.clone(), 0)?,
            Record::Event { of, payload } => {
                let mut prepared = Self::build(Kind::Event, 0, 0, &none, &payload, none.clone(), 0)?;
                prepared.of = of;
                prepared.kept = Kept::Event(payload);
                prepared
            }
            Record::Admin { key, value } => {
                let flags = if value.is_some() { 0 } else { DELETES };
                let bytes = value.clone().unwrap_or_default();
                let mut prepared = Self::build(Kind::Admin, 0, 0, &key, &bytes, none.clone(), flags)?;
                prepared.kept = Kept::Admin(key, value);
                prepared
            }
        })
    }

    pub fn commit() -> Prepared {
        Self::build(Kind::Commit, 0, 0, &[], &[], Bytes::new(), 0).expect("an empty record is not too large")
    }

    pub fn build(kind: Kind, id: Id, part: u16, a: &[u8], b: &[u8], body: Bytes, flags: u32) -> Result<Self, Error> {
        if a.len() + b.len() > PARTS_BYTES_MAX || body.len() > BODY_BYTES_MAX {
            return Err(Error::unavailable("a record is larger than the spool takes"));
        }
        let table_len = table_len(body.len());
        let mut prefix = Vec::with_capacity(HEADER + a.len() + b.len() + table_len);
        prefix.extend_from_slice(&MAGIC);
        prefix.extend_from_slice(&[VERSION, kind as u8]);
        prefix.extend_from_slice(&part.to_le_bytes());
        prefix.extend_from_slice(&[0; 8]);
        prefix.extend_from_slice(&id.to_le_bytes());
        let lens = [0, a.len() as u32, b.len() as u32, body.len() as u32];
        lens.iter().for_each(|n| prefix.extend_from_slice(&n.to_le_bytes()));
        let table: Vec<u8> = if table_len == 0 {
            Vec::new()
        } else {
            body.chunks(BLOCK).flat_map(|block| crc32fast::hash(block).to_le_bytes()).collect()
        };
        let body_crc = crc32fast::hash(if table.is_empty() { &body } else { &table });
        let sums = [crc32fast::hash(a), crc32fast::hash(b), body_crc, flags];
        sums.iter().for_each(|n| prefix.extend_from_slice(&n.to_le_bytes()));
        prefix.extend_from_slice(&[0; 8]);
        prefix.extend_from_slice(a);
        prefix.extend_from_slice(b);
        prefix.extend_from_slice(&table);
        Ok(Prepared { kind, id, part, of: None, prefix, body, kept: Kept::Nothing, expect: None })
    }

    pub fn total(&self) -> usize {
        self.prefix.len() + self.body.len()
    }

    pub fn seal(&mut self, key: &Key, offset: u32, fill: &Fill) {
        self.prefix[8..12].copy_from_slice(&fill.batch_left.to_le_bytes());
        self.prefix[12..16].copy_from_slice(&fill.synced.to_le_bytes());
        self.prefix[16..32].copy_from_slice(&fill.id.to_le_bytes());
        self.prefix[32..36].copy_from_slice(&fill.target.to_le_bytes());
        reseal(&mut self.prefix, key, offset);
    }

    /// Bytes that a sidecar keeps: header and `a`, and `b` unless it is a message's envelope.
    pub fn sidecar_part(&self) -> &[u8] {
        &self.prefix[..sidecar_len(self.kind, u32_at(&self.prefix, 36), u32_at(&self.prefix, 40))]
    }
}

pub fn sidecar_len(kind: Kind, a_len: u32, b_len: u32) -> usize {
    match kind {
        Kind::Message => HEADER + a_len as usize,
        Kind::Change | Kind::Done | Kind::End | Kind::Admin => HEADER + a_len as usize + b_len as usize,
        Kind::Event | Kind::Commit => 0,
    }
}

/// Binds a header to a (new) key and place.
pub fn reseal(header: &mut [u8], key: &Key, offset: u32) {
    let check = key.check(offset, &header[..64]);
    header[64..72].copy_from_slice(&check.to_le_bytes());
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
    }

    fn whole(prepared: &Prepared) -> Vec<u8> {
        [&prepared.prefix[..], &prepared.body[..]].concat()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(id: u128, part: u16, a in bytes(300), b in bytes(300), body in bytes(3000), nonce: u128) {
            let key = Key { nonce, segment: 7 };
            let mut record = Prepared::build(Kind::Message, id, part, &a, &b, body.clone(), MOVED).unwrap();
            record.seal(&key, 4096, &Fill { id, target: 3, batch_left: 2, synced: 99 });
            let written = whole(&record);
            let header = Header::parse(&written, &key, 4096).unwrap();
            prop_assert_eq!((header.id, header.part, header.target, header.batch_left), (id, part, 3, 2));
            prop_assert!(header.content_holds(&written));
            prop_assert_eq!(&written[header.b_at()..header.table_at()], &b[..]);
            prop_assert_eq!(&written[header.body_at()..], &body[..]);
            // Elsewhere, in another segment, or under another secret, it is nothing.
            prop_assert!(Header::parse(&written, &key, 4097).is_none());
            let (elsewhere, forged) = (Key { segment: 8, ..key }, Key { nonce: !nonce, ..key });
            prop_assert!(Header::parse(&written, &elsewhere, 4096).is_none());
            prop_assert!(Header::parse(&written, &forged, 4096).is_none());
        }

        #[test]
        fn any_flipped_bit_is_seen(a in bytes(40), b in bytes(40), body in bytes(200), at: proptest::sample::Index, bit in 0..8u8) {
            let key = Key { nonce: 5, segment: 1 };
            let mut record = Prepared::build(Kind::Message, 9, 0, &a, &b, body, 0).unwrap();
            record.seal(&key, 0, &Fill { id: 9, target: 0, batch_left: 0, synced: 0 });
            let mut written = whole(&record);
            let at = at.index(written.len());
            written[at] ^= 1 << bit;
            let good = Header::parse(&written, &key, 0).is_some_and(|header| header.content_holds(&written));
            prop_assert!(!good);
        }

        #[test]
        fn junk_never_panics(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
            let key = Key { nonce: 1, segment: 1 };
            prop_assert!(Header::parse(&junk, &key, 0).is_none());
        }
    }

    #[test]
    fn a_large_body_is_verified_by_block() {
        let body = Bytes::from(vec![7u8; BLOCK * 2 + 10]);
        let key = Key { nonce: 5, segment: 1 };
        let mut record = Prepared::build(Kind::Message, 9, 0, b"h", b"m", body.clone(), 0).unwrap();
        record.seal(&key, 0, &Fill { id: 9, target: 0, batch_left: 0, synced: 0 });
        let mut written = whole(&record);
        let header = Header::parse(&written, &key, 0).unwrap();
        assert!(header.content_holds(&written));
        let table = written[header.table_at()..header.body_at()].to_vec();
        assert!(header.blocks_hold(&table, 2, &body[BLOCK * 2..]));
        let last = written.len() - 1;
        written[last] ^= 1;
        assert!(!header.content_holds(&written));
    }
}
