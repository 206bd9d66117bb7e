//! `/metrics`, `/healthz/live`, `/healthz/ready`.

use crate::Host;
use crate::roles::Role;
use crate::tokens::Tokens;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;

struct Status {
    host: Host,
    tokens: Tokens,
}

/// The three routes. Where there are tokens, metrics need one that may read; health is for everyone.
pub fn router(host: &Host, tokens: Tokens) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz/live", get(live))
        .route("/healthz/ready", get(ready))
        .with_state(Arc::new(Status { host: host.clone(), tokens }))
}

/// Prometheus' text format.
async fn metrics(State(status): State<Arc<Status>>, headers: HeaderMap) -> Response {
    match status.tokens.check(&headers, Role::Read) {
        Ok(()) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], status.host.metrics.text()).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// The process answers, so it lives.
async fn live() -> &'static str {
    "live\n"
}

/// 200 where every service here has what it needs, else 503 and a line for each that has not.
async fn ready(State(status): State<Arc<Status>>) -> Response {
    if status.host.stop.is_requested() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    let causes = status.host.health.causes();
    if causes.is_empty() {
        return "ready\n".into_response();
    }
    let lines = causes.iter().map(|cause| format!("{}: {}: {}\n", cause.service, cause.part, cause.reason));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect::<String>()).into_response()
}
