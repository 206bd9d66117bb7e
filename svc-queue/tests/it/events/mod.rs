//! The event log: watched, pushed to TSAs, written by sinks. Over a log in memory that can forget, and over the spool.
#![allow(clippy::unwrap_used)]

mod sinks;
mod tsa;
mod watch;

use bytes::Bytes;
use godwit_kit::Host;
use godwit_kit::clock::Clock;
use godwit_proto::common::v1::{Event, EventKind};
use godwit_proto::id::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use svc_queue::events::{Log, Source, codec};
use svc_queue::spool::{Error, Events};
use tokio::sync::watch::{Receiver, Sender};

/// A log in memory. Clones are one log.
#[derive(Clone)]
pub struct Memory {
    id: u128,
    events: Arc<Mutex<BTreeMap<u64, Bytes>>>,
    newest: Arc<Sender<u64>>,
}

impl Memory {
    pub fn new(id: u128) -> Self {
        Self { id, events: Arc::default(), newest: Arc::new(Sender::new(0)) }
    }

    /// Adds one event a kind.
    pub fn add(&self, kinds: impl IntoIterator<Item = EventKind>) {
        let mut newest = *self.newest.borrow();
        for kind in kinds {
            newest += 1;
            let event = Event { kind: kind.into(), attempt: newest as u32, ..Event::default() };
            self.events.lock().unwrap().insert(newest, codec::encode(&event));
        }
        self.newest.send_replace(newest);
    }

    pub fn add_deliveries(&self, count: usize) {
        self.add(vec![EventKind::Delivery; count]);
    }

    pub fn forget(&self, seqs: std::ops::RangeInclusive<u64>) {
        self.events.lock().unwrap().retain(|seq, _| !seqs.contains(seq));
    }
}

#[tonic::async_trait]
impl Source for Memory {
    fn log_id(&self) -> u128 {
        self.id
    }

    fn newest(&self) -> Receiver<u64> {
        self.newest.subscribe()
    }

    async fn events(&self, from: u64, count_max: usize, _bytes_max: usize) -> Result<Events, Error> {
        let events = self.events.lock().unwrap();
        let newest = *self.newest.borrow();
        let first = events.range(from..).next().map_or(newest + 1, |(seq, _)| *seq);
        let gap = (first > from).then_some((from, first - 1));
        let mut next = first;
        let mut items = Vec::new();
        while let Some(payload) = events.get(&next).filter(|_| items.len() < count_max) {
            items.push((next, payload.clone()));
            next += 1;
        }
        Ok(Events { items, gap, next })
    }
}

/// A host whose time is tokio's.
pub fn host() -> Host {
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    Host { clock, ..Host::new(NodeId::new()) }
}

pub fn log(memory: &Memory, host: &Host) -> Log {
    Log::new(memory.clone(), host)
}
