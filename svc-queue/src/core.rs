//! The queue in memory: every delivery that is not finished, where it stands, and what time does to it. Pure.
//!
//! ```text
//!            due_ms            pick               read
//!  Waiting ─────────► Due ─────────► Busy ─────────────► Leased
//!     ▲                ▲              │ ▲                  │
//!     └────────────────┴──────────────┘ └──────────────────┘ its outcome is being written
//! ```
//! A *busy* delivery belongs to one operation that has a disk to wait for: nobody else touches it until it is applied or
//! restored. So memory only ever says what is durable.
//!
//! - [`claim`]: an operation takes deliveries, and gives them back changed or not · [`dispatch`]: picking, leases ·
//!   [`recovery`]: how it is filled at a start

mod claim;
mod dispatch;
mod recovery;
#[cfg(test)]
mod tests;
mod view;

pub use claim::{Claim, Claimed, Next, WITHDRAWN_MAX, Withdrawal};
pub use dispatch::{Granted, Picked, Terms};
pub use view::View;

use crate::finished::Finished;
use crate::lane::{Key, Lanes, Name};
use crate::lease::Table;
use crate::schedule::{Schedule, Window};
use crate::stored::{Head, Trace};
use godwit_proto::id::{DeliveryId, LeaseId, MessageId};
use slab::Slab;
use std::collections::{BTreeSet, HashMap};

/// No lease, no sibling.
const NONE: u32 = u32::MAX;
/// Deliveries that time moves in one step, so that nobody waits long for the lock.
const STEP_MAX: usize = 4_096;

/// One delivery. Small: there may be millions.
#[derive(Debug)]
struct Delivery {
    id: [u64; 2],
    due_ms: u64,
    expires_ms: u64,
    extra: Option<Box<Extra>>,
    received_s: u32,
    queue: u32,
    size_bytes: u32,
    attempts: u32,
    /// The next delivery of the same message.
    sibling: u32,
    place: Place,
    part: u16,
    priority: i8,
    /// Leases of it that ran out, one after another.
    expirations: u8,
    /// Came back at the start, and has not been due since.
    recovered: bool,
}

/// What few deliveries have, or only after an attempt.
#[derive(Debug, Default, Clone)]
struct Extra {
    /// Absent: all of its part.
    open: Option<Box<[u16]>>,
    trace: Option<Trace>,
    window: Option<Window>,
    reply_code: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Due,
    /// Under the lease in this slot.
    Leased(u32),
    /// In the hands of an operation, and of the lease in this slot unless `NONE`.
    Busy(u32),
    /// Its body cannot be read.
    Aside,
}

/// What the queue is built with.
#[derive(Debug, Clone)]
pub struct Rules {
    pub schedule: Schedule,
    pub lease_expirations_max: u8,
    pub deliveries_max: usize,
}

/// All of it.
#[derive(Debug)]
pub struct Core {
    rules: Rules,
    deliveries: Slab<Delivery>,
    /// The first delivery of each message.
    messages: HashMap<[u64; 2], u32>,
    pub lanes: Lanes,
    pub leases: Table,
    expiries: BTreeSet<(u64, Key)>,
    /// Of messages that are being written.
    arriving: HashMap<u128, usize>,
    arriving_count: usize,
    withdrawn: HashMap<u128, u64>,
    withdrawn_ends: BTreeSet<(u64, u128)>,
    finished: Finished,
    grace_ends_ms: u64,
    /// Busy: their age is to be ended by the owner of the core.
    expired: Vec<Key>,
    /// An operation has ended since this was asked.
    freed: bool,
    aside_count: usize,
}

/// What time did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// To be expired: busy.
    pub expired: Vec<Key>,
    /// Their leases ran out too often: they wait, and are to be reported.
    pub held: Vec<Key>,
    pub lease_expirations: usize,
    /// Withdrawn ids that may be forgotten.
    pub lapsed: Vec<u128>,
    /// There is more to be done at this very instant.
    pub more: bool,
}

impl Core {
    pub fn new(rules: Rules, first_lease: LeaseId) -> Self {
        Self {
            rules,
            deliveries: Slab::new(),
            messages: HashMap::new(),
            lanes: Lanes::default(),
            leases: Table::new(first_lease),
            expiries: BTreeSet::new(),
            arriving: HashMap::new(),
            arriving_count: 0,
            withdrawn: HashMap::new(),
            withdrawn_ends: BTreeSet::new(),
            finished: Finished::default(),
            grace_ends_ms: 0,
            expired: Vec::new(),
            freed: false,
            aside_count: 0,
        }
    }

