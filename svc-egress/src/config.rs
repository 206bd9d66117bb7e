//! `[egress]`: where mail leaves from and how its way is found.

use crate::source::{Credentials, Pool, Source, Via};
use godwit_kit::config::{Faults, OneOrMany, Section, values};
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The pool that mail without another one leaves by.
pub const DEFAULT_POOL: &str = "default";
const SHAPING_FILE: &str = "shaping.toml";
/// It is part of the keys of limits, which are bounded too.
const SOURCE_NAME_BYTES_MAX: usize = 64;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The name we greet with where a source has none. Empty: the machine's.
    pub hostname: String,
    /// Not given: `shaping.toml` where it exists.
    pub shaping_files: Option<Vec<PathBuf>>,
    /// `ip` or `ip:port`. Empty: the system's.
    pub dns_servers: Vec<String>,
    /// Private destinations that may be connected to.
    pub allow_networks: Vec<IpNet>,
    /// By domain, or `*`: hosts instead of an MX lookup.
    pub routes: BTreeMap<String, Route>,
    pub sources: BTreeMap<String, SourceConfig>,
    pub pools: BTreeMap<String, PoolConfig>,
    pub tls: TlsConfig,
    /// Open at once to everywhere.
    pub connections_max: usize,
    /// How long mail is ours without word from us.
    #[serde(with = "values::duration")]
    pub lease: Duration,
    /// Outcomes of one connection that the queue has not confirmed yet; then the connection waits. With the number of
    /// connections, this bounds how much could be delivered twice after a crash.
    pub unsettled_per_connection_max: usize,
    /// DNS lookups for routes at once.
    pub lookups_max: usize,
    /// How long a message that is being sent may take to end once a stop is asked for.
    #[serde(with = "values::duration")]
    pub stop_grace: Duration,
}

/// `[egress.tls]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TlsConfig {
    /// Authorities that are believed besides the public ones, for smarthosts of one's own: a PEM file. Empty: none.
    pub ca: PathBuf,
}

/// `[egress.routes."domain"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Route {
    /// `host` or `host:port`, in the order in which they are tried.
    pub hosts: Vec<String>,
}

/// `[egress.sources."name"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct SourceConfig {
    pub source_address: Option<IpAddr>,
    pub ehlo_domain: Option<String>,
    /// `ip:port`, a list of them, or `auto`: learned from the proxies.
    pub socks5_proxy: Option<OneOrMany<String>>,
    pub socks5_username: String,
    pub socks5_password: String,
    pub socks5_password_file: Option<PathBuf>,
    pub ha_proxy: Option<String>,
}

/// `[egress.pools."name"]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PoolConfig {
    /// Weight by source; 0 leaves it out.
    pub sources: BTreeMap<String, u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            shaping_files: None,
            dns_servers: Vec::new(),
            allow_networks: Vec::new(),
            routes: BTreeMap::new(),
            sources: BTreeMap::new(),
            pools: BTreeMap::new(),
            tls: TlsConfig::default(),
            connections_max: 8192,
            lease: Duration::from_secs(60),
            unsettled_per_connection_max: 64,
            lookups_max: 64,
            stop_grace: Duration::from_secs(20),
        }
    }
}

impl Section for Config {
    const NAME: &'static str = "egress";

    fn check(&self, faults: &mut Faults) {
        for (place, server) in self.dns_servers.iter().enumerate() {
            if dns_server(server).is_none() {
                faults.add(
                    format!("egress.dns_servers[{place}]"),
                    format!("{server:?} is neither an IP address nor ip:port"),
                );
            }
        }
        for (place, file) in self.shaping_files.iter().flatten().enumerate() {
            if !file.is_file() {
                faults.add(format!("egress.shaping_files[{place}]"), format!("no file {}", file.display()));
            }
        }
        for (domain, route) in &self.routes {
            route.check(&format!("egress.routes.{domain:?}"), faults);
        }
        for (name, source) in &self.sources {
            source.check(name, &format!("egress.sources.{name:?}"), faults);
        }
        self.check_pools(faults);
        if let Err(what) = self.tls.authorities() {
            faults.add("egress.tls.ca", what);
        }
        let positive = [
            ("connections_max", self.connections_max),
            ("unsettled_per_connection_max", self.unsettled_per_connection_max),
            ("lookups_max", self.lookups_max),
        ];
        for (key, _) in positive.iter().filter(|(_, value)| *value == 0) {
            faults.add(format!("egress.{key}"), "must be at least 1");
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(600)).contains(&self.lease) {
            faults.add("egress.lease", "must be between 1s and 10m");
        }
    }
}

impl Config {
    /// The shaping files to be loaded.
    pub fn shaping(&self) -> Vec<PathBuf> {
        match &self.shaping_files {
            Some(files) => files.clone(),
            None => Some(PathBuf::from(SHAPING_FILE)).filter(|file| file.is_file()).into_iter().collect(),
        }
    }

