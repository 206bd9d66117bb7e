//! What a client's certificate says of its holder: a name, and the role that it was issued for.

use crate::roles::Role;
use rustls_pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// The subject of a certificate whose authority was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The common name; empty where there is none.
    pub name: String,
    /// The organizational unit that is the name of a role; none where several are, and they differ.
    pub role: Option<Role>,
}

/// Reads the subject (RFC 5280 section 4.1.2.6): the common name, and the role from the organizational units.
pub fn holder(certificate: &CertificateDer<'_>) -> Holder {
    let nobody = Holder { name: String::new(), role: None };
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return nobody };
    let subject = certificate.subject();
    let units = subject.iter_organizational_unit().filter_map(|unit| unit.as_str().ok());
    let mut roles = units.filter_map(Role::of);
    let role = roles.next().filter(|first| roles.all(|other| other == *first));
    let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
    Holder { name: name.to_string(), role }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::BmpString;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    fn role(units: &[DnValue]) -> Option<Role> {
        let mut params = CertificateParams::default();
        // One type stands once in rcgen's names: the others are given by their number.
        let numbered = |place: usize| match place {
            0 => DnType::OrganizationalUnitName,
            _ => DnType::CustomDnType(vec![2, 5, 4, 11]),
        };
        for (place, unit) in units.iter().enumerate() {
            params.distinguished_name.push(numbered(place), unit.clone());
        }
        holder(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).role
    }

    #[test]
    fn one_role_is_named_and_no_two() {
        let text = |unit: &str| DnValue::Utf8String(unit.into());
        assert_eq!(role(&[text("peer")]), Some(Role::Peer));
        assert_eq!(role(&[DnValue::PrintableString("read".try_into().unwrap())]), Some(Role::Read));
        assert_eq!(role(&[text("Engineering"), text("read")]), Some(Role::Read));
        assert_eq!(role(&[text("read"), text("peer")]), None);
        assert_eq!(role(&[text("PEER")]), None);
        assert_eq!(role(&[text("peer ")]), None);
        let wide = BmpString::try_from("peer").unwrap();
        assert_eq!(role(&[DnValue::BmpString(wide)]), None, "an encoding that is not read names nobody");
    }
}
