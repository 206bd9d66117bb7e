//! `[gateway]`, and the whole document: which services run here, and every fault of it at once.

use godwit_kit::config::{Document, Faults, Peers, Section, Server, Telemetry};
use godwit_kit::roles::Role;
use godwit_kit::tokens::{self, Holder, Tokens};
use serde::Deserialize;
use std::net::SocketAddr;

/// The services, leaves first: the order in which they are built.
pub const SERVICES: [&str; 6] = ["throttle", "tsa", "proxy", "queue", "ingress", "egress"];

/// What the gateway cannot do without.
pub const GATEWAY_NEEDS: &[&str] = &["ingress"];

/// What one service needs, here or as a peer.
pub fn needs(service: &str) -> &'static [&'static str] {
    match service {
        "throttle" => svc_throttle::NEEDS,
        "tsa" => svc_tsa::NEEDS,
        "proxy" => svc_proxy::NEEDS,
        "queue" => svc_queue::NEEDS,
        "ingress" => svc_ingress::NEEDS,
        "egress" => svc_egress::NEEDS,
        "gateway" => GATEWAY_NEEDS,
        _ => &[],
    }
}

/// `[gateway]`: the HTTP front door.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Gateway {
    /// API, `/metrics`, `/healthz/live`, `/healthz/ready`.
    pub listen: SocketAddr,
    /// Who may call the API; none: whoever reaches the listener, which then must be on loopback.
    pub tokens: Vec<Token>,
}

/// A caller of the API.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Token {
    pub name: String,
    /// Of the token itself, in hexadecimal.
    pub sha256: String,
    /// `inject`, `read`, `operate` or `admin`.
    pub role: String,
}

impl Default for Gateway {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8000)), tokens: Vec::new() }
    }
}

impl Section for Gateway {
    const NAME: &'static str = "gateway";

    fn check(&self, faults: &mut Faults) {
        if !self.listen.ip().is_loopback() && self.tokens.is_empty() {
            faults.add("gateway.listen", "beyond loopback the API needs tokens: add [[gateway.tokens]]");
        }
        for (place, token) in self.tokens.iter().enumerate() {
            let key = |name: &str| format!("gateway.tokens[{place}].{name}");
            if tokens::digest(&token.sha256).is_none() {
                faults.add(key("sha256"), "not the SHA-256 of a token: 64 hexadecimal digits");
            }
            if token.role().is_none() {
                faults.add(key("role"), "must be inject, read, operate or admin");
            }
        }
    }
}

impl Token {
    /// Every role but the services' own.
    fn role(&self) -> Option<Role> {
        Role::of(&self.role).filter(|role| *role != Role::Peer)
    }
}

impl Gateway {
    /// Whom the API knows, of a section that was checked.
    pub fn tokens(&self) -> Tokens {
        let known = |token: &Token| {
            let holder = Holder { name: token.name.clone(), role: token.role()? };
            Some((tokens::digest(&token.sha256)?, holder))
        };
        Tokens::new(self.tokens.iter().filter_map(known))
    }
}

/// The whole document, read. A service is `Some` where it runs here.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub telemetry: Telemetry,
    pub peers: Peers,
    pub gateway: Option<Gateway>,
    pub throttle: Option<svc_throttle::Config>,
    pub tsa: Option<svc_tsa::Config>,
    pub proxy: Option<svc_proxy::Config>,
    pub queue: Option<svc_queue::Config>,
    pub ingress: Option<svc_ingress::Config>,
    pub egress: Option<svc_egress::Config>,
}

impl Config {
    /// # Errors
    /// Every fault, each with its key path.
    pub fn read(document: &Document) -> Result<Self, Faults> {
        let faults = &mut Faults::default();
        document.check_names(faults);
        let mut config = Self {
            server: document.section_or_default(faults),
            telemetry: document.section_or_default(faults),
            peers: document.section_or_default(faults),
            gateway: document.section(faults),
            throttle: document.section(faults),
            tsa: document.section(faults),
            proxy: document.section(faults),
            queue: document.section(faults),
            ingress: document.section(faults),
            egress: document.section(faults),
        };
        config.check_placement(document, faults);
        config.peers.check_plaintext(&config.server, faults);
        config.share_shaping();
        if faults.is_empty() { Ok(config) } else { Err(std::mem::take(faults)) }
    }

    /// None of a needed service is refused by name; two ways to the throttle likewise.
    fn check_placement(&self, document: &Document, faults: &mut Faults) {
        let mut nothing_runs = true;
        for service in SERVICES.into_iter().chain(["gateway"]).filter(|service| document.has(service)) {
            nothing_runs = false;
            for need in needs(service) {
                if !document.has(need) && self.peers.of(need).is_empty() {
                    let what = format!("needs {need}: give it a section [{need}], or an address under peers.{need}");
                    faults.add(service, what);
                }
            }
        }
        if nothing_runs {
            faults.add("config", format!("no service has a section; known are {} and gateway", SERVICES.join(", ")));
        }
        if document.has("throttle") && !self.peers.of("throttle").is_empty() {
            faults.add("peers.throttle", "throttle runs here already: a process has one way to its limits");
        }
    }

    /// A TSA beside an egress uses its shaping files unless it names its own.
    fn share_shaping(&mut self) {
        if let (Some(tsa), Some(egress)) = (&mut self.tsa, &self.egress)
            && tsa.shaping_files.is_empty()
        {
            tsa.shaping_files = egress.shaping();
        }
    }
}

/// The document of a process that was given no file: everything runs, on defaults but for what was set.
pub fn everything(mut document: Document) -> Document {
    SERVICES.into_iter().chain(["gateway"]).for_each(|service| document.ensure(service));
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_without_a_file_place_nothing_apart() {
        let settings = ["queue.retry_interval=5m".to_string()];
        let document = everything(Document::load(None, [], &settings).unwrap());
        let config = Config::read(&document).unwrap();
        assert!(config.ingress.is_some() && config.egress.is_some() && config.gateway.is_some());
        assert_eq!(config.queue.unwrap().retry_interval.as_secs(), 300);
    }
}
