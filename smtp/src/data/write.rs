//! Writes a message: its wire form is slices of the body itself, with the dots between.

use bytes::{Bytes, BytesMut};

use super::{Fault, LineEnd, line_ends};

/// What to do about a CR or LF that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEndings {
    Refuse,
    /// Each becomes CRLF.
    Normalise,
}

const CRLF: Bytes = Bytes::from_static(b"\r\n");
const DOT: Bytes = Bytes::from_static(b".");
const END: Bytes = Bytes::from_static(b".\r\n");

/// Pieces are worth their bookkeeping while they are at least this long on average; a body of dots alone is not.
const PIECE_BYTES_MIN: usize = 64;
const PIECES_FREE: usize = 1024;

/// The dot-stuffed wire form of `body`, with a last CRLF if it lacks one and the terminating `.\r\n`.
/// The body is sliced, not copied, unless it would fall into absurdly many pieces.
pub fn stuff(body: &Bytes, endings: LineEndings) -> Result<Vec<Bytes>, Fault> {
    let mut wire = Wire { body, from: 0, pieces: Vec::new(), whole: None };
    if body.starts_with(b".") {
        wire.insert(0, 0, &DOT);
    }
    let mut next_line = 0;
    for end in line_ends(body) {
        next_line = match (end, endings) {
            (LineEnd::CrLf(at), LineEndings::Refuse | LineEndings::Normalise) => at + 2,
            (LineEnd::BareCr(at) | LineEnd::BareLf(at), LineEndings::Normalise) => {
                wire.insert(at, 1, &CRLF);
                at + 1
            }
            (LineEnd::BareCr(_), LineEndings::Refuse) => return Err(Fault::BareCr),
            (LineEnd::BareLf(_), LineEndings::Refuse) => return Err(Fault::BareLf),
        };
        if body.get(next_line) == Some(&b'.') {
            wire.insert(next_line, 0, &DOT);
        }
    }
    if next_line < body.len() {
        wire.insert(body.len(), 0, &CRLF);
    }
    wire.insert(body.len(), 0, &END);
    Ok(wire.finish())
}

/// The pieces so far, and where in the body the next one begins.
struct Wire<'b> {
    body: &'b Bytes,
    from: usize,
    pieces: Vec<Bytes>,
    /// Once there are too many pieces: all of them, copied.
    whole: Option<BytesMut>,
}

impl Wire<'_> {
    /// Puts `piece` in at a place in the body, instead of the octets that stand there.
    fn insert(&mut self, at: usize, instead_of: usize, piece: &Bytes) {
        let before = self.from..at;
        self.from = at + instead_of;
        if let Some(whole) = &mut self.whole {
            whole.extend_from_slice(&self.body[before]);
            whole.extend_from_slice(piece);
            return;
        }
        if !before.is_empty() {
            self.pieces.push(self.body.slice(before));
        }
        self.pieces.push(piece.clone());
        if self.pieces.len() > PIECES_FREE + self.from / PIECE_BYTES_MIN {
            let mut whole = BytesMut::with_capacity(self.body.len() * 2);
            self.pieces.drain(..).for_each(|piece| whole.extend_from_slice(&piece));
            self.whole = Some(whole);
        }
    }

    fn finish(self) -> Vec<Bytes> {
        match self.whole {
            Some(whole) => vec![whole.freeze()],
            None => self.pieces,
        }
    }
}
