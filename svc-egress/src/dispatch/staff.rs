//! How many connections each crew has: hired for the backlog within limits, held back by pauses and suspensions.

use super::settling::Verdict;
use super::sites::{CrewState, Pause, SiteState, Why};
use super::{Dispatcher, SourceDown, Wake};
use crate::crew::{Crew, PoolIndex, lock};
use crate::lane_work::Report;
use crate::plan;
use crate::shared::{Event, Shared};
use crate::worker::{End, Worker};
use futures::FutureExt;
use godwit_proto::common::v1::SmtpReply;
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::RecipientResult;
use godwit_proto::queue::v1::report_lane_request::State;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long to wait where this process has all the connections it may have.
const CROWDED_WAIT: Duration = Duration::from_secs(1);
/// How long mail waits for busy connections that get nothing done, before one more is opened.
const STALL: Duration = Duration::from_secs(2);
/// How long a throttle's word counts at the most: its limits may be changed, or its debts forgotten, before.
const THROTTLED_MAX: Duration = Duration::from_secs(600);

impl Dispatcher {
    /// Fits the connections of a site to what is due.
    pub(super) fn scale(&mut self, site: &str) {
        let Some(state) = self.sites.get(site) else { return };
        let due = state.shared.due(&self.shared.nodes);
        for pool in due.keys() {
            self.ensure_crews(site, *pool);
        }
        self.end_pauses(site);
        self.sites.get_mut(site).into_iter().for_each(|state| state.crowded = false);
        let mut wanted: HashMap<usize, u64> = HashMap::new();
        for (pool, backlog) in &due {
            let report = self.obstacle(site, *pool);
            let Some(state) = self.sites.get(site) else { return };
            if let Some(shares) = state.shared.shares().get_mut(pool) {
                for (source, crew) in &state.crews {
                    shares.set_available(*source, crew.is_available() && !self.is_down(*source));
                    shares.set_present(*source, crew.is_connected());
                }
                for (source, part) in shares.split(*backlog) {
                    *wanted.entry(source).or_default() += part;
                }
            }
            self.report_site(site, *pool, report);
        }
        for (source, backlog) in wanted.into_iter().filter(|(_, backlog)| *backlog > 0) {
            self.staff(site, source, backlog);
        }
        self.arm(site);
    }

    /// Sets the site's one timer for whatever ends first by itself: a pause, an order, a source's time of rest.
    fn arm(&mut self, site: &str) {
        let now = Instant::now();
        let Some(state) = self.sites.get(site) else { return };
        let ends = state.crews.iter().flat_map(|(source, crew)| {
            let pause = crew.pause.as_ref().map(|pause| pause.until);
            let down = self.sources_down.get(source).map(|down| down.until).filter(|until| *until > now);
            let standing = crew.standing_until.map(|until| self.instant(until) + Duration::from_millis(1));
            let stall = crew.stall.map(|(since, _)| since + STALL).filter(|until| *until > now);
            [pause, down, standing, stall].into_iter().flatten()
        });
        let Some(next) = ends.chain(state.crowded.then(|| now + CROWDED_WAIT)).min() else { return };
        let armed = state.armed;
        if armed.is_some_and(|armed| armed <= next) {
            return;
        }
        if let Some(later) = armed {
            self.timers.remove(&(later, Wake::Site(site.into())));
        }
        self.sites.get_mut(site).into_iter().for_each(|state| state.armed = Some(next));
        self.wake_at(next, Wake::Site(site.into()));
    }

    pub(super) fn hear_hired(&mut self, crew: &Arc<Crew>, wait: Option<Duration>) {
        if let Some(state) = self.crew_state(crew) {
            state.hiring = false;
            if let Some(wait) = wait {
                let until = Instant::now() + wait.max(Duration::from_millis(10));
                let reason = "all connection slots are taken".into();
                if state.pause.as_ref().is_none_or(|pause| pause.why == Why::Slots) {
                    state.pause = Some(Pause { until, why: Why::Slots, reason });
                }
            }
        }
        self.scale(&crew.site.name);
        self.forget_if_empty(&crew.site.name);
    }

    pub(super) fn hear_connected(&mut self, crew: &Arc<Crew>) {
        let was_down = self.sources_down.remove(&crew.source_index).is_some();
        if let Some(state) = self.crew_state(crew) {
            (state.proven, state.failures) = (true, 0);
            if state.pause.as_ref().is_some_and(|pause| pause.why == Why::Unreachable) {
                state.pause = None;
            }
        }
        if was_down {
            self.scale_all_of(crew.source_index);
        }
        self.scale(&crew.site.name);
    }

