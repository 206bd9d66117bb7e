//! What the queues have told, lane by lane, and where each routing domain leads. Pure: the dispatcher acts on it.

use crate::crew::PoolIndex;
use crate::route::{Refusal, Route};
use std::sync::Arc;

/// A routing domain that has, or lately had, mail due.
#[derive(Debug, Default)]
pub struct Domain {
    pub way: Way,
    /// A lookup is under way, or waits for its turn.
    pub looking: bool,
    /// By pool; few.
    pub lanes: Vec<LaneState>,
    /// By node: it knows our site for this domain.
    pub announced: Vec<bool>,
}

/// Where it leads.
#[derive(Debug, Default)]
pub enum Way {
    #[default]
    Unknown,
    Route(Arc<Route>),
    Refused(Refusal),
}

/// What is due for one domain in one pool.
#[derive(Debug)]
pub struct LaneState {
    pub pool_name: String,
    /// `None`: no such pool here.
    pub pool: Option<PoolIndex>,
    /// By node.
    pub due: Vec<u64>,
    /// By node: the snapshot that last named it.
    pub seen: Vec<u64>,
    /// It is being settled without a connection.
    pub settling: bool,
    /// More was told meanwhile.
    pub told_since: bool,
}

/// A lane's count changed on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub pool: PoolIndex,
    pub before: u64,
    pub now: u64,
}

impl Domain {
    pub fn new(node_count: usize) -> Self {
        Self { announced: vec![false; node_count], ..Self::default() }
    }

    pub fn has_due(&self) -> bool {
        self.lanes.iter().any(LaneState::has_due)
    }

    pub fn has_due_on(&self, node: usize) -> bool {
        self.lanes.iter().any(|lane| lane.due[node] > 0)
    }

    pub fn lane(&mut self, pool_name: &str) -> Option<&mut LaneState> {
        self.lanes.iter_mut().find(|lane| lane.pool_name == pool_name)
    }

    /// Notes what a node told. `None` where nothing changed that a site would count.
    pub fn tell(&mut self, node: usize, told: Told<'_>) -> Option<Change> {
        let lane = match self.lanes.iter().position(|lane| lane.pool_name == told.pool_name) {
            Some(place) => &mut self.lanes[place],
            None => {
                self.lanes.push(LaneState {
                    pool_name: told.pool_name.into(),
                    pool: told.pool,
                    due: vec![0; self.announced.len()],
                    seen: vec![0; self.announced.len()],
                    settling: false,
                    told_since: false,
                });
                self.lanes.last_mut().expect("just pushed")
            }
        };
        let before = std::mem::replace(&mut lane.due[node], told.due_count);
        lane.seen[node] = told.snapshot;
        lane.told_since |= told.due_count > 0;
        let pool = lane.pool?;
        Some(Change { pool, before, now: told.due_count })
    }

    /// What a site that begins, or ends, to count this domain on a node has to add or take off.
    pub fn counted_on(&self, node: usize) -> impl Iterator<Item = (PoolIndex, u64)> {
        self.lanes.iter().filter_map(move |lane| Some((lane.pool?, lane.due[node])))
    }

    /// Lanes that hold nothing any more are forgotten.
    pub fn forget_empty_lanes(&mut self) {
        self.lanes.retain(|lane| lane.settling || lane.has_due());
    }
}

/// One lane as a node told it.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    pub pool_name: &'a str,
    pub pool: Option<PoolIndex>,
    pub due_count: u64,
    pub snapshot: u64,
}

impl LaneState {
    pub fn has_due(&self) -> bool {
        self.due.iter().any(|due| *due > 0)
    }

    pub fn nodes_with_due(&self) -> Vec<usize> {
        self.due.iter().enumerate().filter(|(_, due)| **due > 0).map(|(node, _)| node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_follows_what_each_node_tells() {
        let mut domain = Domain::new(2);
        let told = |due_count| Told { pool_name: "p", pool: Some(0), due_count, snapshot: 1 };
        assert_eq!(domain.tell(0, told(5)), Some(Change { pool: 0, before: 0, now: 5 }));
        assert_eq!(domain.tell(1, told(2)), Some(Change { pool: 0, before: 0, now: 2 }));
        assert_eq!(domain.tell(0, told(0)), Some(Change { pool: 0, before: 5, now: 0 }));
        assert!(domain.has_due() && !domain.has_due_on(0));
        assert_eq!(domain.lanes[0].nodes_with_due(), [1]);
        assert_eq!(domain.counted_on(1).collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(domain.tell(1, Told { pool_name: "other", pool: None, due_count: 1, snapshot: 1 }), None);
        domain.tell(1, told(0));
        domain.forget_empty_lanes();
        assert_eq!(domain.lanes.len(), 1);
    }
}
