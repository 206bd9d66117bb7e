//! Copies both ways between a client and its destination. When one side ends its sending, only that way is closed.

use bytes::{Buf, Bytes};
use godwit_kit::metrics::Counter;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

/// Mail goes one way, replies the other.
const TO_DESTINATION_BYTES_MAX: usize = 32 << 10;
const TO_CLIENT_BYTES_MAX: usize = 8 << 10;
/// How often in an idle timeout it is looked whether anything moved.
const LOOKS: u32 = 4;

/// Where the bytes of each way are counted, once written.
pub(crate) struct Ways<'a> {
    pub to_destination: &'a Counter,
    pub to_client: &'a Counter,
}

#[derive(Debug)]
pub(crate) enum Ended {
    /// Both sides ended their sending.
    Closed,
    /// Nothing moved for the idle timeout.
    Idle,
    Broken(#[allow(dead_code, reason = "told by Debug")] io::Error),
}

/// Runs the tunnel to its end. `first` came in from the client already.
pub(crate) async fn run<C, D>((client, first): (C, Bytes), destination: D, ways: Ways<'_>, idle_max: Duration) -> Ended
where
    C: AsyncRead + AsyncWrite + Unpin,
    D: AsyncRead + AsyncWrite + Unpin,
{
    let moved = AtomicU64::new(0);
    let mut client = Counted { stream: client, first, written: ways.to_client, moved: &moved };
    let mut destination =
        Counted { stream: destination, first: Bytes::new(), written: ways.to_destination, moved: &moved };
    let copying =
        copy_bidirectional_with_sizes(&mut client, &mut destination, TO_DESTINATION_BYTES_MAX, TO_CLIENT_BYTES_MAX);
    tokio::select! {
        copied = copying => copied.map_or_else(Ended::Broken, |_| Ended::Closed),
        () = idle(&moved, idle_max) => Ended::Idle,
    }
}

/// Returns when nothing has moved for `idle_max`, and at most a quarter of it later.
async fn idle(moved: &AtomicU64, idle_max: Duration) {
    let (mut seen, mut quiet) = (0, 0);
    while quiet <= LOOKS {
        tokio::time::sleep(idle_max / LOOKS).await;
        let now = moved.load(Ordering::Relaxed);
        quiet = if now == seen { quiet + 1 } else { 1 };
        seen = now;
    }
}

/// A stream whose written bytes are counted, and which is read from `first` before anything else.
struct Counted<'a, S> {
    stream: S,
    first: Bytes,
    written: &'a Counter,
    /// Grows with every byte of both ways.
    moved: &'a AtomicU64,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written.inc_by(count as u64);
        self.moved.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