    /// The source is back: what waits for it elsewhere need not wait longer.
    fn scale_all_of(&mut self, source: usize) {
        let has_it = |(_, state): &(&String, &SiteState)| state.crews.contains_key(&source);
        let sites: Vec<String> = self.sites.iter().filter(has_it).map(|(name, _)| name.clone()).collect();
        for site in sites {
            self.scale(&site);
        }
    }

    pub(super) fn hear_ended(&mut self, crew: &Arc<Crew>, end: End) {
        let site = crew.site.name.as_str();
        match end {
            End::Done | End::Lost => {}
            End::Throttled { wait, key } => {
                self.pause(crew, wait.min(THROTTLED_MAX), Why::Throttled, format!("limited by {key}"));
            }
            End::Failed => self.pause(crew, plan::backoff(1), Why::Throttled, "a fault of our own".into()),
            End::SourceDown(why) => self.source_down(crew, why),
            End::Unreachable { result, reply } => self.unreachable(crew, result, &reply),
        }
        self.scale(site);
        self.forget_if_empty(site);
    }

    /// The source cannot send, whoever the destination: no attempt of the mail is counted.
    fn source_down(&mut self, crew: &Arc<Crew>, why: String) {
        let now = Instant::now();
        let before = self.sources_down.get(&crew.source_index);
        if before.is_none_or(|down| down.until <= now) {
            let failures = before.map_or(0, |down| down.failures) + 1;
            let until = now + plan::backoff(failures);
            tracing::warn!(source = %crew.source.name, %why, "source cannot send");
            self.sources_down.insert(crew.source_index, SourceDown { until, failures, why });
        }
    }

    /// No host of the site can be used from this source.
    fn unreachable(&mut self, crew: &Arc<Crew>, result: RecipientResult, reply: &SmtpReply) {
        let failures_max = crew.path().path.connections.consecutive_connection_failures_before_delay;
        let now = Instant::now();
        let Some(state) = self.crew_state(crew) else { return };
        // A site that takes no more connections, and works off the mail on those that it has, is no site out of reach.
        let works = crew.connected_count.load(Ordering::Relaxed) > 0;
        // Those that were tried at the same time say nothing new.
        let tells = |pause: &Pause| pause.why == Why::Unreachable || (works && pause.why == Why::Slots);
        if state.pause.as_ref().is_some_and(|pause| tells(pause) && pause.until > now) {
            return;
        }
        state.failures += 1;
        let (wait, why) = match works {
            true if state.failures < failures_max => (plan::call_backoff(state.failures), Why::Slots),
            true => (plan::backoff(state.failures - failures_max + 1), Why::Slots),
            false => (plan::backoff(state.failures), Why::Unreachable),
        };
        state.proven = works;
        self.pause(crew, wait, why, reply.line());
        if works {
            return;
        }
        let verdict = Verdict { result, reply, source: &crew.source.name };
        let mut pools: Vec<PoolIndex> = crew.site.shares().keys().copied().collect();
        pools.retain(|pool| self.nobody_reaches(&crew.site.name, *pool));
        for pool in pools {
            self.settle_site(&crew.site.name, pool, &verdict);
        }
    }

    fn pause(&mut self, crew: &Arc<Crew>, wait: Duration, why: Why, reason: String) {
        let until = Instant::now() + wait;
        if let Some(state) = self.crew_state(crew) {
            state.pause = Some(Pause { until, why, reason });
        }
    }

    fn end_pauses(&mut self, site: &str) {
        let now = Instant::now();
        let Some(state) = self.sites.get_mut(site) else { return };
        for crew in state.crews.values_mut().filter(|crew| crew.pause.as_ref().is_some_and(|pause| pause.until <= now))
        {
            crew.pause = None;
        }
    }

    /// All of a pool's sources are known not to reach the site.
    fn nobody_reaches(&self, site: &str, pool: PoolIndex) -> bool {
        let Some(state) = self.sites.get(site) else { return false };
        self.shared.pools[pool].members.iter().all(|(source, _)| {
            let paused = state.crews.get(source).and_then(|crew| crew.pause.as_ref());
            paused.is_some_and(|pause| pause.why == Why::Unreachable) || self.is_down(*source)
        })
    }

    fn is_down(&self, source: usize) -> bool {
        self.sources_down.get(&source).is_some_and(|down| down.until > Instant::now())
    }

