//! Opens connections to a site's hosts, from a source and past the guard; says whose fault it is where none opens.

use crate::guard::Guard;
use crate::proxies::Proxies;
use crate::route::Router;
use crate::site::Host;
use crate::socks5;
use crate::source::{Source, Via};
use godwit_kit::net::{Connection, Net};
use godwit_proto::common::v1::SmtpReply;
use godwit_shaping::Path;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long a proxy may take until it waits for nothing but the destination.
const PROXY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// The source cannot send at all: its address is not here, its proxies are away.
    Source(String),
    /// This destination does not work; another may.
    Host(SmtpReply),
    /// We do not go there.
    Forbidden(SmtpReply),
    /// A limit on connections is used up.
    Throttled { wait: Duration, key: String },
}

/// One address to try, and by which name it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: String,
    pub at: SocketAddr,
}

/// Knows the ways. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    pub net: Net,
    pub router: Router,
    pub guard: std::sync::Arc<Guard>,
    pub proxies: Proxies,
}

impl Dialer {
    /// The addresses of a host that this path and source may try.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn targets(&self, host: &Host, path: &Path, source: &Source) -> Result<Vec<Target>, Failure> {
        let strategy = path.connections.ip_lookup_strategy;
        let found = self
            .router
            .addresses(&host.name, strategy)
            .await
            .map_err(|why| host_failure((4, 4, 3), format!("DNS lookup of {} failed: {why}", host.name)))?;
        let fits = |address: &IpAddr| source.address.is_none_or(|from| from.is_ipv4() == address.is_ipv4());
        // An IPv4 address in IPv6 clothes is judged, and connected to, as what it is.
        let found = found.into_iter().map(|address| address.to_canonical());
        let candidates: Vec<IpAddr> = found.filter(fits).collect();
        if candidates.is_empty() {
            return Err(host_failure((4, 4, 4), format!("{} has no address that can be used", host.name)));
        }
        let allowed: Vec<IpAddr> =
            candidates.into_iter().filter(|address| self.permits(*address, host, path)).collect();
        if allowed.is_empty() {
            let text = format!("{} is at an address that mail is not sent to", host.name);
            return Err(Failure::Forbidden(SmtpReply::internal(550, (5, 4, 4), text)));
        }
        let skips = |address: &IpAddr| path.connections.skip_hosts.iter().any(|network| network.contains(address));
        let port = host.port.unwrap_or(path.connections.smtp_port);
        let target = |address| Target { name: host.name.clone(), at: SocketAddr::new(address, port) };
        let targets: Vec<Target> = allowed.into_iter().filter(|address| !skips(address)).map(target).collect();
        if targets.is_empty() {
            return Err(host_failure((4, 4, 4), format!("{} has only addresses that are skipped", host.name)));
        }
        Ok(targets)
    }

    /// Opens a connection to exactly this address.
    ///
    /// # Errors
    /// As in [`Failure`].
    pub async fn open(&self, source: &Source, target: &Target, timeout: Duration) -> Result<Connection, Failure> {
        match &source.via {
            Via::Direct => in_time(timeout, target, self.direct(source, target)).await,
            Via::Socks5(proxies) => self.through(proxies, source, (target, timeout)).await,
            Via::Socks5Auto => {
                let proxies = source.address.map(|address| self.proxies.of(address)).unwrap_or_default();
                self.through(&proxies, source, (target, timeout)).await
            }
        }
    }

    fn permits(&self, address: IpAddr, host: &Host, path: &Path) -> bool {
        let prohibited =
            |address: &IpAddr| path.connections.prohibited_hosts.iter().any(|network| network.contains(address));
        let allowed = self.guard.allow_networks.iter().any(|network| network.contains(&address));
        host.trusted || allowed || (self.guard.permits(address) && !prohibited(&address))
    }

    async fn direct(&self, source: &Source, target: &Target) -> Result<Connection, Failure> {
        self.net.connect(target.at, source.address).await.map_err(|error| match (error.kind(), source.address) {
            (io::ErrorKind::AddrNotAvailable, Some(address)) => {
                Failure::Source(format!("source address {address} is not on this host"))
            }
            (_, _) => host_failure((4, 4, 1), format!("Connection to {} failed: {error}", target.text())),
        })
    }

    /// The first proxy that works; the list is in the configuration's order, so that the first is the preferred one.
    async fn through(
        &self,
        proxies: &[SocketAddr],
        source: &Source,
        to: (&Target, Duration),
    ) -> Result<Connection, Failure> {
        let mut last = Failure::Source(format!("no proxy is known for source {}", source.name));
        for proxy in proxies {
            match self.through_one(*proxy, source, to).await {
                Err(Failure::Source(why)) => last = Failure::Source(why),
                result => return result,
            }
        }
        Err(last)
    }

    /// A proxy that is silent is not the destination's fault: the destination's time begins once the proxy is ready.
    async fn through_one(
        &self,
        proxy: SocketAddr,
        source: &Source,
        (target, timeout): (&Target, Duration),
    ) -> Result<Connection, Failure> {
        let of_proxy = |why: String| Failure::Source(format!("proxy {proxy}: {why}"));
        let ready = async {
            let mut connection = self.net.connect(proxy, None).await?;
            socks5::prepare(&mut *connection.stream, source.credentials.as_ref(), source.address).await?;
            Ok::<_, socks5::Error>(connection)
        };
        let ready = tokio::time::timeout(timeout.min(PROXY_TIMEOUT), ready).await;
        let ready = ready.map_err(|_| of_proxy("no answer in time".into()))?;
        let mut connection = ready.map_err(|error| of_proxy(error.to_string()))?;
        let asked = async { Ok(socks5::connect(&mut *connection.stream, target.at).await) };
        let local = in_time(timeout, target, asked).await?.map_err(|error| match error {
            socks5::Error::Destination(why) => {
                host_failure((4, 4, 1), format!("Connection to {} failed: {why}", target.text()))
            }
            socks5::Error::Io(_)
            | socks5::Error::Protocol
            | socks5::Error::Credentials
            | socks5::Error::Source { .. } => of_proxy(error.to_string()),
        })?;
        Ok(Connection { stream: connection.stream, peer: target.at, local })
    }
}

impl Target {
    fn text(&self) -> String {
        if self.name == self.at.ip().to_string() { self.at.to_string() } else { format!("{} ({})", self.name, self.at) }
    }
}

/// Waits for a destination as long as its path says.
async fn in_time<T>(
    timeout: Duration,
    target: &Target,
    opening: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let timed_out = |_| host_failure((4, 4, 1), format!("Connection to {} timed out", target.text()));
    tokio::time::timeout(timeout, opening).await.map_err(timed_out)?
}

fn host_failure(enhanced: (u32, u32, u32), text: String) -> Failure {
    Failure::Host(SmtpReply::internal(451, enhanced, text))
}
