//! One queue node as egress sees it: its handle, the leases held of it, and the tasks that settle, renew and announce.

use crate::announce::Announcer;
use crate::held::{Held, Ticket};
use crate::meters::Meters;
use crate::renew::Renewer;
use crate::settle::{Settler, Settling};
use godwit_kit::peers::Peer;
use godwit_kit::{Host, call};
use godwit_proto::common::v1::{LeaseId, NodeId};
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::{LeaseRequest, LeaseResponse, ReleaseRequest, ReportLaneRequest};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status};

/// Outcomes that wait for their batch; a connection that finds no room waits.
const SETTLING_MAX: usize = 8_192;
/// Reports that wait; more are dropped, they are for the eye only.
const REPORTS_MAX: usize = 1_024;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

pub struct Node {
    /// Its place among the nodes.
    pub index: usize,
    pub name: String,
    pub queue: Queue,
    pub held: Held,
    pub announcer: Announcer,
    pub settling: mpsc::Sender<Settling>,
    pub reports: mpsc::Sender<ReportLaneRequest>,
    /// Its stream of what is due is broken.
    pub away: AtomicBool,
    egress_node: NodeId,
    lease: Duration,
    meters: Meters,
}

/// What a node's tasks need from the service.
pub struct Around<'a> {
    pub host: &'a Host,
    pub meters: &'a Meters,
    pub lease: Duration,
    /// Connections; outcomes come as long as one lives.
    pub workers: &'a TaskTracker,
}

impl Node {
    /// Starts its tasks. They outlive the connections: the last outcome is settled after the last of them has ended.
    pub fn start(index: usize, peer: Peer<Queue>, around: &Around<'_>) -> Self {
        let Around { host, meters, lease, workers } = around;
        let (settling, outcomes) = mpsc::channel(SETTLING_MAX);
        let (reports, reported) = mpsc::channel(REPORTS_MAX);
        let (held, egress_node) = (Held::new(*lease), NodeId::from(host.node));
        let settled = CancellationToken::new();
        let (queue, name) = (peer.handle, peer.name);
        let settler = Settler {
            queue: queue.clone(),
            egress_node: egress_node.clone(),
            host: (*host).clone(),
            meters: (*meters).clone(),
        };
        let (stop, workers, done) = (host.stop.clone(), (*workers).clone(), settled.clone());
        host.stop.spawn(async move {
            let ended = async {
                stop.requested().await;
                workers.wait().await;
            };
            settler.run(outcomes, ended).await;
            done.cancel();
        });
        let renewer = Renewer {
            queue: queue.clone(),
            egress_node: egress_node.clone(),
            held: held.clone(),
            lease: *lease,
            meters: (*meters).clone(),
        };
        host.stop.spawn(renewer.run(settled));
        host.stop.spawn(report(queue.clone(), reported, host.stop.token()));
        let (announcer, away, lease, meters) = (Announcer::default(), AtomicBool::new(true), *lease, (*meters).clone());
        Self { index, name, queue, held, announcer, settling, reports, away, egress_node, lease, meters }
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// # Errors
    /// The call's.
    pub async fn lease(&self, site: &str, pool: &str, messages_max: u32) -> Result<LeaseResponse, Status> {
        let request = LeaseRequest {
            egress_node: Some(self.egress_node.clone()),
            site: site.into(),
            egress_pools: vec![pool.into()],
            messages_max,
            bytes_max: crate::plan::LEASE_BYTES_MAX,
            lease_ms: self.lease.as_millis() as u64,
            wait_ms: 0,
        };
        Ok(call::within(CALL_TIMEOUT, self.queue.lease(Request::new(request))).await?.into_inner())
    }

    /// Gives deliveries back. Where that fails, their leases run out.
    pub async fn release(&self, tickets: Vec<Ticket>, reason: &str) {
        let lease_ids: Vec<LeaseId> = tickets.iter().filter(|ticket| !ticket.is_lost()).map(Ticket::lease_id).collect();
        if lease_ids.is_empty() {
            return;
        }
        self.meters.released.inc_by(lease_ids.len() as u64);
        let egress_node = Some(self.egress_node.clone());
        let request = ReleaseRequest { egress_node, lease_ids, not_before: None, reason: reason.into() };
        if let Err(status) = call::within(CALL_TIMEOUT, self.queue.release(Request::new(request))).await {
            tracing::warn!(%status, queue = %self.name, "deliveries not released: their leases run out");
        }
    }

    pub fn egress_node(&self) -> NodeId {
        self.egress_node.clone()
    }
}

async fn report(queue: Queue, mut reported: mpsc::Receiver<ReportLaneRequest>, stop: CancellationToken) {
    loop {
        let report = tokio::select! {
            report = reported.recv() => report,
            () = stop.cancelled() => return,
        };
        let Some(report) = report else { return };
        if let Err(status) = call::within(CALL_TIMEOUT, queue.report_lane(Request::new(report))).await {
            tracing::debug!(%status, "lane not reported");
        }
    }
}
