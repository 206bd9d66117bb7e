//! What has fired, as a function of a set of events. Pure: time comes in as an argument.
//!
//! A window holds the marks (matching events) of one rule, site and source, ordered by (time, log, seq). The terms are a
//! count, a period and a duration; an immediate rule counts to 1.
//!
//! **A mark fires** when it and the marks before it in that order, within the period that ends at its own time, are as many
//! as the count. It depends on nothing but the set of marks, and more marks only make more of them fire.
//!
//! **Firings** are gathered into slots of time on a fixed grid (from 1970, as wide as the whole number of periods that
//! covers the duration). One slot is one firing, and its identity: an event that comes late may let it start earlier or last
//! longer, and never makes another of it. It starts with the first mark that fires in it, and lasts until the duration after
//! the last one. So a rule that keeps being met gives one firing a slot, each reaching over
//! into the next.
//!
//! **What may be forgotten** without any difference to what is in force, now or later:
//! - A mark can only count in the period after it, in the slot of that period's end; once that slot's last possible
//!   expiry has passed, so has the mark's use. This is asked of new marks too: what comes too late changes nothing.
//! - Of one period on the grid, the first `count` and the last `count` marks are enough. Any mark between has `count`
//!   before it in the same period, so it fires and is neither the first nor the last to do so; and a window that cuts through
//!   the period still sees as many as it needs.
//! - Within a slot, the periods between that of the first firing mark and that before the last firing mark's.
//!
//! So two instances that saw the same events hold the same firings at the same time, whatever order, batches, repeats and
//! moments of forgetting there were.

use godwit_shaping::Trigger;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Marks that one window holds at the most, beside what its count asks for: above it, the oldest are dropped. Out of
/// reach unless thousands of periods fit into the duration and each holds nearly enough to fire.
const MARKS_MAX: usize = 20_000;
/// What periods around firings may hold, in counts: the edges of three periods in each slot that may be in force.
const COUNTS_MAX: usize = 32;

/// Nanoseconds since 1970.
pub type Instant = u64;

/// An instant of the contracts or of the clock as nanoseconds since 1970.
pub fn instant(time: SystemTime) -> Instant {
    nanoseconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub fn system_time(instant: Instant) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(instant)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// When a rule fires, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub count: usize,
    period: u64,
    duration: u64,
    /// How wide a slot is.
    slot: u64,
}

/// One node's log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    pub node: String,
    pub log_id: String,
}

/// A matching event, as far as its place goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    pub time: Instant,
    pub log: Arc<Log>,
    pub seq: u64,
}

/// What fired in one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// Which one, of those that a window ever has: an earlier mark that comes late changes `first`, not this.
    pub slot: u64,
    pub first: Mark,
    /// What the remote said in `first`.
    pub reply: Arc<str>,
    pub expires: Instant,
    last: Instant,
}

/// What a change to a window means for its copy on disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub written: Vec<Mark>,
    pub erased: Vec<Mark>,
}

/// The marks of one rule, site and source.
#[derive(Debug, Clone)]
pub struct Window {
    terms: Terms,
    marks: BTreeMap<Mark, Arc<str>>,
}

impl Terms {
    pub fn new(trigger: &Trigger, duration: Duration) -> Self {
        let duration = nanoseconds(duration).max(1);
        let (count, period) = match trigger {
            Trigger::Immediate => (1, duration),
            Trigger::Threshold { count, period } => {
                (usize::try_from(*count).unwrap_or(usize::MAX), nanoseconds(*period).max(1))
            }
        };
        Self { count, period, duration, slot: period.saturating_mul(duration.div_ceil(period)) }
    }

    fn slot_of(&self, time: Instant) -> u64 {
        time / self.slot
    }

    fn period_of(&self, time: Instant) -> u64 {
        time / self.period
    }

    /// When a mark of this time has lost all use.
    fn useful_until(&self, time: Instant) -> Instant {
        let slot_end = (self.slot_of(time.saturating_add(self.period)) + 1).saturating_mul(self.slot);
        slot_end.saturating_add(self.duration)
    }
}

impl Window {
    pub fn new(terms: Terms) -> Self {
        Self { terms, marks: BTreeMap::new() }
    }

