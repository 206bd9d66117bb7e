//! The make-believe DNS: the zone `example`, in which each domain has one mail host, on loopback.

use anyhow::{Context, Result, ensure};
use hickory_server::Server;
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::proto::rr::rdata::{A, MX, SOA};
use hickory_server::proto::rr::{Name, RData, Record};
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneType};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;

/// Reserved for such worlds (RFC 2606 section 2): nothing of it is in the real DNS.
const ZONE: &str = "example.";
const SERIAL: u32 = 1;
const TTL_SECONDS: u32 = 60;

/// A running server. It ends when dropped.
pub struct Dns {
    pub at: SocketAddr,
    _server: Server<Catalog>,
}

/// The host that takes a domain's mail.
pub fn mail_host(domain: &str) -> String {
    format!("mx.{domain}")
}

impl Dns {
    /// Knows these domains of the zone; others do not exist.
    ///
    /// # Errors
    /// A domain that is none of the zone, or no port.
    pub async fn start(domains: impl IntoIterator<Item = &str>) -> Result<Self> {
        let zone = zone(domains)?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for the DNS")?;
        let at = socket.local_addr()?;
        let mut catalog = Catalog::new();
        catalog.upsert(name(ZONE)?.into(), vec![Arc::new(zone)]);
        let mut server = Server::new(catalog);
        server.register_socket(socket);
        Ok(Self { at, _server: server })
    }
}

fn zone<'a>(domains: impl IntoIterator<Item = &'a str>) -> Result<InMemoryZoneHandler> {
    let origin = name(ZONE)?;
    let mut zone =
        InMemoryZoneHandler::<TokioRuntimeProvider>::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny);
    let mut add = |owner: Name, data: RData| {
        let added = zone.upsert_mut(Record::from_rdata(owner.clone(), TTL_SECONDS, data), SERIAL);
        ensure!(added, "{owner} is not of the zone {ZONE}");
        Ok(())
    };
    let times = TTL_SECONDS as i32;
    let soa = SOA::new(name("ns.example.")?, name("postmaster.example.")?, SERIAL, times, times, times, TTL_SECONDS);
    add(origin, RData::SOA(soa))?;
    for domain in domains {
        let host = name(&mail_host(domain))?;
        add(name(domain)?, RData::MX(MX::new(10, host.clone())))?;
        add(host, RData::A(A(Ipv4Addr::LOCALHOST)))?;
    }
    Ok(zone)
}

fn name(text: &str) -> Result<Name> {
    let mut name = Name::from_ascii(text).with_context(|| format!("{text} is no name"))?;
    name.set_fqdn(true);
    Ok(name)
}
