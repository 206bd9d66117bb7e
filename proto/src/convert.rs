//! Times, queue names and replies between the wire's shape and Rust's.

use crate::common::v1::{EnhancedStatusCode, QueueName, SmtpReply};
use prost_types::Timestamp;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The wire's form of an instant. Instants before 1970 become 1970.
pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

/// The instant, or `None` where it is before 1970 or malformed.
pub fn system_time(timestamp: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// The wire's form of a duration; what is too long for it becomes the longest.
pub fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: 315_576_000_000, nanos: 0 })
}

/// `None` where it is negative.
pub fn std_duration(duration: &prost_types::Duration) -> Option<Duration> {
    (*duration).try_into().ok()
}

impl QueueName {
    /// What its lane is routed by.
    pub fn routed_by(&self) -> &str {
        if self.routing_domain.is_empty() { &self.domain } else { &self.routing_domain }
    }
}

impl fmt::Display for QueueName {
    /// `campaign:tenant@domain!routing_domain`, without the parts that are empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.campaign.is_empty() {
            write!(f, "{}:", self.campaign)?;
        }
        if !self.campaign.is_empty() || !self.tenant.is_empty() {
            write!(f, "{}@", self.tenant)?;
        }
        f.write_str(&self.domain)?;
        if !self.routing_domain.is_empty() {
            write!(f, "!{}", self.routing_domain)?;
        }
        Ok(())
    }
}

/// Why a text is not a queue name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a queue name of the form campaign:tenant@domain!routing_domain: no domain")]
pub struct NoDomain;

impl FromStr for QueueName {
    type Err = NoDomain;

    fn from_str(text: &str) -> Result<Self, NoDomain> {
        let (owner, place) = text.rsplit_once('@').unwrap_or(("", text));
        let (campaign, tenant) = owner.split_once(':').unwrap_or(("", owner));
        let (domain, routing_domain) = place.split_once('!').unwrap_or((place, ""));
        if domain.is_empty() {
            return Err(NoDomain);
        }
        Ok(Self {
            campaign: campaign.into(),
            tenant: tenant.into(),
            domain: domain.to_lowercase(),
            routing_domain: routing_domain.to_lowercase(),
        })
    }
}

impl fmt::Display for EnhancedStatusCode {
    /// `5.1.1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.code_class, self.subject, self.detail)
    }
}

impl SmtpReply {
    /// A reply of our own making, marked internal.
    pub fn internal(code: u32, enhanced: (u32, u32, u32), text: impl Into<String>) -> Self {
        let (code_class, subject, detail) = enhanced;
        Self {
            code,
            enhanced: Some(EnhancedStatusCode { code_class, subject, detail }),
            text: text.into(),
            command: String::new(),
            internal: true,
        }
    }

    /// One line: code, enhanced status code, text; what rules are matched against.
    pub fn line(&self) -> String {
        let text = self.text.replace('\n', " ");
        match &self.enhanced {
            Some(enhanced) => format!("{} {enhanced} {text}", self.code),
            None => format!("{} {text}", self.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_are_read_back() {
        for text in [
            "domain",
            "tenant@domain",
            "campaign:tenant@domain",
            "campaign:@domain",
            "c:t@domain!relay:2525",
            "domain!r",
        ] {
            assert_eq!(text.parse::<QueueName>().unwrap().to_string(), text);
        }
        assert_eq!("t@".parse::<QueueName>(), Err(NoDomain));
    }

    #[test]
    fn times_are_read_back() {
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 42);
        assert_eq!(system_time(&timestamp(time)), Some(time));
        assert_eq!(system_time(&Timestamp { seconds: 0, nanos: -1 }), None);
    }
}
