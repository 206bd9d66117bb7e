//! Who reads the log, how far each is, and what keeps it: for `Sinks`, metrics and the log.

use godwit_kit::metrics::{Counters, Gauges, Metrics};
use godwit_proto::common::v1::{Cursor, Gap};
use godwit_proto::queue::v1::sinks_response::Sink;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// All readers with a durable cursor. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    sinks: Arc<Mutex<BTreeMap<String, Sink>>>,
    lag: Gauges,
    errors: Counters,
    lost: Counters,
}

/// One reader's way to say where it is.
pub(super) struct Reporter {
    progress: Progress,
    name: String,
}

impl Progress {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let by = &["sink"];
        Self {
            sinks: Arc::default(),
            lag: metrics.gauges("godwit_queue_sink_lag_events", "Events that a sink does not yet hold durably", by),
            errors: metrics.counters("godwit_queue_sink_errors_total", "Failed attempts to hand events to a sink", by),
            lost: metrics.counters("godwit_queue_sink_lost_events_total", "Events gone before a sink had them", by),
        }
    }

    /// Every sink with its cursor, by name.
    pub fn list(&self) -> Vec<Sink> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn reporter(&self, name: &str) -> Reporter {
        let reporter = Reporter { progress: self.clone(), name: name.into() };
        reporter.change(|_| {});
        reporter
    }

    // std's: held for a few instructions and never across an await.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Sink>> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reporter {
    /// Everything up to `cursor` is done with, `newest` being the log's end; what was wrong is over.
    pub fn at(&self, cursor: Cursor, newest: u64) {
        let lag_events = newest.saturating_sub(cursor.seq);
        self.progress.lag.with_label_values(&[&self.name]).set(i64::try_from(lag_events).unwrap_or(i64::MAX));
        self.change(|sink| (sink.cursor, sink.lag_events, sink.last_error) = (Some(cursor), lag_events, String::new()));
    }

    /// A failure, logged here; it will be tried again.
    pub fn failed(&self, error: &str, newest: u64) {
        self.progress.errors.with_label_values(&[&self.name]).inc();
        let lag = newest.saturating_sub(self.seq());
        self.progress.lag.with_label_values(&[&self.name]).set(i64::try_from(lag).unwrap_or(i64::MAX));
        let mut said_before = false;
        self.change(|sink| {
            said_before = sink.last_error == error;
            (sink.last_error, sink.lag_events) = (error.into(), lag);
        });
        if !said_before {
            tracing::warn!(sink = self.name, error, "events wait for their sink");
        }
    }

    /// Events that are gone before this sink had them. One that begins with the log's first has not been there yet: it has
    /// lost nothing.
    pub fn lost(&self, gap: &Gap) {
        if gap.from <= 1 {
            return;
        }
        let count = (gap.to + 1).saturating_sub(gap.from);
        self.progress.lost.with_label_values(&[&self.name]).inc_by(count);
        tracing::error!(sink = self.name, gap.from, gap.to, "events fell off the log before their sink had them");
    }

    /// It is not fed for now, under this name: it is none of those that have to keep up.
    pub fn left_out(&self) {
        if self.progress.lock().remove(&self.name).is_some() {
            // A series that is not there can only be missed by whoever removed it before.
            let _ = self.progress.lag.remove_label_values(&[&self.name]);
        }
    }

    fn seq(&self) -> u64 {
        let sinks = self.progress.lock();
        sinks.get(&self.name).and_then(|sink| sink.cursor.as_ref()).map_or(0, |cursor| cursor.seq)
    }

    fn change(&self, change: impl FnOnce(&mut Sink)) {
        let fresh = || Sink { name: self.name.clone(), ..Sink::default() };
        change(self.progress.lock().entry(self.name.clone()).or_insert_with(fresh));
    }
}
