//! A server's side of TLS: its certificate, and whose clients' certificates it believes.

use super::material::{self, Identity};
use super::reload::{self, Reloaded};
use super::{Error, provider};
use crate::Host;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a server's certificate is: PEM files.
#[derive(Debug, Clone, Default)]
pub struct ServerFiles {
    /// The certificate, and behind it those that lead to the authority.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authority of the clients' certificates. A client without one is let in as nobody; one with a certificate of another
    /// authority is refused in the handshake.
    pub client_ca: Option<PathBuf>,
    /// What may be spoken inside (RFC 7301); empty: not negotiated.
    pub alpn: Vec<Vec<u8>>,
}

/// TLS 1.2 and 1.3, from files that may change. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Reloaded<Material, ServerConfig>>);

#[derive(PartialEq)]
struct Material {
    identity: Identity,
    authorities: Vec<CertificateDer<'static>>,
}

impl Server {
    /// # Errors
    /// A file that cannot be read, or a key that does not fit the certificate, by their paths.
    pub fn load(files: ServerFiles) -> Result<Self, Error> {
        let making = files.clone();
        let reloaded = Reloaded::load(move || read(&files), move |material| make(&making, material))?;
        Ok(Self(Arc::new(reloaded)))
    }

    /// For the next connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.0.current()
    }

    /// Follows the files until the host stops. `what` is the setting's key path, for the log.
    pub fn watch(&self, what: &str, host: &Host) {
        reload::watch(self.0.clone(), what, host);
    }

    /// Looks at the files now; true where they had changed.
    ///
    /// # Errors
    /// As [`Server::load`]; what was in use stays so.
    pub fn reload(&self) -> Result<bool, Error> {
        self.0.reload()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tls::Server")
    }
}

fn read(files: &ServerFiles) -> Result<Material, Error> {
    let identity = Identity::read(&files.cert, &files.key)?;
    let authorities = files.client_ca.as_deref().map(material::certificates).transpose()?.unwrap_or_default();
    Ok(Material { identity, authorities })
}

fn make(files: &ServerFiles, material: &Material) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(material::roots(&material.authorities, path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
            let verifier =
                verifier.build().map_err(|error| Error::File { path: path.clone(), what: error.to_string() });
            builder.with_client_cert_verifier(verifier?)
        }
    };
    let Identity { chain, key } = material.identity.clone();
    let mut config = builder.with_single_cert(chain, key).map_err(|error| Error::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        what: error.to_string(),
    })?;
    config.alpn_protocols = files.alpn.clone();
    Ok(config)
}
