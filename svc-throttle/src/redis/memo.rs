//! What this node remembers of what Redis answered: the debts and the slots that it would put back if Redis lost them, and
//! that it goes on with when Redis is away. Pure: times are Redis', in microseconds.

use crate::bucket::Rate;
use crate::error::Error;
use crate::lease::{Held, SlotId};
use std::collections::{HashMap, HashSet};

/// A rate's state, as [`crate::grain`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    pub rate: Rate,
    pub weight: u64,
    pub run_off: u64,
    /// Tokens of the burst that were kept for others, beside `units`.
    pub kept: u64,
    pub units: u64,
    pub at: u64,
}

impl Debt {
    fn is_live(&self, now: u64) -> bool {
        let run_off = u128::from(now.saturating_sub(self.at)) * u128::from(self.run_off);
        u128::from(self.units) > run_off
    }
}

/// A slot that was said to be kept while Redis did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise {
    pub key: String,
    pub slot: SlotId,
    /// By this node's own clock.
    pub until: u64,
}

/// What is held of one key through this node.
#[derive(Debug, Clone, Default)]
pub struct Holding {
    pub limit: u32,
    pub held: HashMap<SlotId, Held>,
}

impl Holding {
    /// The slots that last longest first; beyond the share they end.
    pub fn ordered(&self, now: u64) -> Vec<(SlotId, &Held)> {
        let live = self.held.iter().filter(|(_, held)| held.until_micros() > now);
        let mut slots: Vec<_> = live.map(|(slot, held)| (*slot, held)).collect();
        slots.sort_by_key(|(slot, held)| (std::cmp::Reverse(held.until_micros()), slot.0));
        slots
    }

    fn is_live(&self, now: u64) -> bool {
        self.held.values().any(|held| held.until_micros() > now)
    }
}

#[derive(Debug)]
pub struct Memo {
    keys_max: usize,
    debts: HashMap<Box<str>, Debt>,
    slots: HashMap<Box<str>, Holding>,
    /// Slots that were said to be kept while Redis did not answer: until when, by this node's own clock.
    promises: HashMap<(Box<str>, SlotId), u64>,
}

impl Memo {
    pub fn new(keys_max: usize) -> Self {
        Self { keys_max, debts: HashMap::new(), slots: HashMap::new(), promises: HashMap::new() }
    }

    pub fn key_count(&self) -> usize {
        self.debts.len() + self.slots.len()
    }

