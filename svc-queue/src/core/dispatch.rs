//! From due to leased, and back when a lease ends.

use super::{Advanced, Core, NONE, Place, STEP_MAX};
use crate::lane::{Key, Label};
use crate::lease::Lease;
use crate::schedule::seed;
use crate::stored::Trace;
use bytes::Bytes;
use godwit_proto::id::{DeliveryId, LeaseId, NodeId};
use std::sync::Arc;

/// What is asked of `pick`.
#[derive(Debug, Clone)]
pub struct Terms<'a> {
    pub site: u32,
    /// None: all.
    pub egress_pools: &'a [String],
    pub count_max: usize,
    /// Bodies in sum, beyond the first.
    pub bytes_max: u64,
}

/// A delivery that has been picked: busy, and about to be leased.
#[derive(Debug, Clone)]
pub struct Picked {
    pub key: Key,
    pub message: u128,
    pub label: Arc<Label>,
    pub size_bytes: u32,
}

/// What a lease was given for.
#[derive(Debug, Clone)]
pub struct Granted {
    pub lease: LeaseId,
    pub id: DeliveryId,
    pub label: Arc<Label>,
    /// Made so far.
    pub attempts: u32,
    pub open: Option<Box<[u16]>>,
    pub previous: Option<Trace>,
    pub due_ms: u64,
}

impl Core {
    /// Takes what is due in fair order.
    pub fn pick(&mut self, terms: &Terms<'_>) -> Vec<Picked> {
        let mut picked = Vec::new();
        let mut bytes = 0;
        let deliveries = &self.deliveries;
        let size_of = |key: Key| deliveries[key as usize].size_bytes;
        while picked.len() < terms.count_max {
            let Some(next) = self.lanes.pick(terms.site, terms.egress_pools, size_of) else { break };
            bytes += u64::from(size_of(next.key));
            if bytes > terms.bytes_max && !picked.is_empty() {
                self.lanes.put_back(&next);
                break;
            }
            picked.push(next.key);
        }
        picked.into_iter().map(|key| self.pick_up(key)).collect()
    }

    fn pick_up(&mut self, key: Key) -> Picked {
        let delivery = &mut self.deliveries[key as usize];
        delivery.place = Place::Busy(NONE);
        Picked {
            key,
            message: super::long(delivery.id),
            label: self.lanes.queue(delivery.queue).label.clone(),
            size_bytes: delivery.size_bytes,
        }
    }

    /// A busy delivery gets its lease.
    pub fn grant(&mut self, key: Key, node: NodeId, ends_ms: u64, meta: Bytes) -> Granted {
        let id = self.leases.next_id();
        let slot = self.leases.grant(Lease { id, key, node, ends_ms, meta });
        let place = self.delivery_id(key);
        let delivery = &mut self.deliveries[key as usize];
        delivery.place = Place::Leased(slot);
        self.freed = true;
        let extra = delivery.extra.as_deref();
        Granted {
            lease: id,
            id: place,
            label: self.lanes.queue(delivery.queue).label.clone(),
            attempts: delivery.attempts,
            open: extra.and_then(|extra| extra.open.clone()),
            previous: extra.and_then(|extra| extra.trace),
            due_ms: delivery.due_ms,
        }
    }

    /// A busy delivery is not to be leased now, but is due again at `not_before_ms`.
    pub fn put_back(&mut self, key: Key, not_before_ms: u64, now_ms: u64) {
        let delivery = &mut self.deliveries[key as usize];
        delivery.due_ms = delivery.due_ms.max(not_before_ms);
        self.settle_down(key, now_ms);
    }

    /// A busy delivery whose body cannot be read: only its age ends it.
    pub fn set_aside(&mut self, key: Key, now_ms: u64) {
        if self.deliveries[key as usize].expires_ms <= now_ms {
            return self.settle_down(key, now_ms);
        }
        self.deliveries[key as usize].place = Place::Aside;
        self.aside_count += 1;
        self.freed = true;
    }

    /// A busy delivery of which the spool knows nothing.
    pub fn vanish(&mut self, key: Key, now_ms: u64) {
        self.remove(key, now_ms);
    }

    /// Those that have ended.
    pub fn renew(&mut self, ids: Vec<LeaseId>, node: NodeId, ends_ms: u64) -> Vec<LeaseId> {
        ids.into_iter().filter(|id| !self.leases.renew(*id, node, ends_ms)).collect()
    }

    /// Gives leases back. Those that have ended already.
    pub fn release(&mut self, ids: Vec<LeaseId>, node: NodeId, not_before_ms: u64, now_ms: u64) -> Vec<LeaseId> {
        ids.into_iter().filter(|id| !self.release_one(*id, node, not_before_ms, now_ms)).collect()
    }

    fn release_one(&mut self, id: LeaseId, node: NodeId, not_before_ms: u64, now_ms: u64) -> bool {
        let Some(slot) = self.leases.find(id) else { return false };
        let (key, owner) = (self.leases.get(slot).key, self.leases.get(slot).node);
        if owner != node {
            return false;
        }
        self.leases.end(slot);
        let delivery = &mut self.deliveries[key as usize];
        delivery.due_ms = delivery.due_ms.max(not_before_ms);
        delivery.expirations = 0;
        match delivery.place {
            Place::Leased(_) => self.settle_down(key, now_ms),
            Place::Busy(_) => delivery.place = Place::Busy(NONE),
            Place::Waiting | Place::Due | Place::Aside => {}
        }
        true
    }

    /// An egress says that it still works on a delivery: from before a restart, or from before its lease ran out. Nobody
    /// else gets it then. False: somebody else has it, or it is finished.
    pub fn hold(&mut self, node: NodeId, lease: LeaseId, id: DeliveryId, ends_ms: u64) -> bool {
        let Some(key) = self.find(id) else { return false };
        match self.deliveries[key as usize].place {
            Place::Waiting | Place::Due if self.leases.find(lease).is_some() => false,
            Place::Waiting | Place::Due => {
                self.lift(key);
                let slot = self.leases.grant(Lease { id: lease, key, node, ends_ms, meta: Bytes::new() });
                let delivery = &mut self.deliveries[key as usize];
                (delivery.place, delivery.recovered) = (Place::Leased(slot), false);
                true
            }
            Place::Leased(slot) => self.leases.get(slot).id == lease && self.leases.renew(lease, node, ends_ms),
            Place::Busy(_) | Place::Aside => false,
        }
    }

    pub(super) fn end_leases(&mut self, now_ms: u64, advanced: &mut Advanced) -> usize {
        let mut count = 0;
        while count < STEP_MAX {
            let Some((slot, lease)) = self.leases.pop_ended(now_ms) else { break };
            count += 1;
            let delivery = &mut self.deliveries[lease.key as usize];
            match delivery.place {
                Place::Leased(_) => {}
                Place::Busy(of) => {
                    delivery.place = Place::Busy(if of == slot { NONE } else { of });
                    continue;
                }
                Place::Waiting | Place::Due | Place::Aside => continue,
            }
            delivery.expirations += 1;
            if delivery.expirations >= self.rules.lease_expirations_max {
                delivery.expirations = 0;
                let seed = seed(super::long(delivery.id), delivery.part, delivery.attempts);
                delivery.due_ms = self.rules.schedule.retry_at(1, now_ms, seed);
                advanced.held.push(lease.key);
            }
            delivery.place = Place::Busy(NONE);
            self.settle_down(lease.key, now_ms);
        }
        advanced.lease_expirations = count;
        count
    }
}
