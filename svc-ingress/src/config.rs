//! `[ingress]` and its listeners: defaults that are safe, and every fault by its key path.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use godwit_kit::{
    config::{Faults, Section, Size, values::duration},
    tls,
};
use godwit_proto::CALL_BYTES_MAX;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de::Error};

/// A message must fit in one call together with its envelope and metadata.
const MESSAGE_BYTES_MAX: u64 = CALL_BYTES_MAX as u64 / 4 * 3;
/// RFC 5321 section 4.5.3.1.7.
const MESSAGE_BYTES_MIN: u64 = 64 << 10;
/// RFC 5321 section 4.5.3.1.8.
const RECIPIENTS_MIN: usize = 100;
/// A queue takes no more (`EnqueueMessage.envelope`).
const RECIPIENTS_MAX: usize = 1_000;

/// `[ingress]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// This MTA's name in the Received field of injected messages; empty: the machine's.
    pub hostname: String,
    /// How large an injected message may be.
    pub max_message_size: Size,
    /// Bytes of messages that are being received or queued, over all connections and calls.
    pub max_data_in_flight: Size,
    /// How long a queue is asked before the client is told 451.
    #[serde(with = "duration")]
    pub enqueue_timeout: Duration,
    /// How long a message in hand is waited for when the process stops.
    #[serde(with = "duration")]
    pub stop_grace: Duration,
    pub listeners: Vec<Listener>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            max_message_size: Size(25 << 20),
            max_data_in_flight: Size(1 << 30),
            enqueue_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(10),
            listeners: vec![Listener::default()],
        }
    }
}

/// `[[ingress.listeners]]`: one SMTP port.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Listener {
    pub listen: SocketAddr,
    /// The name in banner, EHLO reply and Received field; empty: the machine's.
    pub hostname: String,
    /// What follows the name in the banner.
    pub banner: String,
    /// Who may send to any destination: addresses or networks. Everybody else is refused.
    pub relay_hosts: Vec<RelayHost>,
    pub max_message_size: Size,
    pub max_recipients: usize,
    pub max_connections: usize,
    pub max_connections_per_peer: usize,
    pub max_messages_per_connection: usize,
    /// How long a command, or the next piece of a message, is waited for.
    #[serde(with = "duration")]
    pub client_timeout: Duration,
    /// How long one message may take.
    #[serde(with = "duration")]
    pub message_timeout: Duration,
    /// Bytes a second that a message must come with on average, after the first `client_timeout`.
    pub min_data_rate: Size,
    pub tls: Tls,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 2525)),
            hostname: String::new(),
            banner: "ESMTP Godwit".into(),
            relay_hosts: [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]
                .map(|host| RelayHost(host.into()))
                .into(),
            max_message_size: Size(25 << 20),
            max_recipients: RECIPIENTS_MAX,
            max_connections: 2_000,
            max_connections_per_peer: 500,
            max_messages_per_connection: 10_000,
            client_timeout: Duration::from_secs(60),
            message_timeout: Duration::from_secs(1_800),
            min_data_rate: Size(500),
            tls: Tls::default(),
        }
    }
}

/// `[ingress.listeners.tls]`: a port's certificate, and what it is for. Nothing set: the port knows no TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// PEM: the certificate, and behind it those that lead to its authority.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
    pub mode: TlsMode,
    /// How long the whole handshake may take.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
}

/// When a client's connection comes to be within TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// When it says STARTTLS, if it does.
    #[default]
    Optional,
    /// When it says STARTTLS, which it must before it sends mail.
    Required,
    /// From its first byte on (port 465).
    Implicit,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            cert: PathBuf::new(),
            key: PathBuf::new(),
            mode: TlsMode::default(),
            handshake_timeout: Duration::from_secs(30),
        }
    }
}

/// A host or network that may relay: "10.0.0.7" or "10.0.0.0/8".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHost(pub IpNet);

impl FromStr for RelayHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map(|net| Self(net.trunc()))
            .map_err(|_| format!("{text:?} is no IP address and no network such as 10.0.0.0/8"))
    }
}

impl<'de> Deserialize<'de> for RelayHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Section for Config {
    const NAME: &'static str = "ingress";

    fn check(&self, faults: &mut Faults) {
        check_hostname("ingress.hostname", &self.hostname, faults);
        check_size("ingress.max_message_size", self.max_message_size, faults);
        if self.max_data_in_flight < self.max_message_size {
            faults.add("ingress.max_data_in_flight", "must hold at least one message of max_message_size");
        }
        check_duration("ingress.enqueue_timeout", self.enqueue_timeout, faults);
        for (place, listener) in self.listeners.iter().enumerate() {
            let key = |name: &str| format!("ingress.listeners[{place}].{name}");
            listener.check(key, faults);
            let earlier = self.listeners[..place].iter().any(|other| other.listen == listener.listen);
            if earlier && listener.listen.port() != 0 {
                faults.add(key("listen"), format!("{} is listened on already", listener.listen));
            }
        }
    }
}

