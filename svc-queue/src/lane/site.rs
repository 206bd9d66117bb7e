//! A site: the lanes that lead to the same hosts, and whose delivery is the next within each pool of it.

use super::fair::{Ring, cost};
use super::{Key, Lanes, Queue};
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Site {
    pub name: Arc<str>,
    pub groups: Vec<Group>,
    /// Which group was served last.
    turn: usize,
    /// Who wait for something to lease here.
    pub awaited: u32,
    /// Routes that lead here.
    pub routes: u32,
}

/// The lanes of a site with the same pool.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub egress_pool: Arc<str>,
    pub due_count: u64,
    /// When the first of each lane falls due.
    pub wakes: BTreeSet<(u64, u32)>,
    tenants: Ring<Tenant>,
}

/// Campaigns by priority, the highest first.
#[derive(Debug, Default)]
struct Tenant {
    levels: Vec<(i8, Ring<Campaign>)>,
}

/// Its flows of one priority, by since when the oldest of each is due.
#[derive(Debug, Default)]
struct Campaign {
    flows: BTreeSet<(u64, u32)>,
}

/// Taken to be leased; it is not due any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picked {
    pub key: Key,
    queue: u32,
    priority: i8,
    due_ms: u64,
    cost: i64,
}

impl Lanes {
    /// Takes the delivery whose turn it is at `site` among `egress_pools` (none: all).
    pub fn pick(&mut self, site: u32, egress_pools: &[String], size_of: impl Fn(Key) -> u32) -> Option<Picked> {
        let Self { sites, queues, .. } = self;
        let site = &mut sites[site as usize];
        let pool = site.next_group(egress_pools)?;
        let (picked, _) = site.groups[pool].tenants.next(|tenant| {
            tenant.next(|priority, campaign| {
                let (_, queue) = campaign.flows.pop_first()?;
                let flow = queues[queue as usize].flow(priority);
                let (due_ms, key) = flow.due.pop_first().expect("a flow listed by its oldest has one");
                campaign.flows.extend(flow.head().map(|head| (head, queue)));
                let cost = cost(size_of(key));
                Some((Picked { key, queue, priority, due_ms, cost }, cost))
            })
        })?;
        self.took(&picked);
        Some(picked)
    }

    fn took(&mut self, picked: &Picked) {
        let queue = &mut self.queues[picked.queue as usize];
        let after = queue.flow(picked.priority).head();
        let lane = &mut self.lanes[queue.lane as usize];
        lane.heads.remove(&(picked.due_ms, picked.queue, picked.priority));
        lane.heads.extend(after.map(|due| (due, picked.queue, picked.priority)));
        self.count_due(picked.queue, -1);
    }

    /// What was picked last does not fit: it is due again, and its turn is the next.
    pub fn put_back(&mut self, picked: &Picked) {
        let queue = &self.queues[picked.queue as usize];
        if let Some((site, pool)) = self.lanes[queue.lane as usize].group {
            let tenant = self.sites[site as usize].groups[pool].tenants.restore(&queue.label.tenant, picked.cost);
            tenant.level(picked.priority).restore(&queue.label.campaign, picked.cost);
        }
        self.ready(picked.queue, picked.key, picked.priority, picked.due_ms);
    }

    /// What is due at a site and pools, and when more falls due.
    pub fn outlook(&self, site: u32, egress_pools: &[String]) -> (u64, Option<u64>) {
        let groups = || self.sites[site as usize].groups.iter().filter(|group| group.serves(egress_pools));
        let next_due = groups().filter_map(|group| group.wakes.first()).map(|(wake, _)| *wake).min();
        (groups().map(|group| group.due_count).sum(), next_due)
    }

    /// The site of that name, for somebody who is going to lease there; to be given up by `release_site`.
    pub fn hold_site(&mut self, name: &str) -> u32 {
        let site = self.site(name);
        self.sites[site as usize].awaited += 1;
        site
    }

    pub fn release_site(&mut self, site: u32) {
        self.sites[site as usize].awaited -= 1;
        self.forget_site(site);
    }

    /// Sites with somebody waiting that have got something due since this was asked last; one entry a delivery.
    pub fn take_fed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.fed)
    }

    pub(super) fn site(&mut self, name: &str) -> u32 {
        if let Some(site) = self.site_by_name.get(name) {
            return *site;
        }
        let name: Arc<str> = name.into();
        let site = self.sites.insert(Site { name: name.clone(), ..Site::default() }) as u32;
        self.site_by_name.insert(name, site);
        site
    }

    pub(super) fn forget_site(&mut self, site: u32) {
        let entry = &self.sites[site as usize];
        if entry.awaited == 0 && entry.routes == 0 {
            self.site_by_name.remove(&entry.name);
            self.sites.remove(site as usize);
            self.fed.retain(|fed| *fed != site);
        }
    }
}

impl Site {
    /// Of the groups that have something due, the one after the last served.
    fn next_group(&mut self, egress_pools: &[String]) -> Option<usize> {
        let count = self.groups.len();
        let found = (1..=count).map(|step| (self.turn + step) % count).find(|place| {
            let group = &self.groups[*place];
            group.due_count > 0 && group.serves(egress_pools)
        })?;
        self.turn = found;
        Some(found)
    }

    /// The place of a pool, made if it is new here.
    pub fn group(&mut self, egress_pool: &Arc<str>) -> usize {
        self.groups.iter().position(|group| group.egress_pool == *egress_pool).unwrap_or_else(|| {
            self.groups.push(Group { egress_pool: egress_pool.clone(), ..Group::default() });
            self.groups.len() - 1
        })
    }
}

impl Group {
    fn serves(&self, egress_pools: &[String]) -> bool {
        egress_pools.is_empty() || egress_pools.iter().any(|pool| **pool == *self.egress_pool)
    }

    /// The oldest of a flow is another one, or there is none any more.
    pub fn set_head(&mut self, queue: &Queue, (key, priority): (u32, i8), before: Option<u64>, after: Option<u64>) {
        let campaign = match after {
            Some(_) => Some(self.tenants.enter(&queue.label.tenant).level(priority).enter(&queue.label.campaign)),
            None => {
                self.tenants.get_mut(&queue.label.tenant).and_then(|t| t.level(priority).get_mut(&queue.label.campaign))
            }
        };
        if let Some(campaign) = campaign {
            super::replace(&mut campaign.flows, before.map(|due| (due, key)), after.map(|due| (due, key)));
        }
    }
}

impl Tenant {
    fn level(&mut self, priority: i8) -> &mut Ring<Campaign> {
        let place = match self.levels.binary_search_by(|(other, _)| priority.cmp(other)) {
            Ok(place) => place,
            Err(place) => {
                self.levels.insert(place, (priority, Ring::default()));
                place
            }
        };
        &mut self.levels[place].1
    }

    fn next<T>(&mut self, mut take: impl FnMut(i8, &mut Campaign) -> Option<(T, i64)>) -> Option<(T, i64)> {
        while let Some((priority, campaigns)) = self.levels.first_mut() {
            let priority = *priority;
            if let Some(taken) = campaigns.next(|campaign| take(priority, campaign)) {
                return Some(taken);
            }
            self.levels.remove(0);
        }
        None
    }
}
