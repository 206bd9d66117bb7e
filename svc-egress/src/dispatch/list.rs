//! What the dispatcher shows of itself.

use super::Dispatcher;
use super::sites::{CrewState, SiteState};
use godwit_proto::common::v1::Lane;
use godwit_proto::convert::timestamp;
use godwit_proto::egress::v1::SiteSummary;
use std::sync::atomic::Ordering;

/// Lanes that a summary lists.
const LANES_MAX: usize = 100;

impl Dispatcher {
    /// Sites by name, and whether there are more.
    pub(super) fn list(&self, after: &str, size: usize) -> (Vec<SiteSummary>, bool) {
        let mut names: Vec<&String> = self.sites.keys().filter(|name| name.as_str() > after).collect();
        names.sort_unstable();
        let more = names.len() > size;
        (names.into_iter().take(size).map(|name| self.summary(name, &self.sites[name])).collect(), more)
    }

    fn summary(&self, name: &str, state: &SiteState) -> SiteSummary {
        let live = |crew: &CrewState| crew.crew.live_count.load(Ordering::Relaxed);
        let report = state.reported.values().next();
        let lanes = state.domains.iter().take(LANES_MAX).flat_map(|name| {
            let lanes = self.domains.get(name).into_iter().flat_map(|domain| &domain.lanes);
            lanes.map(|lane| Lane { routing_domain: name.clone(), egress_pool: lane.pool_name.clone() })
        });
        SiteSummary {
            site: name.into(),
            provider: state.crews.values().next().map(|crew| crew.crew.path().provider.clone()).unwrap_or_default(),
            connection_count: state.crews.values().map(live).sum(),
            due_count: state.shared.due(&self.shared.nodes).values().sum(),
            lanes: lanes.collect(),
            waiting_for: report.map(|report| report.reason.clone()).unwrap_or_default(),
            until: report.and_then(|report| report.until).map(timestamp),
        }
    }
}
