//! Domains: host names and address literals, always in one canonical form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DOMAIN_BYTES_MAX, Error};

/// A domain in A-labels and lower case (RFC 5890), as DNS and peers without SMTPUTF8 want it.
pub fn to_a_labels(domain: &str) -> Result<String, Error> {
    if domain.len() > DOMAIN_BYTES_MAX {
        return Err(Error::DomainTooLong);
    }
    let name = match domain.is_ascii() {
        true => domain.to_ascii_lowercase(),
        false => idna::domain_to_ascii(domain).map_err(|_| Error::DomainSyntax)?,
    };
    if name.len() > DOMAIN_BYTES_MAX {
        return Err(Error::DomainTooLong);
    }
    if !name.split('.').all(is_label) {
        return Err(Error::DomainSyntax);
    }
    Ok(name)
}

/// A host name or an address literal, in canonical form.
pub(super) fn parse(text: &str) -> Result<String, Error> {
    if !text.starts_with('[') {
        return to_a_labels(text);
    }
    match literal(text).ok_or(Error::DomainSyntax)? {
        IpAddr::V4(ip) => Ok(format!("[{ip}]")),
        IpAddr::V6(ip) => Ok(format!("[IPv6:{ip}]")),
    }
}

/// The address inside `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
pub(super) fn literal(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    match inner.split_at_checked(5) {
        Some((tag, ip)) if tag.eq_ignore_ascii_case("IPv6:") => ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) | None => inner.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Letters, digits and inner hyphens; also the underscore, which host names in the wild have.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
