//! Decides when a delivery is tried again. Pure: time comes in as an argument, chance as a seed.
//!
//! Instants are milliseconds since 1970, in UTC.

mod window;

use std::time::Duration;

pub use window::{Window, WindowFault};

/// Jitter is at most this wide, however long the interval.
const JITTER_MS_MAX: u64 = 60_000;

/// How long to wait, and for how long at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Before the second attempt; doubles with each.
    pub retry_interval: Duration,
    /// Where doubling ends; `None`: it does not.
    pub max_retry_interval: Option<Duration>,
    /// From first reception to expiry.
    pub max_age: Duration,
}

impl Schedule {
    /// When to try again after `attempts` (from 1) failed, the last of them at `now_ms`. `seed` spreads what failed together.
    pub fn retry_at(&self, attempts: u32, now_ms: u64, seed: u64) -> u64 {
        now_ms.saturating_add(self.delay_ms(attempts, seed))
    }

    fn delay_ms(&self, attempts: u32, seed: u64) -> u64 {
        let base = millis(self.retry_interval);
        let factor = 1u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX);
        let ceiling = self.max_retry_interval.map_or(u64::MAX, millis);
        let delay = base.saturating_mul(factor).min(ceiling);
        let width = (base / 20).min(JITTER_MS_MAX).min(delay);
        (delay - width / 2).saturating_add(seed % (width + 1))
    }

    /// When a message that was first received at `received_ms` is given up.
    pub fn expires_at(&self, received_ms: u64) -> u64 {
        received_ms.saturating_add(millis(self.max_age))
    }
}

/// A seed that differs for each delivery and attempt and is the same whenever it is asked.
pub fn seed(id: u128, part: u16, attempt: u32) -> u64 {
    let mixed = (id as u64) ^ ((id >> 64) as u64) ^ (u64::from(part) << 32) ^ u64::from(attempt);
    // The finaliser of splitmix64.
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(retry_s: u64, max_s: Option<u64>) -> Schedule {
        Schedule {
            retry_interval: Duration::from_secs(retry_s),
            max_retry_interval: max_s.map(Duration::from_secs),
            max_age: Duration::from_secs(604_800),
        }
    }

    #[test]
    fn delays_double_up_to_the_ceiling() {
        // Seed 30,000 is the middle of a jitter of 60 s: the delay itself.
        let check = |schedule: &Schedule, attempts, minutes: u64| {
            assert_eq!(schedule.delay_ms(attempts, 30_000), minutes * 60_000, "{attempts}");
        };
        let open = schedule(1_200, None);
        for (attempts, minutes) in [(1, 20), (2, 40), (3, 80), (4, 160)] {
            check(&open, attempts, minutes);
        }
        let closed = schedule(1_200, Some(3_600));
        for (attempts, minutes) in [(1, 20), (2, 40), (3, 60), (4, 60), (1_000, 60)] {
            check(&closed, attempts, minutes);
        }
    }

    #[test]
    fn max_age_counts_from_the_first_reception() {
        assert_eq!(schedule(1, None).expires_at(1_000), 604_801_000);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_width(retry_s in 1u64..100_000, attempts in 1u32..200, seed: u64, max_s in proptest::option::of(1u64..1_000_000)) {
            let schedule = schedule(retry_s, max_s);
            let base = retry_s * 1_000;
            let ideal = base.saturating_mul(1u64.checked_shl(attempts - 1).unwrap_or(u64::MAX))
                .min(max_s.map_or(u64::MAX, |s| s * 1_000));
            let half = (base / 20).min(60_000) / 2 + 1;
            let delay = schedule.delay_ms(attempts, seed);
            prop_assert!(delay >= ideal - half.min(ideal), "{delay} {ideal}");
            prop_assert!(delay <= ideal.saturating_add(half), "{delay} {ideal}");
        }

        #[test]
        fn later_attempts_never_wait_less(retry_s in 1u64..100_000, attempts in 1u32..100, seed: u64) {
            let schedule = schedule(retry_s, None);
            prop_assert!(schedule.delay_ms(attempts, seed) <= schedule.delay_ms(attempts + 1, seed));
        }

        #[test]
        fn no_instant_overflows(attempts: u32, now: u64, seed: u64, retry: u64) {
            let _ = schedule(retry, None).retry_at(attempts, now, seed);
        }

        #[test]
        fn seeds_spread(id: u128, part: u16) {
            prop_assert_ne!(seed(id, part, 1), seed(id, part, 2));
        }
    }
}
