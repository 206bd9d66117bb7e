//! One rate: the generic cell rate algorithm as a debt that runs off. Pure: time comes in as an argument, in microseconds.
//!
//! The debt is held in units of a token divided by the period's microseconds, so that it runs off by `limit` units each
//! microsecond: integers throughout, and hence exact.

/// The clock of several askers may differ by so much; a longer step back means that the clock was set.
const STEP_BACK_MICROS_MAX: u64 = 1_000_000;

/// `limit` tokens in a period, up to `burst` at once. None of them is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    /// At most 2^42: 31 days.
    pub period_micros: u64,
    pub burst: u64,
}

/// What became of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Granted,
    /// Granted when asked again after exactly so long, unless others come between.
    Wait {
        micros: u64,
    },
}

/// A rate's state.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    /// In tokens divided by `rate.period_micros`.
    debt: u128,
    /// When `debt` was right.
    at_micros: u64,
}

impl Bucket {
    /// Without debt.
    pub fn new(rate: Rate, now: u64) -> Self {
        Self { rate, debt: 0, at_micros: now }
    }

    /// With a debt of the whole burst: of what was taken before nothing is known.
    pub fn full(rate: Rate, now: u64) -> Self {
        let mut bucket = Self::new(rate, now);
        bucket.debt = bucket.units(rate.burst);
        bucket
    }

    /// Takes `count` tokens at once or none; `count` must not exceed the burst, or it waits for ever. A rate other than
    /// before counts from now on, and the debt stays what it is in tokens.
    pub fn acquire(&mut self, count: u64, rate: Rate, now: u64) -> Verdict {
        self.follow(rate, now);
        let wanted = self.units(count);
        let over = (self.debt + wanted).saturating_sub(self.units(rate.burst));
        if over == 0 {
            self.debt += wanted;
            return Verdict::Granted;
        }
        let micros = over.div_ceil(u128::from(rate.limit)) + u128::from(self.at_micros.saturating_sub(now));
        Verdict::Wait { micros: u64::try_from(micros).unwrap_or(u64::MAX) }
    }

    /// Gives tokens back; more than is owed is ignored.
    pub fn refund(&mut self, count: u64, now: u64) {
        self.settle(now);
        self.debt = self.debt.saturating_sub(self.units(count));
    }

    /// Counts by `rate` from now on. The debt stays what it is in tokens.
    pub fn follow(&mut self, rate: Rate, now: u64) {
        self.settle(now);
        if rate.period_micros != self.rate.period_micros {
            let (old, new) = (u128::from(self.rate.period_micros), u128::from(rate.period_micros));
            self.debt = self.debt / old * new + (self.debt % old * new).div_ceil(old);
        }
        self.rate = rate;
    }

    /// Whole tokens that could be taken now.
    pub fn free(&self, now: u64) -> u64 {
        let bucket = self.settled(now);
        let free = bucket.units(bucket.rate.burst).saturating_sub(bucket.debt) / u128::from(bucket.rate.period_micros);
        u64::try_from(free).unwrap_or(u64::MAX)
    }

    /// Where no token is free: when the next one is.
    pub fn empty_until(&self, now: u64) -> Option<u64> {
        match self.settled(now).acquire(1, self.rate, now) {
            Verdict::Granted => None,
            Verdict::Wait { micros } => Some(now.saturating_add(micros)),
        }
    }

    /// The debt in units of which a token has `weight`, rounded up.
    pub fn debt(&self, weight: u64, now: u64) -> u64 {
        let period = u128::from(self.rate.period_micros);
        let (whole, rest) = (self.settled(now).debt / period, self.settled(now).debt % period);
        let debt = whole.saturating_mul(weight.into()).saturating_add((rest * u128::from(weight)).div_ceil(period));
        u64::try_from(debt).unwrap_or(u64::MAX)
    }

    /// Without debt: as good as never made.
    pub fn is_idle(&self, now: u64) -> bool {
        self.settled(now).debt == 0
    }

    pub fn rate(&self) -> Rate {
        self.rate
    }

    fn settled(mut self, now: u64) -> Self {
        self.settle(now);
        self
    }

