//! A port's TLS: handshakes within their deadline, and what was agreed on in them.

use std::{io, time::Duration};

use godwit_kit::{Host, net::Stream, tls::Server};
use godwit_proto::common::v1;
use tokio_rustls::{TlsAcceptor, rustls::ServerConnection};

use crate::{Error, config};

#[derive(Debug)]
pub struct Tls {
    server: Server,
    handshake_timeout: Duration,
}

/// A connection that is within TLS now.
pub struct Secured {
    pub stream: Box<dyn Stream>,
    pub agreed: v1::Tls,
}

/// A handshake that came to nothing.
pub enum Failure {
    /// What is left of the connection, with our alert on its way to the client.
    Refused { error: io::Error, stream: Box<dyn Stream> },
    /// It was not done in time; the connection is closed.
    Late,
}

impl Tls {
    /// For the listener at `place` of the configuration; follows its files from now on.
    ///
    /// # Errors
    /// Where the certificate or the key cannot be used.
    pub fn load(config: &config::Tls, place: usize, host: &Host) -> Result<Self, Error> {
        let server = config.load().map_err(|source| Error::Tls { place, source })?;
        server.watch(&format!("ingress.listeners[{place}].tls"), host);
        Ok(Self { server, handshake_timeout: config.handshake_timeout })
    }

    /// # Errors
    /// Where it fails, or is not done in time.
    pub async fn handshake(&self, stream: Box<dyn Stream>) -> Result<Secured, Failure> {
        let handshake = TlsAcceptor::from(self.server.current()).accept(stream).into_fallible();
        match tokio::time::timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let agreed = agreed(stream.get_ref().1);
                Ok(Secured { stream: Box::new(stream), agreed })
            }
            Ok(Err((error, stream))) => Err(Failure::Refused { error, stream }),
            Err(_) => Err(Failure::Late),
        }
    }
}

/// In the words of the RFCs: `TLSv1.3`, `TLS_AES_256_GCM_SHA384`.
fn agreed(connection: &ServerConnection) -> v1::Tls {
    let version = connection.protocol_version().and_then(|version| version.as_str());
    let cipher = connection.negotiated_cipher_suite().and_then(|cipher| cipher.suite().as_str());
    v1::Tls {
        version: version.unwrap_or_default().replace('_', "."),
        cipher: cipher.unwrap_or_default().replacen("TLS13_", "TLS_", 1),
        ..v1::Tls::default()
    }
}