    /// Whether there is room to remember these rates, or these slots, too.
    pub fn admit<'a>(&mut self, keys: impl Iterator<Item = &'a str>, slots: bool, now: u64) -> Result<(), Error> {
        let is_new = |key: &&str| if slots { !self.slots.contains_key(*key) } else { !self.debts.contains_key(*key) };
        let new_count = keys.filter(is_new).collect::<HashSet<_>>().len();
        if self.key_count() + new_count > self.keys_max {
            self.prune(now);
        }
        if new_count > 0 && self.key_count() + new_count > self.keys_max {
            return Err(Error::Full { keys_max: self.keys_max });
        }
        Ok(())
    }

    /// Forgets what has run off or run out.
    pub fn prune(&mut self, now: u64) {
        self.debts.retain(|_, debt| debt.is_live(now));
        self.slots.retain(|_, holding| {
            holding.held.retain(|_, held| held.until_micros() > now);
            !holding.held.is_empty()
        });
    }

    /// Answers may come in another order than they were given in.
    pub fn owes(&mut self, key: &str, debt: Debt) {
        match self.debts.get_mut(key) {
            Some(known) if (known.at, known.units) > (debt.at, debt.units) => {}
            Some(known) => *known = debt,
            None => drop(self.debts.insert(key.into(), debt)),
        }
    }

    /// Redis gave tokens back: so much is owed of what is remembered.
    pub fn owes_less(&mut self, key: &str, units: u64, at: u64) {
        if let Some(known) = self.debts.get_mut(key).filter(|known| known.at <= at) {
            (known.units, known.at) = (units, at);
        }
    }

    /// Redis must know the rate's debt: it has not run off.
    pub fn owes_still(&self, key: &str, now: u64) -> bool {
        self.debts.get(key).is_some_and(|debt| debt.is_live(now))
    }

    pub fn holds(&mut self, key: &str, limit: u32, slots: impl Iterator<Item = (SlotId, Held)>) {
        let mut slots = slots.peekable();
        if slots.peek().is_none() && !self.slots.contains_key(key) {
            return;
        }
        let holding = self.slots.entry(key.into()).or_default();
        holding.limit = limit;
        holding.held.extend(slots);
    }

    /// A heartbeat was answered: until when, or that the slot is lost but still counts until it runs out.
    pub fn keeps(&mut self, key: &str, slot: SlotId, (until, ttl): (u64, u64)) {
        self.promises.remove(&(key.into(), slot));
        let Some(held) = self.slots.get_mut(key).and_then(|holding| holding.held.get_mut(&slot)) else {
            // From before this process.
            self.slots.entry(key.into()).or_default().held.insert(slot, Held::new("", (until, ttl), false));
            return;
        };
        *held = Held::new(&held.holder, (held.until_micros().max(until), ttl), held.ending);
    }

    pub fn promise(&mut self, key: &str, slot: SlotId, until: u64) {
        let promised = self.promises.entry((key.into(), slot)).or_default();
        *promised = until.max(*promised);
    }

    pub fn promised(&self, key: &str, slot: SlotId) -> u64 {
        self.promises.get(&(key.into(), slot)).copied().unwrap_or(0)
    }

    pub fn has_promises(&self) -> bool {
        !self.promises.is_empty()
    }

    pub fn promises(&self) -> Vec<Promise> {
        let promise = |((key, slot), until): (&(Box<str>, SlotId), &u64)| Promise {
            key: key.to_string(),
            slot: *slot,
            until: *until,
        };
        self.promises.iter().map(promise).collect()
    }

    /// Redis knows of it: the slot lasts until then by its clock.
    pub fn promise_is_known(&mut self, promise: &Promise, until: u64) {
        let (key, slot) = (&*promise.key, promise.slot);
        let place = (key.into(), slot);
        if self.promises.get(&place).is_some_and(|promised| *promised <= promise.until) {
            self.promises.remove(&place);
        }
        if let Some(held) = self.slots.get_mut(key).and_then(|holding| holding.held.get_mut(&slot)) {
            *held = Held::new(&held.holder, (held.until_micros().max(until), held.ttl_micros()), held.ending);
        }
    }

    pub fn ends(&mut self, key: &str, slot: SlotId) {
        if let Some(held) = self.slots.get_mut(key).and_then(|holding| holding.held.get_mut(&slot)) {
            held.ending = true;
        }
    }

    pub fn lets_go(&mut self, key: &str, slot: SlotId) {
        self.promises.remove(&(key.into(), slot));
        if let Some(holding) = self.slots.get_mut(key) {
            holding.held.remove(&slot);
        }
    }

    /// Redis must know some of the key's slots: they have not run out.
    pub fn holds_still(&self, key: &str, now: u64) -> bool {
        self.slots.get(key).is_some_and(|holding| holding.is_live(now))
    }

    pub fn holding(&self, key: &str) -> Option<&Holding> {
        self.slots.get(key)
    }

    pub fn forget(&mut self, key: &str) {
        self.debts.remove(key);
        self.slots.remove(key);
    }

    pub fn forget_slots(&mut self) {
        self.slots.clear();
        self.promises.clear();
    }

    pub fn debts(&self) -> impl Iterator<Item = (&str, &Debt)> {
        self.debts.iter().map(|(key, debt)| (&**key, debt))
    }

    pub fn holdings(&self) -> impl Iterator<Item = (&str, &Holding)> {
        self.slots.iter().map(|(key, holding)| (&**key, holding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { limit: 10, period_micros: 1_000_000, burst: 10 };

    fn debt(units: u64, at: u64) -> Debt {
        Debt { rate: RATE, weight: 1_000_000, run_off: 10, kept: 0, units, at }
    }

    fn slot(until: u64) -> Held {
        Held::new("w", (until, 15), false)
    }

    #[test]
    fn the_later_answer_holds_and_of_two_at_once_the_greater() {
        let mut memo = Memo::new(10);
        memo.owes("k", debt(50, 10));
        memo.owes("k", debt(90, 9));
        memo.owes("k", debt(40, 10));
        assert_eq!(memo.debts().next().unwrap().1.units, 50);
        memo.owes_less("k", 20, 11);
        memo.owes_less("k", 1, 9);
        assert_eq!(memo.debts().next().unwrap().1.units, 20);
        assert!(memo.owes_still("k", 12) && !memo.owes_still("k", 13) && !memo.owes_still("other", 0));
    }

    #[test]
    fn as_many_keys_as_there_is_room_for() {
        let mut memo = Memo::new(2);
        memo.owes("a", debt(1_000, 0));
        assert!(memo.admit(["a", "b", "b"].into_iter(), false, 0).is_ok());
        assert_eq!(memo.admit(["b", "c"].into_iter(), false, 0), Err(Error::Full { keys_max: 2 }));
        assert_eq!(memo.admit(["a", "b"].into_iter(), true, 0), Err(Error::Full { keys_max: 2 }));
        assert!(memo.admit(["b", "c"].into_iter(), false, 100).is_ok(), "what has run off makes room");
        assert_eq!(memo.key_count(), 0);
    }

    #[test]
    fn what_was_promised_is_remembered_until_redis_knows_it() {
        let mut memo = Memo::new(10);
        memo.holds("k", 3, (1..4).map(|id| (SlotId(id), slot(1_000))));
        for (slot, until) in [(1, 90), (1, 80), (2, 40), (3, 90)] {
            memo.promise("k", SlotId(slot), until);
        }
        memo.lets_go("k", SlotId(3));
        memo.keeps("k", SlotId(2), (1_100, 15));
        let promise = Promise { key: "k".into(), slot: SlotId(1), until: 90 };
        assert_eq!(memo.promises(), std::slice::from_ref(&promise));
        memo.promise("k", SlotId(1), 95);
        memo.promise_is_known(&promise, 2_000);
        assert_eq!((memo.promised("k", SlotId(1)), memo.has_promises()), (95, true), "it was promised again");
        memo.promise_is_known(&Promise { until: 95, ..promise }, 1_500);
        let until = |slot| memo.holding("k").unwrap().held[&SlotId(slot)].until_micros();
        assert_eq!((until(1), until(2), memo.has_promises()), (2_000, 1_100, false));
    }

    #[test]
    fn slots_are_remembered_while_they_last() {
        let mut memo = Memo::new(10);
        memo.holds("none", 2, std::iter::empty());
        memo.holds("k", 2, [(SlotId(1), slot(15)), (SlotId(2), slot(20)), (SlotId(3), slot(20))].into_iter());
        memo.keeps("k", SlotId(1), (30, 15));
        memo.keeps("k", SlotId(1), (25, 15));
        memo.keeps("restarted", SlotId(9), (30, 15));
        memo.ends("k", SlotId(3));
        memo.lets_go("k", SlotId(7));
        let order: Vec<u128> = memo.holding("k").unwrap().ordered(10).iter().map(|(slot, _)| slot.0).collect();
        assert_eq!(order, [1, 2, 3]);
        assert!(memo.holding("k").unwrap().held[&SlotId(3)].ending);
        assert!(memo.holds_still("k", 29) && !memo.holds_still("k", 30) && !memo.holds_still("none", 0));
        memo.prune(25);
        assert_eq!(memo.holding("k").unwrap().held.len(), 1);
        memo.forget("k");
        assert_eq!(memo.key_count(), 1);
    }
}