    /// What we call ourselves in EHLO.
    pub fn ehlo_domain(&self) -> String {
        match self.hostname.as_str() {
            "" => machine_name(),
            name => name.into(),
        }
    }

    pub fn dns_servers(&self) -> Vec<SocketAddr> {
        self.dns_servers.iter().filter_map(|server| dns_server(server)).collect()
    }

    /// All sources; the last is the unspecified one.
    ///
    /// # Errors
    /// A password file that cannot be read.
    pub fn sources(&self) -> Result<Vec<Source>, String> {
        let named = self.sources.iter().map(|(name, source)| source.build(name));
        named.chain([Ok(Source::unspecified())]).collect()
    }

    /// All pools, over `sources` as [`Config::sources`] gives them. `default` is always there.
    pub fn pools(&self, sources: &[Source]) -> Vec<Pool> {
        let index = |name: &String| sources.iter().position(|source| source.name == *name);
        let mut pools: Vec<Pool> = self
            .pools
            .iter()
            .map(|(name, pool)| {
                let members = pool.sources.iter().filter(|(_, weight)| **weight > 0);
                let members = members.filter_map(|(source, weight)| Some((index(source)?, *weight)));
                Pool { name: name.clone(), members: members.collect() }
            })
            .collect();
        if !self.pools.contains_key(DEFAULT_POOL) {
            pools.push(Pool { name: DEFAULT_POOL.into(), members: vec![(sources.len() - 1, 1)] });
        }
        pools
    }

    fn check_pools(&self, faults: &mut Faults) {
        for (name, pool) in &self.pools {
            let key = format!("egress.pools.{name:?}.sources");
            for source in pool.sources.keys().filter(|source| !self.sources.contains_key(*source)) {
                faults.add(format!("{key}.{source:?}"), "no such source under egress.sources");
            }
            if pool.sources.values().all(|weight| *weight == 0) {
                faults.add(key, "no source with a weight above 0");
            }
        }
    }
}

impl TlsConfig {
    /// # Errors
    /// What is wrong with the file.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        if self.ca.as_os_str().is_empty() {
            return Ok(Vec::new());
        }
        let fault = |error: pem::Error| match error {
            pem::Error::Io(error) => format!("{}: {error}", self.ca.display()),
            error => format!("{}: no certificate that can be read: {error}", self.ca.display()),
        };
        let read = CertificateDer::pem_file_iter(&self.ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let authorities = read.map_err(fault)?;
        if authorities.is_empty() {
            return Err(fault(pem::Error::NoItemsFound));
        }
        Ok(authorities)
    }
}

impl Route {
    fn check(&self, key: &str, faults: &mut Faults) {
        if self.hosts.is_empty() {
            faults.add(format!("{key}.hosts"), "no hosts");
        }
        for (place, host) in self.hosts.iter().enumerate() {
            if host_and_port(host).is_none() {
                faults.add(format!("{key}.hosts[{place}]"), format!("{host:?} is neither a host nor host:port"));
            }
        }
    }
}

impl SourceConfig {
    fn check(&self, name: &str, key: &str, faults: &mut Faults) {
        if name.is_empty() || name.len() > SOURCE_NAME_BYTES_MAX {
            faults.add(key, format!("a source's name has 1 to {SOURCE_NAME_BYTES_MAX} bytes"));
        }
        if self.ha_proxy.is_some() {
            faults.add(format!("{key}.ha_proxy"), "HAProxy is not part of this version; leave it out");
        }
        let proxies = self.socks5_proxy.as_ref().map_or(&[][..], OneOrMany::as_slice);
        let auto = proxies == ["auto"];
        for proxy in proxies.iter().filter(|_| !auto) {
            if proxy.parse::<SocketAddr>().is_err() {
                faults.add(format!("{key}.socks5_proxy"), format!("{proxy:?} is neither ip:port nor \"auto\""));
            }
        }
        if auto && self.source_address.is_none() {
            faults.add(format!("{key}.source_address"), "needed to find the proxy that owns it");
        }
        let passwords = [!self.socks5_password.is_empty(), self.socks5_password_file.is_some()];
        if passwords == [true, true] {
            faults.add(format!("{key}.socks5_password_file"), "give it or socks5_password, not both");
        }
        if passwords != [false, false] && self.socks5_username.is_empty() {
            faults.add(format!("{key}.socks5_username"), "a password needs a username");
        }
        if self.socks5_username.len() > 255 || self.socks5_password.len() > 255 {
            faults.add(format!("{key}.socks5_username"), "username and password have at most 255 bytes each");
        }
        if let Some(file) = self.socks5_password_file.as_ref().filter(|file| !file.is_file()) {
            faults.add(format!("{key}.socks5_password_file"), format!("no file {}", file.display()));
        }
    }

