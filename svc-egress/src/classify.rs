//! What a reply means for a recipient (RFC 5321 section 4.2.1, RFC 3463). Pure.

use godwit_proto::common::v1::{EnhancedStatusCode, SmtpReply};
use godwit_proto::queue::v1::RecipientResult;
use godwit_smtp::reply::{Kind, Reply};
use godwit_smtp::submit::Stage;

/// What is kept of a reply's text, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// Delivered, deferred or bounced.
pub fn result(stage: Stage, reply: &Reply) -> RecipientResult {
    match reply.kind() {
        Kind::Completion => RecipientResult::Delivered,
        Kind::Intermediate | Kind::Transient => RecipientResult::Deferred,
        // RFC 5321 section 4.5.3.1.10: too many recipients, as old servers say it.
        Kind::Permanent if reply.code == 552 && stage == Stage::Rcpt => RecipientResult::Deferred,
        Kind::Permanent => RecipientResult::Bounced,
    }
}

/// The kind of failure by its enhanced status code; empty where nothing failed.
pub fn bounce_class(reply: &SmtpReply) -> &'static str {
    let Some(enhanced) = reply.enhanced.as_ref().filter(|_| reply.code >= 400) else {
        return if reply.code >= 400 { "Uncategorized" } else { "" };
    };
    match (enhanced.subject, enhanced.detail) {
        (1, 1 | 3 | 4) | (2, 4) => "InvalidRecipient",
        (1, 2 | 10) => "BadDomain",
        (1, 6) | (2, 1) | (7, 13) => "InactiveMailbox",
        (1, 7 | 8) | (7, 27) => "InvalidSender",
        (2, 2 | 3) | (3, 1 | 4) => "QuotaIssues",
        (4, 1) => "NoAnswerFromHost",
        (4, 2) => "BadConnection",
        (4, 3 | 4) => "DNSFailure",
        (4, 6) => "RoutingErrors",
        (4, 7) => "MessageExpired",
        (5, _) | (3, 2 | 3 | 5) => "ProtocolErrors",
        (6, _) => "ContentRelated",
        (7, 1 | 2) => "PolicyRelated",
        (7, 20..=26 | 29..=31) => "AuthenticationFailed",
        (7, _) => "PolicyRelated",
        (_, _) => "Uncategorized",
    }
}

/// A reply as the contracts carry it.
pub fn wire_reply(reply: &Reply, command: &str, internal: bool) -> SmtpReply {
    SmtpReply {
        code: reply.code.into(),
        enhanced: reply.enhanced.map(|enhanced| EnhancedStatusCode {
            code_class: enhanced.class.into(),
            subject: enhanced.subject.into(),
            detail: enhanced.detail.into(),
        }),
        text: bounded(match reply.lines.as_slice() {
            [line] => line.clone(),
            lines => lines.join("\n"),
        }),
        command: command.into(),
        internal,
    }
}

/// A peer may say as much to each of a thousand recipients, and all of it is kept with their events.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// The verb that a stage's reply answers.
pub fn command(stage: Stage) -> &'static str {
    match stage {
        Stage::Banner | Stage::Idle | Stage::Closed => "",
        Stage::Ehlo => "EHLO",
        Stage::StartTls => "STARTTLS",
        Stage::Rset => "RSET",
        Stage::Mail => "MAIL",
        Stage::Rcpt => "RCPT",
        Stage::DataInit | Stage::DataBlock => "DATA",
        Stage::Dot => ".",
        Stage::Quit => "QUIT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_by_code_and_stage() {
        use RecipientResult::{Bounced, Deferred, Delivered};
        for (code, stage, expected) in [
            (250, Stage::Dot, Delivered),
            (251, Stage::Rcpt, Delivered),
            (354, Stage::Dot, Deferred),
            (421, Stage::Mail, Deferred),
            (450, Stage::Rcpt, Deferred),
            (452, Stage::Rcpt, Deferred),
            (550, Stage::Rcpt, Bounced),
            (552, Stage::Rcpt, Deferred),
            (552, Stage::Mail, Bounced),
            (552, Stage::Dot, Bounced),
            (554, Stage::Dot, Bounced),
        ] {
            assert_eq!(result(stage, &Reply::plain(code, "x")), expected, "{code} at {stage}");
        }
    }

    #[test]
    fn classes_by_enhanced_code() {
        let class = |code, enhanced| bounce_class(&SmtpReply::internal(code, enhanced, "x"));
        assert_eq!(class(550, (5, 1, 1)), "InvalidRecipient");
        assert_eq!(class(556, (5, 1, 10)), "BadDomain");
        assert_eq!(class(552, (5, 2, 2)), "QuotaIssues");
        assert_eq!(class(451, (4, 4, 3)), "DNSFailure");
        assert_eq!(class(250, (2, 0, 0)), "");
        assert_eq!(bounce_class(&SmtpReply { code: 550, ..SmtpReply::default() }), "Uncategorized");
    }
}
