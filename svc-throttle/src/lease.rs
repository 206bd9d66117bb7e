//! One key's counted slots: who holds them until when, and who waits for them in which order. Pure: time comes in as an
//! argument, in microseconds.
//!
//! Waiters are served in turn: a slot that is free is kept for those who came first, until they ask again or their place
//! lapses. A lower limit takes nothing away; it only gives nothing until enough is released.

use std::collections::{HashMap, VecDeque};

/// How soon the next in turn asks again; who stands further back waits so many times as long.
const POLL_MICROS: u64 = 100_000;

/// A slot, unique over all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId(pub u128);

/// Someone wants slots.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub holder: &'a str,
    /// 0: wants none any more, and gives up its place.
    pub count: u32,
    /// How many there are in all.
    pub limit: u32,
    pub ttl_micros: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Given {
    pub slots: Vec<SlotId>,
    /// 0: nothing more was wanted; 1: next in turn.
    pub place: u32,
    /// How soon to ask again, where there is a place.
    pub wait_micros: u64,
    /// The queue is full: `place` is what it would have been, but is not kept.
    pub turned_away: bool,
}

/// The slots of one key.
#[derive(Debug, Default)]
pub struct Table {
    limit: u32,
    held: HashMap<SlotId, Held>,
    /// First come, first served.
    waiters: VecDeque<Waiter>,
    /// Nothing runs out before; may be too early, never too late.
    runs_out_micros: u64,
    /// The last `now`: a clock that was set back is seen by it.
    seen_micros: u64,
}

/// Slots with what is known of each.
pub type Slots = Vec<(SlotId, Held)>;

/// A slot that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub holder: Box<str>,
    span: Span,
    /// It is not kept any longer than it lasts: its holder has been told that it is lost.
    pub ending: bool,
}

impl Held {
    pub fn new(holder: &str, (until_micros, ttl_micros): (u64, u64), ending: bool) -> Self {
        Self { holder: holder.into(), span: Span { until_micros, ttl_micros }, ending }
    }

    pub fn until_micros(&self) -> u64 {
        self.span.until_micros
    }

    pub fn ttl_micros(&self) -> u64 {
        self.span.ttl_micros
    }
}

#[derive(Debug)]
struct Waiter {
    holder: Box<str>,
    wanted: u32,
    span: Span,
}

/// Until when something lasts, and how long it lasted from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    until_micros: u64,
    ttl_micros: u64,
}

impl Span {
    fn new(ttl_micros: u64, now: u64) -> Self {
        Self { until_micros: now.saturating_add(ttl_micros), ttl_micros }
    }

    /// Still there. What seems to last longer than its ttl is from before the clock was set back, and starts again.
    fn lasts(&mut self, now: u64) -> bool {
        self.until_micros = self.until_micros.min(now.saturating_add(self.ttl_micros));
        self.until_micros > now
    }
}

impl Table {
    /// Gives as many slots as there are for `ask` in its turn, and a place for the rest where there is room in the queue.
    pub fn acquire(&mut self, ask: Ask<'_>, waiters_max: usize, now: u64, mut id: impl FnMut() -> SlotId) -> Given {
        self.limit = ask.limit;
        self.settle(now);
        let place = self.waiters.iter().position(|waiter| *waiter.holder == *ask.holder);
        let before = place.unwrap_or(self.waiters.len());
        let promised: u64 = self.waiters.iter().take(before).map(|waiter| u64::from(waiter.wanted)).sum();
        let free = u64::from(self.free_count()).saturating_sub(promised);
        let count = u32::try_from(free).unwrap_or(u32::MAX).min(ask.count);
        let span = Span::new(ask.ttl_micros, now);
        self.runs_out_micros = self.runs_out_micros.min(span.until_micros);
        let slots: Vec<SlotId> = (0..count).map(|_| id()).collect();
        for slot in &slots {
            self.held.insert(*slot, Held { holder: ask.holder.into(), span, ending: false });
        }
        let turned_away = self.queue(ask.holder, place, ask.count - count, (waiters_max, span));
        let place = if count < ask.count { u32::try_from(before + 1).unwrap_or(u32::MAX) } else { 0 };
        let wait_micros = POLL_MICROS.saturating_mul(place.into()).min((ask.ttl_micros / 3).max(1));
        Given { slots, place, wait_micros: if place == 0 { 0 } else { wait_micros }, turned_away }
    }

    /// Keeps a slot for another ttl; false where it is not held any more.
    pub fn heartbeat(&mut self, slot: SlotId, ttl_micros: u64, now: u64) -> bool {
        self.settle(now);
        let span = Span::new(ttl_micros, now);
        self.runs_out_micros = self.runs_out_micros.min(span.until_micros);
        self.held.get_mut(&slot).filter(|held| !held.ending).map(|held| held.span = span).is_some()
    }

