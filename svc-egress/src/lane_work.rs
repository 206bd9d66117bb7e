//! What happens to a lane without a connection: one outcome for all that is due, and reports of why it is not drained.

use crate::classify;
use crate::node::Node;
use crate::plan;
use crate::shared::{Event, Shared};
use godwit_kit::call;
use godwit_proto::common::v1::{Lane, SmtpReply};
use godwit_proto::convert::timestamp;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::{RecipientResult, ReportLaneRequest, SettleLaneRequest, SettleLaneResponse};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tonic::{Request, Status};

/// Deliveries of one call.
const MESSAGES_MAX: u32 = 1_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const FAILURES_MAX: u32 = 5;

/// One outcome for all that is due in one lane.
#[derive(Debug, Clone)]
pub struct Job {
    pub domain: String,
    pub pool: String,
    /// The nodes that have mail in it.
    pub nodes: Vec<usize>,
    pub result: RecipientResult,
    pub reply: SmtpReply,
    /// Empty where none was found.
    pub site: String,
    pub source: String,
}

/// Calls each node until nothing is left, then tells the dispatcher.
pub async fn settle(shared: Arc<Shared>, job: Job) {
    for node in &job.nodes {
        let node = &shared.nodes[*node];
        if let Err(status) = settle_on(&shared, node, &job).await {
            tracing::warn!(%status, queue = %node.name, domain = %job.domain, "lane not settled");
        }
    }
    shared.say(Event::LaneSettled { domain: job.domain, pool: job.pool }).await;
}

async fn settle_on(shared: &Shared, node: &Node, job: &Job) -> Result<(), Status> {
    let mut failures = 0;
    while !shared.host.stop.is_requested() {
        let request = SettleLaneRequest {
            egress_node: Some(node.egress_node()),
            lane: Some(lane(&job.domain, &job.pool)),
            result: job.result.into(),
            reply: Some(job.reply.clone()),
            bounce_class: classify::bounce_class(&job.reply).into(),
            site: job.site.clone(),
            source: job.source.clone(),
            messages_max: MESSAGES_MAX,
            not_before: None,
        };
        match call::within(CALL_TIMEOUT, node.queue.settle_lane(Request::new(request))).await {
            Ok(answer) => {
                let SettleLaneResponse { settled_count, remaining_due } = answer.into_inner();
                shared.meters.lanes_settled.inc_by(settled_count);
                // Where nothing could be settled, asking again would not help.
                if remaining_due == 0 || settled_count == 0 {
                    return Ok(());
                }
                failures = 0;
            }
            Err(status) => {
                failures += 1;
                if failures >= FAILURES_MAX {
                    return Err(status);
                }
                shared.host.clock.sleep(plan::call_backoff(failures)).await;
            }
        }
    }
    Ok(())
}

/// Why a lane is or is not drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub state: State,
    pub reason: String,
    pub until: Option<SystemTime>,
}

/// Not waited for; where reports pile up they are dropped.
pub fn report(node: &Node, domain: &str, pool: &str, report: &Report) {
    let request = ReportLaneRequest {
        egress_node: Some(node.egress_node()),
        lane: Some(lane(domain, pool)),
        state: report.state.into(),
        reason: report.reason.clone(),
        until: report.until.map(timestamp),
    };
    let _ = node.reports.try_send(request);
}

fn lane(domain: &str, pool: &str) -> Lane {
    Lane { routing_domain: domain.into(), egress_pool: pool.into() }
}
