//! Connects to a peer: TCP, and TLS where its address asks for it.
//!
//! A server refuses a client's certificate only after the client has finished its part of a TLS 1.3 handshake. So a
//! connection counts as open once the server has said something inside (in HTTP/2 it speaks unasked): a refusal is then the
//! connection's, with its reason, and surely before any call.

use crate::tls;
use bytes::BytesMut;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A proxy in between may wait for the client to speak.
const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_BYTES_MAX: usize = 16 << 10;

pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The connector of one road; its address decides, not the request's.
#[derive(Clone, Debug)]
pub struct Dial {
    pub host: String,
    pub port: u16,
    pub tls: Option<tls::Client>,
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.connect().await.map(TokioIo::new) })
    }
}

impl Dial {
    async fn connect(self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
        let connecting = TlsConnector::from(tls.current()).connect(name, stream);
        let stream =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Box::new(Heard::listen(stream).await?))
    }
}

/// A stream of which the first bytes were read already.
struct Heard {
    stream: TlsStream<TcpStream>,
    first: BytesMut,
}

impl Heard {
    async fn listen(mut stream: TlsStream<TcpStream>) -> io::Result<Self> {
        let mut first = BytesMut::with_capacity(FIRST_BYTES_MAX);
        match tokio::time::timeout(FIRST_WORD_TIMEOUT, stream.read_buf(&mut first)).await {
            Ok(Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed right after the TLS handshake")),
            Ok(Ok(_)) | Err(_) => Ok(Self { stream, first }),
            Ok(Err(error)) => Err(refused(error)),
        }
    }
}

/// An alert right after the handshake is the server's word on our certificate (RFC 8446 section 6.2).
fn refused(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => {
            io::Error::new(error.kind(), format!("the server refused our certificate: {alert:?}"))
        }
        Some(_) | None => error,
    }
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let bytes = self.first.len().min(into.remaining());
        into.put_slice(&self.first.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
