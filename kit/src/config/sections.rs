//! The sections that every process has: `[server]`, `[telemetry]`, `[peers]`.

use super::{Faults, Section};
use crate::target::Target;
use crate::tls;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[server]`: this process's gRPC listener and its folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Server {
    pub listen: SocketAddr,
    /// Spool, TSA state, node id.
    pub data_dir: PathBuf,
    /// Empty: made once and kept in `data_dir`.
    pub node_id: String,
    /// gRPC without TLS beyond loopback.
    pub allow_plaintext: bool,
    pub tls: ServerTls,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 50051)),
            data_dir: "data".into(),
            node_id: String::new(),
            allow_plaintext: false,
            tls: ServerTls::default(),
        }
    }
}

/// `[server.tls]`: PEM files. All of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerTls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authority of the callers' certificates, whose organizational unit names the caller's role.
    pub client_ca: PathBuf,
}

impl ServerTls {
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// # Errors
    /// What is wrong with the files, by path.
    pub fn load(&self) -> Result<Option<tls::Server>, tls::Error> {
        let Self { cert, key, client_ca } = self.clone();
        let files = tls::ServerFiles { cert, key, client_ca: Some(client_ca), alpn: vec![b"h2".to_vec()] };
        self.is_set().then(|| tls::Server::load(files)).transpose()
    }
}

/// `[peers.tls]`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PeersTls {
    /// The authority of the peers' certificates.
    pub ca: PathBuf,
    /// Shown to them; its organizational unit must be `peer`.
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl PeersTls {
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// # Errors
    /// What is wrong with the files, by path.
    pub fn load(&self) -> Result<Option<tls::Client>, tls::Error> {
        let Self { ca, cert, key } = self.clone();
        self.is_set().then(|| tls::Client::load(tls::ClientFiles { ca, identity: Some((cert, key)) })).transpose()
    }
}

/// Each of these files must be named; then what they hold is looked at.
fn check_files<T>(
    section: &str,
    files: &[(&str, &PathBuf)],
    load: impl FnOnce() -> Result<T, tls::Error>,
    faults: &mut Faults,
) {
    let missing: Vec<_> = files.iter().filter(|(_, path)| path.as_os_str().is_empty()).collect();
    for (name, _) in &missing {
        faults.add(format!("{section}.{name}"), "must name a file: TLS needs all of its settings");
    }
    if missing.is_empty()
        && let Err(error) = load()
    {
        faults.add(section, error);
    }
}

impl Section for Server {
    const NAME: &'static str = "server";

    fn check(&self, faults: &mut Faults) {
        if self.tls.is_set() {
            let ServerTls { cert, key, client_ca } = &self.tls;
            let files = [("cert", cert), ("key", key), ("client_ca", client_ca)];
            check_files("server.tls", &files, || self.tls.load(), faults);
        } else if !self.listen.ip().is_loopback() && !self.allow_plaintext {
            faults.add(
                "server.listen",
                "gRPC without TLS beyond loopback: set server.tls, or server.allow_plaintext to allow it",
            );
        }
        if !self.node_id.is_empty() && self.node_id.parse::<godwit_proto::id::NodeId>().is_err() {
            faults.add("server.node_id", "not of the form node_ and 26 characters");
        }
    }
}

/// `[telemetry]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Telemetry {
    /// `http://jaeger:4317`; empty: no traces are sent.
    pub otlp_endpoint: String,
    /// 0 to 1: the part of new traces that is kept.
    pub sample_ratio: f64,
    /// A filter of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
    /// HTTP for `/metrics`, `/healthz/live` and `/healthz/ready`, for whoever reaches it; none: only at the gateway's.
    #[serde(deserialize_with = "address_or_none")]
    pub listen: Option<SocketAddr>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 1.0, log_filter: "info".into(), listen: None }
    }
}

/// An empty text is none.
fn address_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = (!text.is_empty()).then(|| text.parse()).transpose();
    parsed.map_err(|error| de::Error::custom(format!("{text:?}: {error}")))
}

impl Section for Telemetry {
    const NAME: &'static str = "telemetry";

    fn check(&self, faults: &mut Faults) {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            faults.add("telemetry.sample_ratio", "must be between 0 and 1");
        }
        if !self.otlp_endpoint.is_empty() && self.otlp_endpoint.parse::<http::Uri>().is_err() {
            faults.add("telemetry.otlp_endpoint", "not a URL");
        }
        if let Err(error) = self.log_filter.parse::<tracing_subscriber::EnvFilter>() {
            faults.add("telemetry.log_filter", error);
        }
    }
}

/// A value, or a list of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// By hand, so that a fault has its place in the list.
impl<'de> Deserialize<'de> for OneOrMany<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = OneOrMany<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A peer's address: `https://10.0.0.1:50051`, or `http://` without TLS.
pub type Address = String;

/// `[peers]`: where services are that do not run here, or that run elsewhere too.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Peers {
    pub ingress: OneOrMany<Address>,
    pub queue: OneOrMany<Address>,
    pub egress: OneOrMany<Address>,
    pub tsa: OneOrMany<Address>,
    pub throttle: OneOrMany<Address>,
    pub proxy: OneOrMany<Address>,
    pub tls: PeersTls,
}

impl Peers {
    /// The addresses under one service's name; empty for a name that is none.
    pub fn of(&self, service: &str) -> &[Address] {
        self.all().into_iter().find(|(name, _)| *name == service).map_or(&[], |(_, addresses)| addresses)
    }

    /// By service.
    pub fn all(&self) -> [(&'static str, &[Address]); 6] {
        [
            ("ingress", self.ingress.as_slice()),
            ("queue", self.queue.as_slice()),
            ("egress", self.egress.as_slice()),
            ("tsa", self.tsa.as_slice()),
            ("throttle", self.throttle.as_slice()),
            ("proxy", self.proxy.as_slice()),
        ]
    }
}

impl Peers {
    /// Peers that would be called without TLS beyond loopback, which only `server.allow_plaintext` allows.
    pub fn check_plaintext(&self, server: &Server, faults: &mut Faults) {
        for (service, addresses) in self.all().into_iter().filter(|_| !server.allow_plaintext) {
            for (place, address) in addresses.iter().enumerate() {
                if address.parse::<Target>().is_ok_and(|target| !target.secure && !target.is_loopback()) {
                    let what = format!(
                        "{address} is beyond loopback and without TLS: use https, or server.allow_plaintext to allow it"
                    );
                    faults.add(format!("peers.{service}[{place}]"), what);
                }
            }
        }
    }
}

impl Section for Peers {
    const NAME: &'static str = "peers";

    fn check(&self, faults: &mut Faults) {
        if self.tls.is_set() {
            let PeersTls { ca, cert, key } = &self.tls;
            check_files("peers.tls", &[("ca", ca), ("cert", cert), ("key", key)], || self.tls.load(), faults);
        }
        for (service, addresses) in self.all() {
            for (place, address) in addresses.iter().enumerate() {
                let key = format!("peers.{service}[{place}]");
                match address.parse() {
                    Ok(Target { secure: true, .. }) if !self.tls.is_set() => {
                        faults.add(key, format!("{address} asks for TLS: set peers.tls"));
                    }
                    Ok(_) => {}
                    Err(error) => faults.add(key, format!("{address:?}: {error}")),
                }
            }
        }
        if self.throttle.as_slice().len() > 1 {
            faults.add("peers.throttle", "at most one: a process has one way to its limits");
        }
    }
}
