//! A whole MTA for a test: in one process, or every service in a process of its own behind mutual TLS; a DNS, a sink, and
//! whatever further processes a scenario starts beside it.

mod binary;
mod certs;
mod client;
mod events;
mod places;
mod process;
mod script;
mod sections;

pub use binary::Binary;
pub use client::{Client, Load, arrived, send_to};
pub use events::{count, drained, events_until, law, of_kind, time, told};
pub use process::{Folder, Process};
pub use script::{Script, Step, reply};

use crate::dns::{Dns, Domain};
use bench::sink::{Behaviour, Keep, Sink};
use godwit_kit::config::Telemetry;
use godwit_kit::net::Net;
use godwit_kit::telemetry;
use godwit_proto::common::v1::Event;
use godwit_proto::id::MessageId;
use godwit_proto::queue::{self, Queue, QueueAdmin};
use godwit_proto::tsa::{self, Tsa};
use places::Places;
use sections::{Sections, Text};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Nothing here takes so long; it is the bound of a hang, not of a duration.
pub const HANG: Duration = Duration::from_secs(90);
/// Between two looks at the same thing.
const LOOK: Duration = Duration::from_millis(10);

/// Where the services are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    Near,
    Spread,
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
    /// The TSAs that every queue feeds, and that an egress of a process of its own listens to in this order. Empty: the
    /// world's own, `tsa`; the scenario starts the others.
    pub tsas: Vec<&'static str>,
}

/// The usual domains: `one.test` and `two.test` at one site, the sink.
pub fn at_sink() -> Vec<(&'static str, Domain)> {
    let domain = Domain { mx: vec![(10, "mx.test.")], ..Domain::default() };
    let host = Domain { a: vec![[127, 0, 0, 1].into()], ..Domain::default() };
    vec![("one.test", domain.clone()), ("two.test", domain), ("mx.test", host)]
}

/// The world of one scenario. Its own processes are called by the services in them: `throttle`, `tsa`, `proxy`, `queue`,
/// `ingress`, `gateway`, `egress`, whether that is one process or seven.
pub struct World {
    pub sink: Sink,
    pub processes: Vec<Process>,
    pub smtp: SocketAddr,
    pub http: SocketAddr,
    pub queue: Queue,
    pub queue_address: String,
    binaries: Vec<Binary>,
    settings: Settings,
    dns: Dns,
    places: Places,
    // Goes last: the processes are in it.
    pub folder: Folder,
}

impl World {
    pub async fn start(placement: Placement, behaviour: impl Behaviour, settings: Settings) -> Self {
        // To see what happens: GODWIT_TEST_LOG=debug cargo test … --nocapture
        if let Ok(log_filter) = std::env::var("GODWIT_TEST_LOG") {
            let config = Telemetry { log_filter, ..Telemetry::default() };
            let _ = telemetry::init(&config, "node_test");
        }
        let mut world = Self::empty(placement, behaviour, settings).await;
        for Text { text, .. } in world.sections().own(placement) {
            let process = Process::start(&text).await.unwrap();
            world.processes.push(process);
        }
        world
    }

    /// Nodes that have everything and the same configuration: each names all of them, itself included.
    pub async fn start_nodes(nodes: &[&str], behaviour: impl Behaviour, settings: Settings) -> Self {
        let mut world = Self::empty(Placement::Spread, behaviour, settings).await;
        for node in nodes {
            let process = run(world.sections().node(node, nodes)).await;
            world.processes.push(process);
        }
        world
    }

    /// As [`start`](Self::start), of real processes: each the binary with its configuration in a file.
    pub async fn start_binaries(placement: Placement, behaviour: impl Behaviour, settings: Settings) -> Self {
        let mut world = Self::empty(placement, behaviour, settings).await;
        for Text { name, text } in world.sections().own(placement) {
            let binary = Binary::start(world.folder.path(), &name, &text);
            world.ready(&name, "").await;
            world.binaries.push(binary);
        }
        world
    }

    async fn empty(placement: Placement, behaviour: impl Behaviour, settings: Settings) -> Self {
        let at = "127.0.0.1:0".parse().unwrap();
        let sink = Sink::start(&Net::Tcp, at, Keep::Content, behaviour).await.unwrap();
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
        let places = Places::new(placement, folder.path());
        Self {
            sink,
            processes: Vec::new(),
            smtp: places.listener("ingress", "smtp"),
            http: places.listener("gateway", "http"),
            queue: queue::at(places.wire("queue")),
            queue_address: places.url("queue"),
            binaries: Vec::new(),
            settings,
            dns,
            places,
            folder,
        }
    }

