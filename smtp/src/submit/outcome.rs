//! What became of a transaction and of the connection.

use std::fmt;

use super::Capabilities;
use crate::reply::{ParseError, Reply};

/// What the client waits for: the driver picks its timeout by it (RFC 5321 section 4.5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Banner,
    Ehlo,
    StartTls,
    /// Ready for `start`, `quit` or `start_tls`.
    Idle,
    Rset,
    Mail,
    Rcpt,
    /// DATA sent, 354 awaited.
    DataInit,
    /// The message is being written.
    DataBlock,
    /// The final dot is out, its answer awaited. A failure from here on may have delivered.
    Dot,
    Quit,
    Closed,
}

/// `banner`, `rcpt`, `data-termination`: the words of RFC 5321 section 4.5.3.2, for logs and labels.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Banner => "banner",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Idle => "idle",
            Self::Rset => "rset",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::DataInit => "data-initiation",
            Self::DataBlock => "data-block",
            Self::Dot => "data-termination",
            Self::Quit => "quit",
            Self::Closed => "closed",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Greeted (again, after TLS): `start` may be called.
    Ready(Capabilities),
    /// The peer refused the connection or the greeting.
    Refused { stage: Stage, reply: Reply },
    /// The peer is ready for the TLS handshake: do it, then call `secured`.
    TlsReady,
    /// The peer will not start TLS; the session goes on in the clear if the driver likes.
    TlsRefused(Reply),
    /// The transaction is over. Nothing more comes of the connection unless it is reusable.
    Done(Outcome),
    /// The connection is over and no transaction was open.
    Closed(Closed),
}

/// Why a connection ended outside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// QUIT was answered.
    Quit,
    /// The peer said 421, or anything else, unasked.
    Unsolicited(Reply),
    /// What the peer said is not SMTP, or answers what was not asked yet.
    Protocol(Violation),
}

/// How a peer broke the protocol. The connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("{0}")]
    Reply(#[from] ParseError),
    #[error("reply came before its command was sent")]
    Early,
    #[error("reply came unasked")]
    Unasked,
    #[error("reply does not fit its command")]
    Unfit,
    #[error("RSET was refused")]
    RsetRefused,
    /// Plaintext behind the answer to STARTTLS: somebody between injects it (RFC 3207 section 6).
    #[error("plaintext followed the answer to STARTTLS")]
    Injected,
}

/// Why the driver gives a connection up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// End of file, reset, or another error of the socket.
    Disconnected,
    /// The stage's timeout has passed.
    TimedOut,
}

/// One transaction's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// One for each recipient, in the transaction's order.
    pub deliveries: Vec<Delivery>,
    /// Another transaction may be started on this connection.
    pub reusable: bool,
}

/// One recipient's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What decided it. A 2yz means that the peer has taken responsibility.
    pub reply: Reply,
    /// Which command the reply answers.
    pub stage: Stage,
    /// The reply was made here, not by the peer.
    pub local: bool,
    /// The connection went after the final dot was handed out: trying again may deliver twice.
    pub maybe_delivered: bool,
}
