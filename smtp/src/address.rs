//! Mailboxes and paths (RFC 5321 section 4.1.2): parsed strictly at the edge, shown canonically, never re-interpreted.

mod domain;
mod local;
mod path;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, str::FromStr};

pub use domain::to_a_labels;

/// Octets a local part may have (RFC 5321 section 4.5.3.1.1).
pub const LOCAL_BYTES_MAX: usize = 64;
/// Octets a domain may have (RFC 5321 section 4.5.3.1.2).
pub const DOMAIN_BYTES_MAX: usize = 255;
/// Octets a path may have, its angle brackets included (RFC 5321 section 4.5.3.1.3).
pub const PATH_BYTES_MAX: usize = 256;

/// Why a text is not an address or a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("path must stand between < and >")]
    Brackets,
    #[error("address has no domain")]
    DomainMissing,
    #[error("local part is not a dot-string or a quoted string")]
    LocalSyntax,
    #[error("domain is not a host name or an address literal")]
    DomainSyntax,
    #[error("source route is malformed")]
    RouteSyntax,
    #[error("local part is longer than {LOCAL_BYTES_MAX} octets")]
    LocalTooLong,
    #[error("domain is longer than {DOMAIN_BYTES_MAX} octets")]
    DomainTooLong,
    #[error("path is longer than {PATH_BYTES_MAX} octets")]
    PathTooLong,
}

/// A mailbox: local part and domain.
///
/// The local part is held without its quotes, so `"t"@x` and `t@x` are equal; `Display` quotes it where it must be.
/// The domain is held in lower case: a host name, or a literal such as `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
/// A host name beyond ASCII is held in A-labels (`xn--`), so equal domains are equal strings and DNS takes them as they
/// are; the local part may hold UTF-8 (RFC 6531): see [`Address::is_ascii`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    local: String,
    domain: String,
}

impl Address {
    /// Takes a bare `local@domain`, UTF-8 allowed.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (local, domain) = local::split(text)?;
        let domain = domain::parse(domain)?;
        Ok(Self { local, domain })
    }

    /// `postmaster` at a host: what `RCPT TO:<postmaster>` stands for (RFC 5321 section 4.5.1).
    pub fn postmaster(host: &str) -> Result<Self, Error> {
        Self::parse(&format!("postmaster@{host}"))
    }

    /// The local part as it means, without quotes or escapes. Its case is kept.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain in lower case, an address literal with its brackets.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The address that an address literal names.
    pub fn literal(&self) -> Option<IpAddr> {
        domain::literal(&self.domain)
    }

    /// False means that the next hop must offer SMTPUTF8: there is no other way to write a local part beyond ASCII.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii()
    }
}

/// The canonical form, which parses to the same address.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        local::write(&self.local, f)?;
        write!(f, "@{}", self.domain)
    }
}

impl FromStr for Address {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// Where failures are reported: nowhere (`<>`), or a mailbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReversePath {
    Null,
    Address(Address),
}

impl ReversePath {
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::Null => None,
            Self::Address(address) => Some(address),
        }
    }

    /// The mailbox, or the empty string for the null path: the form that contracts and records carry.
    pub fn to_text(&self) -> String {
        self.address().map(Address::to_string).unwrap_or_default()
    }

    /// Splits `<path>` off the front of a command's argument and gives what follows the `>`.
    pub fn take(text: &str) -> Result<(Self, &str), Error> {
        path::reverse(text)
    }
}

/// Shows the path with its brackets, as MAIL FROM carries it.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Address(address) => write!(f, "<{address}>"),
        }
    }
}

/// Takes `<>`, the empty string, `<a@b>` or `a@b`.
impl FromStr for ReversePath {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" => Ok(Self::Null),
            path if path.starts_with('<') => match path::reverse(path)? {
                (path, "") => Ok(path),
                (_, _) => Err(Error::Brackets),
            },
            address => Address::parse(address).map(Self::Address),
        }
    }
}

impl From<Address> for ReversePath {
    fn from(address: Address) -> Self {
        Self::Address(address)
    }
}

/// A recipient as RCPT TO names it: a mailbox, or this host's `<postmaster>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    Postmaster,
    Address(Address),
}

impl ForwardPath {
    /// Splits `<path>` off the front of a command's argument and gives what follows the `>`.
    /// A source route is dropped: the final address is what counts (RFC 5321 appendix C).
    pub fn take(text: &str) -> Result<(Self, &str), Error> {
        path::forward(text)
    }
}
