//! Deficit round robin: who is next, so that in the long run each has had the same, however much each asks for. Pure.
//!
//! The debt of a turn is carried over: a child is served while it has credit, and pays afterwards, so that nobody has to
//! look at what comes next to know whether it fits. Costs are bounded, so a turn comes within `COST_MAX` rounds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Credit of one turn: a small message.
const QUANTUM: i64 = 1;
/// A message costs one for each 16 KiB that it has begun, up to this.
const COST_MAX: i64 = 16;

/// What a message of this size costs.
pub fn cost(size_bytes: u32) -> i64 {
    (1 + i64::from(size_bytes >> 14)).min(COST_MAX)
}

/// Children by name, in turn.
#[derive(Debug)]
pub struct Ring<C> {
    /// The first is being served. Each child is here once.
    turns: VecDeque<Arc<str>>,
    children: HashMap<Arc<str>, Child<C>>,
}

#[derive(Debug, Default)]
struct Child<C> {
    /// Never above one quantum; below zero it waits.
    credit: i64,
    content: C,
}

impl<C> Default for Ring<C> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), children: HashMap::new() }
    }
}

impl<C: Default> Ring<C> {
    /// The child of that name, which is about to have something; a new one takes the last turn.
    pub fn enter(&mut self, name: &Arc<str>) -> &mut C {
        if !self.children.contains_key(name) {
            self.turns.push_back(name.clone());
        }
        &mut self.children.entry(name.clone()).or_default().content
    }

    /// The child of that name, if it has had something. One that runs empty is left until its turn.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut C> {
        self.children.get_mut(name).map(|child| &mut child.content)
    }

    /// Takes from the child whose turn it is. `take` gives what was taken and its cost, or `None` where the child is empty.
    pub fn next<T>(&mut self, mut take: impl FnMut(&mut C) -> Option<(T, i64)>) -> Option<(T, i64)> {
        loop {
            let alone = self.turns.len() == 1;
            let child = self.children.get_mut(self.turns.front()?).expect("whoever has a turn is a child");
            if alone {
                child.credit = QUANTUM;
            }
            if child.credit <= 0 {
                self.turns.rotate_left(1);
                self.arrive();
                continue;
            }
            if let Some((taken, cost)) = take(&mut child.content) {
                child.credit -= cost;
                return Some((taken, cost));
            }
            if let Some(name) = self.turns.pop_front() {
                self.children.remove(&name);
            }
            self.arrive();
        }
    }

    /// The turn has come to the first one.
    fn arrive(&mut self) {
        if let Some(child) = self.turns.front().and_then(|name| self.children.get_mut(name)) {
            child.credit = (child.credit + QUANTUM).min(QUANTUM);
        }
    }

    /// What was taken last from `name` is given back, and its turn with it.
    pub fn restore(&mut self, name: &Arc<str>, cost: i64) -> &mut C {
        if !self.children.contains_key(name) {
            self.turns.push_front(name.clone());
        }
        let child = self.children.entry(name.clone()).or_default();
        child.credit = (child.credit + cost).min(QUANTUM);
        &mut child.content
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.children.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take(queue: &mut VecDeque<i64>) -> Option<(i64, i64)> {
        queue.pop_front().map(|cost| (cost, cost))
    }

    #[test]
    fn equals_alternate() {
        let mut ring: Ring<VecDeque<i64>> = Ring::default();
        for (name, count) in [("a", 100), ("b", 2), ("c", 3)] {
            ring.enter(&name.into()).extend(std::iter::repeat_n(1, count));
        }
        let mut left = HashMap::from([("a", 100usize), ("b", 2), ("c", 3)]);
        for _ in 0..6 {
            ring.next(take).unwrap();
        }
        for (name, count) in &mut left {
            *count -= ring.get_mut(name).map_or(0, |queue| queue.len());
        }
        assert_eq!(left, HashMap::from([("a", 2), ("b", 2), ("c", 2)]));
    }

    #[test]
    fn a_lone_child_runs_into_no_debt() {
        let mut ring: Ring<VecDeque<i64>> = Ring::default();
        ring.enter(&"a".into()).extend([16; 1_000]);
        (0..500).for_each(|_| assert!(ring.next(take).is_some()));
        ring.enter(&"b".into()).extend([1; 40]);
        let costs: Vec<i64> = (0..40).map(|_| ring.next(take).unwrap().0).collect();
        assert!(costs.iter().filter(|cost| **cost == 16).count() >= 2, "{costs:?}");
    }

    #[test]
    fn what_ran_empty_is_forgotten() {
        let mut ring: Ring<VecDeque<i64>> = Ring::default();
        (0..100).for_each(|n| ring.enter(&n.to_string().into()).push_back(1));
        while ring.next(take).is_some() {}
        assert_eq!((ring.len(), ring.turns.len()), (0, 0));
    }

    #[test]
    fn what_is_restored_comes_next() {
        let mut ring: Ring<VecDeque<i64>> = Ring::default();
        ring.enter(&"a".into()).push_back(7);
        ring.enter(&"b".into()).push_back(1);
        let (taken, cost) = ring.next(take).unwrap();
        let name = if taken == 7 { "a" } else { "b" };
        ring.restore(&name.into(), cost).push_front(taken);
        assert_eq!(ring.next(take), Some((taken, cost)));
    }

    proptest! {
        /// While all have something, no two differ by more than one message and a round.
        #[test]
        fn shares_are_equal(costs in proptest::collection::vec(proptest::collection::vec(1i64..=COST_MAX, 400), 2..6)) {
            let mut ring: Ring<VecDeque<i64>> = Ring::default();
            for (n, costs) in costs.iter().enumerate() {
                ring.enter(&n.to_string().into()).extend(costs);
            }
            let total = |n: usize| costs[n].iter().sum::<i64>();
            for _ in 0..300 {
                ring.next(take).unwrap();
                let had: Vec<i64> = (0..costs.len())
                    .map(|n| total(n) - ring.get_mut(&n.to_string()).map_or(0, |left| left.iter().sum()))
                    .collect();
                let spread = had.iter().max().unwrap() - had.iter().min().unwrap();
                prop_assert!(spread <= 2 * COST_MAX, "{had:?}");
            }
        }
    }
}