    /// A slot that was given elsewhere.
    pub fn restore(&mut self, slot: SlotId, held: Held) {
        self.runs_out_micros = self.runs_out_micros.min(held.span.until_micros);
        self.held.insert(slot, held);
    }

    /// Idempotent.
    pub fn release(&mut self, slot: SlotId) {
        self.held.remove(&slot);
    }

    /// Lets go what has run out.
    pub fn settle(&mut self, now: u64) {
        if now >= self.seen_micros && now < self.runs_out_micros {
            self.seen_micros = now;
            return;
        }
        self.held.retain(|_, held| held.span.lasts(now));
        self.waiters.retain_mut(|waiter| waiter.span.lasts(now));
        let held = self.held.values().map(|held| held.span.until_micros);
        let waiters = self.waiters.iter().map(|waiter| waiter.span.until_micros);
        self.runs_out_micros = held.chain(waiters).min().unwrap_or(u64::MAX);
        self.seen_micros = now;
    }

    /// Nobody holds or waits: as good as never made. Exact after `settle`, as are the counts.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.waiters.is_empty()
    }

    pub fn limit(&self) -> u32 {
        self.limit
    }

    pub fn held_count(&self) -> u32 {
        u32::try_from(self.held.len()).unwrap_or(u32::MAX)
    }

    pub fn free_count(&self) -> u32 {
        self.limit.saturating_sub(self.held_count())
    }

    pub fn waiter_count(&self) -> u32 {
        u32::try_from(self.waiters.len()).unwrap_or(u32::MAX)
    }

    /// Who holds, once a slot.
    pub fn holders(&self) -> impl Iterator<Item = &str> {
        self.held.values().map(|held| &*held.holder)
    }

    pub fn held(&self) -> impl Iterator<Item = (SlotId, &Held)> {
        self.held.iter().map(|(slot, held)| (*slot, held))
    }

    /// Puts the holder's place right; true where there was no room for it.
    fn queue(&mut self, holder: &str, place: Option<usize>, wanted: u32, (waiters_max, span): (usize, Span)) -> bool {
        match (place, wanted) {
            (Some(place), 0) => drop(self.waiters.remove(place)),
            (Some(place), wanted) => {
                let waiter = &mut self.waiters[place];
                (waiter.wanted, waiter.span) = (wanted, span);
            }
            (None, 0) => {}
            (None, _) if self.waiters.len() >= waiters_max => return true,
            (None, wanted) => self.waiters.push_back(Waiter { holder: holder.into(), wanted, span }),
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const TTL: u64 = 15 * SECOND;
    const WAITERS_MAX: usize = 100;

    /// A table whose slots are numbered from 1.
    #[derive(Default)]
    struct World {
        table: Table,
        last: u128,
    }

    impl World {
        fn ask(&mut self, holder: &str, count: u32, limit: u32, now: u64) -> (Vec<u128>, u32) {
            let ask = Ask { holder, count, limit, ttl_micros: TTL };
            let last = &mut self.last;
            let given = self.table.acquire(ask, WAITERS_MAX, now, || {
                *last += 1;
                SlotId(*last)
            });
            (given.slots.into_iter().map(|slot| slot.0).collect(), given.place)
        }
    }

    #[test]
    fn no_more_than_the_limit_and_then_a_place() {
        let mut world = World::default();
        assert_eq!(world.ask("a", 2, 3, 0), (vec![1, 2], 0));
        assert_eq!(world.ask("b", 2, 3, 0), (vec![3], 1));
        assert_eq!(world.ask("c", 1, 3, 0), (vec![], 2));
        assert_eq!(world.ask("b", 1, 3, 1), (vec![], 1));
        assert_eq!((world.table.held_count(), world.table.waiter_count()), (3, 2));
    }

    #[test]
    fn a_free_slot_waits_for_whom_it_is_the_turn() {
        let mut world = World::default();
        world.ask("a", 1, 1, 0);
        world.ask("b", 1, 1, 0);
        world.ask("c", 1, 1, 0);
        world.table.release(SlotId(1));
        assert_eq!(world.ask("c", 1, 1, SECOND), (vec![], 2));
        assert_eq!(world.ask("new", 1, 1, SECOND), (vec![], 3));
        assert_eq!(world.ask("b", 1, 1, SECOND), (vec![2], 0));
        assert_eq!(world.ask("c", 1, 1, SECOND), (vec![], 1));
    }

    #[test]
    fn a_place_lapses_when_nobody_asks() {
        let mut world = World::default();
        world.ask("a", 1, 1, 0);
        world.ask("gone", 1, 1, 0);
        world.ask("c", 1, 1, SECOND);
        world.table.release(SlotId(1));
        assert_eq!(world.ask("c", 1, 1, TTL - 1), (vec![], 2));
        assert_eq!(world.ask("c", 1, 1, TTL), (vec![2], 0));
    }

    #[test]
    fn a_place_can_be_given_up() {
        let mut world = World::default();
        world.ask("a", 1, 1, 0);
        world.ask("b", 1, 1, 0);
        assert_eq!(world.ask("b", 0, 1, 0), (vec![], 0));
        assert_eq!(world.ask("c", 1, 1, 0), (vec![], 1));
    }

    #[test]
    fn slots_of_the_dead_come_free_and_heartbeats_keep_the_living() {
        let mut world = World::default();
        world.ask("dead", 1, 2, 0);
        world.ask("living", 1, 2, 0);
        assert!(world.table.heartbeat(SlotId(2), TTL, 10 * SECOND));
        assert_eq!(world.ask("c", 2, 2, TTL - 1), (vec![], 1));
        assert_eq!(world.ask("c", 2, 2, TTL), (vec![3], 1));
        assert!(!world.table.heartbeat(SlotId(1), TTL, TTL));
        assert!(world.table.heartbeat(SlotId(2), TTL, TTL));
    }

    #[test]
    fn a_lower_limit_takes_nothing_away_and_gives_nothing() {
        let mut world = World::default();
        world.ask("a", 3, 3, 0);
        assert_eq!(world.ask("b", 1, 1, 0), (vec![], 1));
        assert!(world.table.heartbeat(SlotId(3), TTL, 0));
        world.table.release(SlotId(1));
        world.table.release(SlotId(2));
        assert_eq!(world.ask("b", 1, 1, 0), (vec![], 1));
        world.table.release(SlotId(3));
        assert_eq!(world.ask("b", 1, 1, 0), (vec![4], 0));
        assert_eq!(world.ask("b", 2, 4, 0), (vec![5, 6], 0));
    }

    #[test]
    fn a_slot_that_ends_counts_until_then_and_is_not_kept() {
        let mut world = World::default();
        world.table.restore(SlotId(7), Held::new("a", (TTL, TTL), true));
        world.table.restore(SlotId(8), Held::new("b", (TTL, TTL), false));
        assert!(!world.table.heartbeat(SlotId(7), TTL, SECOND));
        assert!(world.table.heartbeat(SlotId(8), TTL, SECOND));
        assert_eq!(world.ask("c", 1, 2, TTL - 1), (vec![], 1));
        assert_eq!(world.ask("c", 1, 2, TTL), (vec![1], 0));
        assert_eq!(world.table.held().map(|(slot, _)| slot.0).min(), Some(1));
    }

    #[test]
    fn a_full_queue_keeps_no_place() {
        let mut table = Table::default();
        let mut last = 0;
        let mut ask = |holder| {
            table.acquire(Ask { holder, count: 1, limit: 1, ttl_micros: TTL }, 1, 0, || {
                last += 1;
                SlotId(last)
            })
        };
        assert_eq!(ask("a").place, 0);
        assert_eq!((ask("b").place, ask("b").turned_away), (1, false));
        let late = ask("c");
        assert_eq!((late.place, late.turned_away), (2, true));
        assert_eq!(table.waiter_count(), 1);
    }

    #[test]
    fn a_clock_set_back_does_not_hold_slots_for_ever() {
        let mut world = World::default();
        world.ask("a", 1, 1, 1_000_000 * SECOND);
        assert_eq!(world.ask("b", 1, 1, 0), (vec![], 1));
        assert_eq!(world.ask("b", 1, 1, TTL), (vec![2], 0));
    }

    proptest! {
        #[test]
        fn never_more_held_than_the_limit_and_turns_are_kept(
            steps in proptest::collection::vec((0..5usize, 1..4u32, 0..4u8, 0..8 * SECOND), 1..80), limit in 1..6u32,
        ) {
            let names = ["a", "b", "c", "d", "e"];
            let (mut world, mut now) = (World::default(), 0);
            let mut held: Vec<u128> = Vec::new();
            for (who, count, what, step) in steps {
                now += step;
                match what {
                    0 => if let Some(slot) = held.pop() { world.table.release(SlotId(slot)) },
                    1 => if let Some(slot) = held.first() { world.table.heartbeat(SlotId(*slot), TTL, now); },
                    _ => {
                        let (slots, place) = world.ask(names[who], count, limit, now);
                        prop_assert_eq!(place == 0, slots.len() == count as usize);
                        // Who is given anything, or is next, has nobody before it whose wish could be met.
                        let first = world.table.waiters.front().map(|waiter| waiter.holder.to_string());
                        prop_assert_eq!(place == 1, first.as_deref() == Some(names[who]));
                        held.extend(slots);
                    }
                }
                prop_assert!(world.table.held_count() <= limit);
            }
            world.table.settle(now + TTL);
            prop_assert!(world.table.is_idle());
        }
    }
}
