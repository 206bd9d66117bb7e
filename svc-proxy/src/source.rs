//! Who may use the proxy, from which address a session leaves, and where it may go. Pure.
//!
//! What is not public is denied: loopback, private, link-local, multicast, reserved, and the proxy's own addresses; also
//! where IPv6 carries such an IPv4 address inside. Only `allow_networks` says otherwise.

use crate::config::Config;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Debug, Clone)]
pub struct Rules {
    /// `None`: from anywhere.
    clients: Option<Vec<IpNet>>,
    sources: Vec<IpAddr>,
    ports: Vec<u16>,
    allow_networks: Vec<IpNet>,
    listen: SocketAddr,
}

/// Why a destination may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("port {0} is not among proxy.ports")]
    Port(u16),
    #[error("{0} is the proxy's own address")]
    Own(IpAddr),
    #[error("{0} is not public nor within proxy.allow_networks")]
    NotPublic(IpAddr),
}

/// There is no source of the destination's family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no source address of the destination's family")]
pub struct NoSource;

impl Rules {
    /// `listen` is where the listener was bound.
    pub fn new(config: &Config, listen: SocketAddr, authenticated: bool) -> Self {
        let loopback = || {
            let v4 = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
            vec![IpNet::V4(v4), IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128))]
        };
        let clients = match &config.clients {
            Some(clients) => Some(clients.clone()),
            None if authenticated => None,
            None => Some(loopback()),
        };
        Self {
            clients,
            sources: config.sources.iter().map(IpAddr::to_canonical).collect(),
            ports: config.ports.clone(),
            allow_networks: config.allow_networks.clone(),
            listen,
        }
    }

    pub fn allows_client(&self, client: IpAddr) -> bool {
        self.clients.as_ref().is_none_or(|clients| within(clients, client.to_canonical()))
    }

    /// The source as asked for, where it is owned.
    pub fn owned(&self, wanted: IpAddr) -> Option<IpAddr> {
        let wanted = wanted.to_canonical();
        self.sources.contains(&wanted).then_some(wanted)
    }

    /// Whether a session may go there. `reached_at` is the address that the client reached the proxy at.
    ///
    /// # Errors
    /// The first rule that denies it.
    pub fn check(&self, destination: SocketAddr, reached_at: SocketAddr) -> Result<(), Denied> {
        let address = destination.ip().to_canonical();
        let ours = [self.listen, reached_at].map(|ours| SocketAddr::new(ours.ip().to_canonical(), ours.port()));
        if !self.ports.contains(&destination.port()) {
            return Err(Denied::Port(destination.port()));
        }
        if ours.contains(&SocketAddr::new(address, destination.port())) {
            // Not even where its network is allowed: it would go round for ever.
            return Err(Denied::Own(address));
        }
        if within(&self.allow_networks, address) {
            return Ok(());
        }
        if self.sources.contains(&address) || ours.iter().any(|ours| ours.ip() == address) {
            return Err(Denied::Own(address));
        }
        if is_public(address) { Ok(()) } else { Err(Denied::NotPublic(address)) }
    }

    /// Where to leave from to reach `destination`: as chosen, else the first owned of its family; `None`: the system
    /// chooses, since none is owned.
    ///
    /// # Errors
    /// Where no source has the destination's family.
    pub fn source_for(&self, chosen: Option<IpAddr>, destination: IpAddr) -> Result<Option<IpAddr>, NoSource> {
        let fits = |source: &&IpAddr| source.is_ipv4() == destination.to_canonical().is_ipv4();
        match chosen {
            Some(chosen) => Some(&chosen).filter(fits).map(|_| Some(chosen)).ok_or(NoSource),
            None if self.sources.is_empty() => Ok(None),
            None => self.sources.iter().find(fits).map(|source| Some(*source)).ok_or(NoSource),
        }
    }
}

fn within(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Reachable on the internet, by the registries of RFC 6890.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol_assignments = [a, b, c] == [192, 0, 0];
    let relay_anycast = [a, b, c] == [192, 88, 99];
    let benchmarking = a == 198 && (b == 18 || b == 19);
    !(a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocol_assignments
        || relay_anycast
        || benchmarking)
}

