//! Lanes that are settled without a connection: a bounded number at once, the others wait for their turn.

use super::Dispatcher;
use crate::crew::PoolIndex;
use crate::lane_work::{self, Job};
use crate::lanes::Way;
use godwit_proto::common::v1::SmtpReply;
use godwit_proto::queue::v1::RecipientResult;
use std::collections::VecDeque;

const RUNNING_MAX: usize = 32;

#[derive(Default)]
pub(super) struct Settling {
    waiting: VecDeque<Job>,
    running_count: usize,
}

/// What a site's lanes are told, and on whose behalf.
pub(super) struct Verdict<'a> {
    pub result: RecipientResult,
    pub reply: &'a SmtpReply,
    pub source: &'a str,
}

impl Dispatcher {
    /// All that is due for a domain without a way.
    pub(super) fn settle_refused(&mut self, name: &str) {
        let Some(domain) = self.domains.get_mut(name) else { return };
        let Way::Refused(refusal) = &domain.way else { return };
        for lane in domain.lanes.iter_mut().filter(|lane| lane.has_due() && !lane.settling) {
            (lane.settling, lane.told_since) = (true, false);
            self.settling.waiting.push_back(Job {
                domain: name.into(),
                pool: lane.pool_name.clone(),
                nodes: lane.nodes_with_due(),
                result: refusal.result,
                reply: refusal.reply.clone(),
                site: String::new(),
                source: String::new(),
            });
        }
        self.start_settling();
    }

    /// All that is due for a site in one pool.
    pub(super) fn settle_site(&mut self, site: &str, pool: PoolIndex, verdict: &Verdict<'_>) {
        let Some(state) = self.sites.get(site) else { return };
        for name in &state.domains {
            let Some(domain) = self.domains.get_mut(name) else { continue };
            let of_pool = domain.lanes.iter_mut().filter(|lane| lane.pool == Some(pool));
            for lane in of_pool.filter(|lane| lane.has_due() && !lane.settling) {
                (lane.settling, lane.told_since) = (true, false);
                self.settling.waiting.push_back(Job {
                    domain: name.clone(),
                    pool: lane.pool_name.clone(),
                    nodes: lane.nodes_with_due(),
                    result: verdict.result,
                    reply: verdict.reply.clone(),
                    site: site.into(),
                    source: verdict.source.into(),
                });
            }
        }
        self.start_settling();
    }

    pub(super) fn hear_lane_settled(&mut self, name: &str, pool: &str) {
        self.settling.running_count -= 1;
        let mut again = false;
        if let Some(lane) = self.domains.get_mut(name).and_then(|domain| domain.lane(pool)) {
            lane.settling = false;
            again = std::mem::take(&mut lane.told_since) && lane.has_due();
        }
        if again {
            self.settle_refused(name);
        }
        self.start_settling();
    }

    fn start_settling(&mut self) {
        while self.settling.running_count < RUNNING_MAX {
            let Some(job) = self.settling.waiting.pop_front() else { return };
            self.settling.running_count += 1;
            self.shared.host.stop.spawn(lane_work::settle(self.shared.clone(), job));
        }
    }
}
