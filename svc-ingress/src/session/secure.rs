//! From the clear into TLS: the stream is replaced, and whoever spoke before is forgotten.

use tokio::time::Instant;

use super::Session;
use crate::tls::{Failure, Secured};

impl Session {
    /// The handshake. False where it came to nothing: then nothing can be said any more, in the clear least of all.
    pub(super) async fn secure(&mut self) -> bool {
        let listener = self.listener.clone();
        let Some(tls) = &listener.tls else { return false };
        let stream = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        let secured = tokio::select! {
            biased;
            () = self.entry.told() => return false,
            secured = tls.handshake(stream) => secured,
        };
        let meters = &listener.ingress.meters;
        match secured {
            Ok(Secured { stream, agreed }) => {
                meters.handshakes_completed.inc();
                (self.stream, self.tls) = (stream, Some(agreed));
                self.receipt = None;
                self.entry.greeted("");
                self.pace.begin(Instant::now());
                true
            }
            Err(Failure::Refused { error, stream }) => {
                meters.handshakes_failed.inc();
                tracing::info!(peer = %self.peer, %error, "TLS handshake failed");
                self.stream = stream;
                false
            }
            Err(Failure::Late) => {
                meters.handshakes_late.inc();
                tracing::info!(peer = %self.peer, "TLS handshake timed out");
                false
            }
        }
    }
}