    fn build(&self, name: &str) -> Result<Source, String> {
        let via = match self.socks5_proxy.as_ref().map_or(&[][..], OneOrMany::as_slice) {
            [] => Via::Direct,
            [auto] if auto == "auto" => Via::Socks5Auto,
            proxies => Via::Socks5(proxies.iter().filter_map(|proxy| proxy.parse().ok()).collect()),
        };
        let password = match &self.socks5_password_file {
            Some(file) => secret(file)?,
            None => self.socks5_password.clone(),
        };
        let username = self.socks5_username.clone();
        let credentials = (!username.is_empty()).then_some(Credentials { username, password });
        let (address, ehlo_domain) = (self.source_address, self.ehlo_domain.clone());
        Ok(Source { name: name.into(), address, ehlo_domain, via, credentials })
    }
}

/// `host` or `host:port`, the host a name, an address, or an address in brackets.
pub fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address.to_string(), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && (!host.contains(':') || host.ends_with(']')) => {
            (host, Some(port.parse().ok().filter(|port| *port > 0)?))
        }
        Some(_) | None => (text, None),
    };
    if let Some(literal) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let literal =
            literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:")).map_or(literal, |_| &literal[5..]);
        return Some((literal.parse::<IpAddr>().ok()?.to_string(), port));
    }
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_string());
    Some((address.or_else(|| godwit_smtp::address::to_a_labels(host.trim_end_matches('.')).ok())?, port))
}

fn dns_server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)))
}

/// A secret of one line.
fn secret(file: &PathBuf) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).into())
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match godwit_smtp::address::to_a_labels(name.trim()) {
        Ok(name) => name,
        Err(_) => "localhost".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Document;

    fn read(text: &str) -> (Config, Vec<String>) {
        let mut faults = Faults::default();
        let config = Document::parse(text, "test", &mut faults).section_or_default::<Config>(&mut faults);
        (config, faults.0.into_iter().map(|fault| fault.key).collect())
    }

    #[test]
    fn all_faults_have_their_place() {
        let (_, mut keys) = read(
            "[egress]\nlease = \"1h\"\ndns_servers = [\"1.1.1.1\", \"x\"]\nshaping_files = [\"/no/such/file\"]\n\
             [egress.routes.\"*\"]\nhosts = [\"127.0.0.1:99999\"]\n[egress.routes.\"a.b\"]\n\
             [egress.sources.x]\nha_proxy = \"10.0.0.1:1\"\nsocks5_proxy = \"auto\"\nsocks5_password = \"p\"\n\
             [egress.pools.p]\nsources = { x = 0, y = 1 }\n\
             [egress.tls]\nca = \"/no/such/file\"",
        );
        keys.sort();
        let mut expected = [
            "egress.dns_servers[1]",
            "egress.lease",
            "egress.pools.\"p\".sources.\"y\"",
            "egress.routes.\"*\".hosts[0]",
            "egress.routes.\"a.b\".hosts",
            "egress.shaping_files[0]",
            "egress.sources.\"x\".ha_proxy",
            "egress.sources.\"x\".socks5_username",
            "egress.sources.\"x\".source_address",
            "egress.tls.ca",
        ];
        expected.sort();
        assert_eq!(keys, expected);
    }

    #[test]
    fn sources_and_pools() {
        let (config, keys) = read(
            "[egress.sources.a]\nsource_address = \"10.0.0.1\"\nsocks5_proxy = [\"10.0.5.10:1080\"]\n\
             socks5_username = \"u\"\nsocks5_password = \"p\"\n[egress.sources.b]\n[egress.pools.p]\nsources = { a = 1, b = 3 }",
        );
        assert!(keys.is_empty(), "{keys:?}");
        let sources = config.sources().unwrap();
        assert_eq!(sources[0].via, Via::Socks5(vec!["10.0.5.10:1080".parse().unwrap()]));
        let pools = config.pools(&sources);
        assert_eq!(pools[0].members, [(0, 1), (1, 3)]);
        assert_eq!((pools[1].name.as_str(), pools[1].members.as_slice()), (DEFAULT_POOL, &[(2, 1)][..]));
    }

    #[test]
    fn hosts() {
        let check = |text: &str, host: &str, port| assert_eq!(host_and_port(text), Some((host.into(), port)), "{text}");
        check("127.0.0.1:2526", "127.0.0.1", Some(2526));
        check("Relay.Example", "relay.example", None);
        check("[10.0.0.1]:25", "10.0.0.1", Some(25));
        check("[IPv6:2001:db8::1]", "2001:db8::1", None);
        check("2001:db8::1", "2001:db8::1", None);
        check("[::1]:25", "::1", Some(25));
        for text in ["", "a b", "x:0", "x:y", "[x]", ":25"] {
            assert_eq!(host_and_port(text), None, "{text}");
        }
    }
}
