//! The queue's figures.

use crate::core::Core;
use crate::spool::Stats;
use godwit_kit::metrics::Metrics as Registry;
use godwit_kit::metrics::{Counter, Counters, Distribution, Gauge, Gauges};

#[derive(Debug, Clone)]
pub struct Metrics {
    /// By outcome: accepted, duplicate, refused.
    pub enqueued: Counters,
    pub messages_accepted: Counter,
    /// By outcome: delivered, deferred, bounced, expired, withdrawn; in recipients.
    pub recipients: Counters,
    pub leases_granted: Counter,
    pub lease_expirations: Counter,
    pub deliveries_held: Counter,
    pub deliveries_damaged: Counter,
    /// Deliveries in one append of Settle.
    pub settle_deliveries: Distribution,
    /// Messages in one append of Enqueue.
    pub enqueue_messages: Distribution,
    pub lease_deliveries: Distribution,
    depth: Gauges,
    leases: Gauge,
    lease_nodes: Gauge,
    lanes: Gauge,
    spool: Gauges,
}

const BATCHES: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 25.0, 100.0, 250.0, 1_000.0];

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        Self {
            enqueued: registry.counters(
                "godwit_queue_messages_enqueued_total",
                "Messages given to Enqueue, by outcome",
                &["outcome"],
            ),
            messages_accepted: registry.counter("godwit_queue_messages_accepted_total", "Messages accepted, on disk"),
            recipients: registry.counters(
                "godwit_queue_recipients_total",
                "Recipients of outcomes, by outcome",
                &["outcome"],
            ),
            leases_granted: registry.counter("godwit_queue_leases_granted_total", "Leases granted"),
            lease_expirations: registry.counter("godwit_queue_leases_expired_total", "Leases that ran out"),
            deliveries_held: registry.counter(
                "godwit_queue_deliveries_held_total",
                "Deliveries that wait because too many of their leases ran out",
            ),
            deliveries_damaged: registry.counter(
                "godwit_queue_deliveries_damaged_total",
                "Deliveries set aside because their message cannot be read",
            ),
            settle_deliveries: registry.distribution(
                "godwit_queue_settle_deliveries",
                "Deliveries in one append of outcomes",
                &BATCHES,
            ),
            enqueue_messages: registry.distribution(
                "godwit_queue_enqueue_messages",
                "Messages in one append of Enqueue",
                &BATCHES,
            ),
            lease_deliveries: registry.distribution(
                "godwit_queue_lease_deliveries",
                "Deliveries in one answer of Lease",
                &BATCHES,
            ),
            depth: registry.gauges("godwit_queue_depth", "What is queued, by what", &["what"]),
            leases: registry.gauge("godwit_queue_leases", "Live leases"),
            lease_nodes: registry.gauge("godwit_queue_lease_nodes", "Egress nodes with a live lease"),
            lanes: registry.gauge("godwit_queue_lanes", "Lanes that are known"),
            spool: registry.gauges("godwit_queue_spool", "Figures of the spool, by what", &["what"]),
        }
    }

    pub fn core(&self, core: &Core) {
        let depth = |what, count: u64| self.depth.with_label_values(&[what]).set(count as i64);
        depth("messages", core.message_count() as u64);
        depth("deliveries", core.delivery_count() as u64);
        depth("due", core.lanes.due_count());
        depth("set_aside", core.aside_count() as u64);
        self.leases.set(core.leases.len() as i64);
        self.lease_nodes.set(core.leases.node_count() as i64);
        self.lanes.set(core.lanes.lane_count() as i64);
    }

    pub fn spool(&self, stats: &Stats) {
        let figures = [
            ("messages", stats.messages),
            ("segments", stats.segments),
            ("live_bytes", stats.live_bytes),
            ("disk_bytes", stats.disk_bytes),
            ("cache_bytes", stats.cache_bytes),
            ("inbox", stats.inbox),
            ("commits", stats.commits),
            ("records", stats.records),
            ("written_bytes", stats.written_bytes),
            ("events_bytes", stats.events_bytes),
            ("events_newest_seq", stats.events_newest_seq),
            ("events_oldest_seq", stats.events_oldest_seq),
            ("faults", stats.faults),
        ];
        for (what, value) in figures {
            self.spool.with_label_values(&[what]).set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }
}
