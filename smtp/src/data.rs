//! The DATA phase: only CRLF.CRLF ends a message, and no CR or LF stands alone, coming or going.

mod read;
#[cfg(test)]
mod tests;
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
    let mut fault = None;
    let mut line_start = 0;
    for end in line_ends(body) {
        match end {
            LineEnd::CrLf(at) => {
                fault = fault.max((at - line_start > limits.line_bytes_max).then_some(Fault::LineTooLong));
                line_start = at + 2;
            }
            LineEnd::BareCr(_) => fault = fault.max(Some(Fault::BareCr)),
            LineEnd::BareLf(_) => fault = fault.max(Some(Fault::BareLf)),
        }
    }
    fault = fault.max((body.len() - line_start > limits.line_bytes_max).then_some(Fault::LineTooLong));
    fault = fault.max(memchr::memchr(0, body).map(|_| Fault::Nul));
    fault = fault.max((body.len() > limits.size_bytes_max).then_some(Fault::TooLarge));
    fault.map_or(Ok(()), Err)
}

/// A CR or LF in a text, by where it stands.
enum LineEnd {
    CrLf(usize),
    BareCr(usize),
    BareLf(usize),
}

/// All of them in order. A CR at the very end is bare: the caller keeps one back if more may come.
fn line_ends(text: &[u8]) -> impl Iterator<Item = LineEnd> {
    let mut ends = memchr::memchr2_iter(b'\r', b'\n', text).peekable();
    std::iter::from_fn(move || {
        let at = ends.next()?;
        if text[at] == b'\n' {
            return Some(LineEnd::BareLf(at));
        }
        match ends.next_if(|next| *next == at + 1 && text[*next] == b'\n') {
            Some(_) => Some(LineEnd::CrLf(at)),
            None => Some(LineEnd::BareCr(at)),
        }
    })
}
