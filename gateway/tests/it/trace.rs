//! The traces of messages, as an OTLP receiver gets them from real processes: near and spread alike.

use crate::front::http;
use crate::world::{Placement, Script, Settings, Step, World, count, reply};
use godwit_proto::common::v1::EventKind;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
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

    fn links_to(&self, other: &Seen) -> bool {
        self.span.links.iter().any(|link| link.span_id == other.span.span_id)
    }

    fn status(&self) -> i32 {
        self.span.status.as_ref().map_or(0, |status| status.code)
    }
}

/// What of a span must be the same wherever the services run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Shape {
    service: String,
    name: String,
    kind: i32,
    status: i32,
    parent: Option<String>,
    /// The spans that it links to.
    links: BTreeSet<String>,
}

/// Takes what exporters send.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<Seen>>>);

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
            self.0.lock().unwrap().extend(spans.map(|span| Seen { service: service.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
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

/// All spans that were received, by id.
struct Traces(BTreeMap<Vec<u8>, Seen>);

impl Traces {
    fn of_message<'a>(&'a self, id: &'a str, service: &'a str) -> impl Iterator<Item = &'a Seen> {
        let is_its =
            move |seen: &&Seen| seen.service == service && seen.attribute("godwit.message.id").as_deref() == Some(id);
        self.0.values().filter(is_its)
    }

    fn attempt<'a>(&'a self, id: &'a str, number: &str) -> &'a Seen {
        let mut attempts = self.of_message(id, "godwit-egress");
        let found = attempts.find(|span| span.attribute("godwit.attempt").as_deref() == Some(number));
        found.unwrap_or_else(|| panic!("no attempt {number} of {id}"))
    }

    /// A message's own traces, and those that they are linked with in either direction.
    fn around(&self, id: &str) -> Vec<&Seen> {
        let own: BTreeSet<&[u8]> = self
            .0
            .values()
            .filter(|seen| seen.attribute("godwit.message.id").as_deref() == Some(id))
            .map(|seen| seen.span.trace_id.as_slice())
            .collect();
        let is_own = |seen: &Seen| own.contains(seen.span.trace_id.as_slice());
        let mut traces = own.clone();
        for seen in self.0.values() {
            for link in &seen.span.links {
                if is_own(seen) {
                    traces.insert(&link.trace_id);
                }
                if own.contains(link.trace_id.as_slice()) {
                    traces.insert(&seen.span.trace_id);
                }
            }
        }
        self.0.values().filter(|seen| traces.contains(seen.span.trace_id.as_slice())).collect()
    }

    fn name(&self, id: &[u8]) -> String {
        self.0.get(id).map_or_else(|| "elsewhere".into(), |seen| format!("{} {}", seen.service, seen.span.name))
    }

    fn shape(&self, seen: &Seen) -> Shape {
        let Span { name, kind, parent_span_id, links, .. } = seen.span.clone();
        let parent = (!parent_span_id.is_empty()).then(|| self.name(&parent_span_id));
        let links = links.iter().map(|link| self.name(&link.span_id)).collect();
        Shape { service: seen.service.clone(), name, kind, status: seen.status(), parent, links }
    }
}

/// Sends a message by SMTP and one by HTTP, whose first attempts fail, checks their traces, and gives the shapes of all
/// spans around them.
async fn traced(placement: Placement) -> BTreeSet<Shape> {
    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (receiver, endpoint) = receiver().await;
    let later = || reply("451 4.7.1 Later");
    let script = Script::new([(Step::Rcpt, "a@", later()), (Step::Rcpt, "b@", later())]);
    let settings = Settings {
        // A rate, so that tokens are acquired at all.
        shaping_default: "max_message_rate = \"100/s\"".into(),
        telemetry: format!("otlp_endpoint = \"{endpoint}\"\nlog_filter = \"warn\""),
        ..Settings::default()
    };
    let world = World::start_binaries(placement, script, settings).await;
    let by_smtp = world.send(&["a@one.test"], "Subject: x\r\n\r\ny").await.to_string();
    world.drained("queue").await;
    let body =
        r#"{"envelope_sender":"s@client.test","recipients":[{"email":"b@one.test"}],"content":"Subject: x\n\ny\n"}"#;
    let request = format!("POST /api/inject/v1 HTTP/1.1\r\ntraceparent: {CALLER}\r\nX-Ignored:");
    assert_eq!(http(world.http, &request, body).await.0, 200);
    let events = world.drained("queue").await;
    assert_eq!(count(&events, EventKind::TransientFailure), 2);
    let by_http = events.last().unwrap().message_id.clone().unwrap().value;
    // A process that ends sends what is left.
    world.stop().await;

    let seen = std::mem::take(&mut *receiver.0.lock().unwrap());
    let traces = Traces(seen.into_iter().map(|seen| (seen.span.span_id.clone(), seen)).collect());
    check(&traces, &by_smtp);
    check(&traces, &by_http);
    let caller: Vec<u8> = (0..16).map(|place| u8::from_str_radix(&CALLER[3 + 2 * place..][..2], 16).unwrap()).collect();
    assert_eq!(traces.attempt(&by_http, "1").span.trace_id, caller, "the caller's trace goes on");
    [by_smtp, by_http].iter().flat_map(|id| traces.around(id)).map(|seen| traces.shape(seen)).collect()
}

/// What Jaeger shows of a message.
fn check(traces: &Traces, id: &str) {
    let (first, second) = (traces.attempt(id, "1"), traces.attempt(id, "2"));

    // Session, enqueue and the first attempt are one trace.
    let received: Vec<_> = traces.of_message(id, "godwit-ingress").collect();
    assert!(!received.is_empty());
    assert!(received.iter().all(|seen| seen.span.trace_id == first.span.trace_id), "{received:#?}");
    let creation = received.iter().find(|seen| seen.span.span_id == first.span.parent_span_id);
    let creation = creation.expect("the first attempt is a child of the message's creation");
    assert_eq!(creation.span.kind, SpanKind::Producer as i32);
    assert!(first.links_to(creation), "the first attempt has no link to the creation");
    let of_queue =
        traces.0.values().any(|seen| seen.service == "godwit-queue" && seen.span.trace_id == first.span.trace_id);
    assert!(of_queue, "ingress, queue and egress share the trace");

    // The retry is a trace of its own, with links to the creation and to the attempt before.
    assert_ne!(second.span.trace_id, first.span.trace_id);
    assert!(second.span.parent_span_id.is_empty(), "{second:#?}");
    assert!(second.links_to(creation) && second.links_to(first), "{second:#?}");
    let statuses = [first, second].map(Seen::status);
    assert_eq!(statuses, [StatusCode::Error as i32, StatusCode::Unset as i32], "a failed attempt is marked");

    // What serves batches belongs to no one message, and is linked in both directions.
    for (service, name) in [("godwit-egress", "lease"), ("godwit-egress", "acquire"), ("godwit-egress", "settle")] {
        let links_both = |seen: &&&Seen| {
            seen.service == service
                && seen.span.name == name
                && [first, second].iter().any(|attempt| attempt.links_to(seen) && seen.links_to(attempt))
        };
        let around = traces.around(id);
        assert!(around.iter().any(|seen| links_both(&seen)), "no {service} {name} is linked both ways: {around:#?}");
    }
    for (service, name) in [("godwit-queue", "commit"), ("godwit-throttle", "acquire")] {
        let found = traces.around(id).into_iter().any(|seen| seen.service == service && seen.span.name.contains(name));
        assert!(found, "no {service} {name} around the message");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_has_one_trace_near_and_spread_alike() {
    let (near, spread) = tokio::join!(traced(Placement::Near), traced(Placement::Spread));
    let only = |these: &BTreeSet<Shape>, those: &BTreeSet<Shape>| these - those;
    assert_eq!(near, spread, "only near {:#?}, only spread {:#?}", only(&near, &spread), only(&spread, &near));
}
