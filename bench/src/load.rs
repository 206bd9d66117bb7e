//! Sends messages over many connections and notes which of them the server has taken responsibility for.

use crate::generate::{Message, Plan, Sum};
use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How to send.
#[derive(Debug, Clone)]
pub struct Load {
    pub to: SocketAddr,
    pub connections: usize,
    pub plan: Plan,
    /// Numbers `first..first + count` of the plan.
    pub first: usize,
    pub count: usize,
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

impl Load {
    /// Sends everything once; a message whose connection breaks is not sent again.
    pub async fn run(&self) -> Sent {
        let messages: Arc<Vec<Message>> =
            Arc::new((self.first..self.first + self.count).map(|number| self.plan.message(number)).collect());
        self.send(messages).await
    }

    /// The same with messages made before, so that their making is not measured.
    pub async fn send(&self, messages: Arc<Vec<Message>>) -> Sent {
        let next = Arc::new(AtomicUsize::new(0));
        let sent = Arc::new(Mutex::new(Sent::default()));
        let tasks: Vec<_> = (0..self.connections)
            .map(|_| tokio::spawn(connection(self.to, messages.clone(), next.clone(), sent.clone())))
            .collect();
        for task in tasks {
            let _ = task.await;
        }
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.clone()
    }
}

/// One connection after another until everything is sent or nobody answers for two seconds.
async fn connection(to: SocketAddr, messages: Arc<Vec<Message>>, next: Arc<AtomicUsize>, sent: Arc<Mutex<Sent>>) {
    let mut failures = 0;
    while next.load(Ordering::Relaxed) < messages.len() && failures < 40 {
        match session(to, &messages, &next, &sent).await {
            Ok(()) => failures = 0,
            Err(_) => {
                failures += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn session(to: SocketAddr, messages: &[Message], next: &AtomicUsize, sent: &Mutex<Sent>) -> io::Result<()> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut client = Client { stream, input: BytesMut::with_capacity(4 << 10) };
    client.expect("220").await?;
    client.stream.write_all(b"EHLO load.bench.example\r\n").await?;
    client.expect("250").await?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(message) = messages.get(number) else { break };
        let outcome = client.send(message).await;
        let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(reply) if reply.starts_with("250") => sent.accepted.push((message.id.clone(), message.sum)),
            Ok(reply) => {
                sent.refused_count += 1;
                if sent.refusals.len() < 5 {
                    sent.refusals.push(reply.clone());
                }
                if reply.starts_with("421") {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            Err(error) => {
                sent.unknown.push(message.id.clone());
                return Err(error);
            }
        }
    }
    client.stream.write_all(b"QUIT\r\n").await?;
    client.expect("221").await.map(|_| ())
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
}

impl Client {
    /// The last reply: to the content, or the one that ended the transaction.
    async fn send(&mut self, message: &Message) -> io::Result<String> {
        let commands =
            format!("MAIL FROM:<load@bench.example> BODY=8BITMIME\r\nRCPT TO:<{}>\r\nDATA\r\n", message.recipient);
        self.stream.write_all(commands.as_bytes()).await?;
        let (mail, rcpt, data) = (self.reply().await?, self.reply().await?, self.reply().await?);
        if !data.starts_with("354") {
            let first = [mail, rcpt, data].into_iter().find(|reply| !reply.starts_with('2'));
            self.stream.write_all(b"RSET\r\n").await?;
            self.reply().await?;
            return Ok(first.unwrap_or_default());
        }
        self.stream.write_all(&message.wire).await?;
        self.reply().await
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
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
