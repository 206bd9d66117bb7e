//! The metrics of one process as a value: two MTAs in one process have two. Names are `godwit_<service>_<thing>_<unit>`.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// A registry to add to and to read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Registry);

pub use prometheus::{
    Histogram as Distribution, IntCounter as Counter, IntCounterVec as Counters, IntGauge as Gauge,
    IntGaugeVec as Gauges,
};

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    /// Labels must have few values, none chosen by a stranger.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// `buckets` are upper bounds in the unit of the name.
    pub fn distribution(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// All of it in Prometheus' text format.
    pub fn text(&self) -> String {
        TextEncoder::new().encode_to_string(&self.0.gather()).unwrap_or_default()
    }

    /// A name is registered once a process; a second time is a mistake of ours, said in the log, and counts aside.
    fn add<C: Collector + Clone + 'static>(&self, metric: prometheus::Result<C>) -> C {
        let metric = metric.expect("metric names and labels are constants");
        if let Err(error) = self.0.register(Box::new(metric.clone())) {
            tracing::error!(%error, "metric not registered");
        }
        metric
    }
}
