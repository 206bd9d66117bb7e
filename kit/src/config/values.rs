//! The forms of values: durations "20m", sizes "25MiB", rates "100/min".

use serde::{Deserialize, Deserializer, de::Error};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A `Duration` as "20m", "7d", "1h 30m" or "500ms": `#[serde(with = "duration")]`.
pub mod duration {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|error| D::Error::custom(format!("{text:?} is no duration: {error}")))
    }
}

/// An optional `Duration`: `#[serde(default, with = "duration_option")]`.
pub mod duration_option {
    use super::*;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// A number of bytes: "25MiB", "1GB", or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(format!("{text:?} is no size: use B, KiB, MiB, GiB, KB, MB or GB")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size: no number"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a size such as \"25MiB\" or a number of bytes")]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(bytes) => Ok(Self(bytes)),
            Form::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// So many in a period: "100/min", "20/30min", "1,000/h,max_burst=50".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub limit: u64,
    pub period: Duration,
    /// How many at once at the most; `limit` unless said.
    pub burst: u64,
    /// "local:…": this node's own, not shared.
    pub local: bool,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = |what: &str| format!("{text:?} is no rate such as \"100/min\": {what}");
        let (local, rest) = match text.strip_prefix("local:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (rest, burst) = match rest.split_once(",max_burst=") {
            Some((rest, burst)) => (rest, Some(count(burst).ok_or_else(|| fault("max_burst is no number"))?)),
            None => (rest, None),
        };
        let (limit, period) = rest.split_once('/').ok_or_else(|| fault("no / in it"))?;
        let limit = count(limit).filter(|limit| *limit > 0).ok_or_else(|| fault("no number above 0 before the /"))?;
        let period = period_of(period.trim()).ok_or_else(|| fault("unknown period"))?;
        Ok(Self { limit, period, burst: burst.unwrap_or(limit).max(1), local })
    }
}

fn count(text: &str) -> Option<u64> {
    text.trim().replace([',', '_'], "").parse().ok()
}

fn period_of(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = if number.is_empty() { 1 } else { number.parse().ok()? };
    let seconds = match unit.trim() {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "minute" | "minutes" => 60,
        "h" | "hr" | "hour" | "hours" => 3_600,
        "d" | "day" | "days" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).filter(|total| *total > 0).map(Duration::from_secs)
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = if self.local { "local:" } else { "" };
        write!(f, "{local}{}/{}s", self.limit, self.period.as_secs())?;
        if self.burst != self.limit { write!(f, ",max_burst={}", self.burst) } else { Ok(()) }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let check = |text: &str, limit, seconds, burst| {
            let rate: Rate = text.parse().unwrap();
            assert_eq!((rate.limit, rate.period.as_secs(), rate.burst), (limit, seconds, burst), "{text}");
            assert_eq!(rate.to_string().parse::<Rate>().unwrap(), rate);
        };
        check("100/min", 100, 60, 100);
        check("1,000/30min", 1_000, 1_800, 1_000);
        check("local:5/s,max_burst=2", 5, 1, 2);
        for text in ["", "5", "0/s", "5/", "5/fortnight", "x/s", "5/0s", "5/s,max_burst=x"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("25MiB", 25 << 20), ("7", 7), ("1 KB", 1_000)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "MiB", "1 parsec", "99999999999999999999", "18446744073709551615 KiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
