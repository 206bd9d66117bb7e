//! What can go wrong, and the status that a caller is told.

use godwit_kit::config::Faults;
use tonic::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{field}: {what}")]
    Invalid { field: String, what: String },
    #[error("no action {0:?} is in force")]
    NoAction(String),
    #[error("{what}: the limit of {limit} is reached")]
    Full { what: &'static str, limit: usize },
    #[error("shaping files: {0}")]
    Shaping(Faults),
    /// The disk, while running; what was not written is written as soon as it can be.
    #[error("not on disk yet: {0}")]
    NotHeld(String),
    #[error("state in {folder}: {what}")]
    State { folder: String, what: String },
    #[error("stopping")]
    Stopping,
    #[error("{0} is not in this version")]
    NotYet(&'static str),
}

impl Error {
    pub(crate) fn invalid(field: impl Into<String>, what: impl ToString) -> Self {
        Self::Invalid { field: field.into(), what: what.to_string() }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let what = error.to_string();
        match error {
            Error::Invalid { .. } => Self::invalid_argument(what),
            Error::NoAction(_) => Self::not_found(what),
            Error::Full { .. } => Self::resource_exhausted(what),
            Error::Shaping(_) => Self::failed_precondition(what),
            Error::NotHeld(_) | Error::State { .. } | Error::Stopping => Self::unavailable(what),
            Error::NotYet(_) => Self::unimplemented(what),
        }
    }
}
