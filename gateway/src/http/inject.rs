//! `POST /api/inject/v1`: the request made into messages, one a recipient, and ingress's answers counted.

use super::Door;
use super::content::{self, Invalid, Source};
use super::request::{Answer, Dialect, Injection, Recipient};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use godwit_kit::roles::Role;
use godwit_kit::{call, trace};
use godwit_proto::CALL_BYTES_MAX;
use godwit_proto::common::v1::{Body, BodyType, Envelope, Received, body::Content as BodyContent};
use godwit_proto::ingress::v1::inject_response::{Outcome, Result as Injected};
use godwit_proto::ingress::v1::{InjectMessage, InjectRequest};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

const DEADLINE: Duration = Duration::from_secs(60);
/// Messages in one call to ingress.
const BATCH_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = CALL_BYTES_MAX / 2;
const RECIPIENTS_MAX: usize = 10_000;
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// 200 with the counts, even where some recipients failed; 400 and 422 name the field; 503: try again.
pub(super) async fn inject(State(door): State<Arc<Door>>, request: Request) -> Response {
    let headers = request.headers();
    if let Err(status) = door.tokens.check(headers, Role::Inject) {
        return status.into_response();
    }
    if is_foreign_page(headers) {
        return refused((StatusCode::FORBIDDEN, "a page of another origin may not inject".into()));
    }
    let key = match headers.get(IDEMPOTENCY_KEY).map(HeaderValue::to_str).transpose() {
        Ok(key) => key.unwrap_or_default().to_string(),
        Err(_) => return refused((StatusCode::BAD_REQUEST, format!("{IDEMPOTENCY_KEY}: must be printable ASCII"))),
    };
    let span = tracing::info_span!("POST /api/inject/v1", otel.kind = "server");
    trace::set_parent(&span, &caller(headers));
    let (body, _room) = match door.intake.read(request).await {
        Ok(taken) => taken,
        Err(response) => return response,
    };
    match injected(&door, &body, key).instrument(span).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refused(refusal),
    }
}

type Refusal = (StatusCode, String);

fn refused((status, error): Refusal) -> Response {
    (status, Json(serde_json::json!({ "error": error }))).into_response()
}

/// A browser says where a page is from that posts here: whoever can reach the listener is trusted, pages from afar are not.
fn is_foreign_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    let authority = |origin: &str| origin.split_once("://").map_or(String::new(), |(_, rest)| rest.to_string());
    text(header::ORIGIN).is_some_and(|origin| authority(origin) != text(header::HOST).unwrap_or_default())
}

async fn injected(door: &Door, body: &[u8], key: String) -> Result<Answer, Refusal> {
    let injection = parse(body)?;
    check(&injection)?;
    let source = Source::new(&injection.content).map_err(unprocessable)?;
    injection.recipients.iter().try_for_each(|recipient| source.check_recipient(recipient)).map_err(unprocessable)?;
    let mut answer = Answer::default();
    let mut transient = 0;
    let (mut left, mut batch) = (&injection.recipients[..], 0);
    while !left.is_empty() {
        let messages = messages(&injection, &source, left).map_err(unprocessable)?;
        let recipients;
        (recipients, left) = left.split_at(messages.len());
        let request = InjectRequest {
            messages,
            idempotency_key: if key.is_empty() { String::new() } else { format!("{key}/{batch}") },
            deferred: injection.deferred_generation,
            received: Some(Received { protocol: "HTTP".into(), ..Received::default() }),
        };
        batch += 1;
        transient += match ask(door, request).await {
            Ok(results) => count(&mut answer, recipients, results),
            Err(refusal) if answer.success_count == 0 => return Err(refusal),
            // Others are accepted already, and the caller must know which.
            Err((_, why)) => missed(&mut answer, recipients, &why),
        };
    }
    door.injected.with_label_values(&["accepted"]).inc_by(answer.success_count as u64);
    door.injected.with_label_values(&["refused"]).inc_by(answer.fail_count as u64);
    if answer.success_count == 0 && transient == answer.fail_count {
        return Err((StatusCode::SERVICE_UNAVAILABLE, answer.errors.join("; ")));
    }
    Ok(answer)
}

/// Messages for the first of `recipients`: as many as one call takes, and at least one.
fn messages(
    injection: &Injection,
    source: &Source<'_>,
    recipients: &[Recipient],
) -> Result<Vec<InjectMessage>, Invalid> {
    let (mut messages, mut bytes) = (Vec::new(), 0);
    for recipient in recipients.iter().take(BATCH_MAX) {
        let message = message(injection, source, recipient)?;
        bytes += message.encoded_len();
        if !messages.is_empty() && bytes > BATCH_BYTES_MAX {
            break;
        }
        messages.push(message);
    }
    Ok(messages)
}

fn parse(body: &[u8]) -> Result<Injection, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string());
    let ended = parsed.and_then(|injection| reader.end().map(|()| injection).map_err(|error| error.to_string()));
    ended.map_err(|error| (StatusCode::BAD_REQUEST, error))
}

fn check(injection: &Injection) -> Result<(), Refusal> {
    let refused = |field: &str, what| Err(unprocessable(Invalid { field: field.into(), what }));
    if injection.envelope_sender.parse::<godwit_smtp::ReversePath>().is_err() {
        return refused("envelope_sender", "is no address");
    }
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

fn message(injection: &Injection, source: &Source<'_>, recipient: &Recipient) -> Result<InjectMessage, Invalid> {
    let content = source.message(recipient)?;
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
        async move { ingress.inject(request).await.map_err(known) }
    });
    match call::within(DEADLINE, called).await {
        Ok(answer) => Ok(answer.into_inner().results),
        Err(status) => Err((http_status(&status), status.message().to_string())),
    }
}

/// A call that may have been done is not made again at another ingress: mail would go out twice.
fn known(status: tonic::Status) -> tonic::Status {
    if status.code() == tonic::Code::Unavailable && !call::surely_not_started(&status) {
        return tonic::Status::deadline_exceeded(format!("what became of it is not known: {}", status.message()));
    }
    status
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

/// Adds recipients whose call failed; all of them may succeed later.
fn missed(answer: &mut Answer, recipients: &[Recipient], why: &str) -> usize {
    answer.fail_count += recipients.len();
    answer.failed_recipients.extend(recipients.iter().map(|recipient| recipient.email.clone()));
    answer.errors.extend(recipients.iter().map(|recipient| format!("{}: {why}", recipient.email)));
    recipients.len()
}

fn unprocessable(invalid: Invalid) -> Refusal {
    (StatusCode::UNPROCESSABLE_ENTITY, invalid.to_string())
}

/// The trace that the caller is in.
fn caller(headers: &HeaderMap) -> godwit_proto::common::v1::TraceContext {
    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    godwit_proto::common::v1::TraceContext { traceparent: get("traceparent"), tracestate: get("tracestate") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    #[test]
    fn only_what_surely_was_not_done_is_asked_of_another_ingress() {
        let mut refused = Status::unavailable("stopping");
        refused.metadata_mut().insert(godwit_kit::connect::NOT_SENT, "1".parse().unwrap());
        assert_eq!(known(refused).code(), tonic::Code::Unavailable);
        assert_eq!(known(Status::resource_exhausted("full")).code(), tonic::Code::ResourceExhausted);
        let lost = known(Status::unavailable("broken pipe"));
        assert_eq!(http_status(&lost), StatusCode::GATEWAY_TIMEOUT);
    }
}
