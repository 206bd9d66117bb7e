//! `[throttle]`: where limits are kept, and how many.

use crate::redis as shared;
use godwit_kit::config::{Faults, OneOrMany, Section, values};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS; of a Cluster some of its nodes. None: limits are kept
    /// in memory.
    pub redis: Addresses,
    /// A file with the addresses instead, one a line.
    pub redis_file: Option<PathBuf>,
    /// `rediss://`: who signs Redis' certificate (PEM); not given: the public authorities.
    pub redis_ca: Option<PathBuf>,
    /// The nodes under `redis` are of one Redis Cluster.
    pub cluster: bool,
    /// Connections to Redis, to each of its nodes.
    pub redis_connections: u32,
    /// To connect to Redis, and for one answer of it.
    #[serde(with = "values::duration")]
    pub redis_timeout: Duration,
    /// How long a node that Redis does not hear of may go on as if it had; then the others leave it its share of each limit.
    #[serde(with = "values::duration")]
    pub member_lease: Duration,
    /// After so long the others divide the share of a node that Redis has not heard of.
    #[serde(with = "values::duration")]
    pub forget_after: Duration,
    /// Keys in memory, or remembered of what Redis answered, rates and slots together; beyond it a call with a new key fails.
    pub keys_max: usize,
    /// Places in one key's queue for slots; who comes later keeps no place.
    pub waiters_max: usize,
    /// How often keys at rest are forgotten.
    #[serde(with = "values::duration")]
    pub prune_interval: Duration,
}

