//! The trace of one message, as an OTLP receiver gets it: near and spread alike.

use crate::world::{HANG, Placement, Script, Settings, Step, World, of_kind, reply};
use godwit_kit::config::Telemetry;
use godwit_kit::telemetry;
use godwit_proto::common::v1::EventKind;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A span and whose it is.
#[derive(Debug, Clone)]
struct Seen {
    service: String,
    span: Span,
}

impl Seen {
    fn attribute(&self, name: &str) -> Option<String> {
        let value = self.span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
        Some(match value {
            Value::StringValue(text) => text,
            Value::IntValue(number) => number.to_string(),
            other => format!("{other:?}"),
        })
    }

    fn links_to(&self, trace_id: &[u8]) -> bool {
        self.span.links.iter().any(|link| link.trace_id == trace_id)
    }

    /// Service, name and kind: the shape of a span.
    fn shape(&self) -> String {
        format!("{} {} {}", self.service, self.span.name, self.span.kind)
    }
}

#[derive(Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<Seen>>>,
    changed: Arc<tokio::sync::Notify>,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for part in request.into_inner().resource_spans {
            let attributes = part.resource.unwrap_or_default().attributes;
            let name =
                attributes.into_iter().find(|attribute| attribute.key == "service.name").and_then(|found| found.value);
            let Some(Value::StringValue(service)) = name.and_then(|name| name.value) else {
                return Err(Status::invalid_argument("a resource without service.name"));
            };
            let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.seen.lock().unwrap().extend(spans.map(|span| Seen { service: service.clone(), span }));
        }
        self.changed.notify_waiters();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Receiver {
    /// Waits until `found` gives something.
    async fn wait<T>(&self, what: &str, found: impl Fn(&[Seen]) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = found(&self.seen.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(HANG, waiting).await {
            Ok(found) => found,
            Err(_) => panic!(
                "no {what} among {:#?}",
                self.seen.lock().unwrap().iter().map(Seen::shape).collect::<BTreeSet<_>>()
            ),
        }
    }
}

async fn receiver() -> (Receiver, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let receiver = Receiver::default();
    let service = TraceServiceServer::new(receiver.clone());
    tokio::spawn(
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (receiver, endpoint)
}

/// Sends a message whose first attempt fails, checks its traces, and gives back the shapes of its spans.
async fn traced(placement: Placement, receiver: &Receiver) -> BTreeSet<String> {
    let script = Script::new([(Step::Rcpt, "a@", reply("451 4.7.1 Later"))]);
    // A rate, so that tokens are acquired at all.
    let settings = Settings { shaping_default: "max_message_rate = \"100/s\"".into(), ..Settings::default() };
    let world = World::start(placement, script, settings).await;
    let id = world.send(&["a@one.test"], "Subject: x\r\n\r\ny").await.to_string();
    world.events_until(|events| of_kind(events, EventKind::Delivery).len() == 1).await;

    let of_message = |seen: &[Seen], service: &str| -> Vec<Seen> {
        let ours =
            |span: &&Seen| span.service == service && span.attribute("godwit.message.id").as_deref() == Some(&id);
        seen.iter().filter(ours).cloned().collect()
    };
    let attempts = receiver
        .wait("two attempts", |seen| Some(of_message(seen, "godwit-egress")).filter(|attempts| attempts.len() >= 2))
        .await;
    let attempt = |number: &str| {
        let found = attempts.iter().find(|span| span.attribute("godwit.attempt").as_deref() == Some(number));
        found.unwrap_or_else(|| panic!("no attempt {number} in {attempts:#?}"))
    };
    let (first, second) = (attempt("1"), attempt("2"));
    let injection = &first.span.trace_id;

    // Session, enqueue and the first attempt are one trace.
    let received = receiver
        .wait("injection", |seen| Some(of_message(seen, "godwit-ingress")).filter(|spans| spans.len() >= 2))
        .await;
    assert!(received.iter().all(|span| &span.span.trace_id == injection), "{received:#?}");
    let parents: BTreeSet<_> = received.iter().map(|span| span.span.span_id.clone()).collect();
    assert!(parents.contains(&first.span.parent_span_id), "the first attempt is no child of its creation");
    assert!(first.links_to(injection), "the first attempt has no link to its creation");

    // The queue has its part in it.
    let stored = receiver.wait("store", |seen| of_message(seen, "godwit-queue").pop()).await;
    assert_eq!(&stored.span.trace_id, injection, "{stored:#?}");
    assert!(parents.contains(&stored.span.parent_span_id), "{stored:#?}");

    // The retry is a trace of its own, with links to the creation and to the attempt before.
    assert_ne!(&second.span.trace_id, injection);
    assert!(second.span.parent_span_id.is_empty(), "{second:#?}");
    assert!(second.links_to(injection));
    assert!(second.span.links.iter().any(|link| link.span_id == first.span.span_id), "{second:#?}");
    assert_eq!(first.span.status.clone().unwrap_or_default().code, 2, "a failed attempt is marked");

    // What serves batches belongs to no one message, and is linked.
    for (service, name) in [("godwit-queue", "commit"), ("godwit-queue", "lease"), ("godwit-throttle", "acquire")] {
        let linked = |seen: &[Seen]| {
            let candidates = seen.iter().filter(|span| span.service == service && span.span.name.contains(name));
            let mut linked = candidates.filter(|span| {
                let both = span.links_to(injection) || span.links_to(&second.span.trace_id);
                let back = attempts.iter().chain(&received).any(|message| message.links_to(&span.span.trace_id));
                both || back
            });
            linked.next().cloned()
        };
        receiver.wait(&format!("{service} {name} linked with the message"), linked).await;
    }
    world.stop().await;
    attempts.iter().chain(&received).chain([&stored]).map(Seen::shape).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_has_one_trace_near_and_spread_alike() {
    let (receiver, endpoint) = receiver().await;
    let config = Telemetry { otlp_endpoint: endpoint, log_filter: "warn".into(), ..Telemetry::default() };
    let _guard = telemetry::init(&config, "node_test").unwrap();
    let near = traced(Placement::Near, &receiver).await;
    let spread = traced(Placement::Spread, &receiver).await;
    assert_eq!(near, spread, "the shapes differ");
}
