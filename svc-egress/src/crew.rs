//! What dispatcher and connections share: a site with its backlog, and its crews, one for each source.

use crate::actions::{Standing, Suspended};
use crate::node::Node;
use crate::path::SitePath;
use crate::route::Route;
use crate::source::{Shares, Source};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A place among the configured pools.
pub type PoolIndex = usize;

/// One site.
pub struct Site {
    pub name: String,
    route: Mutex<Arc<Route>>,
    backlog: Mutex<Vec<Backlog>>,
    shares: Mutex<HashMap<PoolIndex, Shares>>,
}

/// What one queue node has due for the site in one pool.
#[derive(Debug, Clone, Copy)]
struct Backlog {
    node: usize,
    pool: PoolIndex,
    /// The sum of what the node has told of the site's lanes.
    told: u64,
    /// The best guess now: what was told, or what a Lease said since.
    guess: u64,
    /// Grows with each word of the node, so that an answer that was overtaken does not overwrite it.
    version: u64,
    /// When it was last picked, counted in picks.
    picked: u64,
}

/// Where to lease from next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    pub node: usize,
    pub pool: PoolIndex,
    pub backlog: u64,
    version: u64,
}

impl Site {
    pub fn new(route: Arc<Route>) -> Self {
        let (name, route) = (route.site.clone(), Mutex::new(route));
        Self { name, route, backlog: Mutex::default(), shares: Mutex::default() }
    }

    pub fn route(&self) -> Arc<Route> {
        lock(&self.route).clone()
    }

    pub fn set_route(&self, route: Arc<Route>) {
        *lock(&self.route) = route;
    }

    /// A lane's due count changed.
    pub fn tell(&self, node: usize, pool: PoolIndex, before: u64, now: u64) {
        let mut backlog = lock(&self.backlog);
        let entry = match backlog.iter_mut().position(|entry| (entry.node, entry.pool) == (node, pool)) {
            Some(place) => &mut backlog[place],
            None => {
                backlog.push(Backlog { node, pool, told: 0, guess: 0, version: 0, picked: 0 });
                backlog.last_mut().expect("just pushed")
            }
        };
        entry.told = (entry.told + now).saturating_sub(before);
        entry.guess = entry.told;
        entry.version += 1;
    }

    /// A Lease said what is left.
    pub fn remains(&self, pick: Pick, remaining: u64) {
        let mut backlog = lock(&self.backlog);
        let is_picked =
            |entry: &&mut Backlog| (entry.node, entry.pool, entry.version) == (pick.node, pick.pool, pick.version);
        if let Some(entry) = backlog.iter_mut().find(is_picked) {
            entry.guess = remaining;
        }
    }

    /// Due in each pool, over all nodes that can be reached.
    pub fn due(&self, nodes: &[Arc<Node>]) -> HashMap<PoolIndex, u64> {
        let mut due = HashMap::new();
        for entry in lock(&self.backlog).iter().filter(|entry| entry.guess > 0 && !nodes[entry.node].is_away()) {
            *due.entry(entry.pool).or_default() += entry.guess;
        }
        due
    }

    /// Nodes and pools by turns, of those that a source may take from: a small backlog never waits for a large one.
    pub fn pick(&self, source: usize, nodes: &[Arc<Node>]) -> Option<Pick> {
        let shares = lock(&self.shares);
        let may_take = |pool: &PoolIndex| shares.get(pool).is_some_and(|shares| shares.may_take(source));
        let mut backlog = lock(&self.backlog);
        let last = backlog.iter().map(|entry| entry.picked).max()?;
        let is_open = |entry: &&mut Backlog| entry.guess > 0 && !nodes[entry.node].is_away() && may_take(&entry.pool);
        let next = backlog.iter_mut().filter(is_open).min_by_key(|entry| entry.picked)?;
        next.picked = last + 1;
        let Backlog { node, pool, guess, version, .. } = *next;
        Some(Pick { node, pool, backlog: guess, version })
    }

    /// Whether `pick` would give anything.
    pub fn has_pick(&self, source: usize, nodes: &[Arc<Node>]) -> bool {
        let shares = lock(&self.shares);
        let may_take = |pool: &PoolIndex| shares.get(pool).is_some_and(|shares| shares.may_take(source));
        let backlog = lock(&self.backlog);
        backlog.iter().any(|entry| entry.guess > 0 && !nodes[entry.node].is_away() && may_take(&entry.pool))
    }

    pub fn shares(&self) -> MutexGuard<'_, HashMap<PoolIndex, Shares>> {
        lock(&self.shares)
    }

    /// `source` took so many deliveries of a pool.
    pub fn charge(&self, pool: PoolIndex, source: usize, deliveries: u64) {
        if let Some(shares) = self.shares().get_mut(&pool) {
            shares.charge(source, deliveries);
        }
    }
}

/// The connections of one source at one site.
pub struct Crew {
    pub site: Arc<Site>,
    pub source: Arc<Source>,
    /// Its place among the sources.
    pub source_index: usize,
    path: Mutex<Arc<SitePath>>,
    suspended: Mutex<Option<Suspended>>,
    /// No new mail: suspended.
    closed: AtomicBool,
    /// Wakes a connection that idles.
    pub wake: Notify,
    /// Opening or open.
    pub live_count: AtomicU32,
    /// Greeted.
    pub connected_count: AtomicU32,
    pub idle_count: AtomicU32,
    /// Leased and not yet sent.
    pub in_hand_count: AtomicU64,
    pub delivered_count: AtomicU64,
    /// Holders that wait for a slot: asked for again, they keep their place.
    pub waiting: Mutex<Vec<String>>,
}

impl Crew {
    pub fn new(site: Arc<Site>, source: Arc<Source>, source_index: usize, path: SitePath, standing: &Standing) -> Self {
        let crew = Self {
            site,
            source,
            source_index,
            path: Mutex::new(Arc::new(path)),
            suspended: Mutex::default(),
            closed: AtomicBool::new(false),
            wake: Notify::new(),
            live_count: AtomicU32::new(0),
            connected_count: AtomicU32::new(0),
            idle_count: AtomicU32::new(0),
            in_hand_count: AtomicU64::new(0),
            delivered_count: AtomicU64::new(0),
            waiting: Mutex::default(),
        };
        crew.set_suspended(standing.suspended.clone());
        crew
    }

    pub fn path(&self) -> Arc<SitePath> {
        lock(&self.path).clone()
    }

    /// New limits or orders; idle connections look again.
    pub fn update(&self, path: SitePath, standing: &Standing) {
        *lock(&self.path) = Arc::new(path);
        self.set_suspended(standing.suspended.clone());
        self.wake.notify_waiters();
    }

    pub fn suspended(&self) -> Option<Suspended> {
        lock(&self.suspended).clone()
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn set_suspended(&self, suspended: Option<Suspended>) {
        self.closed.store(suspended.is_some(), Ordering::Relaxed);
        *lock(&self.suspended) = suspended;
    }
}

/// Counts one for as long as it lives.
pub struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    pub fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
