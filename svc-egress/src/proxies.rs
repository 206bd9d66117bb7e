//! Which proxy owns which source address, as the proxies themselves say.

use futures::StreamExt;
use godwit_kit::Host;
use godwit_kit::peers::{Peer, Peers};
use godwit_proto::proxy::Proxy;
use godwit_proto::proxy::v1::{Health, Source, WatchSourcesRequest};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use tonic::Request;

/// What is known now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Arc<Mutex<HashMap<String, Vec<Owned>>>>);

/// An address to send from, and the SOCKS5 listener that does.
type Owned = (IpAddr, SocketAddr);

impl Proxies {
    /// Watches every proxy until the stop.
    pub fn watch(peers: &Peers<Proxy>, host: &Host) -> Self {
        let proxies = Self::default();
        for peer in peers.each() {
            let (proxies, host) = (proxies.clone(), host.clone());
            let stop = host.stop.clone();
            stop.spawn(async move { proxies.watch_one(peer, &host).await });
        }
        proxies
    }

    /// The SOCKS5 listeners of the proxies that can send from `address`.
    pub fn of(&self, address: IpAddr) -> Vec<SocketAddr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listeners: Vec<SocketAddr> =
            known.values().flatten().filter(|(owned, _)| *owned == address).map(|(_, listen)| *listen).collect();
        listeners.sort_unstable();
        listeners.dedup();
        listeners
    }

    async fn watch_one(&self, peer: Peer<Proxy>, host: &Host) {
        let mut failures = 0;
        while !host.stop.is_requested() {
            let watching = async {
                match peer.handle.watch_sources(Request::new(WatchSourcesRequest {})).await {
                    Ok(answer) => {
                        let mut answers = answer.into_inner();
                        while let Some(Ok(answer)) = answers.next().await {
                            self.set(&peer.name, &answer.sources);
                            failures = 0;
                        }
                    }
                    Err(status) => tracing::debug!(proxy = %peer.name, %status, "proxy cannot be watched"),
                }
                failures += 1;
                host.clock.sleep(crate::plan::call_backoff(failures)).await;
            };
            tokio::select! {
                () = watching => {}
                () = host.stop.requested() => return,
            }
        }
    }

    fn set(&self, proxy: &str, sources: &[Source]) {
        let usable = sources.iter().filter(|source| source.health() == Health::Ok);
        let owned = usable.filter_map(|source| Some((source.address.parse().ok()?, source.listen.parse().ok()?)));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(proxy.into(), owned.collect());
    }
}
