//! Accepts connections on one port within its limits, and hands each to a session.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use godwit_kit::net::{self, Connection};
use godwit_smtp::{Reply, receive};
use tokio::io::AsyncWriteExt;

use crate::{
    config::{self, TlsMode},
    door::{Connections, Full},
    ingress::Ingress,
    policy::Relay,
    session::{PaceLimits, Session},
    tls::Tls,
};

/// After an accept that failed, for want of file descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);
/// The one line that a connection beyond the limit is told fits into any socket's buffer.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// One port: its rules, and what it shares with all doors.
pub struct Listener {
    pub at: SocketAddr,
    pub hostname: String,
    pub smtp: Arc<receive::Config>,
    pub relay: Relay,
    pub pace: PaceLimits,
    pub tls: Option<Tls>,
    pub ingress: Arc<Ingress>,
    connections: Arc<Connections>,
}

impl Listener {
    pub fn new(config: &config::Listener, at: SocketAddr, tls: Option<Tls>, ingress: Arc<Ingress>) -> Self {
        let hostname = config::hostname(&[&config.hostname, &ingress.hostname]);
        let relay = Relay::new(&config.relay_hosts);
        if relay.is_open() && !at.ip().is_loopback() {
            tracing::warn!(listen = %at, "an open relay: relay_hosts holds the whole internet");
        }
        Self {
            at,
            relay,
            smtp: Arc::new(receive::Config {
                hostname: hostname.clone(),
                banner: config.banner.clone(),
                size_bytes_max: usize::try_from(config.max_message_size.0).unwrap_or(usize::MAX),
                recipients_max: config.max_recipients,
                messages_max: config.max_messages_per_connection,
                tls: match (&tls, config.tls.mode) {
                    (None, _) => receive::Tls::Absent,
                    (Some(_), TlsMode::Optional) => receive::Tls::Offered,
                    (Some(_), TlsMode::Required) => receive::Tls::Required,
                    (Some(_), TlsMode::Implicit) => receive::Tls::Implicit,
                },
                ..receive::Config::default()
            }),
            hostname,
            tls,
            pace: PaceLimits {
                idle: config.client_timeout,
                total: config.message_timeout,
                bytes_per_second_min: config.min_data_rate.0,
            },
            connections: Arc::new(Connections::new(config.max_connections, config.max_connections_per_peer)),
            ingress,
        }
    }

    pub fn is_implicit(&self) -> bool {
        self.smtp.tls == receive::Tls::Implicit
    }

    fn turn_away(&self, full: Full) -> Reply {
        match full {
            Full::Listener { limit: _ } => {
                Reply::new(421, (4, 3, 2), format!("{} Too many connections", self.hostname))
            }
            Full::Peer { limit: _ } => {
                Reply::new(421, (4, 7, 0), format!("{} Too many connections of yours", self.hostname))
            }
        }
    }
}

/// Accepts until a stop is asked for.
pub async fn run(socket: net::Listener, listener: Arc<Listener>) {
    let stop = &listener.ingress.stop;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.requested() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(connection) => admit(connection, &listener).await,
            Err(error) => {
                tracing::warn!(listen = %listener.at, %error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn admit(connection: Connection, listener: &Arc<Listener>) {
    let meters = &listener.ingress.meters;
    match listener.connections.enter(connection.peer.ip().to_canonical()) {
        Ok(place) => {
            meters.connections_accepted.inc();
            let session = Session::new(connection, listener.clone());
            listener.ingress.stop.spawn(async move {
                session.run().await;
                drop(place);
            });
        }
        Err(full) => {
            meters.connections_refused.inc();
            tracing::debug!(peer = %connection.peer, ?full, "connection refused");
            // A handshake only to say no is more than somebody beyond the limit gets.
            if !listener.is_implicit() {
                let _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, say(connection, listener.turn_away(full))).await;
            }
        }
    }
}

async fn say(mut connection: Connection, reply: Reply) -> io::Result<()> {
    let mut wire = bytes::BytesMut::new();
    reply.encode(&mut wire);
    connection.stream.write_all(&wire).await?;
    connection.stream.shutdown().await
}
