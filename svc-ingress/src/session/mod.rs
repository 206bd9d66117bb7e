//! One client's connection: owns the socket and the timers, lets godwit-smtp's machine advance, answers what it asks.

mod decide;
mod pace;
mod receipt;
mod secure;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use godwit_kit::net::{Connection, Stream};
use godwit_proto::common::v1::Tls;
use godwit_smtp::{
    Reply,
    receive::{self, Ask, Phase, Step},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{listener::Listener, sessions::Entry};
pub use pace::Limits as PaceLimits;
use pace::Pace;
use receipt::Receipt;

/// A read begins small and doubles while the client fills it: a thousand idle clients cost little, a fast one few calls.
const READ_BYTES_MIN: usize = 4 << 10;
const READ_BYTES_MAX: usize = 64 << 10;
/// After the last reply: a socket that is closed with input unread loses the reply on its way.
const LINGER: Duration = Duration::from_secs(1);

pub struct Session {
    listener: Arc<Listener>,
    machine: receive::Session,
    stream: Box<dyn Stream>,
    /// What protects the stream.
    tls: Option<Tls>,
    peer: SocketAddr,
    entry: Entry,
    input: BytesMut,
    read_bytes: usize,
    pace: Pace,
    /// The message that is coming in, from MAIL on.
    receipt: Option<Receipt>,
    /// A stop was asked for; until then the message in hand is finished.
    ending: Option<Instant>,
}

/// What ended a wait.
enum Woken {
    Heard(usize),
    Late,
    Told,
}

impl Session {
    pub fn new(connection: Connection, listener: Arc<Listener>) -> Self {
        let ingress = &listener.ingress;
        ingress.meters.connections.inc();
        let told = ingress.stop.token().child_token();
        Self {
            machine: receive::Session::new(listener.smtp.clone()),
            stream: connection.stream,
            tls: None,
            peer: connection.peer,
            entry: ingress.sessions.enter(connection.peer, listener.at, ingress.clock.now(), told),
            input: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            pace: Pace::new(listener.pace, Instant::now()),
            receipt: None,
            ending: None,
            listener,
        }
    }

    /// Serves the client until one of both ends it.
    pub async fn run(mut self) {
        match self.converse().await {
            Ok(()) => self.close().await,
            Err(error) => tracing::debug!(peer = %self.peer, %error, "client is gone"),
        }
    }

    /// Returns once the last reply is written.
    async fn converse(&mut self) -> io::Result<()> {
        if self.listener.is_implicit() && !self.secure().await {
            return Ok(());
        }
        loop {
            let was_data = self.is_data();
            let step = self.machine.advance(&mut self.input);
            if was_data && !self.is_data() && !matches!(step, Step::Ask(Ask::Message(_))) {
                self.faulty();
            }
            match step {
                Step::NeedInput => {
                    self.write().await?;
                    if !self.wait().await? {
                        return self.write().await;
                    }
                }
                Step::Ask(ask) => {
                    if matches!(ask, Ask::Message(_)) {
                        self.write().await?;
                    }
                    let verdict = self.decide(ask).await;
                    self.machine.answer(verdict);
                }
                Step::StartTls => {
                    self.write().await?;
                    if !self.secure().await {
                        return Ok(());
                    }
                    self.machine.secured();
                }
                Step::Close => return self.write().await,
            }
        }
    }

    fn is_data(&self) -> bool {
        self.machine.phase() == Phase::Data
    }

    /// Waits for more input; false where the last reply stands in the output instead.
    async fn wait(&mut self) -> io::Result<bool> {
        self.entry.in_data(self.is_data());
        if self.ending.is_some() && !self.is_data() {
            self.say_last(self.farewell());
            return Ok(false);
        }
        let deadline = self.deadline();
        self.input.reserve(self.read_bytes);
        let woken = tokio::select! {
            biased;
            () = self.entry.told(), if self.ending.is_none() => Woken::Told,
            read = self.stream.read_buf(&mut self.input) => Woken::Heard(read?),
            () = tokio::time::sleep_until(deadline) => Woken::Late,
        };
        match woken {
            Woken::Heard(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Woken::Heard(bytes) => Ok(self.heard(bytes)),
            Woken::Told => Ok(self.told()),
            Woken::Late => {
                match self.ending {
                    Some(_) => self.say_last(self.farewell()),
                    None => self.machine.timeout(),
                }
                Ok(false)
            }
        }
    }

    fn deadline(&self) -> Instant {
        let own = if self.is_data() { self.pace.data_deadline() } else { self.pace.command_deadline() };
        self.ending.map_or(own, |ending| ending.min(own))
    }

    /// False where there is no room for what was heard.
    fn heard(&mut self, bytes: usize) -> bool {
        self.pace.heard(bytes, Instant::now());
        if bytes >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        if !self.is_data() {
            return true;
        }
        // What comes beyond the limit is dropped, and takes no room.
        let size_bytes_max = self.listener.smtp.size_bytes_max;
        let Some(receipt) = self.receipt.as_mut().filter(|receipt| receipt.charge.bytes() < size_bytes_max) else {
            return true;
        };
        let fits = receipt.charge.grow(bytes);
        if !fits {
            let limit_bytes = self.listener.ingress.budget.limit_bytes();
            tracing::warn!(limit_bytes, peer = %self.peer, "max_data_in_flight is reached");
            self.say_last(Reply::new(421, (4, 3, 1), "Too many messages in hand, try again later"));
        }
        fits
    }

    /// Told to end: a stop lets the message in hand be finished, a kill does not. False where nothing is in hand.
    fn told(&mut self) -> bool {
        let ingress = &self.listener.ingress;
        let grace = if self.entry.killed().is_some() { Duration::ZERO } else { ingress.stop_grace };
        self.ending = Some(Instant::now() + grace);
        self.machine.shutdown();
        if !self.is_data() || grace.is_zero() {
            self.say_last(self.farewell());
            return false;
        }
        true
    }

    fn farewell(&self) -> Reply {
        let why = self.entry.killed().unwrap_or("Shutting down");
        Reply::new(421, (4, 3, 2), format!("{} {why}", self.listener.hostname))
    }

    fn say_last(&mut self, reply: Reply) {
        reply.encode(self.machine.output());
    }

    async fn write(&mut self) -> io::Result<()> {
        let mut replies = self.machine.output().split();
        if replies.is_empty() {
            return Ok(());
        }
        let write = async {
            self.stream.write_all_buf(&mut replies).await?;
            self.stream.flush().await
        };
        // A client that never reads is as gone as one that never writes, and cannot hold up a stop.
        let stop_grace = self.listener.ingress.stop_grace;
        let stopped = async {
            self.entry.told().await;
            tokio::time::sleep(stop_grace).await;
        };
        tokio::select! {
            biased;
            written = tokio::time::timeout(self.listener.pace.idle, write) => {
                written.map_err(|_| io::ErrorKind::TimedOut)??;
            }
            () = stopped => return Err(io::ErrorKind::TimedOut.into()),
        }
        self.pace.begin(Instant::now());
        Ok(())
    }

    async fn close(&mut self) {
        let linger = async {
            self.stream.shutdown().await?;
            while self.stream.read_buf(&mut self.input).await? > 0 {
                self.input.clear();
            }
            io::Result::Ok(())
        };
        let _ = tokio::time::timeout(LINGER, linger).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.listener.ingress.meters.connections.dec();
    }
}
