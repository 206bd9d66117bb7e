//! Drives the SMTP client machine over one connection: vectored writes, reads while writing, a deadline for each stage.

use crate::dial::Target;
use crate::tls::{Connector, Fault, Secured, Trust};
use bytes::BytesMut;
use godwit_kit::net::{Connection, Stream};
use godwit_proto::common::v1::Tls;
use godwit_shaping::Path;
use godwit_shaping::path::Timeouts;
use godwit_smtp::reply::Reply;
use godwit_smtp::submit::{
    Capabilities, Client, Closed, Config, Event, Lost, Outcome, Stage, Start, Transaction, Violation,
};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

/// Slices of one write.
const SLICES_MAX: usize = 64;
const READ_BYTES: usize = 4 << 10;
const QUIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A greeted connection.
pub struct Session {
    stream: Box<dyn Stream>,
    client: Client,
    input: BytesMut,
    timeouts: Timeouts,
    /// The path allows to send commands without waiting for answers.
    pipelines: bool,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// `ESMTP`, `ESMTPS` (RFC 3848), or `SMTP` where the peer knows only HELO.
    pub protocol: &'static str,
    /// Unset where it is in the clear.
    pub tls: Option<Tls>,
    /// See [`Secured::resumed`].
    pub resumed: bool,
}

/// The peer would not be greeted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub reply: Reply,
    pub stage: Stage,
    /// The reply was made here.
    pub local: bool,
}

/// Why a session is not encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSecured {
    /// The session goes on in the clear where TLS was not offered or was refused, and is over where it failed.
    Tls(Fault),
    /// The peer wants nothing of us, TLS or not.
    Peer(Refused),
}

impl Session {
    /// Waits for the banner and says EHLO.
    ///
    /// # Errors
    /// What the peer answered, or what became of the connection.
    pub async fn greet(connection: Connection, config: Config, path: &Path) -> Result<Self, Refused> {
        let Connection { stream, peer, local } = connection;
        let mut session = Self {
            stream,
            client: Client::new(config),
            input: BytesMut::with_capacity(READ_BYTES),
            timeouts: path.timeouts.clone(),
            pipelines: path.protocol.enable_pipelining,
            peer,
            local,
            protocol: "ESMTP",
            tls: None,
            resumed: false,
        };
        session.greeting().await?;
        Ok(session)
    }

    /// Says STARTTLS, does the handshake and greets again (RFC 3207): nothing that the peer said in the clear counts.
    ///
    /// # Errors
    /// Why it is not encrypted, and whether it may be used.
    pub async fn secure(&mut self, connector: &Connector, to: &Target, trust: Trust) -> Result<(), NotSecured> {
        self.start_tls().await?;
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let handshake = tokio::time::timeout(self.timeouts.starttls, connector.handshake(stream, to, trust));
        let Secured { stream, facts, resumed } = handshake.await.map_err(|_| Fault::TimedOut)??;
        (self.stream, self.tls, self.resumed) = (stream, Some(facts), resumed);
        self.client.secured();
        self.greeting().await.map_err(|refused| match refused.local {
            // A peer that does not like our side of the handshake says so only now (RFC 8446 section 4.4).
            true => Fault::Handshake(refused.reply.lines.join(" ")).into(),
            false => NotSecured::Peer(refused),
        })
    }

    /// Until the peer waits for the handshake.
    async fn start_tls(&mut self) -> Result<(), NotSecured> {
        if !self.client.start_tls() {
            return Err(Fault::NotOffered.into());
        }
        let handshake = |what: String| Err(Fault::Handshake(what).into());
        match self.next().await {
            Ok(Event::TlsReady) => Ok(()),
            Ok(Event::TlsRefused(reply)) => Err(Fault::refused(&reply.to_string()).into()),
            Ok(Event::Closed(Closed::Protocol(Violation::Injected))) => Err(Fault::Injected.into()),
            Ok(Event::Closed(Closed::Protocol(violation))) => handshake(format!("answer to STARTTLS: {violation}")),
            Ok(Event::Closed(Closed::Unsolicited(reply))) => {
                Err(NotSecured::Peer(Refused { reply, stage: Stage::StartTls, local: false }))
            }
            Ok(Event::Closed(Closed::Quit) | Event::Ready(_) | Event::Refused { .. } | Event::Done(_))
            | Err(Lost::Disconnected) => handshake("connection lost at STARTTLS".into()),
            Err(Lost::TimedOut) => Err(Fault::TimedOut.into()),
        }
    }

