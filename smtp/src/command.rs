//! One command line, typed, or the reply that refuses it. Knows grammar only: order and policy are the session's.

mod params;
mod xtext;

use crate::{
    address::{ForwardPath, ReversePath},
    reply::Reply,
};

pub use params::{BodyType, MailParams, Notify, Orcpt, RcptParams, Ret};
pub use xtext::{decode as xtext_decode, encode as xtext_encode};

/// A command that parsed. The line it came from held no control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The name that the client gives itself: visible ASCII, unverified.
    Ehlo(String),
    Helo(String),
    Mail {
        reverse_path: ReversePath,
        params: MailParams,
    },
    Rcpt {
        forward_path: ForwardPath,
        params: RcptParams,
    },
    Data,
    Rset,
    Noop,
    Quit,
    Vrfy(String),
    Expn(String),
    Help(String),
    StartTls,
    Auth {
        mechanism: String,
        initial: Option<String>,
    },
    /// The chunk follows the line at once: whoever refuses this must still skip `size_bytes` (RFC 3030).
    Bdat {
        size_bytes: u64,
        last: bool,
    },
    /// A command that exists somewhere but not here (ETRN, XCLIENT, TURN ...), by its verb in upper case.
    Unimplemented(String),
}

impl Command {
    /// Takes a line without its CRLF. The error is the reply to send: 500 5.5.2 for what is no text, 500 5.5.1 for an unknown
    /// verb, 501 5.5.4 for bad arguments, 501 5.1.7 or 5.1.3 for a bad path, 553 5.6.7 for UTF-8 without SMTPUTF8,
    /// 555 5.5.4 for an unknown parameter.
    pub fn parse(line: &[u8]) -> Result<Self, Reply> {
        todo!()
    }
}

/// True when a line is another protocol's opening (HTTP, TLS, SSH, PROXY): nothing good follows, close.
pub fn is_foreign(line: &[u8]) -> bool {
    todo!()
}
