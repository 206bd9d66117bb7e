//! Reads a message in any chunking: dot-stuffing undone, faults noted, always on to the real end.

use bytes::{Buf, Bytes, BytesMut};

use super::{Fault, Limits, LineEnd, line_ends};

/// The most that a client's SIZE makes the reader allocate at once.
const RESERVE_BYTES_MAX: usize = 1024 * 1024;

/// The message as it comes in. Memory is bounded by `size_bytes_max`; a faulty message's body is dropped.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    body: BytesMut,
    /// Octets so far, also those that were dropped.
    size_bytes: usize,
    line: Line,
    fault: Option<Fault>,
}

/// Where in a line the input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Start,
    /// Something of the line was taken: so many octets, a stuffed dot not counted.
    Inside(usize),
}

/// What the octets at the start of a line are.
enum Lead {
    /// `.` CR LF: the message is over.
    End,
    /// A dot that stuffing put there.
    Stuffed,
    Plain,
    /// Cannot be told yet.
    Unknown,
}

impl Reader {
    /// `size_bytes_declared` is the client's SIZE: it sizes the first allocation, and promises nothing.
    pub fn new(limits: Limits, size_bytes_declared: Option<u64>) -> Self {
        let declared = size_bytes_declared.and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
        let body = BytesMut::with_capacity(declared.min(limits.size_bytes_max).min(RESERVE_BYTES_MAX));
        Self { limits, body, size_bytes: 0, line: Line::Start, fault: None }
    }

    /// Takes from `input` what belongs to the message and gives the whole body once CRLF.CRLF has come.
    /// `None` means more is needed; up to two octets that cannot be judged yet stay in `input`.
    /// What follows the end stays there too.
    pub fn advance(&mut self, input: &mut BytesMut) -> Option<Result<Bytes, Fault>> {
        loop {
            if self.line == Line::Start {
                match lead(input) {
                    Lead::End => {
                        input.advance(3);
                        return Some(self.finish());
                    }
                    Lead::Stuffed => {
                        input.advance(1);
                        self.line = Line::Inside(0);
                    }
                    Lead::Plain => {}
                    Lead::Unknown => return None,
                }
            }
            // One run reaches to the next line that begins with a dot, or to what has come.
            let run = self.survey(input);
            if run == 0 {
                return None;
            }
            self.keep(&input[..run]);
            input.advance(run);
        }
    }

    /// Octets of body held so far.
    pub fn held_bytes(&self) -> usize {
        self.body.len()
    }

    /// Notes the faults of the lines in `input`; gives how many octets belong to the body as they stand.
    fn survey(&mut self, input: &[u8]) -> usize {
        // A last CR waits for what follows it.
        let known = &input[..input.len() - usize::from(input.last() == Some(&b'\r'))];
        let mut line_start = 0;
        let mut run = known.len();
        for end in line_ends(input) {
            match end {
                LineEnd::CrLf(at) => {
                    self.grow_line(at - line_start);
                    self.line = Line::Start;
                    line_start = at + 2;
                    if input.get(line_start) == Some(&b'.') {
                        run = line_start;
                        break;
                    }
                }
                LineEnd::BareCr(at) if at < known.len() => self.note(Fault::BareCr),
                LineEnd::BareCr(_) => {}
                LineEnd::BareLf(_) => self.note(Fault::BareLf),
            }
        }
        if run > line_start {
            self.grow_line(run - line_start);
        }
        run
    }

    fn grow_line(&mut self, bytes: usize) {
        let total = bytes + self.line_bytes();
        if total > self.limits.line_bytes_max {
            self.note(Fault::LineTooLong);
        }
        self.line = Line::Inside(total);
    }

    fn line_bytes(&self) -> usize {
        match self.line {
            Line::Start => 0,
            Line::Inside(bytes) => bytes,
        }
    }

    fn note(&mut self, fault: Fault) {
        self.fault = self.fault.max(Some(fault));
    }

    fn keep(&mut self, run: &[u8]) {
        if memchr::memchr(0, run).is_some() {
            self.note(Fault::Nul);
        }
        self.size_bytes = self.size_bytes.saturating_add(run.len());
        if self.size_bytes > self.limits.size_bytes_max {
            self.note(Fault::TooLarge);
        }
        match self.fault {
            Some(_) => self.body = BytesMut::new(),
            None => self.body.extend_from_slice(run),
        }
    }

    /// Leaves the reader as good as new.
    fn finish(&mut self) -> Result<Bytes, Fault> {
        let body = std::mem::take(&mut self.body);
        (self.line, self.size_bytes) = (Line::Start, 0);
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(body.freeze()),
        }
    }
}

fn lead(input: &[u8]) -> Lead {
    match input {
        [b'.', b'\r', b'\n', ..] => Lead::End,
        [] | [b'.'] | [b'.', b'\r'] => Lead::Unknown,
        [b'.', ..] => Lead::Stuffed,
        [..] => Lead::Plain,
    }
}
