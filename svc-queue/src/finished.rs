//! Which messages were finished a short while ago. Pure, and small: ids are kept as 64 bits, for between one and two periods.

use std::collections::HashSet;

const PERIOD_MS: u64 = 120_000;
/// Of one period; beyond, the oldest are forgotten early.
const COUNT_MAX: usize = 1_000_000;

#[derive(Debug, Default)]
pub struct Finished {
    newer: HashSet<u64>,
    older: HashSet<u64>,
    since_ms: u64,
}

impl Finished {
    pub fn insert(&mut self, id: u128, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) >= PERIOD_MS || self.newer.len() >= COUNT_MAX {
            self.older = std::mem::take(&mut self.newer);
            self.since_ms = now_ms;
        }
        self.newer.insert(short(id));
    }

    pub fn contains(&self, id: u128) -> bool {
        self.newer.contains(&short(id)) || self.older.contains(&short(id))
    }
}

/// The half of a UUIDv7 that is random.
fn short(id: u128) -> u64 {
    id as u64 ^ (id >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_remembered_for_at_least_a_period() {
        let mut finished = Finished::default();
        finished.insert(1, 1_000_000);
        finished.insert(2, 1_000_000 + PERIOD_MS - 1);
        finished.insert(3, 1_000_000 + PERIOD_MS);
        assert!([1, 2, 3].iter().all(|id| finished.contains(*id)));
        finished.insert(4, 1_000_000 + 2 * PERIOD_MS);
        assert!(!finished.contains(1) && finished.contains(3) && finished.contains(4));
    }
}
