//! The event segments: events that have left the log, in zstd-compressed blocks, bounded by size and age.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::disk::{Disk, File, read_up_to, read_whole};
use super::record::{Key, u32_at, u64_at, u128_at};
use super::shared::fault;
use super::types::{Config, Fault, What};

const FILE_MAGIC: &[u8; 8] = b"GODWITEV";
const FILE_HEADER: usize = 56;
const BLOCK_MAGIC: &[u8; 4] = b"GwEb";
const BLOCK_HEADER: usize = 48;
const ZSTD_LEVEL: i32 = 1;
/// A block's events, unpacked, are never more than this; larger claims are damage.
const RAW_BYTES_MAX: usize = 64 << 20;

/// Where the moved events lie. In memory: 24 bytes a block.
#[derive(Default)]
pub struct EventStore {
    files: VecDeque<EventFile>,
    pub bytes: u64,
}

struct EventFile {
    name: String,
    key: Key,
    bytes: u64,
    newest_ms: u64,
    blocks: Vec<BlockAt>,
}

#[derive(Clone, Copy)]
struct BlockAt {
    first: u64,
    count: u32,
    offset: u32,
    len: u32,
}

impl BlockAt {
    fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }
}

/// A block to be read: found under the lock, read without it.
pub struct Located {
    name: String,
    key: Key,
    block: BlockAt,
}

impl Located {
    pub fn last(&self) -> u64 {
        self.block.last()
    }

    /// The block's events, or `None` when they do not verify.
    pub fn read(&self, disk: &dyn Disk) -> io::Result<Option<Vec<(u64, Bytes)>>> {
        let file = disk.open(&self.name)?;
        let bytes = read_up_to(&*file, u64::from(self.block.offset), self.block.len as usize)?;
        Ok(unpack(&bytes, &self.key, self.block.offset))
    }

    pub fn fault(&self) -> Fault {
        fault(self.name.clone(), u64::from(self.block.offset), u64::from(self.block.len), What::BadEvents)
    }
}

impl EventStore {
    /// The first block that has `seq` or something newer.
    pub fn locate(&self, seq: u64) -> Option<Located> {
        let file = self.files.iter().find(|file| file.blocks.last().is_some_and(|block| block.last() >= seq))?;
        let at = file.blocks.partition_point(|block| block.last() < seq);
        Some(Located { name: file.name.clone(), key: file.key, block: file.blocks[at] })
    }

    pub fn oldest(&self) -> Option<u64> {
        self.files.iter().find_map(|file| file.blocks.first()).map(|block| block.first)
    }

    fn newest(&self) -> Option<u64> {
        self.files.iter().rev().find_map(|file| file.blocks.last()).map(BlockAt::last)
    }

    /// Files that retention gives up, oldest first; they are no longer found from here on.
    pub fn expire(&mut self, config: &Config) -> Vec<String> {
        let oldest_ms = config.events_age_max.map_or(0, |age| now_ms().saturating_sub(age.as_millis() as u64));
        let mut names = Vec::new();
        while self.files.len() > 1 && (self.bytes > config.events_bytes_max || self.files[0].newest_ms < oldest_ms) {
            let Some(file) = self.files.pop_front() else { break };
            self.bytes -= file.bytes;
            names.push(file.name);
        }
        names
    }

    /// Opens what is there. `in_log` says whether the log still has an event: then a damaged end is only an unfinished move.
    pub fn recover(disk: &dyn Disk, in_log: impl Fn(u64) -> bool) -> io::Result<(EventStore, u64, Vec<Fault>)> {
        let mut store = EventStore::default();
        let mut faults = Vec::new();
        let files = disk.list("events")?.into_iter();
        let files: Vec<(u64, u64)> = files.filter_map(|(name, size)| Some((first_in(&name)?, size))).collect();
        for (i, &(first, size)) in files.iter().enumerate() {
            // What an unfinished move left at the end of the file before has been moved again from here on.
            store.cut(first);
            let name = file_name(first);
            let next_file = files.get(i + 1).map(|(first, _)| *first);
            match load_file(disk, &name, next_file, &in_log, &mut faults) {
                Ok(Some(file)) => store.push_file(file),
                Ok(None) => faults.push(fault(name, 0, size, What::BadEvents)),
                Err(_) => faults.push(fault(name, 0, size, What::Unreadable)),
            }
        }
        let moved = store.newest().unwrap_or(0);
        Ok((store, moved, faults))
    }