    /// From here to the answer to EHLO, in the clear or behind a handshake.
    async fn greeting(&mut self) -> Result<(), Refused> {
        let stage = self.client.stage();
        let local = |text: String| Err(Refused { reply: Reply::new(421, (4, 4, 2), text), stage, local: true });
        match self.next().await {
            Ok(Event::Ready(offered)) => {
                self.ready(&offered);
                Ok(())
            }
            Ok(Event::Refused { stage, reply }) => Err(Refused { reply, stage, local: false }),
            Ok(Event::Closed(Closed::Unsolicited(reply))) => Err(Refused { reply, stage, local: false }),
            Ok(Event::Closed(Closed::Protocol(violation))) => {
                local(format!("Protocol error in the greeting: {violation}"))
            }
            Ok(Event::Closed(Closed::Quit) | Event::Done(_) | Event::TlsReady | Event::TlsRefused(_)) => {
                local("Connection ended in the greeting".into())
            }
            Err(Lost::Disconnected) => local("Connection lost in the greeting".into()),
            Err(Lost::TimedOut) => local("Timed out in the greeting".into()),
        }
    }

    fn ready(&mut self, offered: &Capabilities) {
        let capabilities = self.client.capabilities_mut();
        capabilities.pipelining &= self.pipelines;
        // RFC 8689 section 4.2.1: only a host that has shown who it is may be trusted to pass it on.
        capabilities.requiretls &= self.tls.as_ref().is_some_and(|tls| tls.verified);
        self.protocol = match (offered.esmtp, &self.tls) {
            (true, Some(_)) => "ESMTPS",
            (true, None) => "ESMTP",
            (false, _) => "SMTP",
        };
    }

    /// One transaction. Dropped before its end, the session must be given up with [`Session::abandon`].
    pub async fn send(&mut self, transaction: Transaction) -> Outcome {
        match self.client.start(transaction) {
            Start::Refused(outcome) => outcome,
            Start::Sent => match self.next().await {
                Ok(Event::Done(outcome)) => outcome,
                Err(lost) => self.give_up(lost),
                Ok(
                    Event::Ready(_) | Event::Refused { .. } | Event::TlsReady | Event::TlsRefused(_) | Event::Closed(_),
                ) => self.give_up(Lost::Disconnected),
            },
        }
    }

    /// Ends the transaction that is open as if the connection were lost.
    pub fn abandon(&mut self) -> Outcome {
        self.give_up(Lost::TimedOut)
    }

    /// Whether the peer has left, or said anything, since the last transaction. Does not wait.
    pub async fn is_stale(&mut self) -> bool {
        poll_fn(|context| Poll::Ready(self.poll_unasked(context).is_ready())).await
    }

    /// Returns once the peer leaves or says anything unasked. May be dropped at any time.
    pub async fn unasked(&mut self) {
        poll_fn(|context| self.poll_unasked(context)).await;
    }

    /// Says QUIT and waits shortly for its answer; an encrypted connection is closed by its own word (RFC 8446 section
    /// 6.1), so that the peer knows that nothing was cut off.
    pub async fn quit(mut self) {
        self.client.quit();
        if self.client.stage() == Stage::Quit {
            let farewell = async {
                let _ = self.next().await;
                let _ = self.stream.shutdown().await;
            };
            let _ = tokio::time::timeout(QUIT_TIMEOUT, farewell).await;
        }
    }

    fn give_up(&mut self, lost: Lost) -> Outcome {
        self.client.lost(lost).unwrap_or(Outcome { deliveries: Vec::new(), reusable: false })
    }

