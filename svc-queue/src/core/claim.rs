//! Operations take deliveries, write what they do to them, and then apply it or restore them as they were.

use super::{Core, NONE, Place};
use crate::lane::{Key, Label};
use crate::schedule::Window;
use crate::stored::Trace;
use bytes::Bytes;
use godwit_proto::id::{DeliveryId, LeaseId};
use std::sync::Arc;

/// A delivery in the hands of one operation. It must be applied or restored.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub key: Key,
    pub id: DeliveryId,
    pub label: Arc<Label>,
    /// Under the lease that was named.
    pub live: bool,
    /// No other delivery of its message is left.
    pub last: bool,
    pub attempts: u32,
    pub due_ms: u64,
    pub received_s: u32,
    pub size_bytes: u32,
    pub trace: Option<Trace>,
    pub reply_code: u16,
    /// `None`: all recipients of its part.
    pub open: Option<Box<[u16]>>,
    pub window: Option<Window>,
    /// As stored; empty: to be read.
    pub meta: Bytes,
}

/// What was found for an outcome.
#[derive(Debug)]
pub enum Claim {
    Mine(Box<Claimed>),
    /// Another operation has it: ask again when one has ended.
    Busy,
    Unknown,
}

/// What becomes of a claimed delivery.
#[derive(Debug, Clone)]
pub enum Next {
    Finished,
    /// Open for these, and due then.
    Retry {
        open: Box<[u16]>,
        attempts: u32,
        due_ms: u64,
        trace: Option<Trace>,
        reply_code: u16,
    },
    /// Fewer are open, the rest is as it was: others are at it.
    Narrowed {
        open: Box<[u16]>,
    },
    /// As it was, but due then.
    Rescheduled {
        due_ms: u64,
    },
}

/// What `withdraw` found.
#[derive(Debug)]
pub enum Withdrawal {
    /// All its deliveries, none attempted.
    Mine(Vec<Claimed>),
    /// It is being written: ask again when an operation has ended.
    Arriving,
    TooLate,
    /// It was withdrawn before.
    Done,
    Unknown,
}

impl Core {
    /// For the outcome of an attempt under `lease`.
    pub fn claim(&mut self, id: DeliveryId, lease: Option<LeaseId>) -> Claim {
        let Some(key) = self.find(id) else {
            return if self.arriving.contains_key(&id.message.0) { Claim::Busy } else { Claim::Unknown };
        };
        match self.deliveries[key as usize].place {
            Place::Busy(_) => Claim::Busy,
            Place::Waiting | Place::Due | Place::Leased(_) | Place::Aside => {
                let mut claimed = self.take(key);
                claimed.live = lease.is_some_and(|lease| self.lease_of(key) == Some(lease));
                Claim::Mine(Box::new(claimed))
            }
        }
    }

    fn lease_of(&self, key: Key) -> Option<LeaseId> {
        match self.deliveries[key as usize].place {
            Place::Leased(slot) | Place::Busy(slot) if slot != NONE => Some(self.leases.get(slot).id),
            Place::Leased(_) | Place::Busy(_) | Place::Waiting | Place::Due | Place::Aside => None,
        }
    }

    /// The longest due of a lane, at most so many.
    pub fn claim_due(&mut self, domain: &str, egress_pool: &str, count_max: usize) -> Vec<Claimed> {
        let mut claimed = Vec::new();
        while claimed.len() < count_max
            && let Some(key) = self.lanes.oldest_due(domain, egress_pool)
        {
            claimed.push(self.take(key));
        }
        claimed
    }

    /// One that waits, is due or is set aside; `None` where somebody has it.
    pub fn claim_idle(&mut self, key: Key) -> Option<Claimed> {
        let place = self.deliveries.get(key as usize)?.place;
        matches!(place, Place::Waiting | Place::Due | Place::Aside).then(|| self.take(key))
    }

    fn take(&mut self, key: Key) -> Claimed {
        self.lift(key);
        let delivery = &mut self.deliveries[key as usize];
        delivery.place = match delivery.place {
            Place::Leased(slot) => Place::Busy(slot),
            Place::Waiting | Place::Due | Place::Aside | Place::Busy(_) => Place::Busy(NONE),
        };
        self.claimed(key)
    }

    /// One that is busy already, by `advance`.
    pub fn claimed(&self, key: Key) -> Claimed {
        let delivery = &self.deliveries[key as usize];
        let extra = delivery.extra.as_deref();
        let id = self.delivery_id(key);
        let meta = match delivery.place {
            Place::Busy(slot) if slot != NONE => self.leases.get(slot).meta.clone(),
            Place::Busy(_) | Place::Leased(_) | Place::Waiting | Place::Due | Place::Aside => Bytes::new(),
        };
        Claimed {
            key,
            id,
            label: self.lanes.queue(delivery.queue).label.clone(),
            live: false,
            last: self.of_message(id.message.0).nth(1).is_none(),
            attempts: delivery.attempts,
            due_ms: delivery.due_ms,
            received_s: delivery.received_s,
            size_bytes: delivery.size_bytes,
            trace: extra.and_then(|extra| extra.trace),
            reply_code: extra.map_or(0, |extra| extra.reply_code),
            open: extra.and_then(|extra| extra.open.clone()),
            window: extra.and_then(|extra| extra.window),
            meta,
        }
    }

