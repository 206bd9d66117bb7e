//! Takes command lines off the input with bounded memory, whatever comes instead of a line's end.

use bytes::BytesMut;

/// What was at the front of the input.
pub(super) enum Taken {
    /// A line, its CRLF gone.
    Line(BytesMut),
    /// A line that ended in LF alone.
    BareLf,
    /// A line longer than allowed; dropped.
    TooLong,
    /// No whole line yet.
    More,
}

/// The line that is coming in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The line is too long already; drop what comes until it ends.
    dropping: bool,
}

impl Lines {
    pub(super) fn take(&mut self, input: &mut BytesMut, line_bytes_max: usize) -> Taken {
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.dropping || input.len() > line_bytes_max {
                self.dropping = true;
                input.clear();
            }
            return Taken::More;
        };
        let mut line = input.split_to(end + 1);
        if std::mem::take(&mut self.dropping) || line.len() > line_bytes_max {
            return Taken::TooLong;
        }
        if !line.ends_with(b"\r\n") {
            return Taken::BareLf;
        }
        line.truncate(end - 1);
        Taken::Line(line)
    }
}
