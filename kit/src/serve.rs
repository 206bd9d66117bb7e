//! The gRPC server of a process: its layers, reflection, health, and the listener with a graceful end.

use crate::accept::{self, Caller, Entry, Rooms};
use crate::metrics::Counters;
use crate::roles::{self, Role};
use crate::tokens::{Shown, Tokens};
use crate::{Host, connect, health, tls, trace};
use futures::future::Either;
use http::{HeaderValue, Request, Response};
use opentelemetry::context::FutureExt;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::{Layer, Service};

const KEEP_ALIVE: Duration = Duration::from_secs(20);
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const CALLS_PER_CONNECTION_MAX: usize = 4_096;
/// Streams that are answered for as long as they last are no longer counted as calls.
const STREAMS_PER_CONNECTION_MAX: u32 = 8_192;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// How long calls under way may take after a stop; then they are cut, and clients that say nothing cannot hold it up.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(15);

/// Why a process does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("server.listen = {at}: {error}")]
    Listen { at: SocketAddr, error: std::io::Error },
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Where a process listens, and whom it lets in.
#[derive(Debug, Clone)]
pub struct Entrance {
    pub listen: SocketAddr,
    pub tls: Option<tls::Server>,
    /// Callers that show a token instead of a certificate.
    pub tokens: Tokens,
}

/// Serves `routes`, with reflection and health, until the host stops. Returns once it listens, with the bound address.
///
/// # Errors
/// An address that cannot be listened at.
pub async fn serve(host: &Host, entrance: Entrance, routes: Routes) -> Result<SocketAddr, Error> {
    let Entrance { listen: at, tls, tokens } = entrance;
    let refused = |error| Error::Listen { at, error };
    let listener = TcpListener::bind(at).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    host.stop.spawn(health::report(host.clone(), reporter));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(godwit_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        // More at once from one connection is refused, not queued.
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION_MAX)
        .load_shed(true)
        // Who may call, whose trace it is, who answers.
        .layer(Door::new(host, tokens))
        .add_routes(routes)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?);
    let (stop, cut) = (host.stop.clone(), CancellationToken::new());
    let entry = Entry { listener, tls, rooms: Rooms::default(), cut: cut.clone() };
    let connections = ReceiverStream::new(accept::connections(entry, host));
    host.stop.spawn(async move {
        let stopped = stop.token().cancelled_owned();
        let served = router.serve_with_incoming_shutdown(connections, stopped);
        let late = async {
            stop.requested().await;
            tokio::time::sleep(DRAIN_TIME_MAX).await;
        };
        tokio::select! {
            served = served => {
                let _ = served.inspect_err(|error| tracing::error!(%error, "gRPC server ended"));
            }
            () = late => {
                cut.cancel();
                tracing::info!("gRPC connections cut");
            }
        }
    });
    Ok(bound)
}

/// What every call passes on its way in.
#[derive(Debug, Clone)]
pub struct Door {
    node: HeaderValue,
    tokens: Tokens,
    calls: Counters,
}

impl Door {
    fn new(host: &Host, tokens: Tokens) -> Self {
        let node = HeaderValue::try_from(host.node.to_string()).expect("a node id is ASCII");
        let calls = host.metrics.counters("godwit_grpc_calls_total", "Calls that came in, by call", &["call"]);
        Self { node, tokens, calls }
    }

    /// Who calls, by a token before a certificate: who shows one wants to be held to it. Callers over plaintext are told
    /// apart by nothing else: who may reach the port is a peer. Configuration refuses plaintext beyond loopback unless it is
    /// allowed in so many words.
    fn role(&self, request: &Request<Body>) -> Result<Role, String> {
        match (self.tokens.shown(request.headers()), request.extensions().get::<Caller>()) {
            (Shown::Known(holder), _) => Ok(holder.role),
            (Shown::Unknown, _) => Err("the token is not known here".into()),
            (Shown::Nothing, Some(Caller::Plain) | None) => Ok(Role::Peer),
            (Shown::Nothing, Some(Caller::Anonymous)) => Err("no client certificate and no token was shown".into()),
            (Shown::Nothing, Some(Caller::Certified(holder))) => holder.role.ok_or_else(|| {
                format!("the certificate of {:?} names no role in its organizational unit, or several", holder.name)
            }),
        }
    }

