//! The road to a peer: a channel with Godwit's settings, and the layers that every call passes.

use crate::dial::Dial;
use crate::peers::{NodeCell, Peer};
use crate::target::{self, Target};
use crate::{tls, trace};
use futures::stream;
use godwit_proto::{Wire, wire};
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tower::{BoxError, ServiceBuilder};

/// Set on the Status of a call that found no connection, and so was surely not begun.
pub const NOT_SENT: &str = "godwit-not-sent";
/// The header in which a server says which node it is.
pub const NODE_ID: &str = "godwit-node-id";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const PIPE_BYTES_MAX: usize = 256 << 10;

/// The road to one peer. It connects when it is used, and again after a break.
#[derive(Clone, Debug)]
pub struct Road {
    pub address: String,
    pub wire: Wire,
    /// Learned from its answers.
    pub node: NodeCell,
    up: Arc<AtomicBool>,
}

impl Road {
    /// Whether the peer answered that it serves when it was last asked; so until it is asked.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
    }

    /// The peer, with a handle made by one of `godwit_proto`'s `at` functions.
    pub fn peer<T>(&self, at: impl FnOnce(Wire) -> T) -> Peer<T> {
        Peer { name: self.address.clone(), handle: at(self.wire.clone()), node: self.node.clone() }
    }
}

/// Why there is no road.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{address:?}: {error}")]
    Address { address: String, error: target::Error },
    #[error("{address} asks for TLS, and no authority is set for it")]
    NoTls { address: String },
}

/// Opens the road to `address`, `http://host:port`, or `https://host:port` for TLS. Must be called within a runtime.
///
/// # Errors
/// An address that is none, or that asks for TLS where `tls` is none.
pub fn road(address: &str, tls: Option<&tls::Client>) -> Result<Road, Error> {
    let refused = |error| Error::Address { address: address.into(), error };
    let target: Target = address.parse().map_err(refused)?;
    let tls = match (target.secure, tls) {
        (false, _) => None,
        (true, Some(tls)) => Some(tls.clone()),
        (true, None) => return Err(Error::NoTls { address: address.into() }),
    };
    // The dial secures the connection; the channel is not to ask for it once more.
    let channel = Endpoint::from_shared(format!("http://{}", target.authority()))
        .map_err(|_| refused(target::Error::Form))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(Dial { host: target.host, port: target.port, tls });
    let node = NodeCell::default();
    Ok(Road {
        address: address.to_string(),
        wire: layered(channel, address, node.clone()),
        node,
        up: Arc::new(AtomicBool::new(true)),
    })
}

/// The road to one service through HTTP/2 over a pipe in memory: the whole way that a far call goes, but for the socket.
/// Contract tests pass each case near and on this road. Must be called within a runtime; ends with it.
pub fn pipe<S>(service: S) -> Wire
where
    S: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let (near, far) = tokio::io::duplex(PIPE_BYTES_MAX);
    // The server lives as long as the one connection.
    let incoming = stream::once(ready(Ok::<_, io::Error>(far)));
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let near = Mutex::new(Some(near));
    let connector = tower::service_fn(move |_: http::Uri| {
        let pipe = near.lock().unwrap_or_else(PoisonError::into_inner).take();
        ready(pipe.map(TokioIo::new).ok_or_else(|| io::Error::other("a pipe connects once")))
    });
    layered(Endpoint::from_static("http://pipe").connect_with_connector_lazy(connector), "pipe", NodeCell::default())
}

/// A channel under the caller's layers. Read from top to bottom.
fn layered(channel: Channel, address: &str, node: NodeCell) -> Wire {
    let address = address.to_string();
    wire(
        ServiceBuilder::new()
            // The current span's context goes along.
            .map_request(|mut request: Request<Body>| {
                trace::inject(request.headers_mut());
                request
            })
            // Whose answer it is.
            .map_response(move |response: Response<Body>| {
                learn(&address, &node, &response);
                response
            })
            // What never left is told apart from what may have arrived.
            .map_err(|error: tonic::transport::Error| status(error.into()))
            .service(channel),
    )
}

fn learn(address: &str, node: &NodeCell, response: &Response<Body>) {
    if let Some(now) = response.headers().get(NODE_ID).and_then(|id| id.to_str().ok()?.parse().ok())
        && let Some(before) = node.learn(now)
    {
        tracing::info!(address, %before, %now, "another node answers at this address");
    }
}

fn status(error: BoxError) -> Status {
    let unconnected = is_connect_error(error.as_ref());
    let why = causes(error.as_ref());
    let mut status = Status::from_error(error);
    if unconnected {
        status = Status::unavailable(why);
        status.metadata_mut().insert(NOT_SENT, MetadataValue::from_static("1"));
    }
    status
}

/// What an error says, and what its causes add to it.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn is_connect_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::surely_not_started;
    use godwit_proto::throttle::{self, v1::ListRequest};

    #[tokio::test]
    async fn an_unreachable_peer_is_unavailable_and_surely_not_started() {
        let throttle = throttle::at(road("http://127.0.0.1:1", None).unwrap().wire);
        let status = throttle.list(tonic::Request::new(ListRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(surely_not_started(&status), "{status:?}");
    }
}
