//! What can go wrong in ingress, and how a caller is told.

use std::{io, net::SocketAddr};

use godwit_kit::{connect::NOT_SENT, tls};
use tonic::Status;
use tonic::metadata::MetadataValue;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ingress.listeners[{place}].listen: cannot listen on {at}: {source}")]
    Listen { place: usize, at: SocketAddr, source: io::Error },
    /// The source names the file.
    #[error("ingress.listeners[{place}].tls: {source}")]
    Tls { place: usize, source: tls::Error },
    /// A request that no retry mends.
    #[error("{field}: {what}")]
    Invalid { field: String, what: String },
    #[error("no session {0}")]
    SessionUnknown(String),
    #[error("max_data_in_flight is reached: {limit_bytes} bytes of messages are in hand")]
    DataInFlight { limit_bytes: usize },
    #[error("stopping")]
    Stopping,
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), what: what.into() }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { .. } => Self::invalid_argument(text),
            Error::SessionUnknown(_) => Self::not_found(text),
            Error::DataInFlight { .. } => Self::resource_exhausted(text),
            Error::Stopping => {
                let mut status = Self::unavailable(text);
                // Said before anything was begun: another ingress may be asked.
                status.metadata_mut().insert(NOT_SENT, MetadataValue::from_static("1"));
                status
            }
            Error::Listen { .. } | Error::Tls { .. } => Self::internal(text),
        }
    }
}
