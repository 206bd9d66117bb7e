//! What waits, what is due, and whose turn it is: by queue, lane and site. Pure; every call costs a few ordered-map steps,
//! however much is queued.
//!
//! - a *queue* is a queue name and a pool; of its due deliveries, those of one priority are a [`Flow`], oldest first
//! - a *lane* is (routing domain, pool): it knows which of its deliveries wait until when, and its flows' oldest
//! - a *site* ([`site`]) is the lanes that lead to the same hosts; within each of its pools tenants take turns, then campaigns
//! - [`route`]: which lanes are of which site · [`watch`]: what has changed since somebody looked

mod fair;
mod route;
mod site;
#[cfg(test)]
mod tests;
mod watch;

use slab::Slab;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::Arc;

pub use fair::cost;
pub use site::Picked;
pub use watch::{LaneDue, Report};

/// A delivery, as its owner numbers it.
pub type Key = u32;

/// How long a lane without mail is remembered, so that who watches sees it empty.
const IDLE_MS: u64 = 600_000;

/// A queue name and a pool, in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a> {
    pub campaign: &'a str,
    pub tenant: &'a str,
    pub domain: &'a str,
    pub routing_domain: &'a str,
    pub egress_pool: &'a str,
}

/// The same, kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Label {
    pub campaign: Arc<str>,
    pub tenant: Arc<str>,
    pub domain: Arc<str>,
    pub routing_domain: Arc<str>,
    pub egress_pool: Arc<str>,
}

/// One queue and what it holds.
#[derive(Debug)]
pub struct Queue {
    pub label: Arc<Label>,
    pub lane: u32,
    pub delivery_count: u64,
    pub size_bytes: u64,
    flows: Vec<Flow>,
}

/// Due deliveries of one priority, by since when.
#[derive(Debug, Default)]
struct Flow {
    priority: i8,
    due: BTreeSet<(u64, Key)>,
}

#[derive(Debug)]
struct Lane {
    domain: Arc<str>,
    egress_pool: Arc<str>,
    queues: BTreeSet<u32>,
    delivery_count: u64,
    due_count: u64,
    waiting: BTreeSet<(u64, Key)>,
    /// The oldest of each flow: since when, queue, priority.
    heads: BTreeSet<(u64, u32, i8)>,
    /// Its site, and the place of its pool there.
    group: Option<(u32, usize)>,
    version: u64,
    report: Option<Report>,
    /// Since when it has been without mail, if it is.
    idle_since_ms: u64,
    /// It is in the list of those.
    listed: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Lanes {
    queues: Slab<Queue>,
    queue_by_name: HashMap<Box<str>, u32>,
    lanes: Slab<Lane>,
    lane_by_name: HashMap<Box<str>, u32>,
    /// When the first of each lane falls due.
    wakes: BTreeSet<(u64, u32)>,
    /// Since when lanes have been without mail.
    idle: VecDeque<(u64, u32)>,
    domains: HashMap<Arc<str>, route::Domain>,
    route_ends: BTreeSet<(u64, Arc<str>)>,
    sites: Slab<site::Site>,
    site_by_name: HashMap<Arc<str>, u32>,
    /// Sites with somebody waiting that have got something due.
    fed: Vec<u32>,
    versions: BTreeMap<u64, u32>,
    version: u64,
    seen_version: u64,
    due_count: u64,
    scratch: String,
}

impl Lanes {
    /// The queue of that name, for one more delivery.
    pub fn join(&mut self, name: &Name<'_>, size_bytes: u32) -> u32 {
        self.scratch.clear();
        let Name { campaign, tenant, domain, routing_domain, egress_pool } = name;
        let _ = write!(self.scratch, "{campaign}\0{tenant}\0{domain}\0{routing_domain}\0{egress_pool}");
        let queue = match self.queue_by_name.get(self.scratch.as_str()) {
            Some(queue) => *queue,
            None => self.add_queue(name),
        };
        let entry = &mut self.queues[queue as usize];
        entry.delivery_count += 1;
        entry.size_bytes += u64::from(size_bytes);
        self.lanes[entry.lane as usize].delivery_count += 1;
        queue
    }

    fn add_queue(&mut self, name: &Name<'_>) -> u32 {
        let key = self.scratch.as_str().into();
        let routed_by = if name.routing_domain.is_empty() { name.domain } else { name.routing_domain };
        let lane = self.lane(routed_by, name.egress_pool);
        let place = &self.lanes[lane as usize];
        let domain = if routed_by == name.domain { place.domain.clone() } else { name.domain.into() };
        let label = Label {
            campaign: name.campaign.into(),
            tenant: name.tenant.into(),
            domain,
            routing_domain: name.routing_domain.into(),
            egress_pool: place.egress_pool.clone(),
        };
        let queue = self.queues.insert(Queue {
            label: Arc::new(label),
            lane,
            delivery_count: 0,
            size_bytes: 0,
            flows: Vec::new(),
        }) as u32;
        self.lanes[lane as usize].queues.insert(queue);
        self.queue_by_name.insert(key, queue);
        queue
    }

