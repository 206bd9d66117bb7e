//! SMTP clients: one that sends a message, and a load of numbered ones.

use super::{HANG, until};
use bench::sink::Sink;
use godwit_proto::id::MessageId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Between two messages of one client.
const PACE: Duration = Duration::from_millis(10);

/// Sends one message over SMTP; the id that the 250 names, or the reply that is none.
pub async fn send_to(smtp: SocketAddr, to: &[&str], content: &str) -> Result<MessageId, String> {
    let mut client = Client::connect(smtp).await?;
    let id = client.send(to, content).await?;
    client.quit().await?;
    Ok(id)
}

/// A session.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub async fn connect(smtp: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(smtp).await.map_err(|error| error.to_string())?;
        let mut client = Self(BufReader::new(stream));
        client.say("", "220").await?;
        client.say("EHLO client.test\r\n", "250").await?;
        Ok(client)
    }

    pub async fn send(&mut self, to: &[&str], content: &str) -> Result<MessageId, String> {
        self.say("MAIL FROM:<sender@client.test> BODY=8BITMIME\r\n", "250").await?;
        for recipient in to {
            self.say(&format!("RCPT TO:<{recipient}>\r\n"), "250").await?;
        }
        self.say("DATA\r\n", "354").await?;
        let stuffed = format!("{content}\r\n").replace("\r\n.", "\r\n..");
        let reply = self.say(&format!("{stuffed}.\r\n"), "250").await?;
        let place = reply.find("msg_").ok_or(reply.clone())?;
        reply[place..place + 30].parse().map_err(|_| reply.clone())
    }

    pub async fn quit(mut self) -> Result<(), String> {
        self.say("QUIT\r\n", "221").await.map(|_| ())
    }

    async fn say(&mut self, line: &str, expected: &str) -> Result<String, String> {
        let dialogue = async {
            self.0.get_mut().write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
            loop {
                let mut reply = String::new();
                let read = self.0.read_line(&mut reply).await.map_err(|error| error.to_string())?;
                if read == 0 {
                    return Err("closed".into());
                }
                if reply.as_bytes().get(3) != Some(&b'-') {
                    return if reply.starts_with(expected) { Ok(reply) } else { Err(reply) };
                }
            }
        };
        tokio::time::timeout(HANG, dialogue).await.map_err(|_| "no answer".to_string())?
    }
}

/// Clients that send message after message, and note the number of each that was accepted. One that was not is not sent
/// again: whether it arrives says nothing.
pub struct Load {
    accepted: Arc<Mutex<Vec<usize>>>,
    ended: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    pub fn start(clients: usize, smtp: SocketAddr, to: &'static str) -> Self {
        let (accepted, ended) = (Arc::<Mutex<Vec<usize>>>::default(), Arc::<AtomicBool>::default());
        let numbers = Arc::new(AtomicUsize::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (accepted, ended, numbers) = (accepted.clone(), ended.clone(), numbers.clone());
            running.spawn(async move {
                let mut session = None;
                while !ended.load(Ordering::Relaxed) {
                    session = send_next(session, smtp, to, &numbers, &accepted).await;
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        Self { accepted, ended, clients: running }
    }

    pub fn accepted_count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    /// Until so many more are accepted.
    pub async fn goes_on(&self, count: usize) {
        let goal = self.accepted_count() + count;
        until("load accepted", || async { (self.accepted_count() >= goal).then_some(()) }).await;
    }

    /// Ends it; the numbers that were accepted.
    pub async fn finish(mut self) -> Vec<usize> {
        self.ended.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        std::mem::take(&mut *self.accepted.lock().unwrap())
    }
}

/// On the session there is, or a new one; gives it back where it may be used again.
async fn send_next(
    session: Option<Client>,
    smtp: SocketAddr,
    to: &str,
    numbers: &AtomicUsize,
    accepted: &Mutex<Vec<usize>>,
) -> Option<Client> {
    let mut client = match session {
        Some(client) => client,
        None => Client::connect(smtp).await.ok()?,
    };
    let number = numbers.fetch_add(1, Ordering::Relaxed);
    client.send(&[to], &format!("X-Bench-Id: {number}\r\n\r\nload")).await.ok()?;
    accepted.lock().unwrap().push(number);
    Some(client)
}

/// Waits until all of these numbers are there; how often each number came.
pub async fn arrived(sink: &Sink, accepted: &[usize]) -> BTreeMap<usize, usize> {
    let all = || async {
        let mut times = BTreeMap::new();
        for number in sink.taken().iter().filter_map(|taken| taken.id()?.parse().ok()) {
            *times.entry(number).or_default() += 1;
        }
        accepted.iter().all(|number| times.contains_key(number)).then_some(times)
    };
    until("arrival of all that was accepted", all).await
}
