//! Local parts: dot-strings and quoted strings (RFC 5321 section 4.1.2, widened to UTF-8 by RFC 6531).

use std::fmt;

use super::{Error, LOCAL_BYTES_MAX};

/// Takes a local part off the front of `local@domain`; gives its meaning and the domain.
pub(super) fn split(text: &str) -> Result<(String, &str), Error> {
    let at = match text.strip_prefix('"') {
        Some(quoted) => 1 + closing_quote(quoted).ok_or(Error::LocalSyntax)? + 1,
        None => text.find('@').unwrap_or(text.len()),
    };
    let (raw, rest) = text.split_at(at);
    if raw.len() > LOCAL_BYTES_MAX {
        return Err(Error::LocalTooLong);
    }
    let local = if raw.starts_with('"') { unquote(raw)? } else { raw.to_owned() };
    if !raw.starts_with('"') && !is_dot_string(raw) {
        return Err(Error::LocalSyntax);
    }
    match rest.strip_prefix('@') {
        Some(domain) => Ok((local, domain)),
        None if rest.is_empty() => Err(Error::DomainMissing),
        None => Err(Error::LocalSyntax),
    }
}

/// Writes a local part back, in quotes only where it needs them.
pub(super) fn write(local: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if is_dot_string(local) {
        return f.write_str(local);
    }
    f.write_str("\"")?;
    for c in local.chars() {
        if matches!(c, '"' | '\\') {
            f.write_str("\\")?;
        }
        write!(f, "{c}")?;
    }
    f.write_str("\"")
}

/// Where the quote that ends a quoted string stands, given what follows the opening one.
pub(super) fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

fn unquote(raw: &str) -> Result<String, Error> {
    let mut local = String::with_capacity(raw.len());
    let mut chars = raw[1..raw.len() - 1].chars();
    while let Some(c) = chars.next() {
        // A quoted pair stands for ASCII only; it has no UTF-8 form (RFC 6531 section 3.3).
        let c = match c {
            '\\' => chars.next().filter(char::is_ascii).ok_or(Error::LocalSyntax)?,
            c => c,
        };
        if c.is_control() {
            return Err(Error::LocalSyntax);
        }
        local.push(c);
    }
    Ok(local)
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_control() && !c.is_whitespace())
}
