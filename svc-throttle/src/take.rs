//! One ask over its limits, one after the other: what to ask of the next, and what goes back. Pure: the stores do the
//! steps. Not atomic over keys, as the contract says.

use crate::store::{Ask, Limit, Taken};
use std::time::Duration;

/// What is wanted of one limit.
#[derive(Debug, Clone, Copy)]
pub struct Offer<'a> {
    pub limit: &'a Limit,
    /// The ask's whole count, of which this limit gives its part.
    pub whole: u64,
    /// So much of the whole at most: what the limits before gave.
    pub granted: u64,
    /// Less rather than nothing.
    pub partial: bool,
    /// Another limit has refused already: only how long this one would.
    pub look: bool,
}

/// What one limit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its part for so much of the ask.
    Took {
        count: u64,
    },
    Wait {
        micros: u64,
    },
}

/// So many tokens of the limit at this place in the ask go back.
pub type GiveBack = (usize, u64);

/// An ask on its way.
#[derive(Debug)]
pub struct Taking<'a> {
    ask: &'a Ask,
    /// The limit that is asked next.
    place: usize,
    granted: u64,
    longest: Option<(u64, usize)>,
}

impl<'a> Taking<'a> {
    pub fn new(ask: &'a Ask) -> Self {
        Self { ask, place: 0, granted: ask.count, longest: None }
    }

    /// `None`: all were asked.
    pub fn offer(&self) -> Option<Offer<'a>> {
        let limit = self.ask.limits.get(self.place)?;
        let (whole, partial, look) = (self.ask.count, self.ask.partial, self.longest.is_some());
        Some(Offer { limit, whole, granted: self.granted, partial, look })
    }

    /// The answer to the last offer; gives what the limits before took over this one's part.
    pub fn answered(&mut self, step: Step) -> Vec<GiveBack> {
        let (place, refused) = (self.place, self.longest.is_some());
        self.place += 1;
        match step {
            Step::Took { .. } if refused => Vec::new(),
            Step::Took { count } => {
                let surplus = self.surplus(place, count);
                self.granted = count;
                surplus
            }
            Step::Wait { micros } => {
                self.longest = Some(self.longest.map_or((micros, place), |longest| longest.max((micros, place))));
                if refused { Vec::new() } else { self.surplus(place, 0) }
            }
        }
    }

    /// The last offer has no answer: all that was taken before it.
    pub fn failed(&self) -> Vec<GiveBack> {
        if self.longest.is_some() { Vec::new() } else { self.surplus(self.place, 0) }
    }

    /// What became of it, once all were asked.
    pub fn taken(&self) -> Taken {
        match self.longest {
            None => Taken::Granted { count: self.granted },
            Some((micros, refusing)) => Taken::Wait { wait: Duration::from_micros(micros), refusing },
        }
    }

    /// What the limits before `place` hold over what they hold for `count`.
    fn surplus(&self, place: usize, count: u64) -> Vec<GiveBack> {
        give_backs(self.ask, place, (self.granted, count))
    }
}

/// What the first `limits` of an ask hold for `from` parts of it over what they hold for `to`.
pub fn give_backs(ask: &Ask, limits: usize, (from, to): (u64, u64)) -> Vec<GiveBack> {
    if from == to {
        return Vec::new();
    }
    let surplus = |limit: &Limit| part(limit.count, ask.count, from) - part(limit.count, ask.count, to);
    ask.limits.iter().take(limits).map(surplus).enumerate().collect()
}

/// How many of a limit's tokens are its part for `count` out of `whole`.
pub fn part(tokens: u64, whole: u64, count: u64) -> u64 {
    let part = (u128::from(tokens) * u128::from(count)).div_ceil(u128::from(whole.max(1)));
    u64::try_from(part).expect("at most all tokens")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::Rate;

    fn ask(counts: &[u64]) -> Ask {
        let rate = Rate { limit: 10, period_micros: 1_000_000, burst: 10 };
        let limit = |(place, count): (usize, &u64)| Limit {
            key: format!("k{place}"),
            key_bytes: 2,
            local: false,
            count: *count,
            rate,
        };
        Ask { limits: counts.iter().enumerate().map(limit).collect(), count: counts[0], partial: true }
    }

    #[test]
    fn what_is_taken_over_the_least_goes_back() {
        let ask = ask(&[10, 1_000, 7]);
        let mut taking = Taking::new(&ask);
        assert_eq!(taking.answered(Step::Took { count: 10 }), []);
        assert_eq!(taking.offer().unwrap().granted, 10);
        assert_eq!(taking.answered(Step::Took { count: 6 }), [(0, 4)]);
        assert_eq!(taking.answered(Step::Took { count: 5 }), [(0, 1), (1, 100)]);
        assert!(taking.offer().is_none());
        assert_eq!(taking.taken(), Taken::Granted { count: 5 });
    }

    #[test]
    fn after_a_refusal_the_others_are_only_looked_at() {
        let ask = ask(&[10, 10, 10, 10]);
        let mut taking = Taking::new(&ask);
        taking.answered(Step::Took { count: 9 });
        assert_eq!(taking.failed(), [(0, 9)]);
        assert_eq!(taking.answered(Step::Wait { micros: 5 }), [(0, 9)]);
        assert!(taking.offer().unwrap().look);
        assert_eq!(taking.answered(Step::Took { count: 1 }), []);
        assert_eq!(taking.failed(), []);
        assert_eq!(taking.answered(Step::Wait { micros: 9 }), []);
        assert_eq!(taking.taken(), Taken::Wait { wait: Duration::from_micros(9), refusing: 3 });
    }
}
