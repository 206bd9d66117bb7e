//! Hands calls for services that run elsewhere on to a peer that runs them: a front door's part of gRPC.
//!
//! The call goes on as it came, streams included; the caller's credentials stay here, where they were judged.

use crate::connect::{self, Road};
use axum::body::Body as AxumBody;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tower::{Service, ServiceExt};

/// Answers for one service by asking the first of its peers that is up, or the one that the call names in
/// `godwit-node-id`.
#[derive(Clone)]
pub struct Forward {
    /// At least one.
    roads: Arc<[Road]>,
}

impl Forward {
    /// Of at least one road.
    pub fn new(roads: &[Road]) -> Self {
        Self { roads: roads.into() }
    }

    async fn call(self, request: Request<Body>) -> Response<Body> {
        match self.road(request.headers().get(connect::NODE_ID)) {
            Ok(road) => road.wire.clone().oneshot(request).await.unwrap_or_else(Status::into_http),
            Err(status) => status.into_http(),
        }
    }

    /// A call's body can be sent only once: so the health checks say who is asked, not a trial.
    fn road(&self, wanted: Option<&HeaderValue>) -> Result<&Road, Status> {
        match wanted {
            None => Ok(self.roads.iter().find(|road| road.is_up()).unwrap_or(&self.roads[0])),
            Some(node) => {
                let is_it = |road: &&Road| road.node.get().is_some_and(|known| *node == known.to_string().as_str());
                let found = self.roads.iter().find(is_it);
                found.ok_or_else(|| Status::not_found("godwit-node-id: no peer of this service is that node"))
            }
        }
    }
}

impl Service<Request<AxumBody>> for Forward {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<AxumBody>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.headers_mut().remove(AUTHORIZATION);
        // The road has an authority of its own.
        if let Some(path) = request.uri().path_and_query().cloned() {
            *request.uri_mut() = path.into();
        }
        let forward = self.clone();
        Box::pin(async move { Ok(forward.call(request).await) })
    }
}
