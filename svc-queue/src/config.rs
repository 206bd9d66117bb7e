//! `[queue]`: how long mail is tried, and every bound of the queue.

use crate::events::sinks;
use crate::{schedule::Schedule, spool};
use godwit_kit::config::values::{duration, duration_option};
use godwit_kit::config::{Faults, Rate, Section, Size};
use serde::Deserialize;
use std::time::Duration;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Before the first retry; doubles with each.
    #[serde(with = "duration")]
    pub retry_interval: Duration,
    /// Where doubling ends. Default: it does not.
    #[serde(with = "duration_option")]
    pub max_retry_interval: Option<Duration>,
    /// From reception to expiry.
    #[serde(with = "duration")]
    pub max_age: Duration,
    /// Of each queue, unless absent.
    pub max_message_rate: Option<Rate>,
    /// Where an egress does not say how long.
    #[serde(with = "duration")]
    pub lease_duration: Duration,
    /// After so many leases that ran out, a delivery waits a retry interval and is reported.
    pub lease_expirations_max: u8,
    /// After a start, how long egress has to say what it still holds.
    #[serde(with = "duration")]
    pub restart_grace: Duration,
    /// Deliveries held at once; beyond, Enqueue answers ResourceExhausted.
    pub deliveries_max: usize,
    pub message_bytes_max: Size,
    /// Bodies that are being put, in sum.
    pub upload_bytes_max: Size,
    pub routes_max: usize,
    pub watchers_max: usize,
    /// How long an idempotency key leads to the message that was accepted first.
    #[serde(with = "duration")]
    pub idempotency_window: Duration,
    pub spool: Spool,
    /// Where events go besides the TSAs.
    pub sinks: Vec<sinks::Config>,
}

/// `[queue.spool]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Spool {
    pub segment_bytes: Size,
    pub cache_bytes_max: Size,
    pub events_bytes_max: Size,
    #[serde(with = "duration_option")]
    pub events_age_max: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            retry_interval: Duration::from_secs(20 * 60),
            max_retry_interval: None,
            max_age: Duration::from_secs(7 * 86_400),
            max_message_rate: None,
            lease_duration: Duration::from_secs(60),
            lease_expirations_max: 5,
            restart_grace: Duration::from_secs(5),
            deliveries_max: 4_000_000,
            message_bytes_max: Size(50 << 20),
            upload_bytes_max: Size(256 << 20),
            routes_max: 1_000_000,
            watchers_max: 1_000,
            idempotency_window: Duration::from_secs(86_400),
            spool: Spool::default(),
            sinks: Vec::new(),
        }
    }
}

impl Default for Spool {
    fn default() -> Self {
        let spool = spool::Config::default();
        Self {
            segment_bytes: Size(u64::from(spool.segment_bytes)),
            cache_bytes_max: Size(spool.cache_bytes_max as u64),
            events_bytes_max: Size(spool.events_bytes_max),
            events_age_max: spool.events_age_max,
        }
    }
}

const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;
const MESSAGE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=512 << 20;

impl Section for Config {
    const NAME: &'static str = "queue";

    fn check(&self, faults: &mut Faults) {
        let durations = [
            ("retry_interval", self.retry_interval),
            ("max_retry_interval", self.max_retry_interval.unwrap_or(self.retry_interval)),
            ("max_age", self.max_age),
        ];
        for (key, value) in durations {
            if value < Duration::from_millis(10) {
                faults.add(format!("queue.{key}"), "must be at least 10ms");
            }
        }
        if self.max_retry_interval.is_some_and(|most| most < self.retry_interval) {
            faults.add("queue.max_retry_interval", "below queue.retry_interval");
        }
        if self.lease_duration < Duration::from_secs(1) || self.lease_duration > LEASE_MAX {
            faults.add("queue.lease_duration", "must be from 1s to 10m");
        }
        if self.lease_expirations_max == 0 {
            faults.add("queue.lease_expirations_max", "must be at least 1");
        }
        if self.deliveries_max == 0 || self.deliveries_max > 100_000_000 {
            faults.add("queue.deliveries_max", "must be from 1 to 100000000");
        }
        for (key, bound) in [("routes_max", self.routes_max), ("watchers_max", self.watchers_max)] {
            if bound == 0 {
                faults.add(format!("queue.{key}"), "must be at least 1");
            }
        }
        if self.restart_grace > LEASE_MAX {
            faults.add("queue.restart_grace", "must be at most 10m");
        }
        if self.upload_bytes_max < self.message_bytes_max {
            faults.add("queue.upload_bytes_max", "must hold at least one message of message_bytes_max");
        }
        if !SEGMENT_BYTES.contains(&self.spool.segment_bytes.0) {
            faults.add("queue.spool.segment_bytes", "must be from 1MiB to 1GiB");
        }
        if !MESSAGE_BYTES.contains(&self.message_bytes_max.0) {
            faults.add("queue.message_bytes_max", "must be from 1KiB to 512MiB");
        }
        sinks::check(&self.sinks, "queue.sinks", faults);
    }
}

/// The longest lease that may be asked for.
pub const LEASE_MAX: Duration = Duration::from_secs(600);

impl Config {
    pub fn schedule(&self) -> Schedule {
        Schedule {
            retry_interval: self.retry_interval,
            max_retry_interval: self.max_retry_interval,
            max_age: self.max_age,
        }
    }

    pub fn spool(&self) -> spool::Config {
        spool::Config {
            segment_bytes: self.spool.segment_bytes.0 as u32,
            cache_bytes_max: self.spool.cache_bytes_max.0 as usize,
            events_bytes_max: self.spool.events_bytes_max.0,
            events_age_max: self.spool.events_age_max,
            ..spool::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_have_no_fault_and_every_fault_is_found() {
        let faults = |text: &str| {
            let config: Config = toml::from_str(text).unwrap();
            let mut faults = Faults::default();
            config.check(&mut faults);
            faults.0.into_iter().map(|fault| fault.key).collect::<Vec<_>>()
        };
        assert_eq!(faults(""), Vec::<String>::new());
        let text = r#"
            retry_interval = "1h"
            max_retry_interval = "20m"
            max_age = "0s"
            lease_duration = "11m"
            max_message_rate = "100/min"
            [spool]
            segment_bytes = "1KiB"
        "#;
        let expected =
            ["queue.max_age", "queue.max_retry_interval", "queue.lease_duration", "queue.spool.segment_bytes"];
        assert_eq!(faults(text), expected);
    }
}
