//! Why a connection is not encrypted: what operators and senders are told of it.

use godwit_proto::common::v1::SmtpReply;
use rustls::CertificateError;
use std::io;

/// What is kept of a reason that we did not word ourselves, in octets.
const REASON_BYTES_MAX: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    NotOffered,
    /// The peer's answer to STARTTLS.
    Refused(String),
    /// What is wrong with it.
    Certificate(String),
    /// What happened instead.
    Handshake(String),
    TimedOut,
    /// The peer went on in the clear after its 220: somebody between speaks for it (RFC 3207 section 6).
    Injected,
}

impl Fault {
    /// What a failed handshake says.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(fault)) => Self::Certificate(certificate(fault)),
            Some(rustls::Error::AlertReceived(alert)) => Self::Handshake(format!("the peer sent the alert {alert:?}")),
            Some(rustls::Error::InvalidMessage(_)) => Self::Handshake("what the peer said is not TLS".into()),
            Some(other) => Self::Handshake(bounded(other.to_string())),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::Handshake("the peer closed it".into()),
            None => Self::Handshake(bounded(error.to_string())),
        }
    }

    pub fn refused(answer: &str) -> Self {
        Self::Refused(bounded(answer.into()))
    }

    /// Of few values, for metrics and spans.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotOffered => "not_offered",
            Self::Refused(_) => "refused",
            Self::Certificate(_) => "certificate",
            Self::Handshake(_) => "failed",
            Self::TimedOut => "timed_out",
            Self::Injected => "plaintext",
        }
    }

    /// What mail is told that waits for this host. Never for good: a host's TLS may be mended.
    pub fn reply(&self, host: &str) -> SmtpReply {
        let (detail, text) = match self {
            Self::NotOffered => (4, format!("TLS is required and {host} does not offer it")),
            Self::Refused(answer) => (4, format!("TLS is required and {host} refused to start it: {answer}")),
            Self::Certificate(what) => (5, format!("TLS with {host} failed: its certificate {what}")),
            Self::Handshake(what) => (5, format!("TLS with {host} failed: {what}")),
            Self::TimedOut => (5, format!("TLS with {host} failed: no answer in time")),
            Self::Injected => (5, format!("TLS with {host} failed: plaintext followed the answer to STARTTLS")),
        };
        SmtpReply { command: "STARTTLS".into(), ..SmtpReply::internal(451, (4, 7, detail), text) }
    }
}

fn certificate(fault: &CertificateError) -> String {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet".into(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "is for another name".into()
        }
        CertificateError::UnknownIssuer => "is of an unknown issuer".into(),
        CertificateError::Revoked => "is revoked".into(),
        other => bounded(format!("is not valid: {other}")),
    }
}

fn bounded(text: String) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{AlertDescription, InvalidMessage};

    #[test]
    fn each_fault_is_told_apart() {
        let tls = |error: rustls::Error| Fault::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |fault| tls(rustls::Error::InvalidCertificate(fault));
        for (fault, label, expected) in [
            (Fault::NotOffered, "not_offered", "4.7.4 TLS is required and mx.example does not offer it"),
            (Fault::refused("454 4.7.0 no"), "refused", "mx.example refused to start it: 454 4.7.0 no"),
            (
                certificate(CertificateError::Expired),
                "certificate",
                "4.7.5 TLS with mx.example failed: its certificate has expired",
            ),
            (certificate(CertificateError::NotValidForName), "certificate", "is for another name"),
            (certificate(CertificateError::UnknownIssuer), "certificate", "is of an unknown issuer"),
            (certificate(CertificateError::BadEncoding), "certificate", "is not valid: "),
            (
                tls(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)),
                "failed",
                "the alert HandshakeFailure",
            ),
            (tls(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), "failed", "is not TLS"),
            (Fault::of(&io::ErrorKind::UnexpectedEof.into()), "failed", "the peer closed it"),
            (Fault::TimedOut, "timed_out", "no answer in time"),
            (Fault::Injected, "plaintext", "plaintext followed the answer to STARTTLS"),
        ] {
            let line = fault.reply("mx.example").line();
            assert!(line.starts_with("451 4.7.") && line.contains(expected), "{line}");
            assert_eq!(fault.label(), label);
        }
        assert_eq!(Fault::refused("454 a\r\n\x1bb"), Fault::Refused("454 a   b".into()));
    }
}
