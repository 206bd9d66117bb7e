//! Logs to standard error, traces to an OTLP receiver. What is set here is the one thing that is process-wide.
//!
//! Each service has its own `service.name`, in one process too: a span belongs to the crate that made it (its target),
//! and is exported under that service's resource.

use crate::config::Telemetry;
use futures::future::join_all;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, Value, global};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use std::io::IsTerminal;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// The crates that are services, and the `service.name` of each; everything else is the gateway's.
const SERVICES: [(&str, &str); 6] = [
    ("svc_ingress", "godwit-ingress"),
    ("svc_queue", "godwit-queue"),
    ("svc_egress", "godwit-egress"),
    ("svc_tsa", "godwit-tsa"),
    ("svc_throttle", "godwit-throttle"),
    ("svc_proxy", "godwit-proxy"),
];
const GATEWAY: &str = "godwit-gateway";

/// Why telemetry did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("telemetry.log_filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(String),
    #[error("telemetry was set up before in this process")]
    Twice,
}

/// Keeps the traces going; `finish` sends what is left.
#[derive(Debug, Default)]
pub struct Guard(Option<SdkTracerProvider>);

impl Guard {
    /// Sends what is left. Blocks for a few seconds at the most.
    pub fn finish(&self) {
        if let Some(provider) = &self.0
            && let Err(error) = provider.force_flush()
        {
            tracing::warn!(%error, "traces were not sent");
        }
    }
}

/// Sets the process's log and, where an endpoint is given, its traces. Must be called within a runtime.
///
/// # Errors
/// A filter or an endpoint that cannot be read, or a second call in one process.
pub fn init(config: &Telemetry, node: &str) -> Result<Guard, Error> {
    let filter: EnvFilter = config.log_filter.parse()?;
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_filter(filter);
    let (traces, guard) = match config.otlp_endpoint.as_str() {
        "" => (None, Guard::default()),
        endpoint => {
            let provider = provider(endpoint, config.sample_ratio, node)?;
            // Spans of libraries below ours (h2, hyper, tower) would drown a message's trace.
            let ours =
                tracing_subscriber::filter::filter_fn(|metadata| metadata.is_span() && is_ours(metadata.target()));
            let layer = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("godwit"))
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(true)
                .with_filter(ours);
            (Some(layer), Guard(Some(provider)))
        }
    };
    tracing_subscriber::registry().with(traces).with(log).try_init().map_err(|_| Error::Twice)?;
    global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(guard)
}

fn is_ours(target: &str) -> bool {
    target.starts_with("svc_") || target.starts_with("gateway") || target.starts_with("godwit")
}

fn provider(endpoint: &str, sample_ratio: f64, node: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = PerService::connect(endpoint, node)?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio)));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler).build())
}

/// One exporter a service, over one channel.
#[derive(Debug)]
struct PerService(Vec<(&'static str, Otlp)>);

impl PerService {
    fn connect(endpoint: &str, node: &str) -> Result<Self, Error> {
        let channel = tonic::transport::Endpoint::from_shared(endpoint.to_string())
            .map_err(|error| Error::Endpoint(error.to_string()))?
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        let names = SERVICES.iter().map(|(_, name)| *name).chain([GATEWAY]);
        let exporters = names.map(|name| {
            let built = Otlp::builder()
                .with_tonic()
                .with_channel(channel.clone())
                .with_timeout(Duration::from_secs(5))
                .build()
                .map_err(|error| Error::Endpoint(error.to_string()));
            built.map(|mut exporter| {
                exporter.set_resource(
                    &Resource::builder()
                        .with_service_name(name)
                        .with_attribute(KeyValue::new("service.instance.id", node.to_string()))
                        .build(),
                );
                (name, exporter)
            })
        });
        exporters.collect::<Result<_, _>>().map(Self)
    }
}

impl SpanExporter for PerService {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let mut parts: Vec<Vec<SpanData>> = self.0.iter().map(|_| Vec::new()).collect();
        for span in batch {
            let name = service_of(&span);
            let place = self.0.iter().position(|(known, _)| *known == name).unwrap_or(self.0.len() - 1);
            parts[place].push(span);
        }
        let sends = self.0.iter().zip(parts).filter(|(_, part)| !part.is_empty());
        let results = join_all(sends.map(|((_, exporter), part)| exporter.export(part))).await;
        results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let results: Vec<_> = self.0.iter().map(|(_, exporter)| exporter.shutdown_with_timeout(timeout)).collect();
        results
            .into_iter()
            .find(|result| !matches!(result, Ok(()) | Err(OTelSdkError::AlreadyShutdown)))
            .unwrap_or(Ok(()))
    }
}

fn service_of(span: &SpanData) -> &'static str {
    let target = span.attributes.iter().find(|attribute| attribute.key.as_str() == "target").map(|found| &found.value);
    let Some(Value::String(target)) = target else { return GATEWAY };
    let root = target.as_str().split("::").next().unwrap_or_default();
    SERVICES.iter().find(|(krate, _)| *krate == root).map_or(GATEWAY, |(_, name)| name)
}
