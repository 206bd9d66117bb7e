//! What a destination sees of us, typed: the values of a shaping file, grouped by what they limit.

mod setting;

pub(crate) use setting::duration;
pub use setting::{EnableTls, IpLookupStrategy, Limit, ReconnectStrategy};

use godwit_kit::config::Rate;
use ipnet::IpNet;
use setting::Setting;
use std::collections::BTreeMap;
use std::time::Duration;
use toml::Value;

/// A struct whose fields are keys of a shaping file: set by the key, listed with their text.
macro_rules! group {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $key:literal => $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// `None` where the key is not one of this group.
            fn set(&mut self, key: &str, value: &Value) -> Option<Result<(), String>> {
                match key {
                    $($key => Some(self.$field.set(value)),)*
                    _ => None,
                }
            }

            fn list(&self, to: &mut Vec<(&'static str, String)>) {
                $(to.push(($key, self.$field.text()));)*
            }
        }
    };
}

/// All of it. The defaults are those of the code, not of any file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    pub connections: Connections,
    pub messages: Messages,
    pub tls: TlsPolicy,
    pub timeouts: Timeouts,
    pub retry: Retry,
    pub protocol: Protocol,
}

group! {
    /// How many connections, how quickly, to where, and how much on each.
    Connections {
        /// Open at once from one source to one site.
        "connection_limit" => connection_limit: Limit = Limit::shared(32),
        /// Limits by name that are shared with other paths; all must be held, the smallest is taken first.
        "additional_connection_limits" => additional_connection_limits: BTreeMap<String, Limit> = BTreeMap::new(),
        "max_connection_rate" => max_connection_rate: Option<Rate> = None,
        "max_deliveries_per_connection" => max_deliveries_per_connection: u32 = 1024,
        "consecutive_connection_failures_before_delay" => consecutive_connection_failures_before_delay: u32 = 100,
        "smtp_port" => smtp_port: u16 = 25,
        "ip_lookup_strategy" => ip_lookup_strategy: IpLookupStrategy = IpLookupStrategy::Ipv4AndIpv6,
        /// Never connected to; a destination with no other address is bounced.
        "prohibited_hosts" => prohibited_hosts: Vec<IpNet> = setting::networks_of_this_host(),
        /// Passed over; a destination with no other address is deferred.
        "skip_hosts" => skip_hosts: Vec<IpNet> = Vec::new(),
    }
}

group! {
    /// How many messages, how quickly.
    Messages {
        "max_message_rate" => max_message_rate: Option<Rate> = None,
        /// Rates by name that are shared with other paths; the smallest is taken first.
        "additional_message_rate_throttles" => additional_message_rate_throttles: BTreeMap<String, Rate> = BTreeMap::new(),
        "max_recipients_per_batch" => max_recipients_per_batch: u32 = 100,
        /// How quickly the source may be drawn; what is above goes by another one.
        "source_selection_rate" => source_selection_rate: Option<Rate> = None,
        "additional_source_selection_rates" => additional_source_selection_rates: BTreeMap<String, Rate> = BTreeMap::new(),
    }
}

group! {
    /// Whether and how a connection is encrypted.
    TlsPolicy {
        "enable_tls" => enable_tls: EnableTls = EnableTls::Opportunistic,
        "enable_mta_sts" => enable_mta_sts: bool = true,
        "enable_dane" => enable_dane: bool = false,
        /// What the opportunistic policies do where a peer's TLS does not work. True: after a failed handshake the mail goes
        /// in the clear over a new connection to the same host, and a certificate that is not valid is put up with. False:
        /// the host is given up, as with the required ones. True by default, unlike elsewhere: who can break a handshake
        /// can as well take STARTTLS out of the greeting, so refusing mail to such a host protects nothing (RFC 7435).
        "opportunistic_tls_reconnect_on_failed_handshake" => opportunistic_tls_reconnect_on_failed_handshake: bool = true,
        /// How long a host whose TLS failed is spoken to without it, where TLS is not required.
        "remember_broken_tls" => remember_broken_tls: Option<Duration> = None,
    }
}

