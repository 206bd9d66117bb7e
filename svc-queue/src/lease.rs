//! Who may attempt which delivery, and until when. Pure: it knows deliveries by number and time as an argument.

use bytes::Bytes;
use godwit_proto::id::{LeaseId, NodeId};
use slab::Slab;
use std::collections::{BTreeSet, HashMap};

/// One lease.
#[derive(Debug, Clone)]
pub struct Lease {
    pub id: LeaseId,
    /// The delivery.
    pub key: u32,
    /// Who has it.
    pub node: NodeId,
    pub ends_ms: u64,
    /// The envelope as stored, kept for the events of the outcome; empty where the lease came back over a restart.
    pub meta: Bytes,
}

/// The live leases. What has ended is gone from here; leases are named inside by a slot, which is used again.
#[derive(Debug)]
pub struct Table {
    leases: Slab<Lease>,
    by_id: HashMap<LeaseId, u32>,
    ends: BTreeSet<(u64, u32)>,
    nodes: HashMap<NodeId, usize>,
    last_id: u128,
}

impl Table {
    /// Ids count up from `first_id`, which no other run of a queue has had.
    pub fn new(first_id: LeaseId) -> Self {
        Self {
            leases: Slab::new(),
            by_id: HashMap::new(),
            ends: BTreeSet::new(),
            nodes: HashMap::new(),
            last_id: first_id.0,
        }
    }

    pub fn next_id(&mut self) -> LeaseId {
        self.last_id = self.last_id.wrapping_add(1);
        LeaseId(self.last_id)
    }

    /// Its slot.
    pub fn grant(&mut self, lease: Lease) -> u32 {
        let (id, node, ends_ms) = (lease.id, lease.node, lease.ends_ms);
        let slot = self.leases.insert(lease) as u32;
        self.by_id.insert(id, slot);
        self.ends.insert((ends_ms, slot));
        *self.nodes.entry(node).or_default() += 1;
        slot
    }

    /// Where a live lease is.
    pub fn find(&self, id: LeaseId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub fn get(&self, slot: u32) -> &Lease {
        &self.leases[slot as usize]
    }

    /// Lasts until `ends_ms`, if it lives and is that node's.
    pub fn renew(&mut self, id: LeaseId, node: NodeId, ends_ms: u64) -> bool {
        let Some(slot) = self.find(id) else { return false };
        let lease = &mut self.leases[slot as usize];
        if lease.node != node {
            return false;
        }
        self.ends.remove(&(lease.ends_ms, slot));
        lease.ends_ms = ends_ms;
        self.ends.insert((ends_ms, slot));
        true
    }

    /// It ends now.
    pub fn end(&mut self, slot: u32) -> Lease {
        let lease = self.leases.remove(slot as usize);
        self.by_id.remove(&lease.id);
        self.ends.remove(&(lease.ends_ms, slot));
        if let Some(count) = self.nodes.get_mut(&lease.node) {
            *count -= 1;
            if *count == 0 {
                self.nodes.remove(&lease.node);
            }
        }
        lease
    }

    /// The lease that ran out longest ago.
    pub fn pop_ended(&mut self, now_ms: u64) -> Option<(u32, Lease)> {
        let (ends_ms, slot) = *self.ends.first()?;
        (ends_ms <= now_ms).then(|| (slot, self.end(slot)))
    }

    /// When the next one runs out.
    pub fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(ends, _)| *ends)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter().map(|(_, lease)| lease)
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// How many egress nodes hold any.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table::new(LeaseId(100))
    }

    fn grant(table: &mut Table, key: u32, node: u128, ends_ms: u64) -> LeaseId {
        let id = table.next_id();
        table.grant(Lease { id, key, node: NodeId(node), ends_ms, meta: Bytes::new() });
        id
    }

    #[test]
    fn a_lease_runs_out_unless_renewed() {
        let mut table = table();
        let (short, long) = (grant(&mut table, 1, 7, 10), grant(&mut table, 2, 7, 20));
        assert!(table.renew(short, NodeId(7), 30));
        assert!(table.pop_ended(19).is_none());
        assert_eq!(table.pop_ended(20).unwrap().1.id, long);
        assert!(table.pop_ended(20).is_none());
        assert_eq!(table.next_end(), Some(30));
        assert_eq!(table.pop_ended(30).unwrap().1.key, 1);
        assert!(!table.renew(short, NodeId(7), 99));
        assert_eq!((table.len(), table.node_count(), table.next_end()), (0, 0, None));
    }

    #[test]
    fn only_its_node_renews_it() {
        let mut table = table();
        let lease = grant(&mut table, 1, 7, 10);
        assert!(!table.renew(lease, NodeId(8), 99));
        assert_eq!(table.next_end(), Some(10));
    }

    #[test]
    fn an_ended_lease_is_not_found_though_its_slot_is_used_again() {
        let mut table = table();
        let first = grant(&mut table, 1, 7, 10);
        table.end(table.find(first).unwrap());
        let second = grant(&mut table, 2, 7, 10);
        assert_eq!(table.find(first), None);
        assert_eq!(table.get(table.find(second).unwrap()).key, 2);
    }
}
