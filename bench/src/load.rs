//! Sends messages over many connections and notes which of them the server has taken responsibility for.

use crate::generate::{Message, Plan, Sum};
use bytes::BytesMut;
use godwit_kit::net::{Net, Stream};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::lookup_host;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// For the greeting and EHLO.
const OPEN_TIME_MAX: Duration = Duration::from_secs(30);
/// For one message, from MAIL to the reply after its content.
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(120);
/// Between two tries to connect.
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// How long nobody may answer before a connection gives up.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// Refusals whose text is kept.
const REFUSALS_MAX: usize = 5;
/// A reply line longer than this is no SMTP.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// How to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// `host:port` each, at least one. Connections are spread over them by turns; one that is lost goes on to the next.
    pub to: Vec<String>,
    pub connections: usize,
    pub plan: Plan,
    /// Numbers `first..first + count` of the plan.
    pub first: usize,
    pub count: usize,
    /// Messages a second at the most, over all connections.
    pub rate: Option<u32>,
}

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    /// Those that got a 250, with the digest of each.
    pub accepted: Vec<(String, Sum)>,
    /// Those whose outcome is not known: the connection broke.
    pub unknown: Vec<String>,
    /// Other replies, the first few.
    pub refusals: Vec<String>,
    pub refused_count: usize,
}

/// Where the messages come from.
#[derive(Debug, Clone)]
pub enum Supply {
    /// Made before, so that their making is not measured.
    Made(Arc<Vec<Message>>),
    /// Made when they are sent, so that many need no memory.
    Fresh,
}

impl Load {
    /// Sends everything once; a message whose connection breaks is not sent again.
    pub async fn run(&self) -> Sent {
        self.send(self.make()).await
    }

    /// The same with messages made before, so that their making is not measured.
    pub async fn send(&self, messages: Arc<Vec<Message>>) -> Sent {
        self.start(&Net::Tcp, Supply::Made(messages), PATIENCE).finish().await
    }

    /// The messages, made at once.
    pub fn make(&self) -> Arc<Vec<Message>> {
        Arc::new((self.first..self.first + self.count).map(|number| self.plan.message(number)).collect())
    }

