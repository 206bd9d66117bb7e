//! Reads a peer's replies, whatever the peer sends: lines, their number and their sum are capped.

use bytes::BytesMut;

use super::{Enhanced, Reply, push_escaped};

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
        loop {
            let Some(end) = memchr::memchr(b'\n', input) else {
                return self.check_line(input.len()).map(|()| None);
            };
            self.check_line(end + 1)?;
            let line = input.split_to(end + 1);
            self.bytes += line.len();
            if self.bytes > self.limits.reply_bytes_max {
                return Err(Error::TooLong { limit: self.limits.reply_bytes_max });
            }
            let line = &line[..end];
            if let Some(reply) = self.take_line(line.strip_suffix(b"\r").unwrap_or(line))? {
                return Ok(Some(reply));
            }
        }
    }

    /// True while the first lines of a reply have come and its last has not.
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    fn check_line(&self, bytes: usize) -> Result<(), Error> {
        let limit = self.limits.line_bytes_max;
        if bytes > limit { Err(Error::LineTooLong { limit }) } else { Ok(()) }
    }

    /// Adds a line; gives the reply if it was the last.
    fn take_line(&mut self, line: &[u8]) -> Result<Option<Reply>, Error> {
        let (code, more, text) = split(line).ok_or(Error::Malformed)?;
        let text = String::from_utf8_lossy(text);
        let (enhanced, text) = split_enhanced(code, &text);
        let mut shown = String::with_capacity(text.len());
        push_escaped(&mut shown, text, usize::MAX, |_| true);
        let reply = match self.partial.take() {
            Some(reply) if reply.code != code => return Err(Error::CodeChanged),
            Some(reply) => Reply { enhanced: reply.enhanced.or(enhanced), ..reply.line(shown) },
            None => Reply { code, enhanced, lines: vec![shown] },
        };
        if !more {
            self.bytes = 0;
            return Ok(Some(reply));
        }
        if reply.lines.len() >= self.limits.lines_max {
            return Err(Error::TooManyLines { limit: self.limits.lines_max });
        }
        self.partial = Some(reply);
        Ok(None)
    }
}

/// Code, whether more lines follow, text. The text may be missing, and its space too (RFC 5321 section 4.2).
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !matches!(digits[0], b'2'..=b'5') || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
    match rest.split_first() {
        None => Some((code, false, rest)),
        Some((b' ', text)) => Some((code, false, text)),
        Some((b'-', text)) => Some((code, true, text)),
        Some(_) => None,
    }
}

/// Takes an enhanced code off the text, unless its class belies the reply code (RFC 2034 section 4).
fn split_enhanced(code: u16, text: &str) -> (Option<Enhanced>, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match Enhanced::parse(word).filter(|enhanced| u16::from(enhanced.class) == code / 100) {
        Some(enhanced) => (Some(enhanced), rest),
        None => (None, text),
    }
}
