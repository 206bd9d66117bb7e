//! Turns what a queue says into what a client is told.

use godwit_proto::common::v1::SmtpReply;
use godwit_smtp::Reply;
use tonic::{Code, Status};

use crate::enqueue::Queued;

/// The one reply to each failed call. Whatever failed, the client keeps its mail and comes again.
pub fn of(status: &Status) -> Reply {
    match status.code() {
        Code::ResourceExhausted => Reply::new(452, (4, 3, 1), "Insufficient storage, try again later"),
        Code::DeadlineExceeded => Reply::new(451, (4, 4, 5), "The queue did not answer in time, try again later"),
        Code::Unavailable => Reply::new(451, (4, 3, 0), "The queue is not available, try again later"),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => Reply::new(451, (4, 3, 0), "Local error in processing, try again later"),
    }
}

/// The reply to a message that the queue has judged.
pub fn queued(queued: &Queued) -> Reply {
    match queued {
        Queued::Accepted(id) | Queued::Duplicate(id) => Reply::new(250, (2, 0, 0), format!("Ok: queued as {id}")),
        Queued::Refused { reason, transient: true } => Reply::new(451, (4, 3, 0), reason),
        Queued::Refused { reason, transient: false } => Reply::new(554, (5, 3, 0), reason),
    }
}

/// The contracts' form of a reply of our own.
pub fn wire(reply: &Reply, command: &str) -> SmtpReply {
    let enhanced = reply.enhanced.map_or((u32::from(reply.code / 100), 0, 0), |enhanced| {
        (u32::from(enhanced.class), u32::from(enhanced.subject), u32::from(enhanced.detail))
    });
    let mut wire = SmtpReply::internal(u32::from(reply.code), enhanced, reply.lines.join("\n"));
    wire.command = command.into();
    wire
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::id::MessageId;

    #[test]
    fn statuses() {
        let check = |status: Status, expected: &str| assert!(of(&status).to_string().starts_with(expected), "{status}");
        check(Status::resource_exhausted("x"), "452 4.3.1");
        check(Status::unavailable("x"), "451 4.3.0");
        check(Status::deadline_exceeded("x"), "451 4.4.5");
        check(Status::internal("x"), "451 4.3.0");
        check(Status::invalid_argument("x"), "451 4.3.0");
    }

    #[test]
    fn judgements() {
        let check =
            |judged: Queued, expected: &str| assert!(queued(&judged).to_string().starts_with(expected), "{judged:?}");
        check(Queued::Accepted(MessageId(0)), "250 2.0.0 Ok: queued as msg_00");
        check(Queued::Refused { reason: "suspended".into(), transient: true }, "451 4.3.0 suspended");
        check(Queued::Refused { reason: "withdrawn".into(), transient: false }, "554 5.3.0 withdrawn");
    }
}
