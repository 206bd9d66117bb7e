//! What runs and how the sources are: sessions from accept to end, their counts, each source's health.
//!
//! Written by the listener and its sessions, read by the contract. The locks are std's, held for a look-up and never over
//! an await.

use crate::config::Config;
use godwit_kit::Host;
use godwit_kit::metrics::{Counter, Gauge, Metrics};
use godwit_kit::net::Net;
use godwit_proto::proxy::v1;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NAME: &str = "proxy";

pub(crate) struct Register {
    sessions: Mutex<Sessions>,
    sessions_max: usize,
    /// Source to whether it is on this host.
    sources: Mutex<BTreeMap<IpAddr, bool>>,
    /// What ListSources answers; its watchers are told of each change.
    listed: watch::Sender<Vec<v1::Source>>,
    /// Cancelled by Drain, once and for good.
    pub draining: CancellationToken,
    advertise: String,
    host: Host,
    pub totals: Totals,
}

#[derive(Default)]
struct Sessions {
    last: u64,
    open: BTreeMap<u64, Session>,
}

/// A session that runs; `destination` and `source` once it is a tunnel.
#[derive(Clone)]
pub(crate) struct Session {
    pub client: SocketAddr,
    pub destination: Option<SocketAddr>,
    pub source: Option<IpAddr>,
    pub started: SystemTime,
}

pub(crate) struct Totals {
    pub accepted: Counter,
    /// Turned away by us.
    pub refused: Counter,
    /// Allowed, but the destination was not reached; or the client went away first.
    pub failed: Counter,
    pub to_destination_bytes: Counter,
    pub to_client_bytes: Counter,
    active: Gauge,
}

impl Totals {
    fn new(metrics: &Metrics) -> Self {
        let ended =
            metrics.counters("godwit_proxy_sessions_total", "SOCKS5 sessions by what became of them", &["result"]);
        let bytes = metrics.counters("godwit_proxy_tunnel_bytes_total", "Bytes written through tunnels", &["towards"]);
        Self {
            accepted: ended.with_label_values(&["accepted"]),
            refused: ended.with_label_values(&["refused"]),
            failed: ended.with_label_values(&["failed"]),
            to_destination_bytes: bytes.with_label_values(&["destination"]),
            to_client_bytes: bytes.with_label_values(&["client"]),
            active: metrics.gauge("godwit_proxy_sessions_active_count", "SOCKS5 sessions open now"),
        }
    }
}

/// A session's place in the register; leaves it when dropped.
pub(crate) struct Open {
    register: Arc<Register>,
    id: u64,
}

impl Open {
    /// It is a tunnel from now on.
    pub fn connected(&self, destination: SocketAddr, source: IpAddr) {
        if let Some(session) = lock(&self.register.sessions).open.get_mut(&self.id) {
            (session.destination, session.source) = (Some(destination), Some(source));
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.register.sessions).open.remove(&self.id);
        self.register.totals.active.dec();
    }
}

impl Register {
    pub fn new(config: &Config, listen: SocketAddr, host: &Host) -> Self {
        let advertise = if config.advertise.is_empty() { listen.to_string() } else { config.advertise.clone() };
        let register = Self {
            sessions: Mutex::default(),
            sessions_max: config.sessions_max,
            sources: Mutex::new(config.sources.iter().map(|source| (source.to_canonical(), true)).collect()),
            listed: watch::Sender::default(),
            draining: CancellationToken::new(),
            advertise,
            host: host.clone(),
            totals: Totals::new(&host.metrics),
        };
        host.health.set(NAME, "listener", Ok(()));
        register.probe();
        register
    }

    /// Enters a session; `None` where `sessions_max` are open.
    pub fn open(self: &Arc<Self>, client: SocketAddr) -> Option<Open> {
        let mut sessions = lock(&self.sessions);
        if sessions.open.len() >= self.sessions_max {
            return None;
        }
        sessions.last += 1;
        let id = sessions.last;
        let session = Session { client, destination: None, source: None, started: self.host.clock.now() };
        sessions.open.insert(id, session);
        self.totals.active.inc();
        Some(Open { register: self.clone(), id })
    }

    pub fn active_count(&self) -> usize {
        lock(&self.sessions).open.len()
    }

    /// Up to `count` sessions behind the one with the id `after`.
    pub fn sessions(&self, after: Option<u64>, count: usize) -> Vec<(u64, Session)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sessions = lock(&self.sessions);
        sessions.open.range((from, Bound::Unbounded)).take(count).map(|(id, session)| (*id, session.clone())).collect()
    }

    pub fn listed(&self) -> watch::Receiver<Vec<v1::Source>> {
        self.listed.subscribe()
    }

    /// No new sessions from now on.
    pub fn drain(&self, reason: &str) {
        if !self.draining.is_cancelled() {
            tracing::info!(reason, active = self.active_count(), "draining");
            self.draining.cancel();
            self.host.health.set(NAME, "listener", Err(format!("draining: {reason}")));
            self.publish();
        }
    }

    /// A connection was made from `source`.
    pub fn worked(&self, source: IpAddr) {
        self.note(source, true);
    }

    /// The system said that `source` is not available: true where it is indeed not on this host.
    pub fn missed(&self, source: IpAddr) -> bool {
        let plumbed = is_plumbed(&self.host.net, source);
        self.note(source, plumbed);
        !plumbed
    }

    /// Looks at every source.
    pub fn probe(&self) {
        let sources: Vec<IpAddr> = lock(&self.sources).keys().copied().collect();
        for source in sources {
            self.note(source, is_plumbed(&self.host.net, source));
        }
        self.publish();
    }

    fn note(&self, source: IpAddr, plumbed: bool) {
        let before = match lock(&self.sources).get_mut(&source) {
            Some(known) => std::mem::replace(known, plumbed),
            None => return,
        };
        if before != plumbed {
            tracing::warn!(%source, plumbed, "source address");
            self.publish();
        }
    }

    /// Tells watchers, and readiness, where anything is other than before.
    fn publish(&self) {
        let sources = lock(&self.sources);
        let lacking = !sources.is_empty() && sources.values().all(|plumbed| !plumbed);
        let listed: Vec<_> = sources.iter().map(|(source, plumbed)| self.source(*source, *plumbed)).collect();
        self.listed.send_if_modified(|before| {
            let changed = *before != listed;
            *before = listed;
            changed
        });
        drop(sources);
        let state = if lacking { Err("no source address is on this host".into()) } else { Ok(()) };
        self.host.health.set(NAME, "sources", state);
    }

    fn source(&self, address: IpAddr, plumbed: bool) -> v1::Source {
        let health = match (self.draining.is_cancelled(), plumbed) {
            (true, _) => v1::Health::Draining,
            (false, true) => v1::Health::Ok,
            (false, false) => v1::Health::Unplumbed,
        };
        v1::Source {
            address: address.to_string(),
            health: health.into(),
            protocols: vec!["SOCKS5".into()],
            listen: self.advertise.clone(),
        }
    }
}

/// Looks at the sources every `interval`, so that one that comes back is known to be.
pub(crate) async fn probe(register: Arc<Register>, interval: Duration, host: Host) {
    let probe = async {
        loop {
            host.clock.sleep(interval).await;
            register.probe();
        }
    };
    host.stop.token().run_until_cancelled(probe).await;
}

/// Whether the address is on this host: whether a socket can have it. In memory all are.
fn is_plumbed(net: &Net, source: IpAddr) -> bool {
    match net {
        Net::Tcp => UdpSocket::bind((source, 0)).is_ok(),
        Net::Memory(_) => true,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
