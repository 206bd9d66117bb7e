//! An SMTP server that takes mail, or does what its [`Behaviour`] says instead.

pub use crate::behaviour::{Action, Behaviour, Obliging};

use crate::generate::{self, Sum};
use crate::peaks::Peaks;
use bytes::{Bytes, BytesMut};
use godwit_kit::net::{Connection, Listener, Net};
use memchr::memmem;
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// A command line longer than this ends the session.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Content longer than this ends the session; above the SIZE that is told.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// After an accept that failed (too many open files, for one).
const ACCEPT_WAIT: Duration = Duration::from_millis(10);

/// What was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    pub reverse_path: String,
    pub recipients: Vec<String>,
    /// As it came, dots unstuffed.
    pub content: Bytes,
}

impl Taken {
    pub fn id(&self) -> Option<String> {
        generate::id_of(&self.content)
    }

    /// The digest of what follows the first Received field, which the MTA under test has added.
    pub fn sum(&self) -> Sum {
        Sha256::digest(after_received(&self.content)).into()
    }
}

/// What is kept of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// All of each.
    Content,
    /// The id and the digest.
    Sums,
    /// Their number.
    Count,
}

/// A running sink. It ends when dropped.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    behaviour: Box<dyn Behaviour>,
    keep: Keep,
    taken: Mutex<Vec<Taken>>,
    sums: Mutex<Vec<(String, Sum)>>,
    count: AtomicUsize,
    peers: Mutex<Vec<SocketAddr>>,
    connections: AtomicUsize,
    peaks: Mutex<Peaks>,
    changed: tokio::sync::Notify,
}

impl Sink {
    /// # Errors
    /// An address that cannot be listened at.
    pub async fn start(net: &Net, at: SocketAddr, keep: Keep, behaviour: impl Behaviour) -> io::Result<Self> {
        let listener = net.listen(at).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            behaviour: Box::new(behaviour),
            keep,
            taken: Mutex::default(),
            sums: Mutex::default(),
            count: AtomicUsize::new(0),
            peers: Mutex::default(),
            connections: AtomicUsize::new(0),
            peaks: Mutex::default(),
            changed: tokio::sync::Notify::new(),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn count(&self) -> usize {
        self.shared.count.load(Ordering::Acquire)
    }

    /// Since the start.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Where they came from, since the start.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Now.
    pub fn open_connection_count(&self) -> usize {
        self.shared.peaks().open()
    }

    /// The most sessions at once, since the start.
    pub fn connections_max(&self) -> usize {
        self.shared.peaks().open_max()
    }

    /// The most sessions at once, since this was last asked.
    pub fn take_recent_connections_max(&self) -> usize {
        self.shared.peaks().take_recent_max()
    }

    /// The most messages taken in any second, and when the last of them was.
    pub fn messages_per_second_max(&self) -> (usize, Option<Instant>) {
        self.shared.peaks().per_second_max()
    }

    /// With [`Keep::Content`].
    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// With [`Keep::Sums`].
    pub fn sums(&self) -> Vec<(String, Sum)> {
        self.shared.sums.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns once `count` messages have been taken in all.
    pub async fn wait_for(&self, count: usize) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.count() >= count {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn peaks(&self) -> MutexGuard<'_, Peaks> {
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped with the listener's task, the sessions end too.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut running = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok(connection) => {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                shared.peers.lock().unwrap_or_else(PoisonError::into_inner).push(connection.peer);
                running.spawn(Session::new(connection, shared.clone()).run());
            }
            // The world in memory is gone.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(_) => tokio::time::sleep(ACCEPT_WAIT).await,
        }
        while running.try_join_next().is_some() {}
    }
}

struct Session {
    connection: Connection,
    shared: Arc<Shared>,
    /// Until the client has said that it is done, or is gone.
    open: Option<Open>,
    input: BytesMut,
    output: Vec<u8>,
    /// Present from an accepted MAIL to the end of its transaction.
    reverse_path: Option<String>,
    recipients: Vec<String>,
}

