//! What the session asks of its driver, and what it is told.

use bytes::Bytes;

use crate::{
    address::{Address, ReversePath},
    command::{MailParams, RcptParams},
    reply::Reply,
};

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the output, then read more.
    NeedInput,
    /// Decide, then call `Session::answer`.
    Ask(Ask),
    /// Write the output, do TLS's handshake on the socket, then call `Session::secured`; close if it fails. The input has
    /// been emptied: what came in the clear behind STARTTLS is not the client's.
    StartTls,
    /// Write the output, then close the connection.
    Close,
}

/// A decision that is not the protocol's to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A client has connected: greet it?
    Connect,
    Helo(Helo),
    Mail {
        reverse_path: ReversePath,
        params: MailParams,
    },
    /// `<postmaster>` comes as the postmaster of the configured host name.
    Rcpt {
        address: Address,
        params: RcptParams,
    },
    Vrfy {
        argument: String,
    },
    /// A whole message. Accepting it takes responsibility for it (RFC 5321 section 6.1): answer once it is safe.
    Message(Transaction),
}

/// How the client introduced itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helo {
    /// Unverified; visible ASCII.
    pub name: String,
    /// It said EHLO.
    pub esmtp: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub address: Address,
    pub params: RcptParams,
}

/// One envelope and its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    pub helo: Helo,
    pub reverse_path: ReversePath,
    pub params: MailParams,
    /// Those that were accepted, in order; never empty.
    pub recipients: Vec<Recipient>,
    /// Dot-stuffing undone, every line ended by CRLF, without NUL.
    pub body: Bytes,
}

/// The driver's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, in the session's own words.
    Accept,
    /// Yes or no by the reply's own class: 2yz accepts, 4yz and 5yz refuse, 421 also closes.
    Reply(Reply),
}

impl From<Reply> for Verdict {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}