    /// Sends in the background. A connection that finds nobody for `patience` gives up.
    pub fn start(&self, net: &Net, supply: Supply, patience: Duration) -> Running {
        let job = Arc::new(Job {
            load: self.clone(),
            net: net.clone(),
            supply,
            failures_max: (patience.as_millis() / RETRY_WAIT.as_millis()) as usize,
            next: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(self.connections),
            start: Instant::now(),
            sent: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for place in 0..self.connections {
            let job = job.clone();
            tasks.spawn(async move {
                job.connection(place).await;
                job.open.fetch_sub(1, Ordering::Release);
            });
        }
        Running { job, tasks }
    }
}

/// A load on its way. Dropped, it ends at once.
pub struct Running {
    job: Arc<Job>,
    tasks: JoinSet<()>,
}

impl Running {
    pub fn accepted_count(&self) -> usize {
        self.job.accepted.load(Ordering::Acquire)
    }

    /// Nothing more will be sent.
    pub fn is_done(&self) -> bool {
        self.job.open.load(Ordering::Acquire) == 0
    }

    /// What is on its way is still sent, nothing after it.
    pub fn stop(&self) {
        self.job.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for the end.
    pub async fn finish(mut self) -> Sent {
        while self.tasks.join_next().await.is_some() {}
        self.end().await
    }

    /// Breaks off: what is on its way is neither accepted nor unknown.
    pub async fn end(mut self) -> Sent {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.job.sent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the connections of one load share.
struct Job {
    load: Load,
    net: Net,
    supply: Supply,
    failures_max: usize,
    next: AtomicUsize,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    start: Instant,
    /// Never held across an await.
    sent: Mutex<Sent>,
}

impl Job {
    /// One session after another until everything is sent or nobody answers any more.
    async fn connection(&self, mut place: usize) {
        let mut failures = 0;
        while self.is_open() && failures < self.failures_max {
            let to = &self.load.to[place % self.load.to.len()];
            let client = timeout(OPEN_TIME_MAX, Client::open(&self.net, to)).await;
            let Ok(Ok(mut client)) = client else {
                failures += 1;
                place += 1;
                sleep(RETRY_WAIT).await;
                continue;
            };
            failures = 0;
            if self.session(&mut client).await.is_err() {
                place += 1;
                sleep(RETRY_WAIT).await;
            }
        }
    }

    fn is_open(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed) && self.next.load(Ordering::Relaxed) < self.load.count
    }

    async fn session(&self, client: &mut Client) -> io::Result<()> {
        while let Some(message) = self.take().await {
            let outcome = timeout(MESSAGE_TIME_MAX, client.send(&message)).await;
            self.note(message, outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))?;
        }
        timeout(OPEN_TIME_MAX, client.quit()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// The next message, once its turn has come.
    async fn take(&self) -> Option<Message> {
        if !self.is_open() {
            return None;
        }
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(rate) = self.load.rate.filter(|_| place < self.load.count) {
            sleep_until(self.start + Duration::from_secs_f64(place as f64 / f64::from(rate))).await;
        }
        if self.stopping.load(Ordering::Relaxed) {
            return None;
        }
        match &self.supply {
            Supply::Made(messages) => messages.get(place).cloned(),
            Supply::Fresh => (place < self.load.count).then(|| self.load.plan.message(self.load.first + place)),
        }
    }

    /// An error where the connection is of no more use.
    fn note(&self, message: Message, outcome: io::Result<String>) -> io::Result<()> {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(reply) if reply.starts_with("250") => {
                sent.accepted.push((message.id, message.sum));
                self.accepted.fetch_add(1, Ordering::Release);
                Ok(())
            }
            Ok(reply) => {
                let closing = reply.starts_with("421");
                sent.refused_count += 1;
                if sent.refusals.len() < REFUSALS_MAX {
                    sent.refusals.push(reply);
                }
                if closing { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
            }
            Err(error) => {
                sent.unknown.push(message.id);
                Err(error)
            }
        }
    }
}

struct Client {
    stream: Box<dyn Stream>,
    input: BytesMut,
}

impl Client {
    /// `to` is looked up each time: a server that was started again may have another address.
    async fn open(net: &Net, to: &str) -> io::Result<Self> {
        let to = lookup_host(to).await?.next().ok_or(io::ErrorKind::NotFound)?;
        let stream = net.connect(to, None).await?.stream;
        let mut client = Self { stream, input: BytesMut::with_capacity(4 << 10) };
        client.expect("220").await?;
        client.stream.write_all(b"EHLO load.bench.example\r\n").await?;
        client.expect("250").await?;
        Ok(client)
    }

    /// The last reply: to the content, or the one that ended the transaction.
    async fn send(&mut self, message: &Message) -> io::Result<String> {
        let commands =
            format!("MAIL FROM:<load@bench.example> BODY=8BITMIME\r\nRCPT TO:<{}>\r\nDATA\r\n", message.recipient);
        self.stream.write_all(commands.as_bytes()).await?;
        for code in ["250", "25", "354"] {
            let reply = self.reply().await?;
            if reply.starts_with("421") {
                return Ok(reply);
            }
            if !reply.starts_with(code) {
                return self.abandon(code, reply).await;
            }
        }
        self.stream.write_all(&message.wire).await?;
        self.reply().await
    }

    /// Reads the replies to what was pipelined behind the refused command, and clears the transaction.
    async fn abandon(&mut self, refused: &str, first: String) -> io::Result<String> {
        let behind = match refused {
            "250" => 2,
            "25" => 1,
            _ => 0,
        };
        for place in 0..behind {
            let reply = self.reply().await?;
            if place + 1 == behind && reply.starts_with("354") {
                // RFC 2920 section 3.1: the server may ask for content that has no recipient.
                self.stream.write_all(b".\r\n").await?;
                self.reply().await?;
            }
        }
        self.stream.write_all(b"RSET\r\n").await?;
        self.expect("250").await?;
        Ok(first)
    }

    async fn quit(&mut self) -> io::Result<()> {
        self.stream.write_all(b"QUIT\r\n").await?;
        self.expect("221").await.map(|_| ())
    }

    async fn expect(&mut self, code: &str) -> io::Result<String> {
        let reply = self.reply().await?;
        if reply.starts_with(code) { Ok(reply) } else { Err(io::Error::other(reply)) }
    }

    /// The last line of the next reply.
    async fn reply(&mut self) -> io::Result<String> {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.input) {
                let line = self.input.split_to(end + 1);
                if line.get(3) != Some(&b'-') {
                    return Ok(String::from_utf8_lossy(&line).trim_end().to_string());
                }
            }
            if self.input.len() > REPLY_BYTES_MAX {
                return Err(io::Error::other("a reply line without end"));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