    /// Whether a mark of this time could still make a difference.
    pub fn is_useful(&self, time: Instant, now: Instant) -> bool {
        self.terms.useful_until(time) > now
    }

    /// Adds marks, then forgets what makes no difference any more.
    pub fn absorb(&mut self, marks: impl IntoIterator<Item = (Mark, Arc<str>)>, now: Instant) -> Difference {
        let mut fresh = BTreeSet::new();
        for (mark, reply) in marks {
            if self.is_useful(mark.time, now) && !self.marks.contains_key(&mark) {
                fresh.insert(mark.clone());
                self.marks.insert(mark, reply);
            }
        }
        let mut difference = Difference::default();
        for mark in self.forgettable(now) {
            self.marks.remove(&mark);
            if !fresh.remove(&mark) {
                difference.erased.push(mark);
            }
        }
        difference.written = fresh.into_iter().collect();
        difference
    }

    /// What is in force.
    pub fn firings(&self, now: Instant) -> Vec<Firing> {
        self.all_firings().into_iter().filter(|firing| firing.expires > now).collect()
    }

    /// When there is next something to forget, or a firing that expires; `None` where nothing is held.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        let (oldest, _) = self.marks.first_key_value()?;
        let expiry = self.firings(now).into_iter().map(|firing| firing.expires).min();
        Some(self.terms.useful_until(oldest.time).min(expiry.unwrap_or(u64::MAX)))
    }

    /// The marks that a firing counted, as far as they are held.
    pub fn counted(&self, firing: &Firing) -> Vec<(Mark, Arc<str>)> {
        let counts = |mark: &Mark| mark.time.saturating_add(self.terms.period) > firing.first.time;
        let until = self.marks.range(..=&firing.first).filter(|(mark, _)| counts(mark));
        until.map(|(mark, reply)| (mark.clone(), reply.clone())).collect()
    }

    fn all_firings(&self) -> Vec<Firing> {
        let mut firings: Vec<Firing> = Vec::new();
        let mut oldest = self.marks.keys();
        let mut within = 0;
        for (mark, reply) in &self.marks {
            within += 1;
            while let Some(first) = oldest.clone().next()
                && first.time.saturating_add(self.terms.period) <= mark.time
            {
                oldest.next();
                within -= 1;
            }
            if within >= self.terms.count {
                self.fire(&mut firings, mark, reply);
            }
        }
        firings
    }

    fn fire(&self, firings: &mut Vec<Firing>, mark: &Mark, reply: &Arc<str>) {
        let expires = mark.time.saturating_add(self.terms.duration);
        match firings.last_mut() {
            Some(firing) if firing.slot == self.terms.slot_of(mark.time) => {
                firing.last = mark.time;
                firing.expires = expires;
            }
            Some(_) | None => {
                let slot = self.terms.slot_of(mark.time);
                let (first, reply) = (mark.clone(), reply.clone());
                firings.push(Firing { slot, first, reply, expires, last: mark.time });
            }
        }
    }

    fn forgettable(&self, now: Instant) -> Vec<Mark> {
        let useless = self.marks.keys().take_while(|mark| !self.is_useful(mark.time, now)).count();
        let over =
            self.marks.len().saturating_sub(self.terms.count.saturating_mul(COUNTS_MAX).saturating_add(MARKS_MAX));
        let mut marks: Vec<Mark> = self.marks.keys().take(useless.max(over)).cloned().collect();
        let spans: Vec<(u64, u64)> = self
            .all_firings()
            .iter()
            .map(|firing| (self.terms.period_of(firing.first.time), self.terms.period_of(firing.last)))
            .collect();
        let kept: Vec<&Mark> = self.marks.keys().skip(marks.len()).collect();
        for group in kept.chunk_by(|a, b| self.terms.period_of(a.time) == self.terms.period_of(b.time)) {
            let period = self.terms.period_of(group[0].time);
            let surrounded = spans.iter().any(|(first, last)| *first < period && period.saturating_add(1) < *last);
            let edge = if surrounded { 0 } else { self.terms.count };
            if group.len() > 2 * edge {
                marks.extend(group[edge..group.len() - edge].iter().map(|mark| (*mark).clone()));
            }
        }
        marks
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