    fn lane(&mut self, domain: &str, egress_pool: &str) -> u32 {
        let name = lane_name(domain, egress_pool);
        if let Some(lane) = self.lane_by_name.get(name.as_str()) {
            return *lane;
        }
        let domain = self.domain(domain);
        let lane = self.lanes.insert(Lane {
            domain: domain.clone(),
            egress_pool: egress_pool.into(),
            queues: BTreeSet::new(),
            delivery_count: 0,
            due_count: 0,
            waiting: BTreeSet::new(),
            heads: BTreeSet::new(),
            group: None,
            version: 0,
            report: None,
            idle_since_ms: 0,
            listed: false,
        }) as u32;
        self.lane_by_name.insert(name.into(), lane);
        let entry = self.domains.get_mut(&domain).expect("made above");
        entry.lanes.push(lane);
        if let Some(site) = entry.route.as_ref().map(|route| route.site) {
            self.attach(lane, site);
        }
        self.touch(lane);
        lane
    }

    /// A delivery has left its queue for good; it must neither wait nor be due.
    pub fn leave(&mut self, queue: u32, size_bytes: u32, now_ms: u64) {
        let entry = &mut self.queues[queue as usize];
        entry.delivery_count -= 1;
        entry.size_bytes -= u64::from(size_bytes);
        let lane = entry.lane;
        if entry.delivery_count == 0 {
            let gone = self.queues.remove(queue as usize);
            self.scratch.clear();
            let Label { campaign, tenant, domain, routing_domain, egress_pool } = &*gone.label;
            let _ = write!(self.scratch, "{campaign}\0{tenant}\0{domain}\0{routing_domain}\0{egress_pool}");
            self.queue_by_name.remove(self.scratch.as_str());
            self.lanes[lane as usize].queues.remove(&queue);
        }
        let place = &mut self.lanes[lane as usize];
        place.delivery_count -= 1;
        if place.delivery_count == 0 {
            place.idle_since_ms = now_ms;
            if !std::mem::replace(&mut place.listed, true) {
                self.idle.push_back((now_ms, lane));
            }
        }
    }

    /// It is not due before `wake_ms`.
    pub fn wait(&mut self, queue: u32, key: Key, wake_ms: u64) {
        let lane = self.queues[queue as usize].lane;
        self.change_waiting(lane, |waiting| {
            waiting.insert((wake_ms, key));
        });
    }

    /// It waits no more.
    pub fn unwait(&mut self, queue: u32, key: Key, wake_ms: u64) {
        let lane = self.queues[queue as usize].lane;
        self.change_waiting(lane, |waiting| {
            waiting.remove(&(wake_ms, key));
        });
    }

    /// Takes out what waited until now, at most `count_max`.
    pub fn wake(&mut self, now_ms: u64, count_max: usize) -> Vec<Key> {
        let mut woken = Vec::new();
        while let Some(&(wake_ms, lane)) = self.wakes.first() {
            if wake_ms > now_ms || woken.len() >= count_max {
                break;
            }
            self.change_waiting(lane, |waiting| {
                while let Some(&(wake_ms, key)) = waiting.first() {
                    if wake_ms > now_ms || woken.len() >= count_max {
                        break;
                    }
                    waiting.pop_first();
                    woken.push(key);
                }
            });
        }
        woken
    }

    fn change_waiting(&mut self, lane: u32, change: impl FnOnce(&mut BTreeSet<(u64, Key)>)) {
        let place = &mut self.lanes[lane as usize];
        let before = place.waiting.first().map(|(wake, _)| *wake);
        change(&mut place.waiting);
        let after = place.waiting.first().map(|(wake, _)| *wake);
        if before == after {
            return;
        }
        replace(&mut self.wakes, before.map(|wake| (wake, lane)), after.map(|wake| (wake, lane)));
        if let Some((site, pool)) = place.group {
            let group = &mut self.sites[site as usize].groups[pool];
            replace(&mut group.wakes, before.map(|wake| (wake, lane)), after.map(|wake| (wake, lane)));
        }
        self.touch(lane);
    }

    /// It is due, since `due_ms`.
    pub fn ready(&mut self, queue: u32, key: Key, priority: i8, due_ms: u64) {
        self.change_flow(queue, priority, |due| {
            due.insert((due_ms, key));
        });
        self.count_due(queue, 1);
    }

    /// It is due no more.
    pub fn unready(&mut self, queue: u32, key: Key, priority: i8, due_ms: u64) {
        self.change_flow(queue, priority, |due| {
            due.remove(&(due_ms, key));
        });
        self.count_due(queue, -1);
    }

    fn change_flow(&mut self, queue: u32, priority: i8, change: impl FnOnce(&mut BTreeSet<(u64, Key)>)) {
        let entry = &mut self.queues[queue as usize];
        let flow = entry.flow(priority);
        let before = flow.head();
        change(&mut flow.due);
        let after = flow.head();
        if before == after {
            return;
        }
        let lane = &mut self.lanes[entry.lane as usize];
        replace(&mut lane.heads, before.map(|due| (due, queue, priority)), after.map(|due| (due, queue, priority)));
        if let Some((site, pool)) = lane.group {
            self.sites[site as usize].groups[pool].set_head(entry, (queue, priority), before, after);
        }
    }

