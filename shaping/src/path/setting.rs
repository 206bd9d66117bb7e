//! How the value of one key is read from TOML and written back.

use godwit_kit::config::Rate;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use toml::{Table, Value};

/// A field of a path.
pub(super) trait Setting {
    /// Takes the value, or says what is wrong with it and stays as it is.
    fn set(&mut self, value: &Value) -> Result<(), String>;

    /// In TOML; empty where it is not set.
    fn text(&self) -> String;
}

/// How many at once. Shared by all nodes, unless local.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub count: u32,
    /// "local:…": this node's own.
    pub local: bool,
}

impl Limit {
    pub const fn shared(count: u32) -> Self {
        Self { count, local: false }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.local { "local:" } else { "" }, self.count)
    }
}

/// The addresses that are this host itself.
pub(super) fn networks_of_this_host() -> Vec<IpNet> {
    ["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"].map(|text| text.parse().expect("written as a network")).to_vec()
}

/// TOML where it is, else the text itself.
pub(super) fn parse(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.into()))
}

fn string(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("expected a string, found {value}"))
}

fn quoted(text: impl fmt::Display) -> String {
    Value::String(text.to_string()).to_string()
}

/// At least 1: none of the counts of a path means anything at 0.
fn count(value: &Value) -> Result<u32, String> {
    let number = match value {
        Value::Integer(number) => u32::try_from(*number).ok(),
        Value::String(text) => text.replace([',', '_'], "").parse().ok(),
        Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    };
    number.filter(|number| *number > 0).ok_or_else(|| format!("expected a number from 1, found {value}"))
}

/// Reads one value without a place for it yet.
trait Read: Sized {
    fn read(value: &Value) -> Result<Self, String>;
    fn write(&self) -> String;
}

impl<T: Read> Setting for T {
    fn set(&mut self, value: &Value) -> Result<(), String> {
        *self = T::read(value)?;
        Ok(())
    }

    fn text(&self) -> String {
        self.write()
    }
}

impl<T: Read> Setting for Option<T> {
    fn set(&mut self, value: &Value) -> Result<(), String> {
        *self = Some(T::read(value)?);
        Ok(())
    }

    fn text(&self) -> String {
        self.as_ref().map(T::write).unwrap_or_default()
    }
}

impl<T: Read> Setting for BTreeMap<String, T> {
    /// Entries are added to those there: the one kind of key that merges.
    fn set(&mut self, value: &Value) -> Result<(), String> {
        let table = value.as_table().ok_or_else(|| format!("expected a table, found {value}"))?;
        let read = |(name, value): (&String, &Value)| {
            T::read(value).map(|value| (name.clone(), value)).map_err(|what| format!("{name}: {what}"))
        };
        self.extend(table.iter().map(read).collect::<Result<Vec<_>, String>>()?);
        Ok(())
    }

    fn text(&self) -> String {
        let entries: Vec<_> =
            self.iter().map(|(name, value)| format!("{} = {}", quoted(name), value.write())).collect();
        if entries.is_empty() { String::new() } else { format!("{{ {} }}", entries.join(", ")) }
    }
}

impl Read for u32 {
    fn read(value: &Value) -> Result<Self, String> {
        count(value)
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Read for u16 {
    fn read(value: &Value) -> Result<Self, String> {
        u16::try_from(count(value)?).map_err(|_| format!("expected a number up to 65535, found {value}"))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Read for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("expected true or false, found {value}"))
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Read for String {
    fn read(value: &Value) -> Result<Self, String> {
        string(value).map(Into::into)
    }

    fn write(&self) -> String {
        quoted(self)
    }
}

impl Read for Limit {
    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str().and_then(|text| text.strip_prefix("local:")) {
            Some(rest) => Ok(Self { count: count(&Value::String(rest.into()))?, local: true }),
            None => Ok(Self::shared(count(value)?)),
        }
    }

    fn write(&self) -> String {
        if self.local { quoted(self) } else { self.count.to_string() }
    }
}

impl Read for Rate {
    fn read(value: &Value) -> Result<Self, String> {
        string(value)?.parse()
    }

    fn write(&self) -> String {
        quoted(self)
    }
}

impl Read for Duration {
    fn read(value: &Value) -> Result<Self, String> {
        duration(value)
    }

    fn write(&self) -> String {
        quoted(humantime::format_duration(*self))
    }
}

/// "20m", "3 days", "1h 30m".
pub(crate) fn duration(value: &Value) -> Result<Duration, String> {
    let text = string(value)?;
    humantime::parse_duration(text).map_err(|error| format!("{text:?} is no duration: {error}"))
}

impl Read for Vec<IpNet> {
    fn read(value: &Value) -> Result<Self, String> {
        let list = value.as_array().ok_or_else(|| format!("expected a list of addresses, found {value}"))?;
        let network = |value: &Value| {
            let text = string(value)?;
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse().or_else(|_| address()).map_err(|_| format!("{text:?} is neither an address nor a network"))
        };
        list.iter().map(network).collect()
    }

    fn write(&self) -> String {
        format!("[{}]", self.iter().map(quoted).collect::<Vec<_>>().join(", "))
    }
}

/// An enum whose variants are written by their names.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl Read for $name {
            fn read(value: &Value) -> Result<Self, String> {
                match string(value)? {
                    $(stringify!($variant) => Ok(Self::$variant),)*
                    other => Err(format!("{other:?} is none of {}", [$(stringify!($variant)),*].join(", "))),
                }
            }

            fn write(&self) -> String {
                quoted(self.as_str())
            }
        }
    };
}

choice! {
    /// Whether a connection is encrypted, and whether the peer must prove who it is.
    EnableTls {
        /// Where offered. A certificate that is not valid is noted, and still better than none: the connection stays
        /// encrypted, unless `opportunistic_tls_reconnect_on_failed_handshake` is false.
        Opportunistic,
        /// Where offered; nobody looks at the certificate.
        OpportunisticInsecure,
        /// Always, with a valid certificate.
        Required,
        /// Always, whatever the certificate.
        RequiredInsecure,
        Disabled,
    }
}

choice! {
    /// Which addresses of a host are tried, and in which order.
    IpLookupStrategy {
        Ipv4AndIpv6,
        Ipv4Only,
        Ipv6Only,
        Ipv6ThenIpv4,
        Ipv4ThenIpv6,
    }
}

choice! {
    /// What follows when the peer closes a session with mail still to send.
    ReconnectStrategy {
        ConnectNextHost,
        TerminateSession,
        ReconnectSameHost,
    }
}
