//! TLS on the way out (RFC 3207, RFC 7435): the handshake with a host that has said it is ready, and what came of it.
//!
//! What a path asks for is a [`Wish`]; why it was not had is a [`Fault`]. The client configurations are made once: one
//! believes valid certificates only, the other encrypts to whoever is there, and the certificate is judged afterwards.

mod broken;
mod fault;
mod verify;
mod watched;
mod wish;

pub use fault::Fault;
pub use wish::{Trust, When, Wish};

use crate::dial::Target;
use broken::Broken;
use godwit_kit::Host;
use godwit_kit::net::Stream;
use godwit_kit::tls::{holder, provider};
use godwit_proto::common::v1::Tls;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use verify::{Anybody, HostTime};
use watched::Watched;

/// Hosts whose sessions are kept to be resumed.
const SESSIONS_MAX: usize = 1_024;
/// What is kept of a subject, in octets.
const SUBJECT_BYTES_MAX: usize = 256;

/// Encrypts connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector(Arc<Inner>);

struct Inner {
    strict: TlsConnector,
    lenient: TlsConnector,
    judge: Arc<WebPkiServerVerifier>,
    time: HostTime,
    broken: Mutex<Broken>,
}

/// An encrypted stream and what is known of it.
pub struct Secured {
    pub stream: Box<dyn Stream>,
    pub facts: Tls,
    /// The session was taken up again: no new proof of the host's key.
    pub resumed: bool,
}

impl Connector {
    /// Believes the public authorities and `authorities`.
    ///
    /// # Errors
    /// An authority that is none.
    pub fn new(authorities: Vec<CertificateDer<'static>>, host: &Host) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for authority in authorities {
            roots.add(authority)?;
        }
        let time = HostTime(host.clock.clone());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let judge = judge.map_err(|error| rustls::Error::General(error.to_string()))?;
        let anybody = Arc::new(Anybody::new(judge.clone()));
        Ok(Self(Arc::new(Inner {
            strict: connector(judge.clone(), &time)?,
            lenient: connector(anybody, &time)?,
            judge,
            time,
            broken: Mutex::default(),
        })))
    }

    /// The handshake with a host that has answered 220 to STARTTLS. Its name is the one that was connected to: the MX
    /// host's, not the mail domain's. The caller sets the deadline; nothing is left of `stream` where it fails.
    ///
    /// # Errors
    /// Why there is no encryption.
    pub async fn handshake(&self, stream: Box<dyn Stream>, to: &Target, trust: Trust) -> Result<Secured, Fault> {
        let name = name_of(to);
        let connector = match trust {
            Trust::Valid => &self.0.strict,
            Trust::Judged | Trust::Anybody => &self.0.lenient,
        };
        let connecting = connector.connect(name.clone(), Watched::new(stream)).into_fallible();
        let stream = connecting.await.map_err(|(error, watched)| match watched.begins_with_text() {
            true => Fault::Injected,
            false => Fault::of(&error),
        })?;
        let (_, connection) = stream.get_ref();
        let verified = match trust {
            Trust::Valid => true,
            Trust::Judged => self.believes(connection, &name),
            Trust::Anybody => false,
        };
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Secured { facts: facts(connection, verified), resumed, stream: Box::new(stream) })
    }

    /// This host is spoken to in the clear for so long, where TLS is not required.
    pub fn remember_broken(&self, host: &Target, trust: Trust, time: Duration) {
        let now = Instant::now();
        self.0.broken.lock().unwrap_or_else(PoisonError::into_inner).note(key_of(host, trust), now + time, now);
    }

    pub fn is_broken(&self, host: &Target, trust: Trust) -> bool {
        self.0.broken.lock().unwrap_or_else(PoisonError::into_inner).has(&key_of(host, trust), Instant::now())
    }

    fn believes(&self, connection: &ClientConnection, name: &ServerName<'_>) -> bool {
        let Some([own, others @ ..]) = connection.peer_certificates() else { return false };
        let judged = self.0.time.unix().map(|now| self.0.judge.verify_server_cert(own, others, name, &[], now));
        judged.is_some_and(|judged| judged.is_ok())
    }
}

fn connector(verifier: Arc<dyn ServerCertVerifier>, time: &HostTime) -> Result<TlsConnector, rustls::Error> {
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(time.clone()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config).into())
}

/// What the certificate must be for, and what is said in the handshake (RFC 6066 section 3: no address is).
fn name_of(host: &Target) -> ServerName<'static> {
    ServerName::try_from(host.name.clone()).unwrap_or_else(|_| ServerName::from(host.at.ip()))
}

/// Who takes any certificate does not hear of those that others did not believe.
fn key_of(host: &Target, trust: Trust) -> String {
    let who = match trust {
        Trust::Valid => "valid",
        Trust::Judged | Trust::Anybody => "any",
    };
    format!("{}:{} {who}", host.name, host.at.port())
}

fn facts(connection: &ClientConnection, verified: bool) -> Tls {
    let cipher = connection.negotiated_cipher_suite().map(|suite| suite.suite());
    let own = connection.peer_certificates().and_then(<[_]>::first);
    Tls {
        version: match connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".into(),
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".into(),
            _ => String::new(),
        },
        // By IANA's names.
        cipher: cipher.and_then(|suite| suite.as_str()).unwrap_or_default().replacen("TLS13_", "TLS_", 1),
        peer_subject: own.map(|own| subject(&holder(own).name)).unwrap_or_default(),
        verified,
    }
}

/// The common name, which anybody may have made up.
fn subject(name: &str) -> String {
    if name.is_empty() {
        return String::new();
    }
    let printable = name.chars().map(|c| if c.is_control() { '?' } else { c });
    let mut subject: String = "CN=".chars().chain(printable).collect();
    subject.truncate(subject.floor_char_boundary(SUBJECT_BYTES_MAX));
    subject
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_the_name_that_was_connected_to() {
        let name = |name: &str| name_of(&Target { name: name.into(), at: "192.0.2.1:25".parse().unwrap() });
        assert_eq!(name("mx.example"), ServerName::try_from("mx.example").unwrap());
        assert_eq!(name("192.0.2.1"), ServerName::from(std::net::IpAddr::from([192, 0, 2, 1])));
        assert_eq!(name("no host name"), ServerName::from(std::net::IpAddr::from([192, 0, 2, 1])));
    }

    #[test]
    fn subjects_are_printable_and_bounded() {
        assert_eq!(subject("mx\r\n.example"), "CN=mx??.example");
        assert_eq!(subject(""), "");
        assert_eq!(subject(&"\u{e9}".repeat(400)).len(), 255);
    }
}
