//! Why a call to this service fails.

use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{field}: {what}")]
    Invalid { field: &'static str, what: String },
    #[error("{0} is not part of this version")]
    NotYet(&'static str),
    #[error("egress is stopping")]
    Stopping,
    /// The service cannot be built as it is configured.
    #[error("{0}")]
    Config(String),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { .. } => Status::invalid_argument(text),
            Error::NotYet(_) => Status::unimplemented(text),
            Error::Stopping => Status::unavailable(text),
            Error::Config(_) => Status::failed_precondition(text),
        }
    }
}
