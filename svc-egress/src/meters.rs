//! What this service counts.

use godwit_kit::metrics::{Counter, Counters, Distribution, Gauge, Metrics};
use godwit_proto::queue::v1::RecipientResult;

const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0];

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Meters {
    pub delivered: Counter,
    pub deferred: Counter,
    pub bounced: Counter,
    pub connections: Gauge,
    /// By outcome: `greeted`, `refused`, `source`, `forbidden`, `throttled`.
    pub attempts_to_connect: Counters,
    /// By outcome: `verified`, `unverified`, `not_offered`, `refused`, `certificate`, `failed`, `timed_out`, `plaintext`,
    /// `remembered`.
    pub tls: Counters,
    pub leased: Distribution,
    pub settled: Distribution,
    /// By result: `applied`, `expired`, `stale`, `unknown`, `dropped`.
    pub settlements: Counters,
    pub released: Counter,
    pub leases_lost: Counter,
    /// Of those, and of those that ran out by our own clock: not sent.
    pub dropped: Counter,
    pub domains: Gauge,
    pub sites: Gauge,
    pub lanes_settled: Counter,
    pub connections_limited: Counter,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let recipients = |result: &str| {
            metrics.counter(&format!("godwit_egress_{result}_recipients_total"), "Recipients by what attempts came to.")
        };
        Self {
            delivered: recipients("delivered"),
            deferred: recipients("deferred"),
            bounced: recipients("bounced"),
            connections: metrics.gauge("godwit_egress_connections_count", "Connections that are open or opening."),
            attempts_to_connect: metrics.counters(
                "godwit_egress_connection_attempts_total",
                "Attempts to connect, by what came of them.",
                &["outcome"],
            ),
            tls: metrics.counters(
                "godwit_egress_tls_handshakes_total",
                "Connections that were to be encrypted, by what came of it.",
                &["outcome"],
            ),
            leased: metrics.distribution("godwit_egress_lease_messages", "Deliveries of one Lease.", COUNTS),
            settled: metrics.distribution("godwit_egress_settle_messages", "Outcomes of one Settle.", COUNTS),
            settlements: metrics.counters(
                "godwit_egress_settlements_total",
                "Outcomes by the queue's answer.",
                &["result"],
            ),
            released: metrics.counter("godwit_egress_released_messages_total", "Deliveries given back unattempted."),
            leases_lost: metrics.counter("godwit_egress_lost_leases_total", "Leases that ended while they were held."),
            dropped: metrics.counter(
                "godwit_egress_dropped_messages_total",
                "Deliveries whose lease had ended before they were begun.",
            ),
            domains: metrics.gauge("godwit_egress_domains_count", "Routing domains that are known."),
            sites: metrics.gauge("godwit_egress_sites_count", "Sites that are known."),
            lanes_settled: metrics.counter(
                "godwit_egress_lane_settled_messages_total",
                "Deliveries that were decided without a connection.",
            ),
            connections_limited: metrics.counter(
                "godwit_egress_connections_limited_total",
                "Connections that egress.connections_max did not allow.",
            ),
        }
    }

    pub fn count(&self, result: RecipientResult) {
        match result {
            RecipientResult::Delivered => self.delivered.inc(),
            RecipientResult::Deferred => self.deferred.inc(),
            RecipientResult::Bounced => self.bounced.inc(),
            RecipientResult::Unspecified => {}
        }
    }
}
