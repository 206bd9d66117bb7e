//! Paths: what stands between `<` and `>` in MAIL and RCPT.

use super::{Address, Error, ForwardPath, PATH_BYTES_MAX, ReversePath, domain, local};

pub(super) fn reverse(text: &str) -> Result<(ReversePath, &str), Error> {
    let (inner, rest) = brackets(text)?;
    let path = match inner {
        "" => ReversePath::Null,
        inner => ReversePath::Address(Address::parse(without_route(inner)?)?),
    };
    Ok((path, rest))
}

pub(super) fn forward(text: &str) -> Result<(ForwardPath, &str), Error> {
    let (inner, rest) = brackets(text)?;
    let path = match inner {
        inner if inner.eq_ignore_ascii_case("postmaster") => ForwardPath::Postmaster,
        inner => ForwardPath::Address(Address::parse(without_route(inner)?)?),
    };
    Ok((path, rest))
}

/// What is between the brackets, and what follows them. A `>` in a quoted string does not close.
fn brackets(text: &str) -> Result<(&str, &str), Error> {
    let inner = text.strip_prefix('<').ok_or(Error::Brackets)?;
    let mut from = 0;
    let end = loop {
        let at = from + inner[from..].find(['"', '>']).ok_or(Error::Brackets)?;
        if inner.as_bytes()[at] == b'>' {
            break at;
        }
        from = at + 1 + local::closing_quote(&inner[at + 1..]).ok_or(Error::Brackets)? + 1;
    };
    if end + 2 > PATH_BYTES_MAX {
        return Err(Error::PathTooLong);
    }
    Ok((&inner[..end], &inner[end + 1..]))
}

/// Drops `@a,@b:`. Routes are obsolete: they must be understood and should be ignored (RFC 5321 appendix C).
fn without_route(mut inner: &str) -> Result<&str, Error> {
    while let Some(hop) = inner.strip_prefix('@') {
        let host = match hop.starts_with('[') {
            true => hop.find(']').ok_or(Error::RouteSyntax)? + 1,
            false => hop.find([',', ':']).ok_or(Error::RouteSyntax)?,
        };
        domain::parse(&hop[..host]).map_err(|_| Error::RouteSyntax)?;
        match hop[host..].split_at_checked(1) {
            Some((":", address)) => return Ok(address),
            Some((",", next)) if next.starts_with('@') => inner = next,
            Some(_) | None => return Err(Error::RouteSyntax),
        }
    }
    Ok(inner)
}
