//! Reads a peer's replies, whatever the peer sends: lines, their number and their sum are capped.

use bytes::BytesMut;

use super::Reply;

/// How much a peer may say in one reply. RFC 5321 section 4.5.3.1.5 promises 512 octets a line.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub line_bytes_max: usize,
    pub lines_max: usize,
    pub reply_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes_max: 2048, lines_max: 128, reply_bytes_max: 32 * 1024 }
    }
}

/// Why what the peer sends is no reply. The connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("reply line is longer than {limit} octets")]
    LineTooLong { limit: usize },
    #[error("reply has more than {limit} lines")]
    TooManyLines { limit: usize },
    #[error("reply is longer than {limit} octets")]
    TooLong { limit: usize },
    #[error("not an SMTP reply")]
    Malformed,
    #[error("reply changes its code between lines")]
    CodeChanged,
}

/// Holds the lines of a reply until its last one has come.
#[derive(Debug, Default)]
pub struct Parser {
    limits: Limits,
    partial: Option<Reply>,
    bytes: usize,
}

impl Parser {
    pub fn new(limits: Limits) -> Self {
        Self { limits, partial: None, bytes: 0 }
    }

    /// Takes whole lines off `input`; `None` means that more is needed. Never takes bytes past the reply.
    pub fn advance(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, Error> {
        todo!()
    }

    /// True while the first lines of a reply have come and its last has not.
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }
}
