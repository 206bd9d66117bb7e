//! What is due, and where it leads: told counts, lookups, and announcing sites to the queues.

use super::{Dispatcher, Wake};
use crate::lanes::{Domain, Told, Way};
use crate::route::{Found, Route};
use crate::shared::Event;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::watch_due_response::LaneDue;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// When a domain is looked at again that could not be forgotten.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Dispatcher {
    /// The node's memory may be new: nothing it was told before counts until its snapshot says so.
    pub(super) fn begin_snapshot(&mut self, node: usize) {
        self.snapshots[node] += 1;
        let announced: Vec<String> =
            self.domains.iter().filter(|(_, domain)| domain.announced[node]).map(|(name, _)| name.clone()).collect();
        for name in announced {
            self.uncount(&name, node);
        }
    }

    pub(super) fn hear_due(&mut self, node: usize, lanes: Vec<LaneDue>, snapshot_done: bool) {
        let mut touched = BTreeSet::new();
        for lane in lanes {
            touched.extend(self.hear_lane(node, lane));
        }
        if snapshot_done {
            touched.extend(self.end_snapshot(node));
        }
        for site in touched {
            self.scale(&site);
        }
    }

    pub(super) fn hear_found(&mut self, name: &str, found: Found) {
        self.lookups_running -= 1;
        self.start_lookups();
        let Some(domain) = self.domains.get_mut(name) else { return };
        domain.looking = false;
        let ttl = match &found {
            Found::Route(route) => route.ttl,
            Found::Refused(refusal) => refusal.ttl,
        };
        self.wake_at(Instant::now() + ttl, Wake::Domain(name.into()));
        match found {
            Found::Route(route) => self.lead_to(name, route),
            Found::Refused(refusal) => {
                self.leave_site(name);
                self.report_domain(name, State::Unresolved, &refusal.reply.line());
                if let Some(domain) = self.domains.get_mut(name) {
                    domain.way = Way::Refused(refusal);
                }
                self.settle_refused(name);
            }
        }
    }

    pub(super) fn hear_announced(&mut self, node: usize, entries: Vec<(String, String)>) {
        let mut touched = BTreeSet::new();
        for (name, site) in entries {
            let leads_there = |domain: &Domain| matches!(&domain.way, Way::Route(route) if route.site == site);
            if self.domains.get(&name).is_some_and(|domain| leads_there(domain) && !domain.announced[node]) {
                self.count(&name, node);
                touched.insert(site);
            }
        }
        for site in touched {
            self.scale(&site);
        }
    }

    /// What was found has lost its validity: while there is mail it is looked up again, else forgotten.
    pub(super) fn look_again(&mut self, name: &str) {
        match self.domains.get_mut(name) {
            Some(domain) if domain.looking => {}
            Some(domain) if domain.has_due() => self.look_up(name),
            Some(domain) => {
                domain.forget_empty_lanes();
                if domain.lanes.is_empty() {
                    self.leave_site(name);
                    self.domains.remove(name);
                } else {
                    // One of its lanes is being settled just now.
                    self.wake_at(Instant::now() + LOOK_AGAIN, Wake::Domain(name.into()));
                }
            }
            None => {}
        }
    }

    /// Gives the site whose backlog changed.
    fn hear_lane(&mut self, node: usize, told: LaneDue) -> Option<String> {
        let lane = told.lane?;
        let name = lane.routing_domain;
        if told.due_count == 0 && !self.domains.contains_key(&name) {
            return None;
        }
        let node_count = self.shared.nodes.len();
        let pool = self.shared.pools.iter().position(|pool| pool.name == lane.egress_pool);
        let snapshot = self.snapshots[node];
        let domain = self.domains.entry(name.clone()).or_insert_with(|| Domain::new(node_count));
        let change =
            domain.tell(node, Told { pool_name: &lane.egress_pool, pool, due_count: told.due_count, snapshot });
        if pool.is_none() && told.due_count > 0 {
            let why = format!("no egress pool {:?} is configured", lane.egress_pool);
            self.report_domain(&name, State::NoSource, &why);
        }
        let change = change?;
        match &self.domains.get(&name)?.way {
            Way::Unknown => {
                self.look_up(&name);
                None
            }
            Way::Refused(_) => {
                self.settle_refused(&name);
                None
            }
            Way::Route(route) => {
                let route = route.clone();
                self.hear_routed(node, &name, &route, &told.site, change);
                Some(route.site.clone())
            }
        }
    }

    fn hear_routed(&mut self, node: usize, name: &str, route: &Route, told_site: &str, change: crate::lanes::Change) {
        let announced = self.domains.get(name).is_some_and(|domain| domain.announced[node]);
        let knows = told_site == route.site;
        let forgot = told_site.is_empty() && change.now > 0;
        match (announced, knows, forgot) {
            // The lane's own change comes first, so that taking the domain off takes off what was counted.
            (true, _, _) => {
                self.sites.get(&route.site).into_iter().for_each(|site| {
                    site.shared.tell(node, change.pool, change.before, change.now);
                });
                if forgot {
                    self.uncount(name, node);
                    self.announce(name, node, route);
                }
            }
            (false, true, _) => self.count(name, node),
            (false, false, _) if change.now > 0 => self.announce(name, node, route),
            (false, false, _) => {}
        }
        self.repeat_report(name, route, change.pool);
    }

    /// Lanes that the snapshot did not name have nothing due.
    fn end_snapshot(&mut self, node: usize) -> BTreeSet<String> {
        let snapshot = self.snapshots[node];
        let mut touched = BTreeSet::new();
        let mut gone = Vec::new();
        for domain in self.domains.values_mut() {
            for lane in domain.lanes.iter_mut().filter(|lane| lane.seen[node] != snapshot && lane.due[node] > 0) {
                let before = std::mem::take(&mut lane.due[node]);
                if let (Way::Route(route), Some(pool), true) = (&domain.way, lane.pool, domain.announced[node]) {
                    gone.push((route.site.clone(), pool, before));
                }
            }
            if let Way::Route(route) = &domain.way {
                touched.insert(route.site.clone());
            }
        }
        for (site, pool, before) in gone {
            self.sites.get(&site).into_iter().for_each(|site| site.shared.tell(node, pool, before, 0));
        }
        touched
    }

    fn lead_to(&mut self, name: &str, route: Arc<Route>) {
        if self.domains.get(name).is_some_and(|domain| matches!(domain.way, Way::Refused(_))) {
            self.report_domain(name, State::Draining, "");
        }
        let same = |domain: &Domain| matches!(&domain.way, Way::Route(before) if before.site == route.site);
        if !self.domains.get(name).is_some_and(same) {
            self.leave_site(name);
        }
        self.join_site(name, &route);
        let Some(domain) = self.domains.get_mut(name) else { return };
        domain.way = Way::Route(route.clone());
        let nodes: Vec<usize> = (0..domain.announced.len()).filter(|node| domain.has_due_on(*node)).collect();
        for node in nodes {
            self.announce(name, node, &route);
        }
    }

    /// The queue's own time to live outlasts ours, so that a site is not forgotten while it is looked up again.
    fn announce(&self, name: &str, node: usize, route: &Route) {
        self.shared.nodes[node].announcer.add(name, &route.site, route.ttl * 2);
    }

    /// The site counts the domain's mail on this node from now on.
    fn count(&mut self, name: &str, node: usize) {
        let Some(domain) = self.domains.get_mut(name) else { return };
        domain.announced[node] = true;
        if let Way::Route(route) = &domain.way
            && let Some(site) = self.sites.get(&route.site)
        {
            domain.counted_on(node).for_each(|(pool, due)| site.shared.tell(node, pool, 0, due));
        }
    }

    /// And no more.
    fn uncount(&mut self, name: &str, node: usize) {
        let Some(domain) = self.domains.get_mut(name) else { return };
        let was = std::mem::take(&mut domain.announced[node]);
        if let (true, Way::Route(route)) = (was, &domain.way)
            && let Some(site) = self.sites.get(&route.site)
        {
            domain.counted_on(node).for_each(|(pool, due)| site.shared.tell(node, pool, due, 0));
        }
    }

    fn leave_site(&mut self, name: &str) {
        for node in 0..self.shared.nodes.len() {
            self.uncount(name, node);
        }
        let Some(domain) = self.domains.get_mut(name) else { return };
        if let Way::Route(route) = std::mem::take(&mut domain.way) {
            self.part_from(&route.site, name);
        }
    }

    fn look_up(&mut self, name: &str) {
        let Some(domain) = self.domains.get_mut(name) else { return };
        if !std::mem::replace(&mut domain.looking, true) {
            self.lookups_waiting.push_back(name.into());
            self.start_lookups();
        }
    }

    fn start_lookups(&mut self) {
        while self.lookups_running < self.shared.lookups_max {
            let Some(domain) = self.lookups_waiting.pop_front() else { return };
            self.lookups_running += 1;
            let shared = self.shared.clone();
            self.shared.host.stop.spawn(async move {
                let lookup = async {
                    let found = shared.router.find(&domain).await;
                    shared.say(Event::Found { domain, found }).await;
                };
                tokio::select! {
                    () = lookup => {}
                    () = shared.host.stop.requested() => {}
                }
            });
        }
    }
}
