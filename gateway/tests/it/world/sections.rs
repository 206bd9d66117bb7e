//! The configuration of each process of a world, as text.

use super::places::{ALL, Places};
use super::{Placement, Settings};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the texts are made of.
pub struct Sections<'a> {
    pub places: &'a Places,
    pub settings: &'a Settings,
    pub shaping: PathBuf,
    pub dns: SocketAddr,
}

/// A process's name and its whole configuration.
pub struct Text {
    pub name: String,
    pub text: String,
}

type PeersOf<'a> = &'a [(&'a str, &'a [&'a str])];

impl Sections<'_> {
    /// The world's own processes, what others need before them.
    pub fn own(&self, placement: Placement) -> Vec<Text> {
        match placement {
            Placement::Near => self.near(),
            Placement::Spread => self.spread(),
        }
    }

    fn near(&self) -> Vec<Text> {
        let egress = if self.settings.without_egress { String::new() } else { self.egress() };
        let services = self.everything(ALL) + &egress;
        let further: Vec<_> = self.tsas().iter().copied().filter(|name| *name != "tsa").collect();
        vec![self.process(ALL, &services, &[("tsa", &further)])]
    }

    fn spread(&self) -> Vec<Text> {
        let mut all = vec![
            self.process("throttle", "[throttle]\n", &[]),
            self.process("tsa", &self.tsa(), &[]),
            self.process("proxy", &self.proxy("proxy"), &[]),
            self.queue_process("queue"),
            self.process("ingress", &self.ingress("ingress"), &[("queue", &["queue"])]),
            self.process("gateway", &self.gateway("gateway"), &[("ingress", &["ingress"])]),
        ];
        if !self.settings.without_egress {
            all.push(self.egress_process("egress", &["queue"]));
        }
        all
    }

    /// One of several nodes that have everything and the same configuration: each names all of them, itself included.
    pub fn node(&self, name: &str, nodes: &[&str]) -> Text {
        let services = self.everything(name) + &self.egress();
        self.process(name, &services, &[("queue", nodes), ("tsa", nodes), ("ingress", nodes), ("proxy", nodes)])
    }

    /// But for egress.
    fn everything(&self, name: &str) -> String {
        let (proxy, ingress, gateway) = (self.proxy(name), self.ingress(name), self.gateway(name));
        format!("[throttle]\n{}{proxy}{}{ingress}{gateway}", self.tsa(), self.queue())
    }

    pub fn process(&self, name: &str, services: &str, peers: PeersOf<'_>) -> Text {
        let (server, telemetry) = (self.places.server(name), &self.settings.telemetry);
        let text = format!("{server}[telemetry]\n{telemetry}\n{services}{}", self.places.peers(name, peers));
        Text { name: name.into(), text }
    }

    pub fn queue_process(&self, name: &str) -> Text {
        self.process(name, &self.queue(), &[("throttle", &["throttle"]), ("tsa", &self.tsas())])
    }

    pub fn egress_process(&self, name: &str, queues: &[&str]) -> Text {
        let peers: PeersOf<'_> =
            &[("queue", queues), ("throttle", &["throttle"]), ("tsa", &self.tsas()), ("proxy", &["proxy"])];
        self.process(name, &self.egress(), peers)
    }

    fn tsas(&self) -> Vec<&'static str> {
        if self.settings.tsas.is_empty() { vec!["tsa"] } else { self.settings.tsas.clone() }
    }

    pub fn tsa(&self) -> String {
        format!("[tsa]\nshaping_files = [{:?}]\n", self.shaping)
    }

    fn proxy(&self, name: &str) -> String {
        format!("[proxy]\nlisten = \"{}\"\n", self.places.listener(name, "socks5"))
    }

    fn queue(&self) -> String {
        let own = &self.settings.queue;
        let usual = [("retry_interval", "\"1s\""), ("max_retry_interval", "\"1s\"")];
        // TOML has each key once.
        let is_open = |key: &str| !own.lines().any(|line| line.starts_with(key));
        let usual = usual.into_iter().filter(|(key, _)| is_open(key)).map(|(key, value)| format!("{key} = {value}\n"));
        format!("[queue]\n{}{own}\n", usual.collect::<String>())
    }

    pub fn ingress(&self, name: &str) -> String {
        let smtp = self.places.listener(name, "smtp");
        format!("[ingress]\n[[ingress.listeners]]\nlisten = \"{smtp}\"\nhostname = \"mx.godwit.test\"\n")
    }

    pub fn gateway(&self, name: &str) -> String {
        format!("[gateway]\nlisten = \"{}\"\n", self.places.listener(name, "http"))
    }

    fn egress(&self) -> String {
        format!(
            "[egress]\nshaping_files = [{:?}]\ndns_servers = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\n{}\n",
            self.shaping, self.dns, self.settings.egress
        )
    }
}
