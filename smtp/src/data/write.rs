//! Writes a message: its wire form is slices of the body itself, with the dots between.

use bytes::Bytes;

use super::Fault;

/// What to do about a CR or LF that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndings {
    Refuse,
    /// Each becomes CRLF.
    Normalise,
}

/// The dot-stuffed wire form of `body`, with a last CRLF if it lacks one and the terminating `.\r\n`.
/// The body is sliced, not copied, unless it would fall into absurdly many pieces.
pub fn stuff(body: &Bytes, endings: LineEndings) -> Result<Vec<Bytes>, Fault> {
    todo!()
}