    /// Lets the debt run off until `now`.
    fn settle(&mut self, now: u64) {
        if now >= self.at_micros {
            let run_off = u128::from(now - self.at_micros) * u128::from(self.rate.limit);
            self.debt = self.debt.saturating_sub(run_off);
            self.at_micros = now;
        } else if self.at_micros - now > STEP_BACK_MICROS_MAX {
            // The clock was set back: the debt runs off from here, else it would stand still until the old time is reached.
            self.at_micros = now;
        }
    }

    fn units(&self, tokens: u64) -> u128 {
        u128::from(tokens) * u128::from(self.rate.period_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;

    fn rate(limit: u64, period_micros: u64, burst: u64) -> Rate {
        Rate { limit, period_micros, burst }
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = rate(10, SECOND, 3);
        let mut bucket = Bucket::new(rate, 0);
        assert_eq!(bucket.acquire(3, rate, 0), Verdict::Granted);
        assert_eq!(bucket.acquire(1, rate, 0), Verdict::Wait { micros: 100_000 });
        assert_eq!((bucket.free(0), bucket.empty_until(0)), (0, Some(100_000)));
        assert_eq!(bucket.acquire(2, rate, 150_000), Verdict::Wait { micros: 50_000 });
        assert_eq!(bucket.acquire(2, rate, 200_000), Verdict::Granted);
        assert!(!bucket.is_idle(499_999));
        assert!(bucket.is_idle(500_000));
    }

    #[test]
    fn one_that_begins_full_gives_no_burst() {
        let rate = rate(10, SECOND, 3);
        let mut bucket = Bucket::full(rate, 0);
        assert_eq!(bucket.acquire(1, rate, 0), Verdict::Wait { micros: 100_000 });
        assert_eq!((bucket.debt(SECOND, 0), bucket.debt(10, 0), bucket.debt(10, 1)), (3 * SECOND, 30, 30));
        assert_eq!((bucket.debt(SECOND, 1), bucket.debt(10, 300_000)), (3 * SECOND - 10, 0));
    }

    #[test]
    fn a_changed_rate_keeps_the_debt() {
        let (old, new) = (rate(60, 60 * SECOND, 60), rate(1, SECOND, 100));
        let mut bucket = Bucket::new(old, 0);
        assert_eq!(bucket.acquire(60, old, 0), Verdict::Granted);
        assert_eq!(bucket.acquire(40, new, 0), Verdict::Granted);
        assert_eq!(bucket.acquire(1, new, 0), Verdict::Wait { micros: SECOND });
        assert_eq!(bucket.acquire(1, old, 0), Verdict::Wait { micros: 41 * SECOND });
    }

    #[test]
    fn a_clock_set_back_neither_forgives_nor_freezes() {
        let rate = rate(1, SECOND, 1);
        let mut bucket = Bucket::new(rate, 1_000 * SECOND);
        assert_eq!(bucket.acquire(1, rate, 1_000 * SECOND), Verdict::Granted);
        let little = 1_000 * SECOND - 10;
        assert_eq!(bucket.acquire(1, rate, little), Verdict::Wait { micros: SECOND + 10 });
        assert_eq!(bucket.acquire(1, rate, 5 * SECOND), Verdict::Wait { micros: SECOND });
        assert_eq!(bucket.acquire(1, rate, 6 * SECOND), Verdict::Granted);
    }

    #[test]
    fn the_largest_values_do_not_overflow() {
        let month = 31 * 86_400 * SECOND;
        let widest = rate(u64::MAX, month, u64::MAX);
        let mut bucket = Bucket::new(widest, 0);
        assert_eq!(bucket.acquire(u64::MAX, widest, 0), Verdict::Granted);
        assert!(matches!(bucket.acquire(u64::MAX, widest, 1), Verdict::Wait { .. }));
        let slowest = rate(1, month, u64::MAX);
        assert_eq!(bucket.acquire(u64::MAX, slowest, 2), Verdict::Wait { micros: u64::MAX });
        bucket.follow(rate(u64::MAX, 1_000, 1), u64::MAX);
        assert_eq!(bucket.free(u64::MAX), 0);
    }

    fn rates() -> impl Strategy<Value = Rate> {
        (1..5_000u64, 1_000..100 * SECOND, 1..500u64).prop_map(|(limit, period, burst)| rate(limit, period, burst))
    }

    /// Steps of time in microseconds, tokens asked for, tokens given back.
    fn steps() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let step =
            (prop_oneof![Just(0), 1..1_000u64, 1..20 * SECOND], 0..600u64, prop_oneof![3 => Just(0), 1 => 0..50u64]);
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_in_any_window(rate in rates(), steps in steps()) {
            let (mut bucket, mut now) = (Bucket::new(rate, 0), 0);
            let mut taken: Vec<(u64, i128)> = Vec::new();
            for (step, count, back) in steps {
                now += step;
                let count = count.min(rate.burst);
                if bucket.acquire(count, rate, now) == Verdict::Granted {
                    taken.push((now, i128::from(count)));
                }
                bucket.refund(back, now);
                taken.push((now, -i128::from(back)));
            }
            for first in 0..taken.len() {
                let mut sum = 0;
                for (at, count) in &taken[first..] {
                    sum += count;
                    let most = i128::from(rate.burst) * i128::from(rate.period_micros)
                        + i128::from(rate.limit) * i128::from(at - taken[first].0);
                    prop_assert!(sum * i128::from(rate.period_micros) <= most);
                }
            }
        }

        #[test]
        fn a_wait_is_exact(rate in rates(), steps in steps(), count in 1..500u64) {
            let (mut bucket, mut now) = (Bucket::new(rate, 0), 0);
            for (step, count, back) in steps {
                now += step;
                bucket.acquire(count.min(rate.burst), rate, now);
                bucket.refund(back, now);
            }
            let count = count.min(rate.burst);
            if let Verdict::Wait { micros } = bucket.settled(now).acquire(count, rate, now) {
                prop_assert!(micros > 0);
                prop_assert_eq!(bucket.settled(now).acquire(count, rate, now + micros), Verdict::Granted);
                let before = bucket.settled(now).acquire(count, rate, now + micros - 1);
                prop_assert_eq!(before, Verdict::Wait { micros: 1 });
            }
        }

        #[test]
        fn a_refund_gives_no_more_than_was_taken(rate in rates(), taken in 0..500u64, back in 0..1_000u64, later in 0..SECOND) {
            let mut bucket = Bucket::new(rate, 0);
            let taken = taken.min(rate.burst);
            prop_assert_eq!(bucket.acquire(taken, rate, 0), Verdict::Granted);
            let before = bucket.free(later);
            bucket.refund(back, later);
            prop_assert!(bucket.free(later) <= (before + back).min(rate.burst));
            prop_assert!(bucket.free(later) >= (before + back.min(taken)).min(rate.burst));
            prop_assert!(bucket.settled(later).debt <= bucket.units(rate.burst));
        }

        #[test]
        fn what_is_free_can_be_taken_and_no_more(rate in rates(), steps in steps()) {
            let (mut bucket, mut now) = (Bucket::new(rate, 0), 0);
            for (step, count, _) in steps {
                now += step;
                bucket.acquire(count.min(rate.burst), rate, now);
                let free = bucket.free(now);
                prop_assert_eq!(bucket.settled(now).acquire(free, rate, now), Verdict::Granted);
                let more = bucket.settled(now).acquire(free + 1, rate, now);
                prop_assert_ne!(more, Verdict::Granted);
                prop_assert_eq!(bucket.empty_until(now).is_some(), free == 0);
            }
        }

        #[test]
        fn changing_the_rate_never_forgives(one in rates(), other in rates(), taken in 1..500u64) {
            let mut bucket = Bucket::new(one, 0);
            let taken = taken.min(one.burst);
            bucket.acquire(taken, one, 0);
            for _ in 0..20 {
                bucket.follow(other, 0);
                bucket.follow(one, 0);
            }
            prop_assert!(bucket.free(0) <= one.burst - taken);
            prop_assert!(bucket.free(0) + 1 >= one.burst - taken);
        }
    }
}
