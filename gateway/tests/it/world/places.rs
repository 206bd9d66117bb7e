//! Where a world's processes listen, and how they trust each other.
//!
//! Each listens at an address of its own that is known before it starts: so others can be told of it while it is away, and
//! it is found again when it is back.

use super::Placement;
use super::certs::Trust;
use godwit_kit::connect;
use godwit_proto::Wire;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The process that has all of a near world's services.
pub const ALL: &str = "all";
/// The world's own services; other processes are further ones.
const OWN: [&str; 7] = ["throttle", "tsa", "proxy", "queue", "ingress", "gateway", "egress"];

/// By process. Spread over processes, every call goes through mutual TLS.
pub struct Places {
    placement: Placement,
    folder: PathBuf,
    listeners: Mutex<BTreeMap<String, SocketAddr>>,
    trust: Option<Trust>,
}

impl Places {
    pub fn new(placement: Placement, folder: &Path) -> Self {
        let trust = match placement {
            Placement::Near => None,
            Placement::Spread => Some(Trust::create(folder)),
        };
        Self { placement, folder: folder.into(), listeners: Mutex::default(), trust }
    }

    /// The process that a service of that name runs in.
    fn home<'a>(&self, name: &'a str) -> &'a str {
        match self.placement {
            Placement::Near if OWN.contains(&name) => ALL,
            Placement::Near | Placement::Spread => name,
        }
    }

    /// Its gRPC listener.
    pub fn grpc(&self, name: &str) -> SocketAddr {
        self.listener(self.home(name), "grpc")
    }

    /// Another listener of its: `smtp`, `http`, `socks5`.
    pub fn listener(&self, name: &str, door: &str) -> SocketAddr {
        let mut listeners = self.listeners.lock().unwrap();
        *listeners.entry(format!("{} {door}", self.home(name))).or_insert_with(reserve)
    }

    /// How others call it.
    pub fn url(&self, name: &str) -> String {
        let scheme = if self.trust.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.grpc(name))
    }

    /// The test's own road to it.
    pub fn wire(&self, name: &str) -> Wire {
        let tls = self.trust.as_ref().map(Trust::client);
        connect::road(&self.url(name), tls.as_ref()).unwrap().wire
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// `[server]`.
    pub fn server(&self, name: &str) -> String {
        let tls = self.trust.as_ref().map(|trust| trust.server(name, self.grpc(name).ip())).unwrap_or_default();
        format!("[server]\nlisten = \"{}\"\ndata_dir = {:?}\n{tls}", self.grpc(name), self.data_dir(name))
    }

    /// `[peers]`: for each service names of processes, or addresses.
    pub fn peers(&self, name: &str, peers: &[(&str, &[&str])]) -> String {
        let url = |peer: &&str| if peer.contains("://") { peer.to_string() } else { self.url(peer) };
        let line = |(service, names): &(&str, &[&str])| {
            format!("{service} = {:?}\n", names.iter().map(url).collect::<Vec<_>>())
        };
        let tls = self.trust.as_ref().map(|trust| trust.peers(name, self.grpc(name).ip())).unwrap_or_default();
        format!("[peers]\n{}{tls}", peers.iter().map(line).collect::<String>())
    }
}

/// A free port of a loopback address that nobody else uses: it is still free when who listened there has ended.
fn reserve() -> SocketAddr {
    let [b, c, d] = rand::random::<[u8; 3]>();
    let at = Ipv4Addr::new(127, b.max(1), c, d.clamp(1, 254));
    TcpListener::bind((at, 0)).unwrap().local_addr().unwrap()
}
