//! `[throttle]`: where limits are kept, and how many.

use godwit_kit::config::{Faults, OneOrMany, Section, values};
use serde::Deserialize;
use std::time::Duration;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `redis://host:6379`, one or several; none: limits are kept in memory.
    pub redis: OneOrMany<String>,
    /// The nodes under `redis` are one Redis Cluster.
    pub cluster: bool,
    /// Keys in memory, rates and slots together; beyond it a call with a new key fails.
    pub keys_max: usize,
    /// Places in one key's queue for slots; who comes later keeps no place.
    pub waiters_max: usize,
    /// How often keys at rest are forgotten.
    #[serde(with = "values::duration")]
    pub prune_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: OneOrMany::default(),
            cluster: false,
            keys_max: 1_000_000,
            waiters_max: 1_000,
            prune_interval: Duration::from_secs(30),
        }
    }
}

const REDIS_NOT_YET: &str = "Redis is not part of this version; leave it out";

impl Section for Config {
    const NAME: &'static str = "throttle";

    fn check(&self, faults: &mut Faults) {
        if !self.redis.as_slice().is_empty() {
            faults.add("throttle.redis", REDIS_NOT_YET);
        }
        if self.cluster {
            faults.add("throttle.cluster", REDIS_NOT_YET);
        }
        if self.keys_max == 0 {
            faults.add("throttle.keys_max", "must be at least 1");
        }
        if self.waiters_max == 0 {
            faults.add("throttle.waiters_max", "must be at least 1");
        }
        if self.prune_interval < Duration::from_secs(1) {
            faults.add("throttle.prune_interval", "must be at least 1s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Document;

    fn faults_of(text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        Document::parse(text, "test", &mut faults).section::<Config>(&mut faults);
        faults.0.into_iter().map(|fault| format!("{}: {}", fault.key, fault.what)).collect()
    }

    #[test]
    fn defaults_are_in_order() {
        assert_eq!(faults_of("[throttle]\nredis = []\ncluster = false"), [""; 0]);
    }

    #[test]
    fn redis_is_refused_by_name() {
        let faults = faults_of("[throttle]\nredis = \"redis://127.0.0.1:6379\"\ncluster = true\nkeys_max = 0");
        let not_yet = "Redis is not part of this version; leave it out";
        let expected = [
            format!("throttle.redis: {not_yet}"),
            format!("throttle.cluster: {not_yet}"),
            "throttle.keys_max: must be at least 1".to_string(),
        ];
        assert_eq!(faults, expected);
    }
}
