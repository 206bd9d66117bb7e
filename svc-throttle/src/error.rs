//! What can go wrong with a call, and the status that it answers with.

use tonic::Status;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{field}: {what}")]
    Invalid { field: String, what: String },
    #[error("key: {key:?} is not known")]
    Unknown { key: String },
    #[error("throttle.keys_max: {keys_max} keys are in use")]
    Full { keys_max: usize },
    #[error("the store is away: {reason}")]
    Away { reason: String },
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
            Error::Unknown { .. } => Self::not_found(text),
            Error::Full { .. } => Self::resource_exhausted(text),
            Error::Away { .. } => Self::unavailable(text),
        }
    }
}