    pub fn schedule(&self) -> &Schedule {
        &self.rules.schedule
    }

    /// A message is about to be written. False: there is no room for so many deliveries. One that has been seen will turn out
    /// to be a duplicate and needs none: turned away for that, it would be brought elsewhere as well.
    pub fn arrive(&mut self, id: u128, delivery_count: usize) -> bool {
        let in_use = self.deliveries.len() + self.arriving_count;
        if in_use + delivery_count > self.rules.deliveries_max && !self.has_seen(id) {
            return false;
        }
        self.arriving_count += delivery_count;
        *self.arriving.entry(id).or_default() += 1;
        true
    }

    /// It has been written, or has not; a new one is inserted next.
    pub fn arrived(&mut self, id: u128, delivery_count: usize) {
        self.arriving_count -= delivery_count;
        if let Some(count) = self.arriving.get_mut(&id) {
            *count -= 1;
            if *count == 0 {
                self.arriving.remove(&id);
            }
        }
        self.freed = true;
    }

    /// Takes in a message that is on disk, and lets its deliveries wait or be due.
    pub fn insert(&mut self, id: u128, head: &Head, size_bytes: u32, now_ms: u64) {
        for key in self.add(id, head, size_bytes) {
            self.settle_down(key, now_ms);
        }
    }

    fn add(&mut self, id: u128, head: &Head, size_bytes: u32) -> Vec<Key> {
        let mut keys = Vec::with_capacity(head.domains.len());
        let window = Window::unpack(head.window);
        for (part, domain) in head.domains.iter().enumerate() {
            let Head { campaign, tenant, routing_domain, egress_pool, .. } = head;
            let queue = self.lanes.join(&Name { campaign, tenant, domain, routing_domain, egress_pool }, size_bytes);
            let key = self.deliveries.insert(Delivery {
                id: short(id),
                due_ms: head.due_ms,
                expires_ms: head.expires_ms,
                extra: window.map(|window| Box::new(Extra { window: Some(window), ..Extra::default() })),
                received_s: (head.received_ms / 1_000) as u32,
                queue,
                size_bytes,
                attempts: head.attempts,
                sibling: NONE,
                place: Place::Busy(NONE),
                part: part as u16,
                priority: head.priority as i8,
                expirations: 0,
                recovered: false,
            }) as Key;
            let first = self.messages.insert(short(id), key).unwrap_or(NONE);
            self.deliveries[key as usize].sibling = first;
            self.expiries.insert((head.expires_ms, key));
            keys.push(key);
        }
        keys
    }

    /// A busy delivery without a lease goes where its times say.
    fn settle_down(&mut self, key: Key, now_ms: u64) {
        let wake_ms = self.wake_ms(key);
        let delivery = &mut self.deliveries[key as usize];
        if delivery.expires_ms <= now_ms {
            delivery.place = Place::Busy(NONE);
            self.expired.push(key);
        } else if wake_ms > now_ms {
            delivery.place = Place::Waiting;
            self.lanes.wait(delivery.queue, key, wake_ms);
        } else {
            self.become_due(key);
        }
        self.freed = true;
    }

    fn become_due(&mut self, key: Key) {
        let delivery = &mut self.deliveries[key as usize];
        delivery.place = Place::Due;
        delivery.recovered = false;
        self.lanes.ready(delivery.queue, key, delivery.priority, delivery.due_ms);
    }

    fn wake_ms(&self, key: Key) -> u64 {
        let delivery = &self.deliveries[key as usize];
        if delivery.recovered { delivery.due_ms.max(self.grace_ends_ms) } else { delivery.due_ms }
    }

    /// Out of what waits and what is due.
    fn lift(&mut self, key: Key) {
        let wake_ms = self.wake_ms(key);
        let delivery = &self.deliveries[key as usize];
        match delivery.place {
            Place::Waiting => self.lanes.unwait(delivery.queue, key, wake_ms),
            Place::Due => self.lanes.unready(delivery.queue, key, delivery.priority, delivery.due_ms),
            Place::Aside => self.aside_count -= 1,
            Place::Leased(_) | Place::Busy(_) => {}
        }
    }

