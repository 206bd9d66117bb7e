//! Hosts whose TLS failed of late. Pure: time comes in as an argument.

use std::collections::HashMap;
use tokio::time::Instant;

/// Hosts that are remembered; who would be forgotten first makes room for another.
const HOSTS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub struct Broken(HashMap<String, Instant>);

impl Broken {
    /// Never shortens what is remembered already.
    pub fn note(&mut self, host: String, until: Instant, now: Instant) {
        if self.0.len() >= HOSTS_MAX && !self.0.contains_key(&host) {
            self.0.retain(|_, until| *until > now);
            self.make_room();
        }
        let entry = self.0.entry(host).or_insert(until);
        *entry = until.max(*entry);
    }

    pub fn has(&self, host: &str, now: Instant) -> bool {
        self.0.get(host).is_some_and(|until| *until > now)
    }

    fn make_room(&mut self) {
        if self.0.len() >= HOSTS_MAX
            && let Some((first, _)) = self.0.iter().min_by_key(|(_, until)| **until)
        {
            let first = first.clone();
            self.0.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_host_is_remembered_for_its_time_and_the_memory_is_bounded() {
        let (mut broken, start) = (Broken::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        broken.note("a".into(), at(10), at(0));
        broken.note("a".into(), at(5), at(0));
        assert!(broken.has("a", at(9)) && !broken.has("a", at(10)) && !broken.has("b", at(0)));
        for n in 0..HOSTS_MAX as u64 {
            broken.note(format!("host{n}"), at(100 + n), at(1));
        }
        assert_eq!(broken.0.len(), HOSTS_MAX);
        assert!(!broken.has("a", at(1)), "it would have been forgotten first");
        broken.note("late".into(), at(900), at(200));
        assert!(broken.has("late", at(200)) && broken.0.len() < HOSTS_MAX, "what is over is forgotten");
    }
}
