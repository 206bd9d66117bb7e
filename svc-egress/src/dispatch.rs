//! Turns what is due into lookups, routes and connections. One task owns all of this state; each event costs what it
//! changed, never a look at all lanes (but for a queue node that begins anew).

mod due;
mod list;
mod settling;
mod sites;
mod staff;

use crate::actions::Actions;
use crate::crew::lock;
use crate::lanes::Domain;
use crate::shared::{Event, Shared};
use godwit_shaping::Shaping;
use settling::Settling;
use sites::SiteState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Something to look at again later. One too many does no harm; a site has one, see `arm`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Domain(String),
    Site(String),
}

/// All that is known and under way.
pub struct Dispatcher {
    shared: Arc<Shared>,
    actions: Arc<Mutex<Actions>>,
    /// The shaping files, with the sites of their domains.
    shaping: Arc<Mutex<Shaping>>,
    domains: HashMap<String, Domain>,
    sites: HashMap<String, SiteState>,
    /// By node: counts its snapshots.
    snapshots: Vec<u64>,
    /// Domains whose lookup waits for its turn.
    lookups_waiting: VecDeque<String>,
    lookups_running: usize,
    settling: Settling,
    /// By source: when it may be tried again.
    sources_down: HashMap<usize, SourceDown>,
    timers: BTreeSet<(Instant, Wake)>,
}

struct SourceDown {
    until: Instant,
    failures: u32,
    why: String,
}

impl Dispatcher {
    pub fn new(shared: Arc<Shared>, actions: Arc<Mutex<Actions>>, shaping: Arc<Mutex<Shaping>>) -> Self {
        Self {
            snapshots: vec![0; shared.nodes.len()],
            shared,
            actions,
            shaping,
            domains: HashMap::new(),
            sites: HashMap::new(),
            lookups_waiting: VecDeque::new(),
            lookups_running: 0,
            settling: Settling::default(),
            sources_down: HashMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// Runs until the stop; connections then end by themselves.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>) {
        let stop = self.shared.host.stop.clone();
        loop {
            let next = self.timers.first().map(|(at, _)| *at);
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.hear(event),
                    None => break,
                },
                () = sleep_until(next) => self.wake(),
                () = stop.requested() => break,
            }
            self.shared.meters.domains.set(self.domains.len() as i64);
            self.shared.meters.sites.set(self.sites.len() as i64);
        }
        // From here on nobody waits for us: what is still said finds a closed door.
        drop(events);
        self.shared.workers.close();
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Anew { node } => self.begin_snapshot(node),
            Event::Due { node, lanes, snapshot_done } => self.hear_due(node, lanes, snapshot_done),
            Event::Found { domain, found } => self.hear_found(&domain, found),
            Event::Announced { node, entries } => self.hear_announced(node, entries),
            Event::Hired { crew, wait } => self.hear_hired(&crew, wait),
            Event::Connected { crew } => self.hear_connected(&crew),
            Event::Ended { crew, end } => self.hear_ended(&crew, end),
            Event::LaneSettled { domain, pool } => self.hear_lane_settled(&domain, &pool),
            Event::Actions { touched } => self.hear_actions(&touched),
            Event::List { after, size, answer } => {
                // Nobody waits any more: then nobody misses it.
                let _ = answer.send(self.list(&after, size));
            }
            Event::Sited { domain, site } => {
                let mut shaping = lock(&self.shaping);
                *shaping = shaping.clone().with_site(&domain, &site);
                drop(shaping);
                self.refresh_site(&site);
            }
        }
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            match self.timers.pop_first() {
                Some((_, Wake::Domain(domain))) => self.look_again(&domain),
                Some((_, Wake::Site(site))) => {
                    self.sites.get_mut(&site).into_iter().for_each(|state| state.armed = None);
                    self.refresh_expired(&site);
                    self.scale(&site);
                }
                None => {}
            }
        }
    }

    fn wake_at(&mut self, at: Instant, what: Wake) {
        self.timers.insert((at, what));
    }

    /// The instant at which a time of the host's clock comes.
    fn instant(&self, time: SystemTime) -> Instant {
        Instant::now() + time.duration_since(self.shared.host.clock.now()).unwrap_or(Duration::ZERO)
    }

    fn time(&self, instant: Instant) -> SystemTime {
        self.shared.host.clock.now() + instant.saturating_duration_since(Instant::now())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
