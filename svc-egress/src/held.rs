//! The leases that this egress holds of one queue node, from Lease until they are settled or released.

use godwit_proto::common::v1::{DeliveryId, LeaseId};
use godwit_proto::queue::v1::HeldLease;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// All of them, by the batch that they came in: what is sent quickly costs one entry a batch. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Held {
    table: Arc<Mutex<Table>>,
    /// How long a lease lasts that is not renewed.
    lease: Duration,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    batches: HashMap<u64, Arc<Batch>>,
}

#[derive(Debug)]
struct Batch {
    number: u64,
    leases: Vec<Lease>,
    open_count: AtomicUsize,
    renewed: Mutex<Instant>,
}

#[derive(Debug)]
struct Lease {
    lease_id: LeaseId,
    delivery_id: DeliveryId,
    closed: AtomicBool,
    lost: AtomicBool,
}

/// One lease; it is held until this is dropped.
#[derive(Debug)]
pub struct Ticket {
    held: Held,
    batch: Arc<Batch>,
    place: usize,
}

impl Held {
    pub fn new(lease: Duration) -> Self {
        Self { table: Arc::default(), lease }
    }

    /// Holds what a Lease call gave that was made at `asked`: their time began then, at the earliest.
    pub fn take(&self, leases: Vec<(LeaseId, DeliveryId)>, asked: Instant) -> Vec<Ticket> {
        let count = leases.len();
        if count == 0 {
            return Vec::new();
        }
        let lease = |(lease_id, delivery_id)| Lease {
            lease_id,
            delivery_id,
            closed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        };
        let leases = leases.into_iter().map(lease).collect();
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        let (open_count, renewed) = (AtomicUsize::new(count), Mutex::new(asked));
        let batch = Arc::new(Batch { number, leases, open_count, renewed });
        table.batches.insert(number, batch.clone());
        (0..count).map(|place| Ticket { held: self.clone(), batch: batch.clone(), place }).collect()
    }

    /// What a queue should know that lost its memory.
    pub fn all(&self) -> Vec<HeldLease> {
        let lease = |lease: &Lease| HeldLease {
            lease_id: Some(lease.lease_id.clone()),
            delivery_id: Some(lease.delivery_id.clone()),
        };
        self.batches().iter().flat_map(|batch| batch.open().map(lease).collect::<Vec<_>>()).collect()
    }

    /// The leases that were not renewed since `before`.
    pub fn due(&self, before: Instant) -> Vec<LeaseId> {
        let batches = self.batches();
        let old = batches.iter().filter(|batch| *batch.renewed() <= before);
        old.flat_map(|batch| batch.open().map(|lease| lease.lease_id.clone()).collect::<Vec<_>>()).collect()
    }

    /// All that were due with this `before` are renewed, but for those that ended: not what has grown old since it was
    /// asked for.
    pub fn renewed(&self, before: Instant, at: Instant, ended: &[LeaseId]) {
        let ended: HashSet<&str> = ended.iter().map(|lease| lease.value.as_str()).collect();
        for batch in self.batches() {
            let mut renewed = batch.renewed();
            if *renewed <= before {
                *renewed = at;
            }
            drop(renewed);
            for lease in batch.leases.iter().filter(|lease| ended.contains(lease.lease_id.value.as_str())) {
                lease.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    fn batches(&self) -> Vec<Arc<Batch>> {
        self.lock().batches.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    fn open(&self) -> impl Iterator<Item = &Lease> {
        let is_open = |lease: &&Lease| !lease.closed.load(Ordering::Relaxed) && !lease.lost.load(Ordering::Relaxed);
        self.leases.iter().filter(is_open)
    }

    fn renewed(&self) -> MutexGuard<'_, Instant> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    pub fn lease_id(&self) -> LeaseId {
        self.batch.leases[self.place].lease_id.clone()
    }

    /// The queue may have given the delivery to another by now: it has said so, or it was not heard of for as long as a
    /// lease lasts.
    pub fn is_lost(&self) -> bool {
        self.batch.leases[self.place].lost.load(Ordering::Relaxed) || self.batch.renewed().elapsed() >= self.held.lease
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.batch.leases[self.place].closed.store(true, Ordering::Relaxed);
        if self.batch.open_count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.held.lock().batches.remove(&self.batch.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ids(n: usize) -> (LeaseId, DeliveryId) {
        (LeaseId { value: format!("lease_{n}") }, DeliveryId { value: format!("dlv_{n}") })
    }

    const LEASE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn leases_are_held_renewed_and_lost() {
        let held = Held::new(LEASE);
        let mut tickets = held.take(vec![ids(1), ids(2), ids(3)], Instant::now());
        assert_eq!(held.all().len(), 3);
        let before = || Instant::now() - Duration::from_secs(10);
        assert!(held.due(before()).is_empty());
        tokio::time::advance(Duration::from_secs(10)).await;
        tickets.remove(0);
        assert_eq!(held.due(before()), [ids(2).0, ids(3).0]);
        let (asked, asked_at) = (before(), Instant::now());
        let young = held.take(vec![ids(4)], Instant::now());
        tokio::time::advance(Duration::from_secs(11)).await;
        held.renewed(asked, asked_at, &[ids(3).0]);
        assert!(held.due(before()).contains(&ids(4).0), "it was not asked for");
        drop(young);
        held.renewed(before(), Instant::now(), &[]);
        assert!(held.due(before()).is_empty());
        assert_eq!(tickets.iter().map(Ticket::is_lost).collect::<Vec<_>>(), [false, true]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(held.due(before()), [ids(2).0]);
        drop(tickets);
        assert!(held.lock().batches.is_empty());
        assert!(held.take(Vec::new(), Instant::now()).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_nobody_renews_ends_by_our_own_clock() {
        let held = Held::new(LEASE);
        let asked = Instant::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        let tickets = held.take(vec![ids(1)], asked);
        tokio::time::advance(Duration::from_secs(54)).await;
        assert!(!tickets[0].is_lost());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tickets[0].is_lost(), "the queue's time began before its answer came");
        // The answer to a renewal that was a long time on its way: the queue has it still.
        held.renewed(asked, asked + Duration::from_secs(30), &[]);
        assert!(!tickets[0].is_lost());
    }
}
