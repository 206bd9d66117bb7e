//! The HTTP front door: the injection API, metrics and health.

pub mod content;
mod inject;
mod intake;
mod request;

use crate::config::Gateway;
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::post;
use godwit_kit::Host;
use godwit_kit::peers::Peers;
use godwit_kit::tokens::Tokens;
use godwit_proto::ingress::Ingress;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tower_http::decompression::RequestDecompressionLayer;

/// Of a request after decompression: the largest message (25 MiB) in base64.
const REQUEST_BYTES_MAX: usize = 40 << 20;

/// What the handlers share.
pub(crate) struct Door {
    ingresses: Peers<Ingress>,
    tokens: Tokens,
    intake: intake::Intake,
    host: Host,
    injected: godwit_kit::metrics::Counters,
}

/// Serves until the host stops. Returns once it listens, with the bound address.
///
/// # Errors
/// An address that cannot be listened at.
pub async fn serve(config: &Gateway, ingresses: Peers<Ingress>, host: &Host) -> Result<SocketAddr> {
    let injected =
        host.metrics.counters("godwit_gateway_injections_total", "Recipients by the API's answer.", &["outcome"]);
    let tokens = config.tokens();
    let door = Door { ingresses, tokens, intake: intake::Intake::new(), host: host.clone(), injected };
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("gateway.listen = {}", config.listen))?;
    let bound = listener.local_addr()?;
    host.stop.spawn(godwit_kit::http::run(listener, router(door), host.stop.clone()));
    Ok(bound)
}

fn router(door: Door) -> Router {
    let status = godwit_kit::http::router(&door.host, door.tokens.clone());
    Router::new()
        .route("/api/inject/v1", post(inject::inject))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(RequestDecompressionLayer::new())
        .with_state(Arc::new(door))
        .merge(status)
}