impl Listener {
    fn check(&self, key: impl Fn(&str) -> String, faults: &mut Faults) {
        check_hostname(&key("hostname"), &self.hostname, faults);
        check_size(&key("max_message_size"), self.max_message_size, faults);
        check_duration(&key("client_timeout"), self.client_timeout, faults);
        check_duration(&key("message_timeout"), self.message_timeout, faults);
        if !self.banner.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') || self.banner.len() > 200 {
            faults.add(key("banner"), "must be one line of at most 200 ASCII characters");
        }
        if !(RECIPIENTS_MIN..=RECIPIENTS_MAX).contains(&self.max_recipients) {
            faults.add(key("max_recipients"), format!("must be {RECIPIENTS_MIN} to {RECIPIENTS_MAX}"));
        }
        let counts = [
            ("max_connections", self.max_connections),
            ("max_connections_per_peer", self.max_connections_per_peer),
            ("max_messages_per_connection", self.max_messages_per_connection),
        ];
        for (name, _) in counts.into_iter().filter(|(_, count)| *count == 0) {
            faults.add(key(name), "must be at least 1");
        }
        if self.tls.is_set() {
            self.tls.check(&key("tls"), faults);
        }
    }
}

impl Tls {
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// # Errors
    /// What is wrong with the files, by path.
    pub fn load(&self) -> Result<tls::Server, tls::Error> {
        let Self { cert, key, mode: _, handshake_timeout: _ } = self.clone();
        tls::Server::load(tls::ServerFiles { cert, key, ..tls::ServerFiles::default() })
    }

    fn check(&self, key: &str, faults: &mut Faults) {
        check_duration(&format!("{key}.handshake_timeout"), self.handshake_timeout, faults);
        let files = [("cert", &self.cert), ("key", &self.key)];
        let missing: Vec<_> = files.iter().filter(|(_, path)| path.as_os_str().is_empty()).collect();
        for (name, _) in &missing {
            faults.add(format!("{key}.{name}"), "must name a file: TLS needs a certificate and its key");
        }
        if missing.is_empty()
            && let Err(error) = self.load()
        {
            faults.add(key, error);
        }
    }
}

fn check_hostname(key: &str, hostname: &str, faults: &mut Faults) {
    if !hostname.is_empty() && godwit_smtp::Address::postmaster(hostname).is_err() {
        faults.add(key, format!("{hostname:?} is no host name"));
    }
}

fn check_size(key: &str, size: Size, faults: &mut Faults) {
    if !(MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&size.0) {
        faults.add(key, format!("must be {} KiB to {} MiB", MESSAGE_BYTES_MIN >> 10, MESSAGE_BYTES_MAX >> 20));
    }
}

fn check_duration(key: &str, duration: Duration, faults: &mut Faults) {
    if duration.is_zero() {
        faults.add(key, "must be longer than nothing");
    }
}

/// The first name that is given, else the machine's, else `localhost`.
pub(crate) fn hostname(given: &[&str]) -> String {
    let machine = || {
        let uname = rustix::system::uname();
        let name = uname.nodename().to_str().ok()?;
        godwit_smtp::address::to_a_labels(name).ok()
    };
    let given = given.iter().find(|name| !name.is_empty()).map(|name| (*name).to_string());
    given.or_else(machine).unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Document;

    fn faults_of(text: &str) -> Vec<String> {
        let mut faults = Faults::default();
        Document::parse(text, "test", &mut faults).section::<Config>(&mut faults);
        faults.0.into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn defaults_are_one_loopback_listener_that_relays_for_loopback() {
        let config = Config::default();
        assert_eq!(config.listeners[0].listen.to_string(), "127.0.0.1:2525");
        assert_eq!(config.listeners[0].relay_hosts, ["127.0.0.1", "::1"].map(|host| host.parse().unwrap()));
        assert_eq!(faults_of("[ingress]"), [""; 0]);
    }

    #[test]
    fn every_fault_has_its_key() {
        let text = r#"
            [ingress]
            hostname = "a b"
            enqueue_timeout = "0s"
            max_data_in_flight = "1MiB"
            [[ingress.listeners]]
            relay_hosts = ["10.0.0.0/8", "::1", "10.0.0.0/40"]
            max_recipients = 99
            client_timeout = "soon"
            [[ingress.listeners]]
            max_message_size = "1GiB"
            max_connections = 0
            banner = "a\nb"
            [ingress.listeners.tls]
            cert = "mx.crt"
            handshake_timeout = "0s"
            [[ingress.listeners]]
            listen = "127.0.0.1:465"
            tls = { key = "mx.key", mode = "sometimes" }
            [[ingress.listeners]]
            listen = "127.0.0.1:587"
            tls = { mode = "required" }
            [[ingress.listeners]]
            listen = "127.0.0.1:25"
            tls = { cert = "no/such.crt", key = "no/such.key" }
        "#;
        let mut keys = faults_of(text);
        keys.sort();
        let listener = |place: usize, name: &str| format!("ingress.listeners[{place}].{name}");
        let expected = [
            "ingress.enqueue_timeout".into(),
            "ingress.hostname".into(),
            listener(0, "client_timeout"),
            listener(0, "max_recipients"),
            listener(0, "relay_hosts[2]"),
            listener(1, "banner"),
            listener(1, "listen"),
            listener(1, "max_connections"),
            listener(1, "max_message_size"),
            listener(1, "tls.handshake_timeout"),
            listener(1, "tls.key"),
            listener(2, "tls.cert"),
            listener(2, "tls.mode"),
            listener(3, "tls.cert"),
            listener(3, "tls.key"),
            listener(4, "tls"),
            "ingress.max_data_in_flight".to_string(),
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_name_is_always_found() {
        assert_eq!(hostname(&["", "mx.test"]), "mx.test");
        assert!(!hostname(&[""]).is_empty());
    }
}
