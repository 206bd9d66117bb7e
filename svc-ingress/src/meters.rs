//! Ingress in numbers. Every label has a fixed, small set of values.

use godwit_kit::metrics::{Counter, Counters, Distribution, Gauge, Metrics};

use crate::enqueue::Queued;

/// What became of a message on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Duplicate,
    /// For good.
    Refused,
    /// To be tried again by the client.
    Deferred,
    /// Its content broke the rules.
    Faulty,
}

impl From<&Queued> for Outcome {
    fn from(queued: &Queued) -> Self {
        match queued {
            Queued::Accepted(_) => Self::Accepted,
            Queued::Duplicate(_) => Self::Duplicate,
            Queued::Refused { transient: true, .. } => Self::Deferred,
            Queued::Refused { transient: false, .. } => Self::Refused,
        }
    }
}

/// How it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    Smtp,
    Inject,
}

#[derive(Debug)]
pub struct Meters {
    pub connections: Gauge,
    pub connections_accepted: Counter,
    pub connections_refused: Counter,
    pub handshakes_completed: Counter,
    pub handshakes_failed: Counter,
    pub handshakes_late: Counter,
    pub data_in_flight_bytes: Gauge,
    pub batch_messages: Distribution,
    pub calls_failed: Counter,
    pub withdrawals: Counter,
    pub rejections_dropped: Counter,
    recipients_refused: Counter,
    messages: Counters,
    bytes: Counters,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        const OPENED: &str = "godwit_ingress_connections_total";
        const HANDSHAKES: &str = "godwit_ingress_tls_handshakes_total";
        let opened = metrics.counters(OPENED, "SMTP connections by what became of them", &["outcome"]);
        let handshakes = metrics.counters(HANDSHAKES, "TLS handshakes with clients by outcome", &["outcome"]);
        Self {
            connections: metrics.gauge("godwit_ingress_connections", "SMTP connections that are open"),
            connections_accepted: opened.with_label_values(&["accepted"]),
            connections_refused: opened.with_label_values(&["refused"]),
            handshakes_completed: handshakes.with_label_values(&["completed"]),
            handshakes_failed: handshakes.with_label_values(&["failed"]),
            handshakes_late: handshakes.with_label_values(&["timed_out"]),
            data_in_flight_bytes: metrics
                .gauge("godwit_ingress_data_in_flight_bytes", "Bytes of messages that are being received or queued"),
            batch_messages: metrics.distribution(
                "godwit_ingress_batch_messages",
                "Messages in one call to a queue",
                &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_000.0],
            ),
            calls_failed: metrics.counter("godwit_ingress_enqueue_failures_total", "Calls to a queue that failed"),
            withdrawals: metrics.counter(
                "godwit_ingress_withdrawals_total",
                "Messages taken back since no queue said what became of them",
            ),
            rejections_dropped: metrics.counter(
                "godwit_ingress_rejections_dropped_total",
                "Rejection events that no queue could record in time",
            ),
            recipients_refused: metrics
                .counter("godwit_ingress_recipients_refused_total", "Recipients refused by policy"),
            messages: metrics.counters("godwit_ingress_messages_total", "Messages by outcome", &["door", "outcome"]),
            bytes: metrics.counters("godwit_ingress_messages_bytes", "Bytes of accepted messages", &["door"]),
        }
    }

    pub fn recipient_refused(&self) {
        self.recipients_refused.inc();
    }

    pub fn message(&self, door: Door, outcome: Outcome, bytes: usize) {
        let door = match door {
            Door::Smtp => "smtp",
            Door::Inject => "inject",
        };
        let label = match outcome {
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::Refused => "refused",
            Outcome::Deferred => "deferred",
            Outcome::Faulty => "faulty",
        };
        self.messages.with_label_values(&[door, label]).inc();
        if outcome == Outcome::Accepted {
            self.bytes.with_label_values(&[door]).inc_by(bytes as u64);
        }
    }
}
