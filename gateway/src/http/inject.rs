//! `POST /api/inject/v1`: the request made into messages, one a recipient, and ingress's answers counted.

use super::Door;
use super::content::{self, Invalid};
use super::request::{Answer, Dialect, Injection, Recipient};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use godwit_kit::roles::Role;
use godwit_kit::{call, trace};
use godwit_proto::common::v1::{Body, BodyType, Envelope, Received, body::Content as BodyContent};
use godwit_proto::ingress::v1::inject_response::{Outcome, Result as Injected};
use godwit_proto::ingress::v1::{InjectMessage, InjectRequest};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

const DEADLINE: Duration = Duration::from_secs(60);
/// Messages in one call to ingress.
const BATCH_MAX: usize = 1_000;
const RECIPIENTS_MAX: usize = 10_000;
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// 200 with the counts, even where some recipients failed; 400 and 422 name the field; 503: try again.
pub(super) async fn inject(State(door): State<Arc<Door>>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(status) = door.callers.check(&headers, Role::Inject) {
        return status.into_response();
    }
    let span = tracing::info_span!("POST /api/inject/v1", otel.kind = "server");
    trace::set_parent(&span, &caller(&headers));
    let key = headers.get(IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok()).unwrap_or_default().to_string();
    match injected(&door, &body, key).instrument(span).await {
        Ok(answer) => Json(answer).into_response(),
        Err((status, error)) => (status, Json(serde_json::json!({ "error": error }))).into_response(),
    }
}

type Refusal = (StatusCode, String);

async fn injected(door: &Door, body: &[u8], key: String) -> Result<Answer, Refusal> {
    let injection = parse(body)?;
    check(&injection)?;
    let mut answer = Answer::default();
    let mut transient = 0;
    for (batch, recipients) in injection.recipients.chunks(BATCH_MAX).enumerate() {
        let messages = recipients.iter().map(|recipient| message(&injection, recipient));
        let messages = messages.collect::<Result<Vec<_>, Invalid>>().map_err(unprocessable)?;
        let request = InjectRequest {
            messages,
            idempotency_key: if key.is_empty() { String::new() } else { format!("{key}/{batch}") },
            deferred: injection.deferred_generation,
            received: Some(Received { protocol: "HTTP".into(), ..Received::default() }),
        };
        let results = ask(door, request).await?;
        transient += count(&mut answer, recipients, results);
    }
    door.injected.with_label_values(&["accepted"]).inc_by(answer.success_count as u64);
    door.injected.with_label_values(&["refused"]).inc_by(answer.fail_count as u64);
    if answer.success_count == 0 && transient == answer.fail_count {
        return Err((StatusCode::SERVICE_UNAVAILABLE, answer.errors.join("; ")));
    }
    Ok(answer)
}

fn parse(body: &[u8]) -> Result<Injection, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string());
    let ended = parsed.and_then(|injection| reader.end().map(|()| injection).map_err(|error| error.to_string()));
    ended.map_err(|error| (StatusCode::BAD_REQUEST, error))
}

fn check(injection: &Injection) -> Result<(), Refusal> {
    let refused = |field: &str, what| Err(unprocessable(Invalid { field: field.into(), what }));
    if injection.recipients.is_empty() {
        return refused("recipients", "at least one is needed");
    }
    if injection.recipients.len() > RECIPIENTS_MAX {
        return refused("recipients", "at most 10000 in one request");
    }
    let substitutes = |recipient: &Recipient| !recipient.substitutions.is_empty();
    if !injection.substitutions.is_empty() || injection.recipients.iter().any(substitutes) {
        return refused("substitutions", "templates are not part of this version");
    }
    let plain = injection.template_dialect == Some(Dialect::Static);
    if !plain && content::is_template(&injection.content) {
        return refused("content", "templates are not part of this version; template_dialect Static sends it as it is");
    }
    Ok(())
}

fn message(injection: &Injection, recipient: &Recipient) -> Result<InjectMessage, Invalid> {
    let content = content::build(&injection.content, recipient)?;
    let body_type = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let metadata: HashMap<_, _> = recipient.metadata.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
    let to = godwit_proto::common::v1::Recipient { address: recipient.email.clone(), ..Default::default() };
    Ok(InjectMessage {
        envelope: Some(Envelope {
            reverse_path: injection.envelope_sender.clone(),
            recipients: vec![to],
            body_type: body_type.into(),
            ..Envelope::default()
        }),
        body: Some(Body { size_bytes: content.len() as u64, content: Some(BodyContent::Inline(content)) }),
        metadata,
        tenant: injection.tenant.clone(),
        campaign: injection.campaign.clone(),
        received_header: injection.trace_headers.received_header,
        ..InjectMessage::default()
    })
}

/// A text as itself, anything else as JSON.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

async fn ask(door: &Door, request: InjectRequest) -> Result<Vec<Injected>, Refusal> {
    let called = door.ingresses.any(|ingress| {
        let request = tonic::Request::new(request.clone());
        async move { ingress.inject(request).await }
    });
    match call::within(DEADLINE, called).await {
        Ok(answer) => Ok(answer.into_inner().results),
        Err(status) => Err((http_status(&status), status.message().to_string())),
    }
}

/// What a failed call means to an HTTP client.
fn http_status(status: &tonic::Status) -> StatusCode {
    match status.code() {
        tonic::Code::InvalidArgument => StatusCode::UNPROCESSABLE_ENTITY,
        tonic::Code::AlreadyExists => StatusCode::CONFLICT,
        tonic::Code::ResourceExhausted | tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        tonic::Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Adds a batch's results; returns how many may succeed later.
fn count(answer: &mut Answer, recipients: &[Recipient], results: Vec<Injected>) -> usize {
    let mut transient = 0;
    for (recipient, result) in recipients.iter().zip(results) {
        match result.outcome() {
            Outcome::Accepted | Outcome::Duplicate => answer.success_count += 1,
            Outcome::Refused | Outcome::Unspecified => {
                let reply = result.reply.clone().unwrap_or_default();
                answer.fail_count += 1;
                answer.failed_recipients.push(recipient.email.clone());
                answer.errors.push(format!("{}: {}", recipient.email, reply.line()));
                transient += usize::from(reply.code < 500);
            }
        }
    }
    transient
}

fn unprocessable(invalid: Invalid) -> Refusal {
    (StatusCode::UNPROCESSABLE_ENTITY, invalid.to_string())
}

/// The trace that the caller is in.
fn caller(headers: &HeaderMap) -> godwit_proto::common::v1::TraceContext {
    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    godwit_proto::common::v1::TraceContext { traceparent: get("traceparent"), tracestate: get("tracestate") }
}
