//! W3C trace context: taken from the current span, given to a span, carried by calls and on disk.
//! Where nothing is traced, contexts are empty and all of this does nothing.

use godwit_proto::common::v1::TraceContext;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The current span's context; empty where nothing is traced.
pub fn current() -> TraceContext {
    of(&Span::current())
}

/// A span's context; empty where it is not traced.
pub fn of(span: &Span) -> TraceContext {
    if span.is_disabled() { TraceContext::default() } else { from_context(&span.context()) }
}

/// Makes `span` a child of a context from elsewhere; an empty one changes nothing. Call before entering the span.
pub fn set_parent(span: &Span, parent: &TraceContext) {
    if !parent.traceparent.is_empty() {
        // An error means that the span is not traced, or was entered before.
        let _ = span.set_parent(to_context(parent));
    }
}

/// Makes `span` the first of a trace of its own, whatever span is current. Call before entering it.
pub fn set_root(span: &Span) {
    let _ = span.set_parent(Context::new());
}

/// Links `span` to a context; an empty one changes nothing.
pub fn link(span: &Span, to: &TraceContext) {
    if !to.traceparent.is_empty() && !span.is_disabled() {
        span.add_link(span_context(to));
    }
}

/// Marks `span` as failed, with a reason of few values.
pub fn set_failed(span: &Span, reason: &str) {
    if !span.is_disabled() {
        span.set_status(Status::error(reason.to_string()));
    }
}

/// Writes the current context into a call's headers.
pub fn inject(headers: &mut http::HeaderMap) {
    let span = Span::current();
    let context = if span.is_disabled() { Context::current() } else { span.context() };
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(&context, &mut Headers(headers));
    }
}

/// The context that a call's headers carry; an empty one where there is none.
pub fn extract(headers: &http::HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Received(headers))
}

fn from_context(context: &Context) -> TraceContext {
    let mut carrier = TraceContext::default();
    if context.span().span_context().is_valid() {
        TraceContextPropagator::new().inject_context(context, &mut Fields(&mut carrier));
    }
    carrier
}

fn to_context(carrier: &TraceContext) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &Stored(carrier))
}

fn span_context(carrier: &TraceContext) -> SpanContext {
    to_context(carrier).span().span_context().clone()
}

struct Headers<'a>(&'a mut http::HeaderMap);

impl Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        let pair = (http::HeaderName::try_from(key), http::HeaderValue::try_from(value));
        if let (Ok(name), Ok(value)) = pair {
            self.0.insert(name, value);
        }
    }
}

struct Received<'a>(&'a http::HeaderMap);

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

struct Fields<'a>(&'a mut TraceContext);

impl Injector for Fields<'_> {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.0.traceparent = value,
            TRACESTATE => self.0.tracestate = value,
            _ => {}
        }
    }
}

struct Stored<'a>(&'a TraceContext);

impl Extractor for Stored<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.0.traceparent),
            TRACESTATE => Some(&self.0.tracestate),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_cross_headers_and_disks_unchanged() {
        let carrier = TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: "a=b".into(),
        };
        assert_eq!(from_context(&to_context(&carrier)), carrier);
        assert_eq!(from_context(&to_context(&TraceContext::default())), TraceContext::default());
        let forged = TraceContext { traceparent: "00-zz".into(), ..TraceContext::default() };
        assert_eq!(from_context(&to_context(&forged)), TraceContext::default());
    }

    #[test]
    fn untraced_spans_have_no_context() {
        assert_eq!(current(), TraceContext::default());
    }
}
