//! What a client's certificate says of its holder: a name, and the role that it was issued for.

use crate::roles::Role;
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// The subject of a certificate whose authority was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The common name; empty where there is none.
    pub name: String,
    /// The first organizational unit that is the name of a role.
    pub role: Option<Role>,
}

/// Reads the subject (RFC 5280 section 4.1.2.6): the common name, and the role from the organizational units.
pub fn holder(certificate: &CertificateDer<'_>) -> Holder {
    let nobody = Holder { name: String::new(), role: None };
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return nobody };
    let subject = certificate.subject();
    let mut units = subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok());
    let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
    Holder { name: name.to_string(), role: units.find_map(Role::of) }
}
