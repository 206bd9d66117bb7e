//! SMTP replies: encoded so that nothing can be injected, parsed so that nothing can be exhausted.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::BytesMut;

pub use parse::{Error as ParseError, Limits, Parser};

/// An enhanced status code (RFC 3463).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enhanced {
    pub class: u8,
    pub subject: u16,
    pub detail: u16,
}

impl Enhanced {
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Takes `c.s.d` with class 2, 4 or 5.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
        let class = matches!(class, "2" | "4" | "5").then(|| class.parse().ok())??;
        let number = |part: &str| {
            let is_number = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse().ok()).flatten()
        };
        let enhanced = Self { class, subject: number(subject)?, detail: number(detail)? };
        parts.next().is_none().then_some(enhanced)
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// What the first digit of a reply says (RFC 5321 section 4.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 2yz: done.
    Completion,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: try again later.
    Transient,
    /// 5yz: do not try again.
    Permanent,
}

/// A reply, sent or received.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// Not part of `lines`; its class always matches the code's first digit in a parsed reply.
    pub enhanced: Option<Enhanced>,
    /// One string for each line of the reply, never empty. A parsed reply has controls escaped and is lossy UTF-8.
    pub lines: Vec<String>,
}

impl Reply {
    /// `Reply::new(250, (2, 1, 5), "Ok")`.
    pub fn new(code: u16, (class, subject, detail): (u8, u16, u16), text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(Enhanced::new(class, subject, detail)), lines: vec![text.into()] }
    }

    /// A reply without an enhanced code: banner, EHLO, 354.
    pub fn plain(code: u16, text: impl Into<String>) -> Self {
        Self { code, enhanced: None, lines: vec![text.into()] }
    }

    /// The same reply with one more line.
    pub fn line(mut self, text: impl Into<String>) -> Self {
        self.lines.push(text.into());
        self
    }

    pub fn kind(&self) -> Kind {
        match self.code {
            ..300 => Kind::Completion,
            300..400 => Kind::Intermediate,
            400..500 => Kind::Transient,
            500.. => Kind::Permanent,
        }
    }

    pub fn is_positive(&self) -> bool {
        self.kind() == Kind::Completion
    }

    pub fn is_transient(&self) -> bool {
        self.kind() == Kind::Transient
    }

    pub fn is_permanent(&self) -> bool {
        self.kind() == Kind::Permanent
    }

    /// All lines as one, joined by a space: for records and logs.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// Appends the wire form. Whatever the lines hold, no control character but the CRLFs gets out.
    pub fn encode(&self, out: &mut BytesMut) {
        let empty = [String::new()];
        let lines = if self.lines.is_empty() { &empty[..] } else { &self.lines[..] };
        for (at, line) in lines.iter().enumerate() {
            let separator = if at + 1 < lines.len() { '-' } else { ' ' };
            let mut wire = format!("{}{separator}", self.code);
            if let Some(enhanced) = self.enhanced {
                wire.push_str(&format!("{enhanced} "));
            }
            push_escaped(&mut wire, line, LINE_BYTES_MAX, char::is_ascii);
            out.extend_from_slice(wire.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Octets of a reply line without its CRLF (RFC 5321 section 4.5.3.1.5). What is over is cut off.
const LINE_BYTES_MAX: usize = 510;

/// Appends `text` up to a length, controls and what `is_plain` denies as escapes.
fn push_escaped(out: &mut String, text: &str, bytes_max: usize, is_plain: impl Fn(&char) -> bool) {
    for c in text.chars() {
        let before = out.len();
        match !c.is_control() && is_plain(&c) {
            true => out.push(c),
            false => out.extend(c.escape_default()),
        }
        if out.len() > bytes_max {
            out.truncate(before);
            return;
        }
    }
}

/// `550 5.1.1 No such user`, on one line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.text())
    }
}
