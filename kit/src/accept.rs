//! The gRPC listener's connections, plain or TLS, each with what is known of its caller.

use crate::stop::Stop;
use crate::tls::{self, Holder};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// From the first byte to the last of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait in the listener's queue.
const HANDSHAKES_MAX: usize = 256;
/// How long a refused peer may take to read why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 64 << 10;
/// After an accept that failed, for want of file descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);
const BACKLOG_MAX: usize = 64;

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
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Accepts until the stop is asked for. Handshakes run beside each other, so that a slow one holds nobody up.
pub fn connections(
    listener: TcpListener,
    tls: Option<tls::Server>,
    stop: &Stop,
) -> mpsc::Receiver<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(BACKLOG_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let accepting = stop.clone();
    stop.spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = accepting.requested() => return,
                () = sender.closed() => return,
                accepted = accept(&listener) => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "gRPC: cannot accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(tls) = &tls else {
                let connection = Connection { io: Io::Plain(stream), caller: Caller::Plain };
                let _ = sender.send(Ok(connection)).await;
                continue;
            };
            let (config, sender, stopped) = (tls.current(), sender.clone(), accepting.token());
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            accepting.spawn(async move {
                let shaken = stopped.run_until_cancelled(secure(stream, peer, config)).await;
                drop(permit);
                if let Some(Some(connection)) = shaken {
                    let _ = sender.send(Ok(connection)).await;
                }
            });
        }
    });
    receiver
}

async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer))
}

async fn secure(stream: TcpStream, peer: SocketAddr, config: Arc<rustls::ServerConfig>) -> Option<Connection> {
    let handshake = TlsAcceptor::from(config).accept(stream).into_fallible();
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let caller = certificate.map_or(Caller::Anonymous, |found| Caller::Certified(tls::holder(found)));
            Some(Connection { io: Io::Tls(Box::new(stream)), caller })
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
        match &mut self.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, into),
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