    /// Does what the time has come for, in steps: `more` says that there is another.
    pub fn advance(&mut self, now_ms: u64) -> Advanced {
        let mut advanced = Advanced::default();
        let mut steps = self.end_leases(now_ms, &mut advanced);
        steps = steps.max(self.lanes.end_routes(now_ms, STEP_MAX));
        let woken = self.lanes.wake(now_ms, STEP_MAX);
        steps = steps.max(woken.len());
        woken.into_iter().for_each(|key| self.become_due(key));
        steps = steps.max(self.end_ages(now_ms));
        self.lanes.sweep(now_ms);
        advanced.lapsed = self.end_withdrawals(now_ms);
        advanced.expired = std::mem::take(&mut self.expired);
        advanced.more = steps >= STEP_MAX;
        advanced
    }

    fn end_ages(&mut self, now_ms: u64) -> usize {
        let mut count = 0;
        while count < STEP_MAX && self.expiries.first().is_some_and(|(expires, _)| *expires <= now_ms) {
            let Some((_, key)) = self.expiries.pop_first() else { break };
            count += 1;
            match self.deliveries[key as usize].place {
                Place::Waiting | Place::Due | Place::Aside => {
                    self.lift(key);
                    self.deliveries[key as usize].place = Place::Busy(NONE);
                    self.expired.push(key);
                }
                // Whoever has it sees its age when giving it back.
                Place::Leased(_) | Place::Busy(_) => {}
            }
        }
        count
    }

    /// When `advance` has something to do.
    pub fn next_wake(&self) -> Option<u64> {
        let age = self.expiries.first().map(|(expires, _)| *expires);
        let now = (!self.expired.is_empty()).then_some(0);
        let withdrawn = self.withdrawn_ends.first().map(|(ends, _)| *ends);
        [self.lanes.next_wake(), self.leases.next_end(), age, withdrawn, now].into_iter().flatten().min()
    }

    fn find(&self, id: DeliveryId) -> Option<Key> {
        self.of_message(id.message.0).find(|key| self.deliveries[*key as usize].part == id.part)
    }

    /// Deliveries of a message that are not finished.
    pub fn of_message(&self, id: u128) -> impl Iterator<Item = Key> {
        let first = self.messages.get(&short(id)).copied();
        std::iter::successors(first, |key| {
            let sibling = self.deliveries[*key as usize].sibling;
            (sibling != NONE).then_some(sibling)
        })
    }

    /// Takes a delivery out for good; true where it was the last of its message.
    fn remove(&mut self, key: Key, now_ms: u64) -> bool {
        let gone = self.deliveries.remove(key as usize);
        self.expiries.remove(&(gone.expires_ms, key));
        self.lanes.leave(gone.queue, gone.size_bytes, now_ms);
        self.freed = true;
        let first = self.messages.get_mut(&gone.id).expect("a delivery's message is known");
        if *first == key && gone.sibling == NONE {
            self.messages.remove(&gone.id);
            self.finished.insert(long(gone.id), now_ms);
            return true;
        }
        if *first == key {
            *first = gone.sibling;
            return false;
        }
        let mut before = *first;
        while self.deliveries[before as usize].sibling != key {
            before = self.deliveries[before as usize].sibling;
        }
        self.deliveries[before as usize].sibling = gone.sibling;
        false
    }

    fn delivery_id(&self, key: Key) -> DeliveryId {
        let delivery = &self.deliveries[key as usize];
        DeliveryId { message: MessageId(long(delivery.id)), part: delivery.part }
    }

    pub fn knows(&self, id: u128) -> bool {
        self.messages.contains_key(&short(id)) || self.finished.contains(id)
    }

    /// Whether it is here, was here a short while ago, or is being written.
    pub fn has_seen(&self, id: u128) -> bool {
        self.knows(id) || self.arriving.contains_key(&id)
    }

    pub fn message_count(&self) -> usize {
        self.messages.len()
    }

    pub fn delivery_count(&self) -> usize {
        self.deliveries.len()
    }

    pub fn aside_count(&self) -> usize {
        self.aside_count
    }

    /// Whether an operation has ended since this was asked last.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }
}

// Two words and not one u128, whose alignment would cost eight bytes a delivery.
fn short(id: u128) -> [u64; 2] {
    [(id >> 64) as u64, id as u64]
}

fn long([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}