    /// Writes and reads until the client has something to tell. A stage's deadline starts with the stage, and again
    /// with each piece of a message that the peer takes.
    async fn next(&mut self) -> Result<Event, Lost> {
        let mut waiting = None;
        loop {
            if let Some(event) = self.client.feed(&mut self.input) {
                return Ok(event);
            }
            let stage = self.client.stage();
            let deadline = match waiting {
                Some((since, deadline)) if since == stage => deadline,
                Some(_) | None => Instant::now() + self.timeout(stage),
            };
            waiting = Some((stage, deadline));
            let exchange =
                poll_fn(|context| poll_exchange(&mut *self.stream, &mut self.client, &mut self.input, context));
            match tokio::time::timeout_at(deadline, exchange).await {
                Ok(Ok(Moved::Written)) if stage == Stage::DataBlock => waiting = None,
                Ok(Ok(Moved::Written | Moved::Read)) => {}
                Ok(Err(_)) => return Err(Lost::Disconnected),
                Err(_) => return Err(Lost::TimedOut),
            }
        }
    }

    fn timeout(&self, stage: Stage) -> Duration {
        let timeouts = &self.timeouts;
        match stage {
            Stage::Banner => timeouts.banner,
            Stage::Ehlo => timeouts.ehlo,
            Stage::StartTls => timeouts.starttls,
            Stage::Rset => timeouts.rset,
            Stage::Mail => timeouts.mail_from,
            Stage::Rcpt => timeouts.rcpt_to,
            Stage::DataInit | Stage::DataBlock => timeouts.data,
            Stage::Dot => timeouts.data_dot,
            Stage::Quit => QUIT_TIMEOUT,
            Stage::Idle | Stage::Closed => timeouts.idle,
        }
    }

    fn poll_unasked(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.input.is_empty() {
            return Poll::Ready(());
        }
        self.input.reserve(READ_BYTES);
        // Bytes, the end of the stream or an error: all mean that the connection is not idle any more.
        poll_read_buf(Pin::new(&mut *self.stream), context, &mut self.input).map(|_| ())
    }
}

impl From<Fault> for NotSecured {
    fn from(fault: Fault) -> Self {
        Self::Tls(fault)
    }
}

enum Moved {
    Written,
    Read,
}

/// Moves bytes one way or the other. Where writing fails, what the peer said before it left still counts.
fn poll_exchange(
    stream: &mut dyn Stream,
    client: &mut Client,
    input: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<Moved>> {
    let mut written = 0;
    let mut failure = None;
    while !client.output().is_empty() {
        match poll_write(stream, client, context) {
            Poll::Ready(Ok(0)) => {
                failure = Some(io::ErrorKind::WriteZero.into());
                break;
            }
            Poll::Ready(Ok(bytes)) => {
                client.wrote(bytes);
                written += bytes;
            }
            Poll::Ready(Err(error)) => {
                failure = Some(error);
                break;
            }
            Poll::Pending => break,
        }
    }
    // What an encrypted stream has taken may still be in its buffer: it is pushed on here, also when nothing is left to
    // write and the peer's answer is waited for.
    if failure.is_none()
        && let Poll::Ready(Err(error)) = Pin::new(&mut *stream).poll_flush(context)
    {
        failure = Some(error);
    }
    if written > 0 && failure.is_none() {
        return Poll::Ready(Ok(Moved::Written));
    }
    input.reserve(READ_BYTES);
    match (poll_read_buf(Pin::new(stream), context, input), failure) {
        (Poll::Ready(Ok(0)), None) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        (Poll::Ready(Ok(1..)), _) => Poll::Ready(Ok(Moved::Read)),
        (Poll::Ready(Err(error)), None) => Poll::Ready(Err(error)),
        (Poll::Pending, None) => Poll::Pending,
        (Poll::Ready(Ok(0) | Err(_)) | Poll::Pending, Some(failure)) => Poll::Ready(Err(failure)),
    }
}

fn poll_write(stream: &mut dyn Stream, client: &mut Client, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut count = 0;
    for (slice, bytes) in slices.iter_mut().zip(client.output().iter()) {
        *slice = IoSlice::new(bytes);
        count += 1;
    }
    let bytes = ready!(Pin::new(stream).poll_write_vectored(context, &slices[..count]))?;
    Poll::Ready(Ok(bytes))
}