    /// It is on disk. True: the message is finished, though not by `last`: the spool has not been told that it ended.
    pub fn apply(&mut self, claimed: &Claimed, next: Next, now_ms: u64) -> bool {
        let key = claimed.key;
        match next {
            Next::Finished => {
                self.end_lease_of(key);
                return self.remove(key, now_ms) && !claimed.last;
            }
            Next::Retry { open, attempts, due_ms, trace, reply_code } => {
                self.end_lease_of(key);
                let delivery = &mut self.deliveries[key as usize];
                (delivery.attempts, delivery.due_ms, delivery.expirations) = (attempts, due_ms, 0);
                delivery.recovered = false;
                let extra = delivery.extra.get_or_insert_default();
                (extra.open, extra.trace, extra.reply_code) = (Some(open), trace, reply_code);
            }
            Next::Narrowed { open } => {
                self.deliveries[key as usize].extra.get_or_insert_default().open = Some(open);
            }
            Next::Rescheduled { due_ms } => self.deliveries[key as usize].due_ms = due_ms,
        }
        self.restore(key, now_ms);
        false
    }

    /// Nothing was written: it is as it was before it was taken.
    pub fn restore(&mut self, key: Key, now_ms: u64) {
        let delivery = &mut self.deliveries[key as usize];
        match delivery.place {
            Place::Busy(slot) if slot != NONE => delivery.place = Place::Leased(slot),
            Place::Busy(_) => self.settle_down(key, now_ms),
            Place::Leased(_) | Place::Waiting | Place::Due | Place::Aside => {}
        }
        self.freed = true;
    }

    /// It could not be expired now: once more at `again_ms`.
    pub fn postpone_expiry(&mut self, key: Key, again_ms: u64, now_ms: u64) {
        let delivery = &mut self.deliveries[key as usize];
        self.expiries.remove(&(delivery.expires_ms, key));
        delivery.expires_ms = again_ms;
        self.expiries.insert((again_ms, key));
        self.restore(key, now_ms);
    }

    fn end_lease_of(&mut self, key: Key) {
        let delivery = &mut self.deliveries[key as usize];
        if let Place::Busy(slot) = delivery.place
            && slot != NONE
        {
            delivery.place = Place::Busy(NONE);
            self.leases.end(slot);
        }
    }

    /// For one who could not promise the message to its sender.
    pub fn withdraw(&mut self, id: u128) -> Withdrawal {
        if self.arriving.contains_key(&id) {
            return Withdrawal::Arriving;
        }
        let keys: Vec<Key> = self.of_message(id).collect();
        if keys.is_empty() {
            return match (self.finished.contains(id), self.withdrawn.contains_key(&id)) {
                (true, true) => Withdrawal::Done,
                (true, false) => Withdrawal::TooLate,
                (false, _) => Withdrawal::Unknown,
            };
        }
        let untouched = |key: &Key| {
            let delivery = &self.deliveries[*key as usize];
            delivery.attempts == 0 && matches!(delivery.place, Place::Waiting | Place::Due | Place::Aside)
        };
        if !keys.iter().all(untouched) {
            return Withdrawal::TooLate;
        }
        Withdrawal::Mine(keys.into_iter().map(|key| self.take(key)).collect())
    }

    /// An Enqueue of this id is refused until `until_ms`. False: there are too many such marks.
    pub fn refuse_later(&mut self, id: u128, until_ms: u64) -> bool {
        if self.withdrawn.len() >= WITHDRAWN_MAX && !self.withdrawn.contains_key(&id) {
            return false;
        }
        if let Some(before) = self.withdrawn.insert(id, until_ms) {
            self.withdrawn_ends.remove(&(before, id));
        }
        self.withdrawn_ends.insert((until_ms, id));
        true
    }

    pub fn is_withdrawn(&self, id: u128) -> bool {
        self.withdrawn.contains_key(&id)
    }

    /// Marks of withdrawn ids that no longer count.
    pub(super) fn end_withdrawals(&mut self, now_ms: u64) -> Vec<u128> {
        let mut lapsed = Vec::new();
        while lapsed.len() < super::STEP_MAX && self.withdrawn_ends.first().is_some_and(|(ends, _)| *ends <= now_ms) {
            let Some((_, id)) = self.withdrawn_ends.pop_first() else { break };
            self.withdrawn.remove(&id);
            lapsed.push(id);
        }
        lapsed
    }
}

/// Marks of withdrawn ids at once.
pub const WITHDRAWN_MAX: usize = 100_000;
