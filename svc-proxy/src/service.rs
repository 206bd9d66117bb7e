//! The contract: what stands in the register, told; and the one order, to drain.

use crate::error::Error;
use crate::register::{Register, Session};
use futures::StreamExt;
use godwit_kit::Host;
use godwit_proto::Replies;
use godwit_proto::common::v1::{Page, Peer};
use godwit_proto::convert;
use godwit_proto::proxy::{ProxyService, v1};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tracing::info_span;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;
const REASON_BYTES_MAX: usize = 1_024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Service {
    register: Arc<Register>,
    listen: SocketAddr,
    host: Host,
}

impl Service {
    pub(crate) fn new(register: Arc<Register>, listen: SocketAddr, host: &Host) -> Self {
        Self { register, listen, host: host.clone() }
    }

    /// Where the SOCKS5 listener was bound.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }
}

#[tonic::async_trait]
impl ProxyService for Service {
    async fn list_sources(
        &self,
        _: Request<v1::ListSourcesRequest>,
    ) -> Result<Response<v1::ListSourcesResponse>, Status> {
        let _span = info_span!("proxy.list_sources").entered();
        let sources = self.register.listed().borrow().clone();
        Ok(Response::new(v1::ListSourcesResponse { sources }))
    }

    type WatchSourcesStream = Replies<v1::WatchSourcesResponse>;

    async fn watch_sources(
        &self,
        _: Request<v1::WatchSourcesRequest>,
    ) -> Result<Response<Self::WatchSourcesStream>, Status> {
        let _span = info_span!("proxy.watch_sources").entered();
        let changes = WatchStream::new(self.register.listed());
        let stop = self.host.stop.token();
        let replies = changes
            .map(|sources| Ok(v1::WatchSourcesResponse { sources }))
            .take_until(async move { stop.cancelled_owned().await });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let _span = info_span!("proxy.status").entered();
        let totals = &self.register.totals;
        Ok(Response::new(v1::StatusResponse {
            active_session_count: self.register.active_count() as u64,
            accepted_total: totals.accepted.get(),
            refused_total: totals.refused.get(),
            failed_total: totals.failed.get(),
            client_to_destination_bytes_total: totals.to_destination_bytes.get(),
            destination_to_client_bytes_total: totals.to_client_bytes.get(),
            draining: self.register.draining.is_cancelled(),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let _span = info_span!("proxy.list_sessions").entered();
        let (size, after) = page(request.into_inner().page.unwrap_or_default())?;
        let sessions = self.register.sessions(after, size);
        let last = sessions.last().filter(|_| sessions.len() == size);
        let next_token = last.map(|(id, _)| session_id(*id)).unwrap_or_default();
        let sessions = sessions.into_iter().map(|(id, session)| told(id, session)).collect();
        Ok(Response::new(v1::ListSessionsResponse { sessions, next_token }))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<v1::DrainResponse>, Status> {
        let _span = info_span!("proxy.drain").entered();
        let reason = request.into_inner().reason;
        if reason.len() > REASON_BYTES_MAX {
            let what = format!("must be at most {REASON_BYTES_MAX} bytes");
            return Err(Error::Invalid { field: "reason", what }.into());
        }
        self.register.drain(&reason);
        Ok(Response::new(v1::DrainResponse { active_session_count: self.register.active_count() as u64 }))
    }
}

/// How many, and behind which session.
fn page(page: Page) -> Result<(usize, Option<u64>), Error> {
    let size = match page.size as usize {
        0 => PAGE_SIZE_DEFAULT,
        size if size <= PAGE_SIZE_MAX => size,
        _ => return Err(Error::Invalid { field: "page.size", what: format!("must be at most {PAGE_SIZE_MAX}") }),
    };
    if page.token.is_empty() {
        return Ok((size, None));
    }
    let id = page.token.strip_prefix(SESSION).and_then(|id| u64::from_str_radix(id, 16).ok());
    let invalid = || Error::Invalid { field: "page.token", what: "not a token of this service".into() };
    Ok((size, Some(id.ok_or_else(invalid)?)))
}

const SESSION: &str = "session_";

/// Numbered from the start of the process.
fn session_id(id: u64) -> String {
    format!("{SESSION}{id:016x}")
}

fn told(id: u64, session: Session) -> v1::Session {
    let peer = |at: SocketAddr| Peer { name: String::new(), address: at.ip().to_string(), port: at.port().into() };
    v1::Session {
        session_id: session_id(id),
        client: Some(peer(session.client)),
        destination: session.destination.map(peer),
        source_address: session.source.map(|source| source.to_string()).unwrap_or_default(),
        started: Some(convert::timestamp(session.started)),
    }
}
