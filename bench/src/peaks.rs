//! The most that there was at a time: sessions open at once, messages within a second. Pure: time comes in as an argument.

use std::time::Duration;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);

/// What a sink has seen of its sessions and messages.
#[derive(Debug, Default)]
pub struct Peaks {
    open: usize,
    open_max: usize,
    /// Since somebody last asked.
    recent_max: usize,
    /// When each message was taken, ascending.
    taken: Vec<Instant>,
}

impl Peaks {
    pub fn opened(&mut self) {
        self.open += 1;
        self.open_max = self.open_max.max(self.open);
        self.recent_max = self.recent_max.max(self.open);
    }

    pub fn closed(&mut self) {
        self.open -= 1;
    }

    /// Not before the one that was told last.
    pub fn took(&mut self, now: Instant) {
        self.taken.push(now);
    }

    pub fn open(&self) -> usize {
        self.open
    }

    /// Sessions at once, since the start.
    pub fn open_max(&self) -> usize {
        self.open_max
    }

    /// Sessions at once, since this was last asked.
    pub fn take_recent_max(&mut self) -> usize {
        std::mem::replace(&mut self.recent_max, self.open)
    }

    /// The most messages in any second, wherever it begins, and when the last of them was taken.
    pub fn per_second_max(&self) -> (usize, Option<Instant>) {
        let mut first = 0;
        let within = self.taken.iter().enumerate().map(|(last, now)| {
            while self.taken[first] + WINDOW <= *now {
                first += 1;
            }
            (last - first + 1, Some(*now))
        });
        within.max_by_key(|(count, _)| *count).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_at_once() {
        let mut peaks = Peaks::default();
        peaks.opened();
        peaks.opened();
        peaks.closed();
        assert_eq!((peaks.open(), peaks.open_max(), peaks.take_recent_max()), (1, 2, 2));
        assert_eq!(peaks.take_recent_max(), 1);
        peaks.opened();
        peaks.opened();
        assert_eq!((peaks.open_max(), peaks.take_recent_max()), (3, 3));
    }

    #[test]
    fn a_second_begins_anywhere_and_does_not_hold_its_end() {
        let start = Instant::now();
        let check = |times_ms: &[u64], expected: usize| {
            let mut peaks = Peaks::default();
            times_ms.iter().for_each(|time| peaks.took(start + Duration::from_millis(*time)));
            assert_eq!(peaks.per_second_max().0, expected, "{times_ms:?}");
        };
        check(&[], 0);
        check(&[5], 1);
        check(&[0, 999, 1_000, 1_001], 3);
        check(&[0, 1_000, 2_000], 1);
        check(&[0, 600, 900, 1_500, 1_599, 3_000], 4);
        check(&[7, 7, 7, 1_007], 3);
        let mut peaks = Peaks::default();
        [0, 5_000, 5_200].iter().for_each(|time| peaks.took(start + Duration::from_millis(*time)));
        assert_eq!(peaks.per_second_max(), (2, Some(start + Duration::from_millis(5_200))));
    }
}