    /// # Errors
    /// What a door says of a caller, not of a call: not one of the services' codes, and no near call can have it.
    fn admits(&self, request: &Request<Body>) -> Result<(), Status> {
        let path = request.uri().path();
        let Some(needed) = roles::needed(path) else { return Ok(()) };
        // Only calls that are in the table: a label that no stranger can choose.
        if roles::listed(path).is_some() {
            self.calls.with_label_values(&[path]).inc();
        }
        let refused = match self.role(request) {
            Ok(role) if role.may(needed) => return Ok(()),
            Ok(role) => format!("the role {} may not call {path}", role.name()),
            Err(why) => why,
        };
        tracing::warn!(path, caller = ?request.extensions().get::<Caller>(), refused, "call refused");
        Err(Status::permission_denied(format!("{refused}; the call needs the role {}", needed.name())))
    }
}

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, door: self.clone() }
    }
}

/// A service behind the [`Door`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    door: Door,
}

/// A call that is too large is refused by the codec with `OutOfRange`. Services, which near calls reach without a codec,
/// say `InvalidArgument` of it; so does this.
fn as_near(mut response: Response<Body>) -> Response<Body> {
    let code = |code: tonic::Code| HeaderValue::from(code as i32);
    if let Some(status) = response.headers_mut().get_mut(Status::GRPC_STATUS)
        && *status == code(tonic::Code::OutOfRange)
    {
        *status = code(tonic::Code::InvalidArgument);
    }
    response
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let node = self.door.node.clone();
        let answer = match self.door.admits(&request) {
            Ok(()) => {
                let caller = trace::extract(request.headers());
                Either::Left(self.inner.call(request).with_context(caller))
            }
            Err(refusal) => Either::Right(ready(Ok(refusal.into_http()))),
        };
        Box::pin(async move {
            let mut response = as_near(answer.await?);
            // One that was handed on says whose it is.
            response.headers_mut().entry(connect::NODE_ID).or_insert(node);
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::id::NodeId;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// A client that greets and then is silent: it answers neither the farewell nor a ping.
    #[tokio::test(start_paused = true)]
    async fn connections_that_do_not_end_are_cut_after_a_stop() {
        let host = Host::new(NodeId::new());
        let listen = "127.0.0.1:0".parse().unwrap();
        let entrance = Entrance { listen, tls: None, tokens: Tokens::default() };
        let at = serve(&host, entrance, Routes::default()).await.unwrap();
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        client.read_u8().await.unwrap();
        let began = tokio::time::Instant::now();
        host.stop.request();
        let _ = client.read_to_end(&mut Vec::new()).await;
        // On the test's clock; the server's own pings would find out only later.
        assert_eq!(began.elapsed().as_secs(), DRAIN_TIME_MAX.as_secs());
        assert!(host.stop.finish(Duration::from_secs(1)).await);
    }

    #[test]
    fn the_door_opens_to_strangers_for_nothing_but_health_and_reflection() {
        let door = Door::new(&Host::new(NodeId::new()), Tokens::default());
        let asked = |path: &str, caller: Caller| {
            let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(caller);
            door.admits(&request).map_err(|status| status.message().to_string())
        };
        let service = "godwit.queue.v1.QueueService";
        for path in ["Lease", "Lease/", "%4Cease", "Later", ""].map(|call| format!("/{service}/{call}")) {
            let refused = asked(&path, Caller::Anonymous).unwrap_err();
            assert!(refused.contains("no client certificate") && refused.contains("role peer"), "{path}: {refused}");
            assert_eq!(asked(&path, Caller::Plain), Ok(()), "{path}");
        }
        assert_eq!(asked("/grpc.health.v1.Health/Check", Caller::Anonymous), Ok(()));
    }

    #[test]
    fn a_call_too_large_is_refused_far_as_near() {
        let told = |status: Status| as_near(status.into_http()).headers()[Status::GRPC_STATUS].clone();
        assert_eq!(told(Status::out_of_range("too large")), "3");
        assert_eq!(told(Status::unavailable("away")), "14");
    }
}
