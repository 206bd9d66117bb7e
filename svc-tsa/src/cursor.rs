//! How far each node's log has been taken in, and how far that is on disk. Pure.

use crate::error::Error;
use crate::window::{Instant, Log};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Logs that are remembered; a node has a new one when its disk is new.
const LOGS_MAX: usize = 1_000;
/// A log of which nothing was heard for so long may give its place to another.
const UNHEARD_MAX: Instant = 30 * 86_400 * 1_000_000_000;

/// The part of a log that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first_seq: u64,
    pub next_seq: u64,
    /// First and last sequence that the sender no longer has.
    pub gap: Option<(u64, u64)>,
}

/// What a batch is to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes on from here, or goes over what is known.
    On,
    /// Something before it is missing.
    Hole,
}

#[derive(Debug)]
struct Cursor {
    next_seq: u64,
    durable_seq: u64,
    heard: Instant,
}

/// By log. Sequences count from 1.
#[derive(Debug, Default)]
pub struct Cursors(BTreeMap<Arc<Log>, Cursor>);

impl Cursors {
    /// What is on disk at the start.
    pub fn restore(&mut self, log: Log, next_seq: u64, now: Instant) {
        self.0.insert(Arc::new(log), Cursor { next_seq, durable_seq: next_seq, heard: now });
    }

    /// The log's one shared name.
    pub fn shared(&self, log: &Log) -> Option<Arc<Log>> {
        self.0.get_key_value(log).map(|(log, _)| log.clone())
    }

    /// What was taken in ends before this.
    pub fn next_seq(&self, log: &Log) -> u64 {
        self.0.get(log).map_or(1, |cursor| cursor.next_seq)
    }

    /// Everything before is on disk.
    pub fn durable_seq(&self, log: &Log) -> u64 {
        self.0.get(log).map_or(1, |cursor| cursor.durable_seq)
    }

    /// Moves the log's cursor over the batch; a log not known before gives back the one that lost its place, if any.
    pub fn step(&mut self, log: &Arc<Log>, span: &Span, now: Instant) -> Result<(Step, Option<Log>), Error> {
        let displaced = if self.0.contains_key(log) { None } else { self.make_room(now)? };
        let cursor = self.0.entry(log.clone()).or_insert(Cursor { next_seq: 1, durable_seq: 1, heard: now });
        cursor.heard = now;
        let after_gap = match span.gap {
            Some((from, to)) if from <= cursor.next_seq => to.saturating_add(1),
            Some(_) | None => 0,
        };
        let reached = cursor.next_seq.max(after_gap);
        if span.first_seq > reached {
            return Ok((Step::Hole, displaced));
        }
        cursor.next_seq = reached.max(span.next_seq);
        Ok((Step::On, displaced))
    }

    pub fn confirm(&mut self, log: &Log, next_seq: u64) {
        if let Some(cursor) = self.0.get_mut(log) {
            cursor.durable_seq = cursor.durable_seq.max(next_seq);
        }
    }

    /// Each log with its durable sequence.
    pub fn durable(&self) -> impl Iterator<Item = (&Log, u64)> {
        self.0.iter().map(|(log, cursor)| (&**log, cursor.durable_seq))
    }

    fn make_room(&mut self, now: Instant) -> Result<Option<Log>, Error> {
        if self.0.len() < LOGS_MAX {
            return Ok(None);
        }
        let unheard = self.0.iter().min_by_key(|(_, cursor)| cursor.heard);
        let unheard = unheard.filter(|(_, cursor)| cursor.heard.saturating_add(UNHEARD_MAX) < now);
        let log = unheard.map(|(log, _)| log.clone()).ok_or(Error::Full { what: "logs", limit: LOGS_MAX })?;
        self.0.remove(&log);
        Ok(Some(Arc::unwrap_or_clone(log)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> Arc<Log> {
        Arc::new(Log { node: "n".into(), log_id: name.into() })
    }

    #[test]
    fn a_batch_goes_on_or_leaves_a_hole() {
        let mut cursors = Cursors::default();
        let mut check = |first_seq: u64, next_seq: u64, gap: Option<(u64, u64)>, expected: (Step, u64)| {
            let (step, _) = cursors.step(&log("a"), &Span { first_seq, next_seq, gap }, 0).unwrap();
            assert_eq!((step, cursors.next_seq(&log("a"))), expected, "{first_seq}..{next_seq} {gap:?}");
        };
        check(2, 5, None, (Step::Hole, 1));
        check(1, 5, None, (Step::On, 5));
        check(3, 4, None, (Step::On, 5));
        check(10, 12, Some((7, 9)), (Step::Hole, 5));
        check(10, 12, Some((5, 8)), (Step::Hole, 5));
        check(10, 12, Some((1, 9)), (Step::On, 12));
        assert_eq!(cursors.durable_seq(&log("a")), 1);
        cursors.confirm(&log("a"), 12);
        cursors.confirm(&log("a"), 5);
        assert_eq!(cursors.durable_seq(&log("a")), 12);
    }

    #[test]
    fn logs_are_bounded_and_give_way_when_unheard_of() {
        let mut cursors = Cursors::default();
        let span = Span { first_seq: 1, next_seq: 2, gap: None };
        for number in 0..LOGS_MAX {
            cursors.step(&log(&number.to_string()), &span, 0).unwrap();
        }
        assert!(matches!(cursors.step(&log("x"), &span, UNHEARD_MAX), Err(Error::Full { .. })));
        let (_, displaced) = cursors.step(&log("x"), &span, UNHEARD_MAX + 1).unwrap();
        assert_eq!(displaced, Some(Log { node: "n".into(), log_id: "0".into() }));
    }
}
