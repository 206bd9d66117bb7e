//! A process that is being built: the host it gives to its services, the roads to its peers, and what it serves.
//!
//! Built leaves first, by whoever places services: one in a process of its own, or all of them.

use crate::config::{Peers as PeersSection, Server as ServerSection, Telemetry};
use crate::connect::{self, Road};
use crate::forward::Forward;
use crate::peers::{Peer, Peers};
use crate::serve::{self, Entrance};
use crate::tokens::Tokens;
use crate::{Host, health, tls};
use godwit_proto::Wire;
use http::{Request, Response};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};

/// Why a process cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("server.tls: {0}")]
    ServerTls(tls::Error),
    #[error("peers.tls: {0}")]
    PeersTls(tls::Error),
    #[error("peers.{service}: {error}")]
    Road { service: &'static str, error: connect::Error },
    #[error("telemetry.listen = {at}: {error}")]
    Tell { at: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Serve(#[from] serve::Error),
}

/// What is being built.
pub struct House {
    pub host: Host,
    /// Spool, TSA state, node id.
    pub data_dir: PathBuf,
    roads: BTreeMap<&'static str, Vec<Road>>,
    routes: RoutesBuilder,
    entrance: Entrance,
    placed: Vec<(&'static str, &'static [&'static str])>,
    forwards: bool,
}

impl House {
    /// The roads are there at once; they connect when they are used. Must be called within a runtime.
    ///
    /// # Errors
    /// Certificates that cannot be used, and addresses that cannot.
    pub fn new(server: &ServerSection, peers: &PeersSection, tokens: Tokens, host: &Host) -> Result<Self, Error> {
        let own = server.tls.load().map_err(Error::ServerTls)?;
        own.iter().for_each(|tls| tls.watch("server.tls", host));
        let shown = peers.tls.load().map_err(Error::PeersTls)?;
        shown.iter().for_each(|tls| tls.watch("peers.tls", host));
        let mut roads = BTreeMap::new();
        for (service, addresses) in peers.all() {
            let open = |address: &String| {
                connect::road(address, shown.as_ref()).map_err(|error| Error::Road { service, error })
            };
            roads.insert(service, addresses.iter().map(open).collect::<Result<Vec<_>, _>>()?);
        }
        let entrance = Entrance { listen: server.listen, tls: own, tokens };
        let (host, data_dir) = (host.clone(), server.data_dir.clone());
        Ok(Self { host, data_dir, roads, routes: Routes::builder(), entrance, placed: Vec::new(), forwards: false })
    }

    /// Serves a contract. Wrap the generated server in [`sized!`](crate::sized).
    pub fn serve<S>(&mut self, server: S)
    where
        S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(server);
    }

    /// A service runs here, and says so to health checks; `needs` are those that it cannot do without.
    pub fn placed(&mut self, service: &'static str, needs: &'static [&'static str]) {
        self.host.health.set(service, "started", Ok(()));
        self.placed.push((service, needs));
    }

    /// The first peer of a service of which a process has one.
    pub fn first<T>(&self, service: &str, at: impl Fn(Wire) -> T) -> Option<T> {
        self.roads(service).first().map(|road| at(road.wire.clone()))
    }

    /// The one that runs here, if any, and the peers.
    pub fn all<T: Clone>(&self, service: &str, own: Option<T>, at: impl Fn(Wire) -> T) -> Peers<T> {
        let own = own.map(|handle| Peer::here(self.host.node, handle));
        Peers::new(own.into_iter().chain(self.roads(service).iter().map(|road| road.peer(&at))).collect())
    }

    /// Calls for services that do not run here are handed on to the peers that run them.
    pub fn forward(&mut self) {
        self.forwards = true;
    }

    /// Metrics and health over HTTP, where `[telemetry]` asks for it.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub async fn tell(&self, telemetry: &Telemetry) -> Result<(), Error> {
        let Some(at) = telemetry.listen else { return Ok(()) };
        let bound = crate::http::serve(&self.host, at).await.map_err(|error| Error::Tell { at, error })?;
        tracing::info!(at = %bound, "metrics and health over HTTP");
        Ok(())
    }

    /// Listens; from here on others may call. Returns the bound address.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub async fn open(self) -> Result<SocketAddr, Error> {
        self.watch_dependencies();
        let elsewhere: Vec<_> = if self.forwards { self.elsewhere() } else { Vec::new() };
        let mut routes = self.routes.routes();
        for (contract, forward) in elsewhere {
            let router = std::mem::take(routes.axum_router_mut());
            *routes.axum_router_mut() = router.route_service(&format!("/{contract}/{{*call}}"), forward);
        }
        Ok(serve::serve(&self.host, self.entrance, routes).await?)
    }

    /// By contract: what is not placed here and has peers.
    fn elsewhere(&self) -> Vec<(&'static str, Forward)> {
        let here = |service: &str| self.placed.iter().any(|(placed, _)| *placed == service);
        let roads = self.roads.iter().filter(|(service, roads)| !here(service) && !roads.is_empty());
        roads
            .flat_map(|(service, roads)| {
                let forward = Forward::new(roads);
                health::contract_names(service).iter().map(move |contract| (*contract, forward.clone()))
            })
            .collect()
    }

    fn roads(&self, service: &str) -> &[Road] {
        self.roads.get(service).map_or(&[], Vec::as_slice)
    }

    /// A service is ready while each service that it needs answers, here or at one of its peers.
    fn watch_dependencies(&self) {
        for (dependency, roads) in self.roads.iter().filter(|(_, roads)| !roads.is_empty()) {
            let needing = |(_, needs): &&(&str, &'static [&'static str])| needs.contains(dependency);
            let here = self.placed.iter().any(|(service, _)| service == dependency);
            // What runs here as well does not wait for its peers; the probe still learns which nodes they are.
            let dependents = if here {
                Vec::new()
            } else {
                self.placed.iter().filter(needing).map(|(service, _)| *service).collect()
            };
            self.host.stop.spawn(health::probe(self.host.clone(), dependents, dependency, roads.clone()));
        }
    }
}

/// A generated server with the sizes that mail needs.
#[macro_export]
macro_rules! sized {
    ($server:expr) => {
        $server.max_decoding_message_size($crate::CALL_BYTES_MAX).max_encoding_message_size($crate::CALL_BYTES_MAX)
    };
}