/// Counts a session.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.peaks().opened();
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.peaks().closed();
    }
}

/// The session ends.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over
    }
}

impl Session {
    fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        let input = BytesMut::with_capacity(64 << 10);
        let open = Some(Open::new(shared.clone()));
        Self { connection, shared, open, input, output: Vec::new(), reverse_path: None, recipients: Vec::new() }
    }

    async fn run(mut self) {
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> Result<(), Over> {
        let action = self.shared.behaviour.connect();
        self.answer(action, "220 sink.example ESMTP").await?;
        loop {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
            self.command(&verb.to_ascii_uppercase(), argument).await?;
        }
    }

    async fn command(&mut self, verb: &str, argument: &str) -> Result<(), Over> {
        let shared = self.shared.clone();
        match verb {
            "EHLO" => {
                self.reset();
                self.ehlo(&shared.behaviour.keywords());
            }
            "HELO" => {
                self.reset();
                self.say("250 sink.example");
            }
            "MAIL" if self.reverse_path.is_some() => self.say("503 5.5.1 A transaction is open"),
            "MAIL" => {
                let action = shared.behaviour.mail(argument);
                self.reverse_path = (!refuses(&action)).then(|| path_of(argument));
                self.answer(action, "250 2.1.0 Ok").await?;
            }
            "RCPT" if self.reverse_path.is_none() => self.say("503 5.5.1 MAIL comes first"),
            "RCPT" => {
                let action = shared.behaviour.rcpt(argument);
                if !refuses(&action) {
                    self.recipients.push(path_of(argument));
                }
                self.answer(action, "250 2.1.5 Ok").await?;
            }
            "DATA" => self.data().await?,
            "RSET" => {
                self.reset();
                self.say("250 2.0.0 Ok");
            }
            "NOOP" => self.say("250 2.0.0 Ok"),
            "QUIT" => {
                // Before the reply: the next connection may come as soon as the client has it.
                self.open = None;
                self.say("221 2.0.0 Bye");
                self.flush().await?;
                return Err(Over);
            }
            _ => self.say("502 5.5.1 No such command"),
        }
        Ok(())
    }

    fn ehlo(&mut self, keywords: &[&str]) {
        let lines: Vec<&str> = std::iter::once("sink.example").chain(keywords.iter().copied()).collect();
        for (place, line) in lines.iter().enumerate() {
            let separator = if place + 1 == lines.len() { ' ' } else { '-' };
            self.say(&format!("250{separator}{line}"));
        }
    }

    async fn data(&mut self) -> Result<(), Over> {
        if self.recipients.is_empty() {
            self.say("554 5.5.1 No valid recipients");
            return Ok(());
        }
        match self.shared.behaviour.data() {
            Action::Reply(reply) => {
                self.say(&reply);
                self.reset();
                return Ok(());
            }
            action @ (Action::Usual | Action::Close | Action::Wait(_) | Action::TakeAndClose) => {
                self.answer(action, "354 Go ahead").await?;
            }
        }
        let content = self.content().await?;
        let action = self.shared.behaviour.dot(&content);
        if !matches!(&action, Action::Close) && !refuses(&action) {
            self.take(content);
        }
        self.reset();
        match action {
            Action::TakeAndClose => Err(Over),
            action => self.answer(action, "250 2.0.0 Ok: taken").await,
        }
    }

    /// Reads to the final dot.
    async fn content(&mut self) -> Result<Bytes, Over> {
        let mut searched = 0;
        self.flush().await?;
        loop {
            if self.input.starts_with(b".\r\n") {
                let _ = self.input.split_to(3);
                return Ok(Bytes::new());
            }
            if let Some(place) = memmem::find(&self.input[searched..], b"\r\n.\r\n") {
                let content = self.input.split_to(searched + place + 2);
                let _ = self.input.split_to(3);
                return Ok(unstuffed(content.freeze()));
            }
            searched = self.input.len().saturating_sub(4);
            if self.input.len() > CONTENT_BYTES_MAX {
                return Err(Over);
            }
            match self.shared.behaviour.content() {
                Action::Close => return Err(Over),
                Action::Wait(time) => tokio::time::sleep(time).await,
                Action::Usual | Action::Reply(_) | Action::TakeAndClose => {}
            }
            self.read().await?;
        }
    }

    fn take(&mut self, content: Bytes) {
        let recipients = std::mem::take(&mut self.recipients);
        let reverse_path = self.reverse_path.take().unwrap_or_default();
        let mut taken = Taken { reverse_path, recipients, content };
        let shared = &self.shared;
        match shared.keep {
            Keep::Content => {
                // Kept as it is, it would hold the whole buffer that it was read into.
                taken.content = Bytes::copy_from_slice(&taken.content);
                shared.taken.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
            }
            Keep::Sums => {
                let entry = (taken.id().unwrap_or_default(), taken.sum());
                shared.sums.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
            }
            Keep::Count => {}
        }
        // The lock is taken first, so that the times ascend.
        shared.peaks().took(Instant::now());
        shared.count.fetch_add(1, Ordering::Release);
        shared.changed.notify_waiters();
    }

    fn reset(&mut self) {
        self.recipients.clear();
        self.reverse_path = None;
    }

    async fn answer(&mut self, action: Action, usual: &str) -> Result<(), Over> {
        match action {
            Action::Usual => self.say(usual),
            Action::Reply(reply) => {
                self.say(&reply);
                if reply.starts_with("421") {
                    self.open = None;
                    self.flush().await?;
                    return Err(Over);
                }
            }
            Action::Close | Action::TakeAndClose => {
                self.flush().await?;
                return Err(Over);
            }
            Action::Wait(time) => {
                self.flush().await?;
                tokio::time::sleep(time).await;
                self.say(usual);
            }
        }
        Ok(())
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn line(&mut self) -> Result<BytesMut, Over> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                return Ok(self.input.split_to(end + 1));
            }
            if self.input.len() > LINE_BYTES_MAX {
                return Err(Over);
            }
            // Replies to what was pipelined go out together.
            self.flush().await?;
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        self.input.reserve(64 << 10);
        if self.connection.stream.read_buf(&mut self.input).await? == 0 { Err(Over) } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Over> {
        if !self.output.is_empty() {
            self.connection.stream.write_all(&self.output).await?;
            self.connection.stream.flush().await?;
            self.output.clear();
        }
        Ok(())
    }
}

