//! Sites and their crews: made when mail leads there, told of new limits and orders, forgotten when nothing is left.

use super::Dispatcher;
use crate::actions::{Place, Standing, Touched};
use crate::crew::{Crew, PoolIndex, Site, lock};
use crate::lane_work::{self, Report};
use crate::path::SitePath;
use crate::route::Route;
use crate::source::Shares;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_shaping::Query;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;
use tokio::time::Instant;

/// Lanes that one change of a site's state is reported for.
const REPORTS_MAX: usize = 1_000;

/// What the dispatcher keeps of a site.
pub(super) struct SiteState {
    pub shared: Arc<Site>,
    pub domains: BTreeSet<String>,
    /// By source.
    pub crews: HashMap<usize, CrewState>,
    /// What was last reported of its lanes, by pool; nothing: they are drained.
    pub reported: HashMap<PoolIndex, Report>,
    /// When its timer goes off.
    pub armed: Option<Instant>,
    /// It wants connections that this process may not have now.
    pub crowded: bool,
}

pub(super) struct CrewState {
    pub crew: Arc<Crew>,
    /// Slots are being asked for.
    pub hiring: bool,
    /// A connection has been greeted since the last failure; before that, one at a time is tried.
    pub proven: bool,
    /// In a row.
    pub failures: u32,
    pub pause: Option<Pause>,
    /// When orders of the TSA change by themselves.
    pub standing_until: Option<SystemTime>,
    /// Mail waits, and all connections are busy: since when, and what they had delivered by then.
    pub stall: Option<(Instant, u64)>,
}

/// No new connections until then.
pub(super) struct Pause {
    pub until: Instant,
    pub why: Why,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// All slots are taken; connections that are open go on.
    Slots,
    Throttled,
    Unreachable,
}

impl Pause {
    fn is_of_limits(&self) -> bool {
        match self.why {
            Why::Slots | Why::Throttled => true,
            Why::Unreachable => false,
        }
    }
}

impl CrewState {
    pub fn is_connected(&self) -> bool {
        !self.crew.is_closed() && self.crew.connected_count.load(Ordering::Relaxed) > 0
    }

    /// Whether mail can leave this way: something is open, or may be opened.
    pub fn is_available(&self) -> bool {
        let paused = self.pause.as_ref().is_some_and(|pause| pause.why != Why::Slots);
        !self.crew.is_closed() && (!paused || self.crew.connected_count.load(Ordering::Relaxed) > 0)
    }
}

impl Dispatcher {
    pub(super) fn join_site(&mut self, name: &str, route: &Arc<Route>) {
        let new = || SiteState {
            shared: Arc::new(Site::new(route.clone())),
            domains: BTreeSet::new(),
            crews: HashMap::new(),
            reported: HashMap::new(),
            armed: None,
            crowded: false,
        };
        let site = self.sites.entry(route.site.clone()).or_insert_with(new);
        site.shared.set_route(route.clone());
        site.domains.insert(name.into());
    }

    pub(super) fn part_from(&mut self, site: &str, name: &str) {
        if let Some(state) = self.sites.get_mut(site) {
            state.domains.remove(name);
        }
        self.forget_if_empty(site);
    }

    pub(super) fn forget_if_empty(&mut self, site: &str) {
        let is_live = |state: &CrewState| state.hiring || state.crew.live_count.load(Ordering::Relaxed) > 0;
        if self.sites.get(site).is_some_and(|state| state.domains.is_empty() && !state.crews.values().any(is_live)) {
            self.sites.remove(site);
        }
    }

    /// The shares of a pool and the crews of its sources.
    pub(super) fn ensure_crews(&mut self, site: &str, pool: PoolIndex) {
        let Some(state) = self.sites.get(site) else { return };
        if state.shared.shares().contains_key(&pool) {
            return;
        }
        let members = self.shared.pools[pool].members.clone();
        for (source, _) in &members {
            let is_new = self.sites.get(site).is_some_and(|state| !state.crews.contains_key(source));
            if is_new {
                self.make_crew(site, *source);
            }
        }
        let shares = Shares::new(&self.shared.pools[pool], rand::random::<f64>);
        self.sites.get(site).into_iter().for_each(|state| drop(state.shared.shares().insert(pool, shares.clone())));
    }

    /// Orders changed.
    pub(super) fn hear_actions(&mut self, touched: &Touched) {
        let sites: Vec<String> = match touched {
            Touched::Nothing => Vec::new(),
            Touched::Site(site) => vec![site.clone()],
            Touched::All => self.sites.keys().cloned().collect(),
        };
        for site in sites {
            self.refresh_site(&site);
        }
    }