    fn sections(&self) -> Sections<'_> {
        let shaping = self.folder.path().join("shaping.toml");
        Sections { places: &self.places, settings: &self.settings, shaping, dns: self.dns.address }
    }

    /// A further egress over these queues.
    pub async fn start_egress(&self, name: &str, queues: &[&str]) -> Process {
        run(self.sections().egress_process(name, queues)).await
    }

    /// A further queue.
    pub async fn start_queue(&self, name: &str) -> Process {
        run(self.sections().queue_process(name)).await
    }

    /// A further TSA.
    pub async fn start_tsa(&self, name: &str) -> Process {
        let sections = self.sections();
        run(sections.process(name, &sections.tsa(), &[])).await
    }

    /// A further ingress over these queues.
    pub async fn start_ingress(&self, name: &str, queues: &[&str]) -> Process {
        let sections = self.sections();
        run(sections.process(name, &sections.ingress(name), &[("queue", queues)])).await
    }

    /// A further gateway over these ingresses.
    pub async fn start_gateway(&self, name: &str, ingresses: &[&str]) -> Process {
        let sections = self.sections();
        run(sections.process(name, &sections.gateway(name), &[("ingress", ingresses)])).await
    }

    /// A further proxy that owns one address and lets its clients to the sink.
    pub async fn start_proxy(&self, name: &str, address: &str) -> Process {
        let section = format!(
            "[proxy]\nlisten = \"{}\"\nsources = [\"{address}\"]\nusername = \"u\"\npassword = \"p\"\nports = [{}]\n\
             allow_networks = [\"127.0.0.0/8\"]\n",
            self.listener(name, "socks5"),
            self.sink.address().port()
        );
        run(self.sections().process(name, &section, &[])).await
    }

    /// What an egress that is started later has in its section.
    pub fn set_egress(&mut self, text: &str) {
        self.settings.egress = text.into();
    }

    /// A listener of one of the processes: `smtp`, `http`, `socks5`.
    pub fn listener(&self, name: &str, door: &str) -> SocketAddr {
        self.places.listener(name, door)
    }

    /// How processes call one another.
    pub fn url(&self, name: &str) -> String {
        self.places.url(name)
    }

    /// The folder of a process that has ended, once nothing that it left running is at it any more.
    pub async fn released(&self, name: &str) -> PathBuf {
        let folder = self.places.data_dir(name);
        until(&format!("end of {name}"), async || process::is_free(&folder).then_some(())).await;
        folder
    }

    /// The test's own road to one of the processes.
    pub fn wire(&self, name: &str) -> godwit_proto::Wire {
        self.places.wire(name)
    }

    pub fn queue_of(&self, name: &str) -> Queue {
        queue::at(self.wire(name))
    }

    pub fn admin_of(&self, name: &str) -> QueueAdmin {
        queue::admin_at(self.wire(name))
    }

    pub fn tsa_of(&self, name: &str) -> Tsa {
        tsa::at(self.wire(name))
    }

    /// What the health check of one of the processes says of a contract; empty: of the process.
    pub async fn health(&self, name: &str, service: &str) -> Option<ServingStatus> {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(self.wire(name)).check(request).await.ok()?;
        Some(answer.into_inner().status())
    }

    /// Until it says that it serves.
    pub async fn ready(&self, name: &str, service: &str) {
        let serves = || async { (self.health(name, service).await? == ServingStatus::Serving).then_some(()) };
        until(&format!("{name} serves"), serves).await;
    }

    /// Sends one message and returns its id, which the 250 names.
    pub async fn send(&self, to: &[&str], content: &str) -> MessageId {
        send_to(self.smtp, to, content).await.unwrap_or_else(|reply| panic!("not accepted: {reply}"))
    }

    /// The queue's events from the first on, read until `enough` of them are there.
    pub async fn events_until(&self, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        events_until(&self.queue, enough).await
    }

    /// Until a queue holds no mail; all that it ever told.
    pub async fn drained(&self, queue: &str) -> Vec<Event> {
        drained(&self.queue_of(queue), &self.admin_of(queue)).await
    }

    pub async fn stop(self) {
        let Self { mut processes, mut binaries, .. } = self;
        // What needs others ends before what it needs.
        while let Some(process) = processes.pop() {
            process.stop().await;
        }
        while let Some(binary) = binaries.pop() {
            binary.stop().await;
        }
    }
}

/// Starts a process. One that is back after a kill finds for a moment what that one has not let go yet.
async fn run(Text { text, .. }: Text) -> Process {
    let start = || async {
        match Process::start(&text).await {
            Ok(process) => Some(process),
            Err(error) if is_held(&format!("{error:#}")) => None,
            Err(error) => panic!("{error:#}\n{text}"),
        }
    };
    until("start of a process", start).await
}

fn is_held(error: &str) -> bool {
    ["in use", "could not acquire lock"].iter().any(|words| error.contains(words))
}

/// Looks again and again, until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    };
    tokio::time::timeout(HANG, looking).await.unwrap_or_else(|_| panic!("no {what}"))
}