/// One address or several, which may hold passwords: logs do not show them.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Addresses(pub OneOrMany<String>);

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} addresses", self.0.as_slice().len())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: Addresses::default(),
            redis_file: None,
            redis_ca: None,
            cluster: false,
            redis_connections: 4,
            redis_timeout: Duration::from_millis(500),
            member_lease: Duration::from_secs(5),
            forget_after: Duration::from_secs(600),
            keys_max: 1_000_000,
            waiters_max: 1_000,
            prune_interval: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Limits are kept in Redis.
    pub fn is_shared(&self) -> bool {
        !self.redis.0.as_slice().is_empty() || self.redis_file.is_some()
    }

    /// Where Redis is.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn addresses(&self) -> Result<Vec<String>, String> {
        let Some(path) = &self.redis_file else { return Ok(self.redis.0.as_slice().to_vec()) };
        let text = read(path)?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect())
    }

    /// The authority that signs Redis' certificate, where it is given.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn authority(&self) -> Result<Option<Vec<u8>>, String> {
        self.redis_ca.as_deref().map(read).transpose().map(|text| text.map(String::into_bytes))
    }

    fn check_redis(&self, faults: &mut Faults) {
        let given = self.redis.0.as_slice();
        if !given.is_empty() && self.redis_file.is_some() {
            faults.add("throttle.redis_file", "given together with throttle.redis: give one of them");
        }
        if self.cluster && !self.is_shared() {
            faults.add("throttle.cluster", "needs the addresses of some of its nodes in throttle.redis");
        }
        let key = if self.redis_file.is_some() { "throttle.redis_file" } else { "throttle.redis" };
        match self.addresses() {
            Err(what) => faults.add(key, what),
            Ok(addresses) => {
                if addresses.is_empty() && self.redis_file.is_some() {
                    faults.add(key, "no address in it");
                }
                if addresses.len() > 1 && !self.cluster {
                    faults.add(key, "several addresses, but no throttle.cluster = true: a single Redis has one");
                }
                let place = |place| match &self.redis.0 {
                    OneOrMany::Many(_) if self.redis_file.is_none() => format!("{key}[{place}]"),
                    OneOrMany::One(_) | OneOrMany::Many(_) => key.to_string(),
                };
                for (number, address) in addresses.iter().enumerate() {
                    if let Err(what) = shared::check_address(address) {
                        faults.add(place(number), what);
                    }
                }
            }
        }
        if let Err(what) = self.authority() {
            faults.add("throttle.redis_ca", what);
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

impl Section for Config {
    const NAME: &'static str = "throttle";

    fn check(&self, faults: &mut Faults) {
        self.check_redis(faults);
        if !(1..=64).contains(&self.redis_connections) {
            faults.add("throttle.redis_connections", "must be 1 to 64");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(1)).contains(&self.redis_timeout) {
            faults.add("throttle.redis_timeout", "must be 10ms to 1s");
        }
        if self.member_lease < 2 * self.redis_timeout || self.member_lease > Duration::from_secs(60) {
            faults.add("throttle.member_lease", "must be twice throttle.redis_timeout to 60s");
        }
        if self.forget_after < 10 * self.member_lease || self.forget_after > Duration::from_secs(30 * 86_400) {
            faults.add("throttle.forget_after", "must be ten times throttle.member_lease to 30d");
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
        Document::parse(&format!("[throttle]\n{text}"), "test", &mut faults).section::<Config>(&mut faults);
        faults.0.into_iter().map(|fault| format!("{}: {}", fault.key, fault.what)).collect()
    }

    #[test]
    fn in_order() {
        for text in [
            "redis = []\ncluster = false",
            "redis = \"redis://127.0.0.1:6379\"",
            "redis = [\"redis://user:secret@redis.example:6380/2\"]",
            "redis = \"rediss://:secret@redis.example\"",
            "redis = [\"redis://10.0.0.1\", \"redis://10.0.0.2\"]\ncluster = true",
            "redis = \"redis://10.0.0.1\"\ncluster = true",
        ] {
            assert_eq!(faults_of(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn faults_name_the_key_and_tell_no_secret() {
        let form = "must be redis://[user:password@]host[:port][/db], or rediss:// for TLS";
        for (text, expected) in [
            ("redis = \"127.0.0.1:6379 secret\"", vec![format!("redis: {form}")]),
            (
                "redis = [\"redis://h\", \"http://u:secret@h\", \"unix:///x\"]\ncluster = true",
                vec![format!("redis[1]: {form}"), format!("redis[2]: {form}")],
            ),
            (
                "redis = [\"redis://a\", \"redis://b\"]",
                vec!["redis: several addresses, but no throttle.cluster = true: a single Redis has one".into()],
            ),
            ("cluster = true", vec!["cluster: needs the addresses of some of its nodes in throttle.redis".into()]),
            (
                "redis = \"redis://a\"\nredis_timeout = \"400ms\"\nmember_lease = \"700ms\"\nforget_after = \"1s\"",
                vec![
                    "member_lease: must be twice throttle.redis_timeout to 60s".into(),
                    "forget_after: must be ten times throttle.member_lease to 30d".into(),
                ],
            ),
            (
                "redis_timeout = \"5s\"\nredis_connections = 0\nkeys_max = 0\nwaiters_max = 0\nprune_interval = \"1ms\"",
                vec![
                    "redis_connections: must be 1 to 64".into(),
                    "redis_timeout: must be 10ms to 1s".into(),
                    "member_lease: must be twice throttle.redis_timeout to 60s".into(),
                    "keys_max: must be at least 1".into(),
                    "waiters_max: must be at least 1".into(),
                    "prune_interval: must be at least 1s".into(),
                ],
            ),
        ] {
            let expected: Vec<String> = expected.iter().map(|fault| format!("throttle.{fault}")).collect();
            assert_eq!(faults_of(text), expected, "{text}");
        }
        let config = Config { redis: Addresses(OneOrMany::One("redis://:secret@h".into())), ..Config::default() };
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn files_that_are_not_there_are_named() {
        let faults = faults_of("redis = \"redis://a\"\nredis_file = \"/nowhere/urls\"\nredis_ca = \"/nowhere/ca\"");
        let keys: Vec<&str> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
        assert_eq!(keys, ["throttle.redis_file", "throttle.redis_file", "throttle.redis_ca"]);
        assert!(faults[1].contains("/nowhere/urls") && faults[2].contains("/nowhere/ca"), "{faults:?}");
    }
}
