//! What has changed since somebody looked. Each lane has the number of its newest change; a lane that nobody has looked at
//! since keeps its number, so that a busy lane costs one entry however often it changes.

use super::Lanes;
use std::ops::Bound;

/// What is known of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneDue {
    pub routing_domain: String,
    pub egress_pool: String,
    pub due_count: u64,
    pub oldest_due_ms: Option<u64>,
    /// Empty: not known.
    pub site: String,
    pub next_due_ms: Option<u64>,
}

/// Why a lane is or is not drained, as egress said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub state: i32,
    pub reason: String,
    pub until_ms: Option<u64>,
}

impl Lanes {
    /// At most `count_max` lanes that have changed after `since`, and where to go on. Zero: all lanes.
    pub fn changes(&mut self, since: u64, count_max: usize) -> (Vec<LaneDue>, u64) {
        let changed = self.versions.range((Bound::Excluded(since), Bound::Unbounded)).take(count_max);
        let mut next = since;
        let changes = changed.map(|(version, lane)| {
            next = *version;
            self.lane_due(*lane)
        });
        let changes = changes.collect();
        self.seen_version = self.seen_version.max(next);
        (changes, next)
    }

    /// The number of the newest change.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn touch(&mut self, lane: u32) {
        let place = &mut self.lanes[lane as usize];
        if place.version > self.seen_version {
            return;
        }
        self.versions.remove(&place.version);
        self.version += 1;
        place.version = self.version;
        self.versions.insert(self.version, lane);
    }

    fn lane_due(&self, lane: u32) -> LaneDue {
        let place = &self.lanes[lane as usize];
        LaneDue {
            routing_domain: place.domain.as_ref().into(),
            egress_pool: place.egress_pool.as_ref().into(),
            due_count: place.due_count,
            oldest_due_ms: place.heads.first().map(|(due, ..)| *due),
            site: place.group.map_or_else(String::new, |(site, _)| self.sites[site as usize].name.as_ref().into()),
            next_due_ms: place.waiting.first().map(|(wake, _)| *wake),
        }
    }

    /// The newest report on a lane counts; false where there is no such lane.
    pub fn report(&mut self, domain: &str, egress_pool: &str, report: Report) -> bool {
        let Some(lane) = self.find_lane(domain, egress_pool) else { return false };
        self.lanes[lane as usize].report = Some(report);
        true
    }

    pub fn reported(&self, lane: u32) -> Option<&Report> {
        self.lanes[lane as usize].report.as_ref()
    }

    /// When the first that waits in a lane falls due.
    pub fn lane_next_due(&self, lane: u32) -> Option<u64> {
        self.lanes[lane as usize].waiting.first().map(|(wake, _)| *wake)
    }
}
