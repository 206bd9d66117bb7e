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

    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.changed.is_empty()
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
