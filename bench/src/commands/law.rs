//! What a run has shown, and whether it keeps the law: what got 250 comes, unchanged, and without a fault exactly once.

use crate::watch;
use anyhow::{Result, ensure};
use bench::account::Account;
use bench::load::Sent;
use bench::sink::Sink;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

/// What has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// Nothing fails: everything is taken, and comes once. `messages` where it is known how many there are.
    Exact { messages: Option<usize> },
    /// Something is killed or cut off: what was promised comes, and nothing that was refused.
    Kept,
}

/// What was sent beside what came.
#[derive(Debug)]
pub struct Verdict {
    pub account: Account,
    pub accepted: usize,
    pub refused: usize,
    pub unknown: usize,
    refusals: Vec<String>,
    /// Came and was refused or never sent.
    foreign: usize,
}

impl Verdict {
    /// The sink keeps sums.
    pub fn of(sent: &Sent, sink: &Sink) -> Self {
        let came = sink.sums();
        let known: HashSet<&str> =
            sent.accepted.iter().map(|(id, _)| id).chain(&sent.unknown).map(String::as_str).collect();
        Self {
            account: Account::of(&sent.accepted, &came),
            accepted: sent.accepted.len(),
            refused: sent.refused_count,
            unknown: sent.unknown.len(),
            refusals: sent.refusals.clone(),
            foreign: came.iter().filter(|(id, _)| !known.contains(id.as_str())).count(),
        }
    }

    /// # Errors
    /// What is broken.
    pub fn hold(&self, law: Law) -> Result<()> {
        ensure!(self.account.is_clean(), "a promise is broken: something is lost or changed");
        ensure!(self.foreign == 0, "{} came that were refused or never sent", self.foreign);
        match law {
            Law::Kept => {}
            Law::Exact { messages } => {
                let all = messages.unwrap_or(self.accepted + self.refused + self.unknown);
                ensure!(self.accepted == all, "only {} of {all} were taken", self.accepted);
                ensure!(self.account.is_exact(), "what came is not what was promised");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.account)?;
        if self.refused + self.unknown > 0 {
            write!(f, "\nrefused {} {:?}, outcome unknown {}", self.refused, self.refusals, self.unknown)?;
        }
        Ok(())
    }
}

/// Waits until every promise has come.
///
/// # Errors
/// Nothing comes any more for `stall`, or `check` fails meanwhile.
pub async fn drained(sink: &Sink, sent: &Sent, stall: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    let mut looked = None;
    let done = || {
        check()?;
        let count = sink.count();
        // The comparison costs as much as there are messages: only where it may have changed.
        if count < sent.accepted.len() || looked == Some(count) {
            return Ok(false);
        }
        looked = Some(count);
        Ok(Account::of(&sent.accepted, &sink.sums()).lost.is_empty())
    };
    watch::until("draining", stall, done, || sink.count()).await
}