group! {
    /// How long each step waits for the peer (RFC 5321 section 4.5.3.2).
    Timeouts {
        "connect_timeout" => connect: Duration = Duration::from_secs(60),
        "banner_timeout" => banner: Duration = Duration::from_secs(60),
        "ehlo_timeout" => ehlo: Duration = Duration::from_secs(300),
        "mail_from_timeout" => mail_from: Duration = Duration::from_secs(300),
        "rcpt_to_timeout" => rcpt_to: Duration = Duration::from_secs(300),
        "data_timeout" => data: Duration = Duration::from_secs(300),
        "data_dot_timeout" => data_dot: Duration = Duration::from_secs(300),
        /// How long a connection without mail is kept.
        "idle_timeout" => idle: Duration = Duration::from_secs(60),
        "rset_timeout" => rset: Duration = Duration::from_secs(5),
        "starttls_timeout" => starttls: Duration = Duration::from_secs(5),
        "auth_timeout" => auth: Duration = Duration::from_secs(60),
    }
}

group! {
    /// What follows a failed attempt, within the same session or plan of hosts.
    Retry {
        "try_next_host_on_transport_error" => try_next_host_on_transport_error: bool = false,
        "reconnect_strategy" => reconnect_strategy: ReconnectStrategy = ReconnectStrategy::ConnectNextHost,
    }
}

group! {
    /// How SMTP is spoken.
    Protocol {
        /// `None`: the source's, else the host's name.
        "ehlo_domain" => ehlo_domain: Option<String> = None,
        "enable_pipelining" => enable_pipelining: bool = true,
        "enable_rset" => enable_rset: bool = true,
        /// Send 8-bit content to a peer that does not offer 8BITMIME.
        "ignore_8bit_checks" => ignore_8bit_checks: bool = false,
    }
}

impl Path {
    /// Sets a key of a shaping file to a value in TOML (`5`, `"10/min"`); a bare word is read as a string.
    ///
    /// # Errors
    /// What is wrong with the value, or that there is no such key; the path is then as before.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        self.set_value(name, &setting::parse(value))
    }

    /// Every key with its value in TOML; empty where it is not set.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        let mut values = Vec::new();
        self.connections.list(&mut values);
        self.messages.list(&mut values);
        self.tls.list(&mut values);
        self.timeouts.list(&mut values);
        self.retry.list(&mut values);
        self.protocol.list(&mut values);
        values
    }

    pub(crate) fn set_value(&mut self, name: &str, value: &Value) -> Result<(), String> {
        self.connections
            .set(name, value)
            .or_else(|| self.messages.set(name, value))
            .or_else(|| self.tls.set(name, value))
            .or_else(|| self.timeouts.set(name, value))
            .or_else(|| self.retry.set(name, value))
            .or_else(|| self.protocol.set(name, value))
            .unwrap_or_else(|| Err("no such key".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_read_back_from_its_text() {
        let mut path = Path::default();
        path.set("max_message_rate", "\"1/minute\"").unwrap();
        path.set("additional_connection_limits", "{ a = 3, b = \"local:1,000\" }").unwrap();
        path.set("remember_broken_tls", "\"3 days\"").unwrap();
        path.set("ehlo_domain", "mta1.example.com").unwrap();
        path.set("skip_hosts", "[\"10.0.0.1\", \"192.0.2.0/24\"]").unwrap();
        let mut again = Path::default();
        for (name, value) in path.values() {
            if !value.is_empty() {
                again.set(name, &value).unwrap_or_else(|what| panic!("{name} = {value}: {what}"));
            }
        }
        assert_eq!(again, path);
    }

    #[test]
    fn a_wrong_value_is_refused_and_changes_nothing() {
        let check = |name: &str, value: &str| {
            let mut path = Path::default();
            assert!(path.set(name, value).is_err(), "{name} = {value}");
            assert_eq!(path, Path::default(), "{name} = {value}");
        };
        check("connection_limit", "0");
        check("connection_limit", "\"many\"");
        check("connection_limit", "-1");
        check("max_message_rate", "5");
        check("max_message_rate", "\"5/fortnight\"");
        check("idle_timeout", "\"soon\"");
        check("enable_tls", "\"Sometimes\"");
        check("smtp_port", "70000");
        check("additional_connection_limits", "{ a = 3, b = 0 }");
        check("skip_hosts", "[\"host\"]");
        check("no_such_key", "1");
    }

    #[test]
    fn the_forms_of_a_limit() {
        for (text, limit) in [
            ("7", Limit::shared(7)),
            ("\"1,000\"", Limit::shared(1000)),
            ("\"1_000\"", Limit::shared(1000)),
            ("\"local:20\"", Limit { count: 20, local: true }),
        ] {
            let mut path = Path::default();
            path.set("connection_limit", text).unwrap();
            assert_eq!(path.connections.connection_limit, limit);
        }
    }
}
