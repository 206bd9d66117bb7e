//! A whole MTA for a test: in one process, or every service on a port of its own; a DNS, a sink, and the queue's events.

use crate::dns::{Dns, Domain};
use anyhow::Result;
use bench::sink::{Action, Behaviour, Keep, Sink};
use gateway::compose::{self, Running};
use godwit_kit::config::{Document, Faults, Telemetry};
use godwit_kit::net::Net;
use godwit_kit::{connect, telemetry};
use godwit_proto::common::v1::{Cursor, Event, EventKind};
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::{WatchEventsRequest, watch_events_response::Item};
use godwit_proto::queue::{self, Queue};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;

/// Nothing here takes so long; it is the bound of a hang, not of a duration.
pub const HANG: Duration = Duration::from_secs(90);

/// Where the services are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    Near,
    Spread,
}

/// A folder that goes with the test.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("godwit-test-{}", MessageId::new()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process: services on a runtime of their own, so that dropping it is as sudden as a kill.
pub struct Process {
    runtime: Option<Runtime>,
    pub running: Running,
}

impl Process {
    pub async fn start(text: &str) -> Result<Self> {
        let mut faults = Faults::default();
        let document = Document::parse(text, "test", &mut faults);
        assert!(faults.is_empty(), "{faults}\n{text}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let running = runtime.spawn(async move { compose::start(&document).await }).await?;
        match running {
            Ok(running) => Ok(Self { runtime: Some(runtime), running }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    pub fn address(&self) -> String {
        format!("http://{}", self.running.grpc)
    }

    pub async fn stop(mut self) {
        assert!(self.running.stop().await, "a process did not stop");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a scenario changes of the world. Texts are TOML below the section's heading.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub queue: String,
    pub egress: String,
    /// More of the shaping file; its default block already leads to the sink's port.
    pub shaping: String,
    /// Keys of the default block.
    pub shaping_default: String,
    pub telemetry: String,
    pub domains: Vec<(&'static str, Domain)>,
    /// Egress is not started: the scenario does it.
    pub without_egress: bool,
}

/// The usual domains: `one.test` and `two.test` at one site, the sink.
pub fn at_sink() -> Vec<(&'static str, Domain)> {
    let domain = Domain { mx: vec![(10, "mx.test.")], ..Domain::default() };
    let host = Domain { a: vec![[127, 0, 0, 1].into()], ..Domain::default() };
    vec![("one.test", domain.clone()), ("two.test", domain), ("mx.test", host)]
}

/// The world of one scenario.
pub struct World {
    pub folder: Folder,
    pub sink: Sink,
    pub processes: Vec<Process>,
    pub smtp: SocketAddr,
    pub http: SocketAddr,
    pub queue: Queue,
    pub queue_address: String,
    pub throttle_address: String,
    pub tsa_address: String,
    settings: Settings,
    dns: Dns,
}

impl World {
    pub async fn start(placement: Placement, behaviour: impl Behaviour, settings: Settings) -> Self {
        // To see what happens: GODWIT_TEST_LOG=debug cargo test … --nocapture
        if let Ok(log_filter) = std::env::var("GODWIT_TEST_LOG") {
            let config = Telemetry { log_filter, ..Telemetry::default() };
            let _ = telemetry::init(&config, "node_test");
        }
        let at = "127.0.0.1:0".parse().unwrap();
        let sink = Sink::start(&Net::Tcp, at, Keep::Content, behaviour).await.unwrap();
        Self::around(placement, sink, settings).await
    }

    async fn around(placement: Placement, sink: Sink, settings: Settings) -> Self {
        let mut domains = at_sink();
        domains.extend(settings.domains.clone());
        let dns = Dns::start(domains).await;
        let folder = Folder::new();
        let shaping = format!(
            "[\"default\"]\nsmtp_port = {}\n{}\n{}",
            sink.address().port(),
            settings.shaping_default,
            settings.shaping
        );
        std::fs::write(folder.path().join("shaping.toml"), shaping).unwrap();
        let sections = Sections { folder: folder.path(), settings: &settings, dns: dns.address };
        let placed = match placement {
            Placement::Near => sections.near().await,
            Placement::Spread => sections.spread().await,
        };
        let queue = queue::at(connect::road(&placed.queue, None).unwrap().wire);
        Self {
            folder,
            sink,
            smtp: placed.smtp,
            http: placed.http,
            queue,
            queue_address: placed.queue,
            throttle_address: placed.throttle,
            tsa_address: placed.tsa,
            processes: placed.processes,
            settings,
            dns,
        }
    }

    /// An egress in a process of its own, over the queues at these addresses.
    pub async fn start_egress(&self, name: &str, queues: &[&str]) -> Process {
        let sections = Sections { folder: self.folder.path(), settings: &self.settings, dns: self.dns.address };
        let peers = sections.peers(&[
            ("queue", queues),
            ("throttle", &[&self.throttle_address]),
            ("tsa", &[&self.tsa_address]),
        ]);
        Process::start(&format!("{}{}{peers}", sections.server(name), sections.egress())).await.unwrap()
    }

    /// A queue in a process of its own, listening at `at`.
    pub async fn start_queue(&self, name: &str, at: &str) -> Process {
        let sections = Sections { folder: self.folder.path(), settings: &self.settings, dns: self.dns.address };
        let peers = sections.peers(&[("throttle", &[&self.throttle_address]), ("tsa", &[&self.tsa_address])]);
        let server = sections.server(name).replace("127.0.0.1:0", at);
        Process::start(&format!("{server}{}{peers}", sections.queue())).await.unwrap()
    }

    /// An ingress in a process of its own, over the queues at these addresses.
    pub async fn start_ingress(&self, name: &str, queues: &[&str]) -> Process {
        let sections = Sections { folder: self.folder.path(), settings: &self.settings, dns: self.dns.address };
        let peers = sections.peers(&[("queue", queues)]);
        Process::start(&format!("{}{}{peers}", sections.server(name), sections.ingress())).await.unwrap()
    }

    /// What an egress that is started later has in its section.
    pub fn set_egress(&mut self, text: &str) {
        self.settings.egress = text.into();
    }

    /// Sends one message and returns its id, which the 250 names.
    pub async fn send(&self, to: &[&str], content: &str) -> MessageId {
        send_to(self.smtp, to, content).await.unwrap_or_else(|reply| panic!("not accepted: {reply}"))
    }

    /// The queue's events from the first on, read until `enough` of them are there.
    pub async fn events_until(&self, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        events_until(&self.queue, enough).await
    }

    pub async fn stop(self) {
        let Self { mut processes, .. } = self;
        // What needs others ends before what it needs.
        while let Some(process) = processes.pop() {
            process.stop().await;
        }
    }
}

/// Reads a queue's events from the first on until `enough` of them are there.
pub async fn events_until(queue: &Queue, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let seen = Mutex::new(Vec::new());
    let reading = async {
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut stream = queue.watch_events(tonic::Request::new(request)).await.unwrap().into_inner();
        while let Some(answer) = stream.next().await {
            if let Some(Item::Events(batch)) = answer.unwrap().item {
                let mut seen = seen.lock().unwrap();
                seen.extend(batch.events);
                if enough(&seen) {
                    return;
                }
            }
        }
        panic!("the event stream ended");
    };
    if tokio::time::timeout(HANG, reading).await.is_err() {
        panic!("these events are not enough: {:#?}", brief(&seen.lock().unwrap()));
    }
    seen.into_inner().unwrap()
}

fn brief(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        let reply = event.reply.as_ref().map(|reply| reply.line()).unwrap_or_default();
        format!("{:?} attempt {} {:?} {reply}", event.kind(), event.attempt, event.recipients)
    };
    events.iter().map(line).collect()
}

/// The events of one kind.
pub fn of_kind(events: &[Event], kind: EventKind) -> Vec<&Event> {
    events.iter().filter(|event| event.kind() == kind).collect()
}

/// Sends one message over SMTP; the id that the 250 names, or the reply that is none.
pub async fn send_to(smtp: SocketAddr, to: &[&str], content: &str) -> Result<MessageId, String> {
    let dialogue = async {
        let stream = TcpStream::connect(smtp).await.map_err(|error| error.to_string())?;
        let mut stream = BufReader::new(stream);
        say(&mut stream, "", "220").await?;
        say(&mut stream, "EHLO client.test\r\n", "250").await?;
        say(&mut stream, "MAIL FROM:<sender@client.test> BODY=8BITMIME\r\n", "250").await?;
        for recipient in to {
            say(&mut stream, &format!("RCPT TO:<{recipient}>\r\n"), "250").await?;
        }
        say(&mut stream, "DATA\r\n", "354").await?;
        let stuffed = format!("{content}\r\n").replace("\r\n.", "\r\n..");
        let reply = say(&mut stream, &format!("{stuffed}.\r\n"), "250").await?;
        say(&mut stream, "QUIT\r\n", "221").await?;
        let place = reply.find("msg_").ok_or(reply.clone())?;
        reply[place..place + 30].parse().map_err(|_| reply.clone())
    };
    tokio::time::timeout(HANG, dialogue).await.map_err(|_| "no answer".to_string())?
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str, expected: &str) -> Result<String, String> {
    stream.get_mut().write_all(line.as_bytes()).await.map_err(|error| error.to_string())?;
    loop {
        let mut reply = String::new();
        stream.read_line(&mut reply).await.map_err(|error| error.to_string())?;
        if reply.as_bytes().get(3) != Some(&b'-') {
            return if reply.starts_with(expected) { Ok(reply) } else { Err(reply) };
        }
    }
}

/// What [`Sections`] started, and where.
struct Placed {
    processes: Vec<Process>,
    smtp: SocketAddr,
    http: SocketAddr,
    queue: String,
    throttle: String,
    tsa: String,
}

/// The configuration's texts.
struct Sections<'a> {
    folder: &'a Path,
    settings: &'a Settings,
    dns: SocketAddr,
}

impl Sections<'_> {
    async fn near(&self) -> Placed {
        let mut text = self.server("all");
        text += &format!("[throttle]\n{}{}{}{}", self.tsa(), self.proxy(), self.queue(), self.ingress());
        text += "[gateway]\nlisten = \"127.0.0.1:0\"\n";
        if !self.settings.without_egress {
            text += &self.egress();
        }
        let all = Process::start(&text).await.unwrap();
        let at = all.address();
        Placed {
            smtp: all.running.smtp[0],
            http: all.running.http.unwrap(),
            queue: at.clone(),
            throttle: at.clone(),
            tsa: at,
            processes: vec![all],
        }
    }

    async fn spread(&self) -> Placed {
        let throttle = self.process("throttle", "[throttle]\n", &[]).await;
        let tsa = self.process("tsa", &self.tsa(), &[]).await;
        let proxy = self.process("proxy", &self.proxy(), &[]).await;
        let (throttle_at, tsa_at, proxy_at) = (throttle.address(), tsa.address(), proxy.address());
        let leaves: [(&str, &[&str]); 2] = [("throttle", &[&throttle_at]), ("tsa", &[&tsa_at])];
        let queue = self.process("queue", &self.queue(), &leaves).await;
        let queue_at = queue.address();
        let ingress = self.process("ingress", &self.ingress(), &[("queue", &[&queue_at])]).await;
        let ingress_at = ingress.address();
        let door = "[gateway]\nlisten = \"127.0.0.1:0\"\n";
        let gateway = self.process("gateway", door, &[("ingress", &[&ingress_at])]).await;
        let (smtp, http) = (ingress.running.smtp[0], gateway.running.http.unwrap());
        let mut processes = vec![throttle, tsa, proxy, queue, ingress, gateway];
        if !self.settings.without_egress {
            let queues: (&str, &[&str]) = ("queue", &[&queue_at]);
            let peers = [leaves[0], leaves[1], queues, ("proxy", &[&proxy_at])];
            let egress = self.process("egress", &self.egress(), &peers).await;
            processes.push(egress);
        }
        Placed { processes, smtp, http, queue: queue_at, throttle: throttle_at, tsa: tsa_at }
    }

    async fn process(&self, name: &str, section: &str, peers: &[(&str, &[&str])]) -> Process {
        Process::start(&format!("{}{section}{}", self.server(name), self.peers(peers))).await.unwrap()
    }

    fn server(&self, name: &str) -> String {
        let data = self.folder.join(name);
        format!("[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = {data:?}\n[telemetry]\n{}\n", self.settings.telemetry)
    }

    fn peers(&self, peers: &[(&str, &[&str])]) -> String {
        let lines = peers.iter().map(|(service, addresses)| format!("{service} = {addresses:?}\n"));
        format!("[peers]\n{}", lines.collect::<String>())
    }

    fn tsa(&self) -> String {
        format!("[tsa]\nshaping_files = [{:?}]\n", self.folder.join("shaping.toml"))
    }

    fn proxy(&self) -> String {
        "[proxy]\nlisten = \"127.0.0.1:0\"\n".into()
    }

    fn queue(&self) -> String {
        format!("[queue]\nretry_interval = \"1s\"\nmax_retry_interval = \"1s\"\n{}\n", self.settings.queue)
            .replace_doubled("retry_interval", &self.settings.queue)
    }

    fn ingress(&self) -> String {
        "[ingress]\n[[ingress.listeners]]\nlisten = \"127.0.0.1:0\"\nhostname = \"mx.godwit.test\"\n".into()
    }

    fn egress(&self) -> String {
        format!(
            "[egress]\nshaping_files = [{:?}]\ndns_servers = [\"{}\"]\nallow_networks = [\"127.0.0.0/8\"]\n{}\n",
            self.folder.join("shaping.toml"),
            self.dns,
            self.settings.egress
        )
    }
}

/// Drops the usual line of a key that the scenario sets itself: TOML has each key once.
trait ReplaceDoubled {
    fn replace_doubled(self, key: &str, own: &str) -> String;
}

impl ReplaceDoubled for String {
    fn replace_doubled(self, key: &str, own: &str) -> String {
        if own.lines().any(|line| line.starts_with(key)) {
            self.replacen("retry_interval = \"1s\"\n", "", 1)
        } else {
            self
        }
    }
}

/// The stage of a session at which a [`Script`] does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Connect,
    Rcpt,
    Data,
    Content,
    Dot,
}

/// What a sink does: each line once, at its step, where the argument holds the needle; else the usual.
#[derive(Debug, Default)]
pub struct Script(Mutex<Vec<(Step, &'static str, Action)>>);

impl Script {
    pub fn new(lines: impl IntoIterator<Item = (Step, &'static str, Action)>) -> Self {
        Self(Mutex::new(lines.into_iter().collect()))
    }

    fn next(&self, step: Step, argument: &str) -> Action {
        let mut lines = self.0.lock().unwrap();
        let place = lines.iter().position(|(at, needle, _)| *at == step && argument.contains(needle));
        place.map_or(Action::Usual, |place| lines.remove(place).2)
    }
}

impl Behaviour for Script {
    fn connect(&self) -> Action {
        self.next(Step::Connect, "")
    }
    fn rcpt(&self, argument: &str) -> Action {
        self.next(Step::Rcpt, argument)
    }
    fn data(&self) -> Action {
        self.next(Step::Data, "")
    }
    fn content(&self) -> Action {
        self.next(Step::Content, "")
    }
    fn dot(&self, _content: &[u8]) -> Action {
        self.next(Step::Dot, "")
    }
}

pub fn reply(text: &str) -> Action {
    Action::Reply(text.to_string())
}
