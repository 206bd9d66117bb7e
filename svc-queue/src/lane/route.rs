//! Which routing domains lead to which site, and for how long that is known.

use super::{Lanes, Queue};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Domain {
    pub route: Option<Route>,
    pub lanes: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub site: u32,
    ends_ms: u64,
}

impl Lanes {
    /// All lanes of a routing domain lead to `site`, until `ends_ms`.
    pub fn route(&mut self, domain: &str, site: &str, ends_ms: u64) {
        let domain = self.domain(domain);
        let site = self.site(site);
        let entry = self.domains.get_mut(&domain).expect("made above");
        let before = entry.route.replace(Route { site, ends_ms });
        self.route_ends.insert((ends_ms, domain.clone()));
        if let Some(before) = &before {
            if before.ends_ms != ends_ms {
                self.route_ends.remove(&(before.ends_ms, domain.clone()));
            }
            if before.site == site {
                return;
            }
        }
        self.sites[site as usize].routes += 1;
        for lane in self.domains[&domain].lanes.clone() {
            self.detach(lane);
            self.attach(lane, site);
        }
        if let Some(before) = before {
            self.unroute(before.site);
        }
    }

    /// Forgets routes that have ended, at most `count_max`; their lanes have no site until they are routed again.
    pub fn end_routes(&mut self, now_ms: u64, count_max: usize) -> usize {
        let mut ended = 0;
        while ended < count_max && self.route_ends.first().is_some_and(|(ends, _)| *ends <= now_ms) {
            let Some((_, domain)) = self.route_ends.pop_first() else { break };
            ended += 1;
            let Some(entry) = self.domains.get_mut(&domain) else { continue };
            let Some(route) = entry.route.take() else { continue };
            for lane in entry.lanes.clone() {
                self.detach(lane);
            }
            self.unroute(route.site);
            self.forget_domain(&domain);
        }
        ended
    }

    pub fn is_routed(&self, domain: &str) -> bool {
        self.domains.get(domain).is_some_and(|domain| domain.route.is_some())
    }

    pub fn route_count(&self) -> usize {
        self.route_ends.len()
    }

    fn unroute(&mut self, site: u32) {
        self.sites[site as usize].routes -= 1;
        self.forget_site(site);
    }

    pub(super) fn domain(&mut self, name: &str) -> Arc<str> {
        if let Some((name, _)) = self.domains.get_key_value(name) {
            return name.clone();
        }
        let name: Arc<str> = name.into();
        self.domains.insert(name.clone(), Domain::default());
        name
    }

    pub(super) fn forget_domain(&mut self, name: &str) {
        if self.domains.get(name).is_some_and(|domain| domain.route.is_none() && domain.lanes.is_empty()) {
            self.domains.remove(name);
        }
    }

    /// The lane's flows take part in the turns of `site`.
    pub(super) fn attach(&mut self, lane: u32, site: u32) {
        let place = &mut self.lanes[lane as usize];
        let entry = &mut self.sites[site as usize];
        let pool = entry.group(&place.egress_pool);
        place.group = Some((site, pool));
        let group = &mut entry.groups[pool];
        group.due_count += place.due_count;
        group.wakes.extend(place.waiting.first().map(|(wake, _)| (*wake, lane)));
        for queue in &place.queues {
            let entry = &self.queues[*queue as usize];
            for (priority, head) in heads(entry) {
                group.set_head(entry, (*queue, priority), None, Some(head));
            }
        }
        if place.due_count > 0 && entry.awaited > 0 {
            self.fed.extend(std::iter::repeat_n(site, (place.due_count.min(u64::from(entry.awaited))) as usize));
        }
        self.touch(lane);
    }

    pub(super) fn detach(&mut self, lane: u32) {
        let place = &mut self.lanes[lane as usize];
        let Some((site, pool)) = place.group.take() else { return };
        let group = &mut self.sites[site as usize].groups[pool];
        group.due_count -= place.due_count;
        if let Some((wake, _)) = place.waiting.first() {
            group.wakes.remove(&(*wake, lane));
        }
        for queue in &place.queues {
            let entry = &self.queues[*queue as usize];
            for (priority, head) in heads(entry) {
                group.set_head(entry, (*queue, priority), Some(head), None);
            }
        }
        self.touch(lane);
    }
}

fn heads(queue: &Queue) -> impl Iterator<Item = (i8, u64)> {
    queue.flows.iter().filter_map(|flow| flow.head().map(|head| (flow.priority, head)))
}
