//! Spans of attempts: an attempt belongs to its message's trace, the calls around it serve many and are linked.
//! A message that is not traced costs a look at one empty string.

use godwit_kit::trace;
use godwit_proto::common::v1::TraceContext;
use godwit_proto::queue::v1::{LeasedDelivery, RecipientResult};
use std::time::Duration;
use tracing::Span;

/// The spans around the attempts of one lease.
pub struct Around {
    pub lease: Span,
    pub acquire: Span,
    pub connect: TraceContext,
    pub throttle_wait: Duration,
}

/// `process <site>`: the first attempt is a child of the message's creation, a later one a trace of its own; each is
/// linked to the creation, to the attempt before, and to the lease, tokens and connection that it used.
pub fn span(delivery: &LeasedDelivery, site: &str, around: &Around) -> Span {
    let Some(creation) = delivery.trace.as_ref().filter(|trace| !trace.traceparent.is_empty()) else {
        return Span::none();
    };
    let queue_name = delivery.queue_name.clone().unwrap_or_default();
    let span = tracing::info_span!(
        parent: None,
        "process",
        otel.name = format!("process {site}"),
        otel.kind = "consumer",
        messaging.system = "smtp",
        messaging.operation.name = "process",
        messaging.destination.name = site,
        godwit.message.id = delivery.message_id.as_ref().map(|id| id.value.as_str()),
        godwit.tenant = queue_name.tenant,
        godwit.campaign = queue_name.campaign,
        godwit.domain = queue_name.domain,
        godwit.attempt = delivery.attempt,
        throttle.wait_ms = around.throttle_wait.as_millis() as u64,
        lease.id = delivery.lease_id.as_ref().map(|id| id.value.as_str()),
        server.address = tracing::field::Empty,
        smtp.reply_code = tracing::field::Empty,
    );
    if delivery.attempt <= 1 {
        trace::set_parent(&span, creation);
    } else {
        trace::set_root(&span);
    }
    trace::link(&span, creation);
    delivery.previous_attempt.iter().for_each(|previous| trace::link(&span, previous));
    let own = trace::of(&span);
    for batch in [&around.lease, &around.acquire] {
        trace::link(&span, &trace::of(batch));
        trace::link(batch, &own);
    }
    trace::link(&span, &around.connect);
    span
}

/// Notes what the attempt came to. The worst recipient speaks for it.
pub fn finish(span: &Span, server: &str, worst: Option<(RecipientResult, u32)>) {
    if span.is_none() {
        return;
    }
    span.record("server.address", server);
    if let Some((result, code)) = worst {
        span.record("smtp.reply_code", code);
        match result {
            RecipientResult::Deferred => trace::set_failed(span, "deferred"),
            RecipientResult::Bounced => trace::set_failed(span, "bounced"),
            RecipientResult::Delivered | RecipientResult::Unspecified => {}
        }
    }
}