    fn push_file(&mut self, file: EventFile) {
        self.bytes += file.bytes;
        self.files.push_back(file);
    }

    fn cut(&mut self, first: u64) {
        self.files.iter_mut().for_each(|file| file.blocks.retain(|block| block.last() < first));
    }
}

fn file_name(first: u64) -> String {
    format!("events/ev-{first:020}.log")
}

fn first_in(name: &str) -> Option<u64> {
    name.strip_prefix("ev-")?.strip_suffix(".log")?.parse().ok()
}

/// `None`: its header is no good.
fn load_file(
    disk: &dyn Disk,
    name: &str,
    next_file: Option<u64>,
    in_log: &impl Fn(u64) -> bool,
    faults: &mut Vec<Fault>,
) -> io::Result<Option<EventFile>> {
    let newest = next_file.is_none();
    let file = disk.open(name)?;
    let size = file.len()?;
    let header = read_up_to(&*file, 0, FILE_HEADER)?;
    let Some(key) = parse_file_header(&header) else {
        return Ok((newest && size <= FILE_HEADER as u64).then(|| EventFile::empty(name, Key { nonce: 0, segment: 0 })));
    };
    let mut loaded = EventFile::empty(name, key);
    loaded.bytes = size;
    let mut at = FILE_HEADER as u64;
    while at < size {
        let head = read_up_to(&*file, at, BLOCK_HEADER)?;
        let mut block = parse_block(&head, &key, at as u32);
        if let Some(found) = block.filter(|_| newest) {
            let bytes = read_up_to(&*file, at, found.0.len as usize)?;
            block = unpack(&bytes, &key, at as u32).and(block);
        }
        if let Some((block, time_ms)) = block {
            loaded.blocks.push(block);
            loaded.newest_ms = time_ms;
            at += u64::from(block.len);
            continue;
        }
        let next = loaded.blocks.last().map_or(0, |block| block.last() + 1);
        let unfinished = match next_file {
            Some(first) => next == first || loaded.blocks.is_empty(),
            None => in_log(next) || loaded.blocks.is_empty(),
        };
        let resumed = if unfinished { None } else { next_block(disk, name, &key, at as usize + 1)? };
        if !unfinished {
            faults.push(fault(name, at, resumed.unwrap_or(size as usize) as u64 - at, What::BadEvents));
        }
        match resumed {
            Some(next) => at = next as u64,
            None => break,
        }
    }
    Ok(Some(loaded))
}

fn next_block(disk: &dyn Disk, name: &str, key: &Key, from: usize) -> io::Result<Option<usize>> {
    let bytes = read_whole(disk, name)?;
    let area = bytes.get(from..).unwrap_or_default();
    let mut found = memchr::memmem::find_iter(area, BLOCK_MAGIC).map(|at| at + from);
    Ok(found.find(|&at| parse_block(&bytes[at..], key, at as u32).is_some()))
}

impl EventFile {
    fn empty(name: &str, key: Key) -> EventFile {
        EventFile { name: name.to_owned(), key, bytes: 0, newest_ms: 0, blocks: Vec::new() }
    }
}

fn parse_file_header(bytes: &[u8]) -> Option<Key> {
    if bytes.len() < FILE_HEADER || &bytes[..8] != FILE_MAGIC {
        return None;
    }
    let key = Key { nonce: u128_at(bytes, 16), segment: u64_at(bytes, 8) as u32 };
    (u64_at(bytes, 48) == key.check(0, &bytes[..48])).then_some(key)
}

fn parse_block(bytes: &[u8], key: &Key, offset: u32) -> Option<(BlockAt, u64)> {
    let bytes = bytes.get(..BLOCK_HEADER)?;
    if bytes[..4] != *BLOCK_MAGIC || u64_at(bytes, 40) != key.check(offset, &bytes[..40]) {
        return None;
    }
    let len = BLOCK_HEADER as u32 + u32_at(bytes, 24);
    let block = BlockAt { first: u64_at(bytes, 8), count: u32_at(bytes, 4), offset, len };
    (block.count > 0).then_some((block, u64_at(bytes, 32)))
}

