//! A caller's side of TLS: whose servers it believes, and the certificate it shows them.

use super::material::{self, Identity};
use super::reload::{self, Reloaded};
use super::{Error, provider};
use crate::Host;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a caller's certificates are: PEM files.
#[derive(Debug, Clone, Default)]
pub struct ClientFiles {
    /// The authority of the servers' certificates.
    pub ca: PathBuf,
    /// The caller's own certificate and key; none: it shows none.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// HTTP/2 over TLS 1.2 and 1.3, from files that may change. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Reloaded<Material, ClientConfig>>);

#[derive(PartialEq)]
struct Material {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

impl Client {
    /// # Errors
    /// A file that cannot be read, or a key that does not fit the certificate, by their paths.
    pub fn load(files: ClientFiles) -> Result<Self, Error> {
        let making = files.clone();
        let reloaded = Reloaded::load(move || read(&files), move |material| make(&making, material))?;
        Ok(Self(Arc::new(reloaded)))
    }

    /// For the next connection.
    pub fn current(&self) -> Arc<ClientConfig> {
        self.0.current()
    }

    /// Follows the files until the host stops. `what` is the setting's key path, for the log.
    pub fn watch(&self, what: &str, host: &Host) {
        reload::watch(self.0.clone(), what, host);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::Client")
    }
}

fn read(files: &ClientFiles) -> Result<Material, Error> {
    let identity = files.identity.as_ref().map(|(cert, key)| Identity::read(cert, key)).transpose()?;
    Ok(Material { authorities: material::certificates(&files.ca)?, identity })
}

fn make(files: &ClientFiles, material: &Material) -> Result<ClientConfig, Error> {
    let roots = material::roots(&material.authorities, &files.ca)?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match (&files.identity, material.identity.clone()) {
        (Some((cert, key)), Some(identity)) => builder
            .with_client_auth_cert(identity.chain, identity.key)
            .map_err(|error| Error::Pair { cert: cert.clone(), key: key.clone(), what: error.to_string() })?,
        (None, _) | (_, None) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}