/// Global unicast without what tunnels IPv4 (Teredo, ORCHID and the like in 2001::/23, 6to4) and documentation.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let global_unicast = a & 0xe000 == 0x2000;
    let special = a == 0x2001 && b < 0x0200;
    let six_to_four = a == 0x2002;
    let documentation = (a == 0x2001 && b == 0x0db8) || (a == 0x3fff && b < 0x1000);
    global_unicast && !special && !six_to_four && !documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(change: impl FnOnce(&mut Config)) -> Rules {
        let mut config = Config { sources: vec!["203.0.114.5".parse().unwrap()], ..Config::default() };
        change(&mut config);
        Rules::new(&config, "198.51.101.1:1080".parse().unwrap(), false)
    }

    fn check(rules: &Rules, to: &str) -> Result<(), Denied> {
        rules.check(to.parse().unwrap(), "198.51.101.1:1080".parse().unwrap())
    }

    #[test]
    fn only_public_destinations() {
        let rules = rules(|_| {});
        for to in
            ["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "223.255.255.1", "[2a00:1450::1]", "[2001:4860::1]"]
        {
            assert_eq!(check(&rules, &format!("{to}:25")), Ok(()), "{to}");
        }
        let denied = [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.1.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:10.0.0.1]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[100::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::1]",
            "[3fff::1]",
            "[fc00::1]",
            "[fd12::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ];
        for to in denied {
            let answer = check(&rules, &format!("{to}:25"));
            assert!(matches!(answer, Err(Denied::NotPublic(_))), "{to}: {answer:?}");
        }
    }

    #[test]
    fn only_ports_that_are_listed() {
        let rules = rules(|_| {});
        for port in [25, 465, 587, 2525] {
            assert_eq!(check(&rules, &format!("8.8.8.8:{port}")), Ok(()));
        }
        for port in [0, 22, 80, 1080, 65535] {
            assert_eq!(check(&rules, &format!("8.8.8.8:{port}")), Err(Denied::Port(port)));
        }
    }

    #[test]
    fn own_addresses_are_denied_and_the_listener_always() {
        let own = |to: &str| Err(Denied::Own(to.parse().unwrap()));
        let strict = rules(|_| {});
        assert_eq!(check(&strict, "203.0.114.5:25"), own("203.0.114.5"));
        assert_eq!(check(&strict, "[::ffff:203.0.114.5]:25"), own("203.0.114.5"));
        assert_eq!(check(&strict, "198.51.101.1:25"), own("198.51.101.1"));
        let open = rules(|config| {
            config.allow_networks = vec!["0.0.0.0/0".parse().unwrap()];
            config.ports = vec![25, 1080];
        });
        assert_eq!(check(&open, "203.0.114.5:25"), Ok(()));
        assert_eq!(check(&open, "10.0.0.1:25"), Ok(()));
        assert_eq!(check(&open, "[::ffff:10.0.0.1]:25"), Ok(()));
        assert_eq!(check(&open, "198.51.101.1:1080"), own("198.51.101.1"));
        let allowed = rules(|config| config.allow_networks = vec!["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(check(&allowed, "10.255.0.1:25"), Ok(()));
        assert!(check(&allowed, "11.0.0.1:26").is_err());
        assert!(check(&allowed, "127.0.0.1:25").is_err());
    }

    #[test]
    fn clients_by_network_and_anyone_who_knows_the_password() {
        let by_default = rules(|_| {});
        let client = |rules: &Rules, ip: &str| rules.allows_client(ip.parse().unwrap());
        assert!(
            client(&by_default, "127.0.0.1") && client(&by_default, "::1") && client(&by_default, "::ffff:127.0.0.1")
        );
        assert!(!client(&by_default, "10.0.0.1"));
        let named = rules(|config| config.clients = Some(vec!["10.0.0.0/8".parse().unwrap()]));
        assert!(client(&named, "10.0.0.1") && !client(&named, "127.0.0.1"));
        let authenticated = Rules::new(&Config::default(), "127.0.0.1:1".parse().unwrap(), true);
        assert!(client(&authenticated, "8.8.8.8"));
    }

    #[test]
    fn sources_are_owned_and_of_the_destinations_family() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let rules = rules(|config| config.sources = vec![ip("192.0.2.1"), ip("192.0.2.2"), ip("2001:db8::1")]);
        assert_eq!(rules.owned(ip("192.0.2.2")), Some(ip("192.0.2.2")));
        assert_eq!(rules.owned(ip("::ffff:192.0.2.2")), Some(ip("192.0.2.2")));
        assert_eq!(rules.owned(ip("192.0.2.3")), None);
        assert_eq!(rules.source_for(None, ip("8.8.8.8")), Ok(Some(ip("192.0.2.1"))));
        assert_eq!(rules.source_for(None, ip("2a00::1")), Ok(Some(ip("2001:db8::1"))));
        assert_eq!(rules.source_for(Some(ip("192.0.2.2")), ip("8.8.8.8")), Ok(Some(ip("192.0.2.2"))));
        assert_eq!(rules.source_for(Some(ip("192.0.2.2")), ip("2a00::1")), Err(NoSource));
        let none = Rules::new(&Config::default(), "127.0.0.1:1".parse().unwrap(), false);
        assert_eq!((none.owned(ip("127.0.0.1")), none.source_for(None, ip("8.8.8.8"))), (None, Ok(None)));
    }
}