fn unpack(bytes: &[u8], key: &Key, offset: u32) -> Option<Vec<(u64, Bytes)>> {
    let (block, _) = parse_block(bytes, key, offset)?;
    let packed = bytes.get(BLOCK_HEADER..block.len as usize)?;
    let raw_len = u32_at(bytes, 20) as usize;
    if crc32fast::hash(packed) != u32_at(bytes, 28) || raw_len > RAW_BYTES_MAX {
        return None;
    }
    let mut raw = Bytes::from(zstd::bulk::decompress(packed, raw_len).ok()?);
    let mut events = Vec::with_capacity(block.count as usize);
    for seq in block.first..=block.last() {
        let len = u32_at(raw.get(..4)?, 0) as usize;
        let _ = raw.split_to(4);
        events.push((seq, (len <= raw.len()).then(|| raw.split_to(len))?));
    }
    Some(events)
}

/// The mover's hand: the file that is being written. After any failure it is thrown away and a new file begun.
pub struct EventWriter {
    file: Arc<dyn File>,
    name: String,
    key: Key,
    at: u32,
    born_ms: u64,
    fresh: Vec<(BlockAt, u64)>,
    listed: bool,
}

impl EventWriter {
    pub fn begin(disk: &dyn Disk, log_id: u128, first: u64) -> io::Result<EventWriter> {
        let name = file_name(first);
        let key = Key { nonce: rand::random(), segment: first as u32 };
        let mut header = FILE_MAGIC.to_vec();
        header.extend_from_slice(&first.to_le_bytes());
        header.extend_from_slice(&key.nonce.to_le_bytes());
        header.extend_from_slice(&log_id.to_le_bytes());
        let check = key.check(0, &header);
        header.extend_from_slice(&check.to_le_bytes());
        let file = disk.create(&name)?;
        file.write_at(0, &mut [IoSlice::new(&header)])?;
        disk.sync_dir("events")?;
        Ok(EventWriter { file, name, key, at: FILE_HEADER as u32, born_ms: now_ms(), fresh: Vec::new(), listed: false })
    }

    pub fn is_full(&self, config: &Config) -> bool {
        let size_max = (config.events_bytes_max / 16).clamp(4 << 10, 64 << 20);
        let age = Duration::from_millis(now_ms().saturating_sub(self.born_ms));
        u64::from(self.at) >= size_max || config.events_age_max.is_some_and(|age_max| age >= age_max / 4)
    }

    /// Writes one block; nothing is promised before `sync`.
    pub fn write(&mut self, events: &[(u64, Bytes)]) -> io::Result<()> {
        let mut raw = Vec::new();
        for (_, payload) in events {
            raw.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            raw.extend_from_slice(payload);
        }
        let packed = zstd::bulk::compress(&raw, ZSTD_LEVEL)?;
        let (first, time_ms) = (events[0].0, now_ms());
        let mut header = BLOCK_MAGIC.to_vec();
        header.extend_from_slice(&(events.len() as u32).to_le_bytes());
        header.extend_from_slice(&first.to_le_bytes());
        let numbers = [0, raw.len() as u32, packed.len() as u32, crc32fast::hash(&packed)];
        numbers.iter().for_each(|n| header.extend_from_slice(&n.to_le_bytes()));
        header.extend_from_slice(&time_ms.to_le_bytes());
        let check = self.key.check(self.at, &header);
        header.extend_from_slice(&check.to_le_bytes());
        self.file.write_at(u64::from(self.at), &mut [IoSlice::new(&header), IoSlice::new(&packed)])?;
        let len = (BLOCK_HEADER + packed.len()) as u32;
        self.fresh.push((BlockAt { first, count: events.len() as u32, offset: self.at, len }, time_ms));
        self.at += len;
        Ok(())
    }

    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes what was synced findable.
    pub fn publish(&mut self, store: &mut EventStore) {
        if !std::mem::replace(&mut self.listed, true) {
            store.push_file(EventFile::empty(&self.name, self.key));
        }
        let Some(file) = store.files.back_mut() else { return };
        for (block, time_ms) in self.fresh.drain(..) {
            file.blocks.push(block);
            file.newest_ms = time_ms;
        }
        store.bytes += u64::from(self.at) - file.bytes;
        file.bytes = u64::from(self.at);
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
