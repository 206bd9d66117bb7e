//! The spool against crashes, damage, and full or sick disks. All on the simulated disk but for the last few.

#![allow(clippy::unwrap_used, reason = "tests say what went wrong by failing")]

mod crash;
mod damage;
mod events;
mod space;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use svc_queue::spool::sim::SimDisk;
use svc_queue::spool::{Config, Id, Live, Record, Recovery, Spool};

/// Everything small, so that a short test crosses every border.
pub fn small() -> Config {
    Config {
        segment_bytes: 64 << 10,
        cache_bytes_max: 32 << 10,
        events_ring_bytes_max: 4 << 10,
        events_block_bytes: 1 << 10,
        events_move_after: Duration::from_millis(2),
        retry_after: Duration::ZERO,
        compact_below_percent: 40,
        ..Config::default()
    }
}

pub fn open(config: Config, disk: &SimDisk) -> (Spool, Recovery) {
    Spool::open_on(config, Arc::new(disk.clone())).expect("damage is no reason not to open")
}

pub fn message(id: Id, body: impl Into<Bytes>) -> Record {
    let head = Bytes::from(format!("head {id}"));
    let meta = Bytes::from(format!("meta {id}"));
    Record::Message { id, head, meta, body: body.into() }
}

pub fn event(text: &str) -> Record {
    Record::Event { of: None, payload: Bytes::copy_from_slice(text.as_bytes()) }
}

pub fn change(id: Id, part: u16, state: &str) -> Record {
    Record::Change { id, part, state: Bytes::copy_from_slice(state.as_bytes()) }
}

/// All that `recovered` says, gathered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct World {
    pub messages: BTreeMap<Id, Bytes>,
    pub states: BTreeMap<(Id, u16), Bytes>,
    pub done: Vec<(Id, u16)>,
    pub admin: BTreeMap<Bytes, Bytes>,
}

pub async fn world(spool: &Spool) -> World {
    let mut world = World::default();
    let mut pages = spool.recovered();
    while let Some(page) = pages.next().await.unwrap() {
        for live in page {
            match live {
                Live::Message { id, head, .. } => assert!(world.messages.insert(id, head).is_none(), "{id} came twice"),
                Live::State { id, part, state } => {
                    assert!(world.messages.contains_key(&id), "a state came before its message");
                    world.states.insert((id, part), state);
                }
                Live::Done { id, part } => {
                    assert!(world.messages.contains_key(&id), "a mark came before its message");
                    world.done.push((id, part));
                }
                Live::Admin { key, value } => assert!(world.admin.insert(key, value).is_none()),
            }
        }
    }
    world.done.sort_unstable();
    world
}

/// Waits until background work has brought `holds` about.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), patience).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A power cut long after the last write: there is no torn tail.
pub async fn late_crash(disk: &SimDisk) -> SimDisk {
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now: Vec<_> = disk.names().into_iter().map(|name| (disk.bytes(&name), name)).collect();
        if now == seen {
            disk.settle();
            return disk.crash();
        }
        seen = now;
    }
}

/// A body that occurs nowhere else.
pub fn body_of(id: Id, len: usize) -> Vec<u8> {
    let mut state = id as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}
