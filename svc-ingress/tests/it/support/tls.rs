//! Certificates in a folder of the test's own, and clients that believe them.

use std::{io, path::PathBuf, sync::Arc};

use godwit_kit::{net::Stream, tls::provider};
use godwit_proto::id::MessageId;
use svc_ingress::config::{Tls, TlsMode};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};

/// The files of one listener; gone with the test.
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    pub fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("godwit-ingress-{}", MessageId::new()));
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// A listener's settings, and what its clients need to believe.
    pub fn with(mode: TlsMode) -> (Self, Tls, Trust) {
        let certificates = Self::new();
        let trust = certificates.renew();
        let tls = certificates.tls(mode);
        (certificates, tls, trust)
    }

    pub fn tls(&self, mode: TlsMode) -> Tls {
        Tls { cert: self.cert(), key: self.key(), mode, ..Tls::default() }
    }

    pub fn cert(&self) -> PathBuf {
        self.dir.join("mx.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.dir.join("mx.key")
    }

    /// Writes a new certificate for `mx.test`, which is its own authority.
    pub fn renew(&self) -> Trust {
        let new = rcgen::generate_simple_self_signed(["mx.test".to_string()]).unwrap();
        std::fs::write(self.cert(), new.cert.pem()).unwrap();
        std::fs::write(self.key(), new.signing_key.serialize_pem()).unwrap();
        Trust { authority: new.cert.der().clone(), versions: vec![&TLS13, &TLS12] }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A client's side of TLS: the one authority that it believes, and the versions that it speaks.
#[derive(Clone)]
pub struct Trust {
    authority: CertificateDer<'static>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Trust {
    /// The same, of a client that knows nothing newer than TLS 1.2.
    pub fn old(&self) -> Self {
        Self { versions: vec![&TLS12], ..self.clone() }
    }

    pub async fn handshake(&self, stream: Box<dyn Stream>) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(TlsConnector::from(self.config()).connect(name(), stream).await?))
    }

    fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&self.versions).unwrap();
        Arc::new(config.with_root_certificates(roots).with_no_client_auth())
    }
}

/// The first words of a client that believes in `trust`.
pub fn client_hello(trust: &Trust) -> Vec<u8> {
    let mut hello = Vec::new();
    ClientConnection::new(trust.config(), name()).unwrap().write_tls(&mut hello).unwrap();
    hello
}

fn name() -> ServerName<'static> {
    "mx.test".try_into().unwrap()
}
