//! Compares what was promised with what came.

use crate::generate::Sum;
use std::collections::HashMap;
use std::fmt;

/// The balance of a run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Account {
    pub promised: usize,
    /// Deliveries, repeated ones among them.
    pub came: usize,
    /// Promised and not there.
    pub lost: Vec<String>,
    /// Came more than once, how often beyond the first in sum.
    pub duplicates: usize,
    /// Came with another content.
    pub changed: Vec<String>,
    /// Came without a promise: the connection broke before the reply.
    pub unpromised: usize,
}

impl Account {
    pub fn of(promised: &[(String, Sum)], came: &[(String, Sum)]) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let expected: HashMap<&str, &Sum> = promised.iter().map(|(id, sum)| (id.as_str(), sum)).collect();
        let mut account = Self { promised: promised.len(), came: came.len(), ..Self::default() };
        for (id, sum) in came {
            *counts.entry(id).or_default() += 1;
            match expected.get(id.as_str()) {
                Some(known) if *known != sum => account.changed.push(id.clone()),
                Some(_) => {}
                None => account.unpromised += 1,
            }
        }
        account.duplicates = counts.values().map(|count| count - 1).sum();
        account.lost = expected.keys().filter(|id| !counts.contains_key(**id)).map(|id| id.to_string()).collect();
        account
    }

    /// Nothing lost and nothing changed: what holds even after a crash.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.changed.is_empty()
    }

    /// The sets are equal and nothing came twice: what holds while nobody crashes.
    pub fn is_exact(&self) -> bool {
        self.is_clean() && self.duplicates == 0 && self.unpromised == 0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "promised {} came {} lost {} changed {} duplicates {} unpromised {}",
            self.promised,
            self.came,
            self.lost.len(),
            self.changed.len(),
            self.duplicates,
            self.unpromised
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(given: &[(&str, u8)]) -> Vec<(String, Sum)> {
        given.iter().map(|(id, digest)| ((*id).into(), [*digest; 32])).collect()
    }

    fn account(promised: &[(&str, u8)], came: &[(&str, u8)]) -> Account {
        Account::of(&entries(promised), &entries(came))
    }

    #[test]
    fn equal_sets_are_exact_in_any_order() {
        let account = account(&[("a", 1), ("b", 2)], &[("b", 2), ("a", 1)]);
        assert!(account.is_exact());
        assert_eq!(account.to_string(), "promised 2 came 2 lost 0 changed 0 duplicates 0 unpromised 0");
        assert!(Account::of(&[], &[]).is_exact());
    }

    #[test]
    fn each_fault_is_counted_by_its_name() {
        let account = account(&[("a", 1), ("b", 2), ("c", 3)], &[("a", 1), ("a", 1), ("a", 1), ("b", 9), ("x", 1)]);
        assert_eq!((account.promised, account.came, account.duplicates, account.unpromised), (3, 5, 2, 1));
        assert_eq!((account.lost, account.changed), (vec!["c".to_string()], vec!["b".to_string()]));
    }

    #[test]
    fn a_duplicate_or_a_message_without_a_promise_is_clean_and_not_exact() {
        for came in [&[("a", 1), ("a", 1)][..], &[("a", 1), ("x", 1)]] {
            let account = account(&[("a", 1)], came);
            assert!(account.is_clean() && !account.is_exact());
        }
        assert!(!account(&[("a", 1)], &[]).is_clean());
        assert!(!account(&[("a", 1)], &[("a", 2)]).is_clean());
    }

    #[test]
    fn a_changed_repetition_is_seen_beside_the_right_one() {
        let account = account(&[("a", 1)], &[("a", 1), ("a", 2)]);
        assert!(!account.is_clean());
        assert_eq!((account.duplicates, account.changed.len()), (1, 1));
    }
}
