//! A small certificate authority for labs: one authority, and certificates that name their holder and its role.

use anyhow::{Context, Result};
use godwit_kit::roles::Role;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};

/// Ten years: what it issues lasts less.
const AUTHORITY_DAYS: u64 = 3_650;
/// Machines' clocks differ.
const BACKDATED: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate and its key as PEM.
pub struct Pair {
    pub cert: String,
    pub key: String,
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its common name, and the first name that its server answers to.
    pub name: String,
    pub role: Role,
    /// Further names and addresses of its server.
    pub hosts: Vec<String>,
    pub days: u64,
}

/// Signs.
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, and its key, which whoever has it can sign with.
    ///
    /// # Errors
    /// Where no key can be made.
    pub fn create() -> Result<(Self, Pair)> {
        let mut params = CertificateParams::default();
        // Authorities of one name could not be told apart by those who refuse one of them.
        let name = format!("Godwit lab authority {:08x}", rand::random::<u32>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lasts(&mut params, AUTHORITY_DAYS);
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?.pem();
        let pair = Pair { cert: cert.clone(), key: key.serialize_pem() };
        Ok((Self { cert, issuer: Issuer::new(params, key) }, pair))
    }

    /// The one that was made before.
    ///
    /// # Errors
    /// PEM that cannot be read.
    pub fn load(pair: Pair) -> Result<Self> {
        let key = KeyPair::from_pem(&pair.key).context("the authority's key")?;
        let issuer = Issuer::from_ca_cert_pem(&pair.cert, key).context("the authority's certificate")?;
        Ok(Self { cert: pair.cert, issuer })
    }

    /// For servers and clients alike: a service is both.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate.
    pub fn issue(&self, subject: &Subject) -> Result<Pair> {
        let hosts = [subject.name.as_str(), "localhost", "127.0.0.1", "::1"];
        let mut hosts: Vec<String> = hosts.into_iter().map(String::from).chain(subject.hosts.iter().cloned()).collect();
        hosts.dedup();
        let mut params = CertificateParams::new(hosts).with_context(|| format!("the names of {}", subject.name))?;
        params.distinguished_name.push(DnType::CommonName, subject.name.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, subject.role.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        lasts(&mut params, subject.days);
        let key = KeyPair::generate()?;
        Ok(Pair { cert: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }

    /// Its certificate as PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }
}

fn lasts(params: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + DAY * u32::try_from(days).unwrap_or(u32::MAX)).into();
}
