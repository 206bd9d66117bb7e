//! A rate in numbers that a script can reckon with: Redis' Lua has doubles, exact for integers up to 2^53. Pure.
//!
//! A token weighs so many units, and so many of them run off in a microsecond. Where burst times period fits into 52 bits,
//! the units are those of [`crate::bucket`] and nothing is rounded: 100/s, 1,000/h and 50,000/d with bursts as large are
//! exact. Beyond that a token is made to weigh a little more than it should (for bursts up to 10^9 by less than one part in
//! two million): the limit is held a little too tightly, never exceeded.

use crate::bucket::Rate;
use crate::share::Part;

/// No debt that can be taken is above it.
const UNITS_MAX: u128 = 1 << 52;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grain {
    /// Units of one token.
    pub weight: u64,
    /// Units in a microsecond, of the whole limit.
    pub run_off: u64,
    /// The same without what is kept for others.
    pub run_off_left: u64,
    /// Tokens at once, of the whole limit.
    pub burst: u64,
    /// The same without what is kept for others.
    pub burst_left: u64,
    /// Tokens at once that are kept for others.
    pub burst_kept: u64,
}

impl Grain {
    /// `kept` of the rate is for others.
    pub fn new(rate: Rate, kept: Part) -> Self {
        let (weight, run_off, burst) = units(rate);
        let left = u128::from(rate.limit.saturating_sub(kept.limit));
        Self {
            weight: narrow(weight),
            run_off: narrow(run_off),
            run_off_left: narrow(run_off * left / u128::from(rate.limit)),
            burst: narrow(burst),
            burst_left: narrow(burst).min(rate.burst.saturating_sub(kept.burst)),
            burst_kept: kept.burst.min(narrow(UNITS_MAX / weight)),
        }
    }
}

/// Weight, run-off and burst. Weight over run-off is never less than period over limit.
fn units(rate: Rate) -> (u128, u128, u128) {
    let (limit, period) = (u128::from(rate.limit).min(UNITS_MAX), u128::from(rate.period_micros));
    let burst = u128::from(rate.burst);
    if burst * period <= UNITS_MAX {
        return (period, limit, burst);
    }
    let weight_max = (UNITS_MAX / burst).max(1);
    let run_off = (limit * weight_max / period).clamp(1, UNITS_MAX);
    let weight = (period * run_off).div_ceil(limit);
    (weight, run_off, burst.min(UNITS_MAX / weight))
}

fn narrow(units: u128) -> u64 {
    u64::try_from(units).unwrap_or(u64::MAX)
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
    fn usual_rates_are_exact() {
        for (limit, period, burst) in [
            (100, SECOND, 100),
            (100, SECOND, 1),
            (1_000, 3_600 * SECOND, 1_000_000),
            (50_000, 86_400 * SECOND, 50_000),
            (1_000, 31 * 86_400 * SECOND, 1_000),
            (10_000_000, SECOND, 100_000_000),
        ] {
            let grain = Grain::new(rate(limit, period, burst), Part::default());
            assert_eq!((grain.weight, grain.run_off, grain.burst), (period, limit, burst));
        }
    }

    #[test]
    fn what_is_kept_is_taken_off() {
        let grain = Grain::new(rate(100, SECOND, 30), Part { limit: 50, burst: 15 });
        assert_eq!((grain.run_off_left, grain.burst_left, grain.burst_kept), (50, 15, 15));
        let grain = Grain::new(rate(1, SECOND, 1), Part { limit: 1, burst: 1 });
        assert_eq!((grain.run_off_left, grain.burst_left), (0, 0));
    }

    #[test]
    fn large_rates_are_close() {
        let grain = Grain::new(rate(1_000_003, 86_400 * SECOND, 1_000_003), Part::default());
        let error = (grain.weight as f64 / grain.run_off as f64) / (86_400e6 / 1_000_003.0) - 1.0;
        assert!((0.0..1e-8).contains(&error), "{error}");
        assert_eq!(grain.burst, 1_000_003);
    }

    proptest! {
        #[test]
        fn never_faster_and_never_beyond_what_doubles_hold(
            limit in 1..u64::MAX, period in 1_000..2_678_400 * SECOND, burst in 1..u64::MAX, kept in any::<(u64, u64)>(),
            shifts in (0..60u32, 0..60u32),
        ) {
            let (limit, burst) = ((limit >> shifts.0).max(1), (burst >> shifts.1).max(1));
            let kept = Part { limit: kept.0 % (limit + 1), burst: kept.1 % (burst + 1) };
            let grain = Grain::new(rate(limit, period, burst), kept);
            prop_assert!(grain.run_off >= 1 && grain.weight >= 1);
            prop_assert!(u128::from(grain.run_off) * u128::from(period) <= u128::from(grain.weight) * u128::from(limit));
            prop_assert!(u128::from(grain.burst) * u128::from(grain.weight) <= UNITS_MAX);
            prop_assert!(u128::from(grain.burst_kept) * u128::from(grain.weight) <= UNITS_MAX);
            prop_assert!(grain.run_off < 1 << 53 && grain.weight < 1 << 53);
            prop_assert!(grain.burst <= burst && grain.burst_left <= burst - kept.burst);
            let left = u128::from(limit - kept.limit) * u128::from(grain.run_off);
            prop_assert!(u128::from(grain.run_off_left) * u128::from(limit) <= left);
        }
    }
}
