//! What can go wrong, and the status that a call then answers with.

use std::io;
use std::net::SocketAddr;
use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("proxy.listen: cannot listen at {at}: {source}")]
    Listen { at: SocketAddr, source: io::Error },
    #[error("proxy.password_file: {what}")]
    Password { what: String },
    #[error("{field}: {what}")]
    Invalid { field: &'static str, what: String },
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Listen { .. } => Self::unavailable(text),
            Error::Password { .. } => Self::failed_precondition(text),
            Error::Invalid { .. } => Self::invalid_argument(text),
        }
    }
}