    fn count_due(&mut self, queue: u32, by: i64) {
        let lane = self.queues[queue as usize].lane;
        let place = &mut self.lanes[lane as usize];
        place.due_count = place.due_count.wrapping_add_signed(by);
        self.due_count = self.due_count.wrapping_add_signed(by);
        if let Some((site, pool)) = place.group {
            let site_key = site;
            let site = &mut self.sites[site as usize];
            site.groups[pool].due_count = site.groups[pool].due_count.wrapping_add_signed(by);
            if by > 0 && site.awaited > 0 {
                self.fed.push(site_key);
            }
        }
        self.touch(lane);
    }

    /// The longest due delivery of a lane.
    pub fn oldest_due(&self, domain: &str, egress_pool: &str) -> Option<Key> {
        let lane = &self.lanes[self.find_lane(domain, egress_pool)? as usize];
        let (_, queue, priority) = lane.heads.first()?;
        let flow = self.queues[*queue as usize].flows.iter().find(|flow| flow.priority == *priority)?;
        flow.due.first().map(|(_, key)| *key)
    }

    pub fn lane_due_count(&self, domain: &str, egress_pool: &str) -> u64 {
        self.find_lane(domain, egress_pool).map_or(0, |lane| self.lanes[lane as usize].due_count)
    }

    fn find_lane(&self, domain: &str, egress_pool: &str) -> Option<u32> {
        self.lane_by_name.get(lane_name(domain, egress_pool).as_str()).copied()
    }

    pub fn queue(&self, queue: u32) -> &Queue {
        &self.queues[queue as usize]
    }

    pub fn queues(&self) -> impl Iterator<Item = (u32, &Queue)> {
        self.queues.iter().map(|(key, queue)| (key as u32, queue))
    }

    /// When something happens here by itself: a delivery falls due, a route ends.
    pub fn next_wake(&self) -> Option<u64> {
        let due = self.wakes.first().map(|(wake, _)| *wake);
        let route = self.route_ends.first().map(|(end, _)| *end);
        due.into_iter().chain(route).min()
    }

    pub fn due_count(&self) -> u64 {
        self.due_count
    }

    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// Forgets lanes that have long been without mail.
    pub fn sweep(&mut self, now_ms: u64) {
        while let Some((since, lane)) = self.idle.front().copied() {
            if since.saturating_add(IDLE_MS) > now_ms {
                break;
            }
            self.idle.pop_front();
            let place = &mut self.lanes[lane as usize];
            place.listed = false;
            match place.delivery_count {
                0 if place.idle_since_ms == since => self.remove_lane(lane),
                // It has had mail meanwhile.
                0 => {
                    place.listed = true;
                    self.idle.push_back((place.idle_since_ms, lane));
                }
                _ => {}
            }
        }
    }

    fn remove_lane(&mut self, lane: u32) {
        self.detach(lane);
        let gone = self.lanes.remove(lane as usize);
        self.versions.remove(&gone.version);
        self.lane_by_name.remove(lane_name(&gone.domain, &gone.egress_pool).as_str());
        if let Some(domain) = self.domains.get_mut(&gone.domain) {
            domain.lanes.retain(|other| *other != lane);
        }
        self.forget_domain(&gone.domain);
    }
}

impl Queue {
    /// Without mail of that priority so far, it is made.
    fn flow(&mut self, priority: i8) -> &mut Flow {
        let place = self.flows.iter().position(|flow| flow.priority == priority).unwrap_or_else(|| {
            self.flows.push(Flow { priority, due: BTreeSet::new() });
            self.flows.len() - 1
        });
        &mut self.flows[place]
    }

    pub fn due_count(&self) -> u64 {
        self.flows.iter().map(|flow| flow.due.len() as u64).sum()
    }

    /// Its longest due delivery.
    pub fn oldest_due(&self) -> Option<Key> {
        self.flows.iter().filter_map(|flow| flow.due.first()).min().map(|(_, key)| *key)
    }
}

impl Label {
    pub fn queue_name(&self) -> godwit_proto::common::v1::QueueName {
        godwit_proto::common::v1::QueueName {
            campaign: self.campaign.as_ref().into(),
            tenant: self.tenant.as_ref().into(),
            domain: self.domain.as_ref().into(),
            routing_domain: self.routing_domain.as_ref().into(),
        }
    }
}

impl Flow {
    fn head(&self) -> Option<u64> {
        self.due.first().map(|(due, _)| *due)
    }
}

fn lane_name(domain: &str, egress_pool: &str) -> String {
    format!("{domain}\0{egress_pool}")
}

fn replace<T: Ord>(set: &mut BTreeSet<T>, before: Option<T>, after: Option<T>) {
    if let Some(before) = before {
        set.remove(&before);
    }
    if let Some(after) = after {
        set.insert(after);
    }
}
