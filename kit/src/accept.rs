//! The gRPC listener's connections, plain or TLS, each with what is known of its caller.

use crate::Host;
use crate::crowd::{Crowd, Limits, Place};
use crate::tls::{self, Holder};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// From the first byte to the last of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From the connection, or the handshake where there is one, to HTTP/2's first words, so many (RFC 9113 section 3.4).
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
const GREETING_BYTES: usize = 24;
/// How long a refused peer may take to read why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 << 10;
/// After an accept that failed, for want of file descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG_MAX: usize = 64;
/// A limit that is hit is said so often, and each time counted.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection, as far as the connection says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Without TLS: whoever may reach the port.
    Plain,
    /// With TLS, without a certificate.
    Anonymous,
    Certified(Holder),
}

/// One of them.
pub struct Connection {
    io: Io,
    caller: Caller,
    /// Wakes whoever reads when the listener's connections are cut.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    greeting: Option<Greeting>,
    _place: Place,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The client's first words, and until when they must have come: behind them HTTP/2's own pings find out who is gone.
struct Greeting {
    deadline: Pin<Box<Sleep>>,
    missing_bytes: usize,
}

/// How many may be in hand at once.
#[derive(Debug, Clone, Copy)]
pub struct Rooms {
    pub handshakes: Limits,
    pub connections: Limits,
}

impl Default for Rooms {
    fn default() -> Self {
        Self {
            handshakes: Limits { count_max: 1_024, per_address_max: 128 },
            connections: Limits { count_max: 4_096, per_address_max: 1_024 },
        }
    }
}

/// A listener of one process.
pub struct Entry {
    pub listener: TcpListener,
    pub tls: Option<tls::Server>,
    pub rooms: Rooms,
    /// Ends all connections, whatever they are at.
    pub cut: CancellationToken,
}

/// Accepts until the stop is asked for. Handshakes run beside each other, so that a slow one holds nobody up; who comes when
/// there is no place is closed at once.
pub fn connections(entry: Entry, host: &Host) -> mpsc::Receiver<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
    let stop = host.stop.clone();
    let refusals =
        host.metrics.counter("godwit_grpc_connections_refused_total", "Connections for which there was no place");
    host.stop.spawn(async move {
        let (handshakes, crowd) = (Crowd::new(entry.rooms.handshakes), Crowd::new(entry.rooms.connections));
        let mut told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.requested() => return,
                () = sender.closed() => return,
                accepted = accept(&entry.listener) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "gRPC: cannot accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let shake =
                entry.tls.as_ref().map(|tls| handshakes.enter(peer.ip()).map(|shaking| (tls.current(), shaking)));
            let entered = crowd.enter(peer.ip()).and_then(|place| Ok((place, shake.transpose()?)));
            let (place, shake) = match entered {
                Ok(entered) => entered,
                Err(full) => {
                    refusals.inc();
                    if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                        tracing::warn!(%peer, %full, "gRPC: connections refused");
                        told = Some(Instant::now());
                    }
                    continue;
                }
            };
            let (sender, stopped, cut) = (sender.clone(), stop.token(), entry.cut.clone());
            let entering = async move {
                let (io, caller) = match shake {
                    None => (Io::Plain(stream), Caller::Plain),
                    Some((config, _shaking)) => secure(stream, peer, config).await?,
                };
                sender.send(Ok(Connection::new(io, caller, place, cut))).await.ok()
            };
            stop.spawn(async move { stopped.run_until_cancelled(entering).await });
        }
    });
    receiver
}

impl Connection {
    fn new(io: Io, caller: Caller, place: Place, cut: CancellationToken) -> Self {
        let deadline = Box::pin(tokio::time::sleep(GREETING_TIME_MAX));
        let greeting = Some(Greeting { deadline, missing_bytes: GREETING_BYTES });
        Self { io, caller, cut: Box::pin(cut.cancelled_owned()), greeting, _place: place }
    }

    /// Nothing came: is it still to be waited for?
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.greeting {
            Some(greeting) => greeting.deadline.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }

    fn heard(&mut self, bytes: usize) {
        if let Some(greeting) = &mut self.greeting {
            greeting.missing_bytes = greeting.missing_bytes.saturating_sub(bytes);
        }
        if self.greeting.as_ref().is_some_and(|greeting| greeting.missing_bytes == 0) {
            self.greeting = None;
        }
    }
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

async fn secure(stream: TcpStream, peer: SocketAddr, config: Arc<rustls::ServerConfig>) -> Option<(Io, Caller)> {
    let handshake = TlsAcceptor::from(config).accept(stream).into_fallible();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let caller = certificate.map_or(Caller::Anonymous, |found| Caller::Certified(tls::holder(found)));
            Some((Io::Tls(Box::new(stream)), caller))
        }
        Ok(Err((error, stream))) => {
            tracing::warn!(%peer, %error, "gRPC: TLS handshake refused");
            let _ = tokio::time::timeout(LINGER, linger(stream)).await;
            None
        }
        Err(_) => {
            tracing::warn!(%peer, "gRPC: TLS handshake not finished in time");
            None
        }
    }
}

/// Closing with bytes unread would reset the connection and take the alert, which says why, away from the peer.
async fn linger(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await?;
    Ok(())
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, into),
        };
        match read {
            Poll::Pending => self.poll_end(context),
            Poll::Ready(read) => {
                self.heard(into.filled().len() - before);
                Poll::Ready(read)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::id::NodeId;
    use std::net::IpAddr;
    use tokio::net::TcpSocket;

    struct Listening {
        host: Host,
        at: SocketAddr,
        cut: CancellationToken,
        accepted: mpsc::Receiver<io::Result<Connection>>,
    }

    impl Listening {
        async fn start(tls: Option<tls::Server>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (host, at, cut) = (Host::new(NodeId::new()), listener.local_addr().unwrap(), CancellationToken::new());
            let room = Limits { count_max: 3, per_address_max: 2 };
            let rooms = Rooms { handshakes: room, connections: room };
            let accepted = connections(Entry { listener, tls, rooms, cut: cut.clone() }, &host);
            Self { host, at, cut, accepted }
        }

        async fn connect(&self, from: &str) -> TcpStream {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
            socket.connect(self.at).await.unwrap()
        }

        async fn next(&mut self) -> Connection {
            self.accepted.recv().await.unwrap().unwrap()
        }
    }

    async fn is_closed(mut stream: TcpStream) -> bool {
        matches!(
            stream.read_u8().await.map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
        )
    }

    #[tokio::test]
    async fn who_comes_when_there_is_no_place_is_closed_and_others_are_not() {
        let mut listening = Listening::start(None).await;
        let _held = (listening.connect("127.0.0.2").await, listening.connect("127.0.0.2").await);
        let (first, _second) = (listening.next().await, listening.next().await);
        assert!(is_closed(listening.connect("127.0.0.2").await).await);
        let _other = listening.connect("127.0.0.1").await;
        let _third = listening.next().await;
        assert!(is_closed(listening.connect("127.0.0.3").await).await);
        drop(first);
        let _again = listening.connect("127.0.0.2").await;
        listening.next().await;
        assert!(listening.host.metrics.text().contains("godwit_grpc_connections_refused_total 2"));
    }

    #[tokio::test]
    async fn silent_handshakes_of_one_address_hold_up_no_other() {
        let dir = std::env::temp_dir().join(format!("godwit-kit-{}", NodeId::new()));
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        crate::disk::write_all(&dir, &[("cert", &pair.cert.pem()), ("key", &pair.signing_key.serialize_pem())]);
        let files = tls::ServerFiles { cert: dir.join("cert"), key: dir.join("key"), ..tls::ServerFiles::default() };
        let mut listening = Listening::start(Some(tls::Server::load(files).unwrap())).await;
        let client = tls::ClientFiles { ca: dir.join("cert"), identity: None };
        let client = tls::Client::load(client).unwrap();
        crate::disk::remove_all(&dir);
        let _silent = (listening.connect("127.0.0.2").await, listening.connect("127.0.0.2").await);
        assert!(is_closed(listening.connect("127.0.0.2").await).await);
        let stream = listening.connect("127.0.0.1").await;
        let connector = tokio_rustls::TlsConnector::from(client.current());
        let _secured = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        assert_eq!(listening.next().await.caller, Caller::Anonymous);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_greet_is_waited_for_so_long() {
        let mut listening = Listening::start(None).await;
        let mut client = listening.connect("127.0.0.1").await;
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut connection = listening.next().await;
        let read = connection.read_exact(&mut [0; GREETING_BYTES]).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut client = listening.connect("127.0.0.1").await;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut connection = listening.next().await;
        connection.read_exact(&mut [0; GREETING_BYTES]).await.unwrap();
        let more = tokio::time::timeout(GREETING_TIME_MAX * 2, connection.read_u8()).await;
        assert!(more.is_err(), "who has greeted may be silent: {more:?}");
        listening.cut.cancel();
        let read = connection.read_u8().await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}
