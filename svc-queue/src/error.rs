//! Why a call to the queue failed.

use crate::spool;
use godwit_kit::connect::NOT_SENT;
use tonic::Status;
use tonic::metadata::MetadataValue;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The caller's mistake.
    #[error("{field}: {what}")]
    Invalid { field: String, what: String },
    #[error("{what} not found")]
    NotFound { what: String },
    /// A bound is reached; nothing was taken.
    #[error("{limit} is reached ({value})")]
    Full { limit: &'static str, value: u64 },
    #[error("the queue is stopping")]
    Stopping,
    /// Nothing of what was brought has been begun, now or before: it may be brought elsewhere at once.
    #[error("{0}")]
    TurnedAway(String),
    /// Another operation has it, and will not end before the stop.
    #[error("the queue is stopping, and what was asked for is not done")]
    Halted,
    #[error(transparent)]
    Spool(#[from] spool::Error),
    #[error("{0}")]
    Keys(String),
    #[error("the body of {0} is damaged")]
    Damaged(godwit_proto::id::MessageId),
    /// Of the contract, and not of this version.
    #[error("{0} is not part of this version")]
    NotYet(&'static str),
    #[error("a task of the queue ended before its answer")]
    Lost,
}

impl Error {
    pub fn invalid(field: impl Into<String>, what: impl ToString) -> Self {
        Self::Invalid { field: field.into(), what: what.to_string() }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::Invalid { .. } => Status::invalid_argument(text),
            Error::NotFound { .. } => Status::not_found(text),
            Error::Full { .. } => Status::resource_exhausted(text),
            Error::TurnedAway(_) => {
                let mut status = Status::unavailable(text);
                status.metadata_mut().insert(NOT_SENT, MetadataValue::from_static("1"));
                status
            }
            Error::Stopping | Error::Keys(_) | Error::Halted => Status::unavailable(text),
            Error::Spool(spool::Error::Unavailable { .. } | spool::Error::Fenced) => Status::unavailable(text),
            Error::Spool(spool::Error::Unknown) | Error::Lost | Error::Damaged(_) => Status::internal(text),
            Error::NotYet(_) => Status::unimplemented(text),
        }
    }
}

/// Why a whole spool could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] spool::OpenError),
    #[error("the spool cannot be read: {0}")]
    Read(#[from] spool::Error),
    #[error("{0}")]
    Other(String),
}
