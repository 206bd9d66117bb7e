//! Decides who may send where. Pure.

use std::net::IpAddr;

use godwit_smtp::Reply;
use ipnet::IpNet;

use crate::config::RelayHost;

/// The hosts of one listener that may send to any destination.
#[derive(Debug)]
pub struct Relay {
    networks: Vec<IpNet>,
}

impl Relay {
    pub fn new(hosts: &[RelayHost]) -> Self {
        Self { networks: hosts.iter().map(|host| host.0).collect() }
    }

    /// Judges a recipient: whatever its address looks like, mail of strangers goes nowhere.
    ///
    /// # Errors
    /// The reply that refuses it.
    pub fn recipient(&self, peer: IpAddr) -> Result<(), Reply> {
        // An IPv4 client of a dual-stack listener shows as ::ffff:192.0.2.1.
        let peer = peer.to_canonical();
        match self.networks.iter().any(|network| network.contains(&peer)) {
            true => Ok(()),
            false => Err(Reply::new(550, (5, 7, 1), "Relaying denied")),
        }
    }

    /// Whether the whole internet may relay.
    pub fn is_open(&self) -> bool {
        self.networks.iter().any(|network| network.prefix_len() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_only_for_its_hosts() {
        let hosts = ["127.0.0.1", "10.0.0.9/8", "2001:db8::/32", "::1"].map(|host| host.parse().unwrap());
        let relay = Relay::new(&hosts);
        let check = |peer: &str, allowed| assert_eq!(relay.recipient(peer.parse().unwrap()).is_ok(), allowed, "{peer}");
        for peer in ["127.0.0.1", "::ffff:127.0.0.1", "10.255.0.1", "2001:db8:1::1", "::1"] {
            check(peer, true);
        }
        for peer in ["127.0.0.2", "11.0.0.1", "2001:db9::1", "::2", "::ffff:192.0.2.1", "0.0.0.0"] {
            check(peer, false);
        }
        assert!(!relay.is_open() && Relay::new(&["0.0.0.0/0".parse().unwrap()]).is_open());
        assert!(Relay::new(&[]).recipient("127.0.0.1".parse().unwrap()).is_err());
    }
}