    /// Why none of a pool's sources can send to the site now; `None` where one can.
    fn obstacle(&self, site: &str, pool: PoolIndex) -> Option<Report> {
        let now = Instant::now();
        let state = self.sites.get(site)?;
        let mut worst: Option<Report> = None;
        for (source, _) in &self.shared.pools[pool].members {
            let crew = state.crews.get(source)?;
            let report = match (crew.crew.suspended(), self.sources_down.get(source), &crew.pause) {
                (Some(suspended), _, _) => {
                    Report { state: State::Suspended, reason: suspended.reason, until: Some(suspended.until) }
                }
                (None, Some(down), _) if down.until > now => {
                    Report { state: State::NoSource, reason: down.why.clone(), until: Some(self.time(down.until)) }
                }
                (None, _, Some(pause)) if !crew.is_available() || crew.crew.live_count.load(Ordering::Relaxed) == 0 => {
                    let state = match pause.why {
                        Why::Slots | Why::Throttled => State::Throttled,
                        Why::Unreachable => State::Unreachable,
                    };
                    Report { state, reason: pause.reason.clone(), until: Some(self.time(pause.until)) }
                }
                (None, _, _) => return None,
            };
            worst = Some(worst.filter(|other| other.until <= report.until).unwrap_or(report));
        }
        worst
    }

    fn staff(&mut self, site: &str, source: usize, backlog: u64) {
        let is_down = self.is_down(source);
        let Some(state) = self.sites.get_mut(site).and_then(|state| state.crews.get_mut(&source)) else { return };
        let crew = state.crew.clone();
        let in_hand = crew.in_hand_count.load(Ordering::Relaxed);
        let limit = crew.path().connection_limit();
        let idle_count = crew.idle_count.load(Ordering::Relaxed);
        let wanted = match state.proven {
            true => plan::connections(limit, backlog + in_hand).max(state.unstall(limit)),
            false => 1,
        };
        for _ in 0..u64::from(idle_count.min(wanted)).min(backlog) {
            crew.wake.notify_one();
        }
        let missing = wanted.saturating_sub(crew.live_count.load(Ordering::Relaxed));
        if missing == 0 || state.hiring || state.pause.is_some() || is_down || crew.is_closed() {
            return;
        }
        let permits: Vec<OwnedSemaphorePermit> =
            (0..missing).map_while(|_| self.shared.connections.clone().try_acquire_owned().ok()).collect();
        if permits.is_empty() {
            self.shared.meters.connections_limited.inc();
            self.sites.get_mut(site).into_iter().for_each(|state| state.crowded = true);
            return;
        }
        state.hiring = true;
        // Among the connections: while it asks, one may still come.
        self.shared.workers.spawn(hire(self.shared.clone(), crew, permits));
    }

    fn crew_state(&mut self, crew: &Crew) -> Option<&mut CrewState> {
        self.sites.get_mut(&crew.site.name)?.crews.get_mut(&crew.source_index)
    }
}

impl CrewState {
    /// Mail waits. Connections that this takes beyond what the backlog is worth: few messages share few connections,
    /// but not one whose peer makes it wait.
    fn unstall(&mut self, limit: u32) -> u32 {
        let (now, delivered) = (Instant::now(), self.crew.delivered_count.load(Ordering::Relaxed));
        let live = self.crew.live_count.load(Ordering::Relaxed);
        let busy = live > 0 && live < limit && self.crew.idle_count.load(Ordering::Relaxed) == 0;
        match self.stall.filter(|(_, before)| busy && *before == delivered) {
            Some((since, _)) if since + STALL <= now => {
                self.stall = None;
                live + 1
            }
            Some(_) => 0,
            None => {
                self.stall = busy.then_some((now, delivered));
                0
            }
        }
    }
}

/// Asks for slots and starts a connection for each.
async fn hire(shared: Arc<Shared>, crew: Arc<Crew>, permits: Vec<OwnedSemaphorePermit>) {
    let wanted = permits.len();
    let mut holders = std::mem::take(&mut *lock(&crew.waiting));
    holders.truncate(wanted);
    holders.resize_with(wanted, || MessageId::new().to_string().replace("msg_", "conn_"));
    crew.live_count.fetch_add(wanted as u32, Ordering::Relaxed);
    let acquired = shared.limits.slots(&crew.path(), holders).await;
    *lock(&crew.waiting) = acquired.waiting;
    let granted = acquired.slots.len();
    crew.live_count.fetch_sub((wanted - granted) as u32, Ordering::Relaxed);
    for (slots, permit) in acquired.slots.into_iter().zip(permits) {
        let worker = Worker { shared: shared.clone(), crew: crew.clone(), slots, permit };
        let (shared_of_worker, crew_of_worker) = (shared.clone(), crew.clone());
        shared.workers.spawn(async move {
            let end = AssertUnwindSafe(worker.run()).catch_unwind().await.unwrap_or(End::Failed);
            crew_of_worker.live_count.fetch_sub(1, Ordering::Relaxed);
            shared_of_worker.say(Event::Ended { crew: crew_of_worker, end }).await;
        });
    }
    shared.say(Event::Hired { crew, wait: (granted < wanted).then_some(acquired.wait) }).await;
}