    /// Limits and orders anew for all crews of a site.
    pub(super) fn refresh_site(&mut self, site: &str) {
        let crews: Vec<usize> =
            self.sites.get(site).into_iter().flat_map(|state| state.crews.keys().copied()).collect();
        for source in crews {
            self.refresh_crew(site, source);
        }
        self.scale(site);
    }

    /// Where orders have ended by themselves.
    pub(super) fn refresh_expired(&mut self, site: &str) {
        let now = self.shared.host.clock.now();
        let Some(state) = self.sites.get(site) else { return };
        let ended = |crew: &CrewState| crew.standing_until.is_some_and(|until| until <= now);
        let expired: Vec<usize> =
            state.crews.iter().filter(|(_, crew)| ended(crew)).map(|(source, _)| *source).collect();
        for source in expired {
            self.refresh_crew(site, source);
        }
    }

    /// Says of a pool's lanes at a site why they are not drained, or that they are again; once a change.
    pub(super) fn report_site(&mut self, site: &str, pool: PoolIndex, report: Option<Report>) {
        let Some(state) = self.sites.get_mut(site) else { return };
        let before = state.reported.get(&pool).map(|report| report.state);
        if before == report.as_ref().map(|report| report.state) {
            return;
        }
        let told = report.clone().unwrap_or(Report { state: State::Draining, reason: String::new(), until: None });
        match report {
            Some(report) => {
                tracing::info!(site, state = ?report.state, reason = %report.reason, "site is not drained");
                state.reported.insert(pool, report)
            }
            None => state.reported.remove(&pool),
        };
        for name in state.domains.iter().take(REPORTS_MAX) {
            let Some(domain) = self.domains.get(name) else { continue };
            for lane in domain.lanes.iter().filter(|lane| lane.pool == Some(pool)) {
                for node in lane.nodes_with_due() {
                    lane_work::report(&self.shared.nodes[node], name, &lane.pool_name, &told);
                }
            }
        }
    }

    /// A lane that came to a site which is not drained.
    pub(super) fn repeat_report(&self, name: &str, route: &Route, pool: PoolIndex) {
        let Some(report) = self.sites.get(&route.site).and_then(|state| state.reported.get(&pool)) else { return };
        let Some(domain) = self.domains.get(name) else { return };
        for lane in domain.lanes.iter().filter(|lane| lane.pool == Some(pool)) {
            for node in lane.nodes_with_due() {
                lane_work::report(&self.shared.nodes[node], name, &lane.pool_name, report);
            }
        }
    }

    pub(super) fn report_domain(&self, name: &str, state: State, reason: &str) {
        let Some(domain) = self.domains.get(name) else { return };
        let report = Report { state, reason: reason.into(), until: None };
        for lane in domain.lanes.iter().filter(|lane| state != State::NoSource || lane.pool.is_none()) {
            for node in lane.nodes_with_due() {
                lane_work::report(&self.shared.nodes[node], name, &lane.pool_name, &report);
            }
        }
    }

    fn make_crew(&mut self, site: &str, source: usize) {
        let Some((path, standing)) = self.path_of(site, source) else { return };
        let Some(state) = self.sites.get_mut(site) else { return };
        let crew = Crew::new(state.shared.clone(), self.shared.sources[source].clone(), source, path, &standing);
        let (crew, standing_until) = (Arc::new(crew), standing.until);
        let new =
            CrewState { crew, hiring: false, proven: false, failures: 0, pause: None, standing_until, stall: None };
        state.crews.insert(source, new);
    }

    fn refresh_crew(&mut self, site: &str, source: usize) {
        let Some((path, standing)) = self.path_of(site, source) else { return };
        if let Some(state) = self.sites.get_mut(site).and_then(|state| state.crews.get_mut(&source)) {
            state.standing_until = standing.until;
            // What the throttle said of other limits may not hold for these.
            if !state.crew.path().has_limits_of(&path) && state.pause.as_ref().is_some_and(Pause::is_of_limits) {
                state.pause = None;
            }
            state.crew.update(path, &standing);
        }
    }

    /// By the first of the site's domains: blocks of the shaping files that hold for one domain alone follow it.
    fn path_of(&self, site: &str, source: usize) -> Option<(SitePath, Standing)> {
        let state = self.sites.get(site)?;
        let mx_hosts: Vec<String> = state.shared.route().hosts.iter().map(|host| host.name.clone()).collect();
        let domain = state.domains.first().map_or("", String::as_str);
        let source = &self.shared.sources[source].name;
        let shaping = lock(&self.shaping).clone();
        let provider = shaping.provider_of(domain, &mx_hosts).unwrap_or_default().to_string();
        let place = Place { site, source, provider: &provider };
        let standing = lock(&self.actions).standing(place, self.shared.host.clock.now());
        let path = SitePath::resolve(&shaping, &Query { domain, site, mx_hosts: &mx_hosts, source }, &standing);
        Some((path, standing))
    }
}
