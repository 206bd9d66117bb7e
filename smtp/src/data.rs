//! The DATA phase: only CRLF.CRLF ends a message, and no CR or LF stands alone, coming or going.

mod read;
mod write;

pub use read::Reader;
pub use write::{LineEndings, stuff};

/// How large a message and its lines may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub size_bytes_max: usize,
    /// Octets of a line without its CRLF (RFC 5321 section 4.5.3.1.6).
    pub line_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size_bytes_max: 50 * 1024 * 1024, line_bytes_max: 998 }
    }
}

/// What is wrong with a message, the gravest last. A message with several faults reports the gravest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Fault {
    #[error("message is too large")]
    TooLarge,
    #[error("line is too long")]
    LineTooLong,
    #[error("message contains NUL")]
    Nul,
    #[error("message contains LF without CR")]
    BareLf,
    #[error("message contains CR without LF")]
    BareCr,
}

/// Judges a whole message, as an injection call brings it.
pub fn check(body: &[u8], limits: &Limits) -> Result<(), Fault> {
    todo!()
}
