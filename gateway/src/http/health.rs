//! `/metrics`, `/healthz/live`, `/healthz/ready`.

use super::Door;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use godwit_kit::roles::Role;
use std::sync::Arc;

/// Prometheus' text format.
pub(super) async fn metrics(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    match super::auth::check(&door.tokens, &headers, Role::Read) {
        Ok(()) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], door.host.metrics.text()).into_response(),
        Err(status) => status.into_response(),
    }
}

/// The process answers, so it lives.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// 200 where every service here has what it needs, else 503 and a line for each that has not.
pub(super) async fn ready(State(door): State<Arc<Door>>) -> Response {
    if door.host.stop.is_requested() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    let causes = door.host.health.causes();
    if causes.is_empty() {
        return "ready\n".into_response();
    }
    let lines = causes.iter().map(|cause| format!("{}: {}: {}\n", cause.service, cause.part, cause.reason));
    (StatusCode::SERVICE_UNAVAILABLE, lines.collect::<String>()).into_response()
}