fn refuses(action: &Action) -> bool {
    matches!(action, Action::Reply(reply) if !reply.starts_with('2'))
}

fn path_of(argument: &str) -> String {
    let start = argument.find('<').map_or(0, |place| place + 1);
    let end = argument.find('>').unwrap_or(argument.len());
    argument.get(start..end).unwrap_or_default().to_string()
}

fn unstuffed(content: Bytes) -> Bytes {
    if !content.starts_with(b".") && memmem::find(&content, b"\r\n.").is_none() {
        return content;
    }
    let mut plain = Vec::with_capacity(content.len());
    let mut rest = content.strip_prefix(b".").unwrap_or(&content);
    while let Some(place) = memmem::find(rest, b"\r\n.") {
        plain.extend_from_slice(&rest[..place + 2]);
        rest = &rest[place + 3..];
    }
    plain.extend_from_slice(rest);
    plain.into()
}

/// What follows the first header field, where that is a Received.
fn after_received(content: &[u8]) -> &[u8] {
    if !content.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"Received:")) {
        return content;
    }
    let mut place = 0;
    while let Some(end) = memmem::find(&content[place..], b"\r\n") {
        place += end + 2;
        if !matches!(content.get(place), Some(b' ' | b'\t')) {
            break;
        }
    }
    &content[place..]
}
