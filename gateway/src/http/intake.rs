//! Takes in the bodies of requests: within time, and within the memory that all of them share.

use super::REQUEST_BYTES_MAX;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header::CONTENT_LENGTH};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of all bodies in hand, in KiB.
const BODIES_KIB_MAX: usize = 512 << 10;
/// From the headers to the last byte.
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Intake {
    kib: Arc<Semaphore>,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { kib: Arc::new(Semaphore::new(BODIES_KIB_MAX)) }
    }

    /// The body, and its part of the memory, which is to be held as long as the body is.
    ///
    /// # Errors
    /// 503 where there is no room, 408 where it does not come, 413 where it is too large.
    pub(super) async fn read(&self, request: Request) -> Result<(Bytes, OwnedSemaphorePermit), Response> {
        // A compressed body has no length that counts, and may take all that one may.
        let declared = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let bytes = declared.unwrap_or(REQUEST_BYTES_MAX).min(REQUEST_BYTES_MAX);
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let full = || (StatusCode::SERVICE_UNAVAILABLE, "too many requests in hand\n").into_response();
        let room = self.kib.clone().try_acquire_many_owned(kib).map_err(|_| full())?;
        match tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, &())).await {
            Ok(Ok(body)) => Ok((body, room)),
            Ok(Err(rejection)) => Err(rejection.into_response()),
            Err(_) => Err(StatusCode::REQUEST_TIMEOUT.into_response()),
        }
    }
}
