//! Domains: host names and address literals.

use super::Error;

/// A domain in A-labels and lower case (RFC 5890), as DNS and peers without SMTPUTF8 want it.
pub fn to_a_labels(domain: &str) -> Result<String, Error> {
    idna::domain_to_ascii(domain).map_err(|_| Error::DomainSyntax)
}
