//! Certificates and keys as their PEM files hold them.

use super::Error;
use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};

/// A certificate with its chain, and its key.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn read(cert: &Path, key: &Path) -> Result<Self, Error> {
        let chain = certificates(cert)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error, "private key"))?;
        Ok(Self { chain, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// At least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| fault(path, &error, "certificate"))?;
    if certificates.is_empty() {
        return Err(fault(path, &pem::Error::NoItemsFound, "certificate"));
    }
    Ok(certificates)
}

/// The authorities of `certificates`, which are from the file at `path`.
pub fn roots(certificates: &[CertificateDer<'static>], path: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let added = roots.add(certificate.clone());
        added.map_err(|error| Error::File { path: path.into(), what: error.to_string() })?;
    }
    Ok(roots)
}

fn fault(path: &Path, error: &pem::Error, wanted: &str) -> Error {
    let what = match error {
        pem::Error::NoItemsFound => format!("no {wanted} in it"),
        pem::Error::Io(error) => error.to_string(),
        error => format!("no {wanted} that can be read: {error}"),
    };
    Error::File { path: PathBuf::from(path), what }
}
