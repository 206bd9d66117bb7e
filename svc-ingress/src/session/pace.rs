//! How long a client is waited for. Pure: time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Between two pieces of a message; and for a whole command, however many pieces it comes in.
    pub idle: Duration,
    /// For a whole message.
    pub total: Duration,
    /// On average, once `idle` has passed.
    pub bytes_per_second_min: u64,
}

/// One wait: for a command, or for a message's end.
#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    began: Instant,
    heard: Instant,
    bytes: u64,
}

impl Pace {
    pub fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, began: now, heard: now, bytes: 0 }
    }

    /// The client has been answered; what it says next is waited for anew.
    pub fn begin(&mut self, now: Instant) {
        *self = Self::new(self.limits, now);
    }

    pub fn heard(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        self.heard = now;
    }

    pub fn command_deadline(&self) -> Instant {
        self.began + self.limits.idle
    }

    pub fn data_deadline(&self) -> Instant {
        let earned = self.bytes.saturating_mul(1_000) / self.limits.bytes_per_second_min.max(1);
        let by_rate = self.limits.idle + Duration::from_millis(earned);
        (self.began + by_rate.min(self.limits.total)).min(self.heard + self.limits.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        let seconds = Duration::from_secs;
        let limits = Limits { idle: seconds(60), total: seconds(300), bytes_per_second_min: 500 };
        let start = Instant::now();
        // When what was heard, and how long after the start the wait for a command and for data ends.
        let check = |heard: &[(u64, usize)], command, data| {
            let mut pace = Pace::new(limits, start);
            heard.iter().for_each(|(at, bytes)| pace.heard(*bytes, start + seconds(*at)));
            assert_eq!((pace.command_deadline() - start).as_secs(), command, "{heard:?}");
            assert_eq!((pace.data_deadline() - start).as_secs(), data, "{heard:?}");
        };
        check(&[], 60, 60);
        check(&[(20, 1), (40, 1)], 60, 60);
        check(&[(10, 5_000)], 60, 70);
        check(&[(59, 5_000)], 60, 70);
        check(&[(10, 100_000)], 60, 70);
        check(&[(10, 100_000), (70, 100_000), (130, 1), (190, 1), (250, 1)], 60, 300);
    }
}
