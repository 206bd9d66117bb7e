//! Deadlines, set on the caller's side so that near and far calls have them alike.

use std::error::Error;
use std::future::Future;
use std::time::Duration;
use tonic::Status;

/// Waits for a call at most `limit`.
///
/// # Errors
/// The call's own, or `DeadlineExceeded`; the callee may still have done it.
pub async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// Whether the call surely did nothing: it never reached a service, or was turned away at its door.
pub fn surely_not_started(status: &Status) -> bool {
    // One with a cause was made on this side, of HTTP/2's ENHANCE_YOUR_CALM: it cuts calls that are under way, too.
    let said = status.source().is_none();
    (status.code() == tonic::Code::ResourceExhausted && said) || refused_connection(status)
}

/// Whether there was no connection to send the call on.
fn refused_connection(status: &Status) -> bool {
    status.code() == tonic::Code::Unavailable && status.metadata().contains_key(crate::connect::NOT_SENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_connection_that_was_cut_may_have_carried_the_call() {
        assert!(surely_not_started(&Status::resource_exhausted("full")));
        let mut cut = Status::resource_exhausted("h2 protocol error: enhance your calm");
        cut.set_source(Arc::new(std::io::Error::other("enhance your calm")));
        assert!(!surely_not_started(&cut));
        assert!(!surely_not_started(&Status::unavailable("broken pipe")));
    }
}
