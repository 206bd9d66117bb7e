//! How much of everything there was, by domain. Pure.

/// Recipients, not messages: each has its own fate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    /// One message may be deferred many times.
    pub deferred: u64,
    pub delivered: u64,
    /// Of those delivered.
    pub after_deferral: u64,
    pub bounced: u64,
}

impl Counts {
    pub fn queued(&self) -> u64 {
        self.accepted.saturating_sub(self.delivered + self.bounced)
    }

    pub fn heading() -> String {
        Self::row("domain", &["accepted", "queued", "deferred", "delivered", "bounced"])
    }

    pub fn of(&self, domain: &str) -> String {
        let numbers = [self.accepted, self.queued(), self.deferred, self.delivered, self.bounced];
        Self::row(domain, &numbers.map(|number| number.to_string()))
    }

    /// Of all domains.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().fold(Self::default(), |sum, counts| Self {
            accepted: sum.accepted + counts.accepted,
            deferred: sum.deferred + counts.deferred,
            delivered: sum.delivered + counts.delivered,
            after_deferral: sum.after_deferral + counts.after_deferral,
            bounced: sum.bounced + counts.bounced,
        })
    }

    fn row(domain: &str, columns: &[impl AsRef<str>]) -> String {
        let columns = columns.iter().map(|column| format!("{:>11}", column.as_ref()));
        format!("{domain:<18}{}", columns.collect::<String>())
    }
}
