//! One client: negotiates by SOCKS5, connects to the destination, and hands both to the tunnel.

use crate::config::{Config, Secret};
use crate::register::{Open, Register};
use crate::socks5::{self, Command, Credentials, Greeting, Malformed, Parsed, Reply, Request, Target};
use crate::source::Rules;
use crate::tunnel;
use bytes::{Buf, BufMut, BytesMut};
use godwit_kit::Host;
use godwit_kit::net::{Connection, Stream};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::Instrument;

/// What may come in before it is answered: more than any message.
const INCOMING_BYTES_MAX: usize = 2 * socks5::MESSAGE_BYTES_MAX;
/// A name may have many addresses; so many of them are tried.
const ADDRESSES_MAX: usize = 4;
/// Names that are looked up at a time.
pub(crate) const LOOKUPS_MAX: usize = 64;
/// After its last words the client has so long, and so many bytes, to hear them.
const FAREWELL: Duration = Duration::from_secs(1);
const FAREWELL_BYTES_MAX: u64 = 64 << 10;
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What every session needs.
pub(crate) struct Context {
    pub config: Config,
    pub credentials: Option<(String, Secret)>,
    pub rules: Rules,
    pub register: Arc<Register>,
    /// Of `LOOKUPS_MAX`.
    pub lookups: Arc<Semaphore>,
    pub host: Host,
}

/// Why a session did not become a tunnel.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client went away: {0}")]
    Gone(#[from] io::Error),
    #[error("not SOCKS5: {0}")]
    Malformed(#[from] Malformed),
    #[error("no whole request within proxy.handshake_timeout")]
    Slow,
    #[error("no acceptable authentication method offered")]
    Method,
    #[error("wrong username or password")]
    Credentials,
    #[error("{why}")]
    Refused { reply: Reply, why: String },
    #[error("{why}")]
    Failed { reply: Reply, why: String },
    #[error("stopping")]
    Stopping,
}

impl End {
    fn refused(reply: Reply, why: impl ToString) -> Self {
        Self::Refused { reply, why: why.to_string() }
    }

    fn failed(reply: Reply, why: impl ToString) -> Self {
        Self::Failed { reply, why: why.to_string() }
    }

    /// What the client is told before the connection is closed; nothing where it does not speak SOCKS5.
    fn last_words(&self) -> Vec<u8> {
        match self {
            Self::Method => socks5::encode_method(socks5::METHOD_UNACCEPTABLE).into(),
            Self::Credentials => socks5::encode_verdict(false).into(),
            Self::Refused { reply, .. } | Self::Failed { reply, .. } => reply.encode(NOWHERE),
            Self::Malformed(Malformed::AddressType(_)) => Reply::AddressTypeNotSupported.encode(NOWHERE),
            Self::Malformed(Malformed::Name) => Reply::Failure.encode(NOWHERE),
            Self::Malformed(Malformed::Version(_) | Malformed::AuthVersion(_) | Malformed::ReplyCode(_))
            | Self::Gone(_)
            | Self::Slow
            | Self::Stopping => Vec::new(),
        }
    }
}

/// Serves one client to its end.
pub(crate) async fn run(context: Arc<Context>, client: Connection, open: Open) {
    let span = tracing::info_span!("proxy.session", client = %client.peer, destination = tracing::field::Empty);
    let local = client.local;
    let mut talk = Talk { stream: client.stream, incoming: BytesMut::with_capacity(INCOMING_BYTES_MAX) };
    let opened = tokio::select! {
        opened = establish(&context, &mut talk, local) => opened,
        () = context.host.stop.requested() => Err(End::Stopping),
    };
    match opened {
        Ok((destination, source)) => {
            span.record("destination", tracing::field::display(destination.peer));
            open.connected(destination.peer, source);
            // The span ends here: a tunnel lasts for as long as its mail takes.
            drop(span);
            copy(&context, talk, destination).await;
        }
        Err(end) => farewell(&context, talk, end).instrument(span).await,
    }
}

/// Negotiates and connects; the client is told that it may go on.
async fn establish(context: &Context, talk: &mut Talk, local: SocketAddr) -> Result<(Connection, IpAddr), End> {
    let negotiation = timeout(context.config.handshake_timeout, negotiate(context, talk));
    let (target, source) = negotiation.await.unwrap_or(Err(End::Slow))?;
    let connecting = timeout(context.config.connect_timeout, connect(context, target, (source, local)));
    let expired = || Err(End::failed(Reply::TtlExpired, "not connected within proxy.connect_timeout"));
    let destination = connecting.await.unwrap_or_else(|_| expired())?;
    let local = destination.local;
    talk.stream.write_all(&Reply::Succeeded.encode(local)).await?;
    Ok((destination, local.ip()))
}

/// From the first byte to CONNECT: where to, and from which source where one was chosen by BIND.
async fn negotiate(context: &Context, talk: &mut Talk) -> Result<(Target, Option<IpAddr>), End> {
    let greeting = talk.read(Greeting::parse).await?;
    let method = if context.credentials.is_some() { socks5::METHOD_PASSWORD } else { socks5::METHOD_NONE };
    if !greeting.methods.contains(&method) {
        return Err(End::Method);
    }
    talk.stream.write_all(&socks5::encode_method(method)).await?;
    if let Some((username, password)) = &context.credentials {
        let given = talk.read(Credentials::parse).await?;
        if !given.are(username, &password.0) {
            return Err(End::Credentials);
        }
        talk.stream.write_all(&socks5::encode_verdict(true)).await?;
    }
    let mut source = None;
    loop {
        let Request { command, target } = talk.read(Request::parse).await?;
        match command {
            Command::Connect => return Ok((target, source)),
            Command::Bind if source.is_none() => {
                let owned = bind(context, &target)?;
                talk.stream.write_all(&Reply::Succeeded.encode(SocketAddr::new(owned, 0))).await?;
                source = Some(owned);
            }
            Command::Bind => return Err(End::refused(Reply::NotAllowed, "a second BIND")),
            Command::UdpAssociate | Command::Unknown(_) => {
                return Err(End::refused(Reply::CommandNotSupported, format!("{command:?}")));
            }
        }
    }
}

/// BIND with an owned address chooses it as the source of the CONNECT that follows; it never listens.
fn bind(context: &Context, target: &Target) -> Result<IpAddr, End> {
    match target {
        Target::Address(at) => context
            .rules
            .owned(at.ip())
            .ok_or_else(|| End::refused(Reply::NotAllowed, format!("BIND: {} is not owned", at.ip()))),
        Target::Name(..) => Err(End::refused(Reply::NotAllowed, "BIND with a name")),
    }
}

/// Connects to the first address of the target that is allowed and answers.
async fn connect(
    context: &Context,
    target: Target,
    (chosen, local): (Option<IpAddr>, SocketAddr),
) -> Result<Connection, End> {
    let addresses = match &target {
        Target::Address(at) => vec![*at],
        Target::Name(name, port) => resolve(context, name.clone(), *port).await?,
    };
    let mut ended = End::failed(Reply::HostUnreachable, "the name has no address");
    let mut tried = 0;
    for address in addresses {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        if let Err(denied) = context.rules.check(address, local) {
            ended = if tried == 0 { End::refused(Reply::NotAllowed, denied) } else { ended };
            continue;
        }
        match context.rules.source_for(chosen, address.ip()) {
            Ok(source) => match connect_from(context, address, source).await {
                Ok(connection) => return Ok(connection),
                Err(end) => ended = end,
            },
            Err(none) => {
                ended = if tried == 0 { End::refused(Reply::AddressTypeNotSupported, none) } else { ended };
                continue;
            }
        }
        tried += 1;
        if tried == ADDRESSES_MAX {
            break;
        }
    }
    Err(ended)
}

/// Asks the system's resolver. A lookup holds its permit to its end, also when nobody waits for it any more: each takes one
/// of the runtime's threads for blocking work.
async fn resolve(context: &Context, name: String, port: u16) -> Result<Vec<SocketAddr>, End> {
    let permit = context.lookups.clone().acquire_owned().await.expect("the semaphore is never closed");
    let lookup = tokio::spawn(async move {
        let addresses = tokio::net::lookup_host((name, port)).await;
        drop(permit);
        addresses.map(Vec::from_iter)
    });
    let addresses = lookup.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    addresses.map_err(|error| End::failed(Reply::HostUnreachable, error))
}

async fn connect_from(context: &Context, to: SocketAddr, source: Option<IpAddr>) -> Result<Connection, End> {
    match context.host.net.connect(to, source).await {
        Ok(connection) => {
            source.inspect(|source| context.register.worked(*source));
            Ok(connection)
        }
        Err(error) => {
            let unplumbed = error.kind() == io::ErrorKind::AddrNotAvailable
                && source.is_some_and(|source| context.register.missed(source));
            let why = if unplumbed { "the source is not on this host" } else { "" };
            Err(End::failed(reply_of(&error), format!("{to}: {error} {why}").trim_end()))
        }
    }
}

/// The reply that says best what the system said.
fn reply_of(error: &io::Error) -> Reply {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reply::Refused,
        io::ErrorKind::HostUnreachable => Reply::HostUnreachable,
        io::ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
        io::ErrorKind::TimedOut => Reply::TtlExpired,
        // The source is not on this host, or something that a client cannot act on.
        _ => Reply::Failure,
    }
}

/// Copies until both sides have ended, nothing moves for too long, or a stop has waited long enough.
async fn copy(context: &Context, talk: Talk, destination: Connection) {
    let totals = &context.register.totals;
    let ways = tunnel::Ways { to_destination: &totals.to_destination_bytes, to_client: &totals.to_client_bytes };
    let first = talk.incoming.freeze();
    let copying = tunnel::run((talk.stream, first), destination.stream, ways, context.config.timeout);
    let stopped = async {
        context.host.stop.requested().await;
        context.host.clock.sleep(context.config.stop_timeout).await;
    };
    tokio::select! {
        ended = copying => tracing::debug!(destination = %destination.peer, ?ended, "tunnel ended"),
        () = stopped => tracing::info!(destination = %destination.peer, "tunnel cut: proxy.stop_timeout has passed"),
    }
}

/// Counts it, says it, and lets the client hear it.
async fn farewell(context: &Context, mut talk: Talk, end: End) {
    let totals = &context.register.totals;
    match &end {
        End::Gone(_) | End::Failed { .. } | End::Stopping => totals.failed.inc(),
        End::Malformed(_) | End::Slow | End::Method | End::Credentials | End::Refused { .. } => totals.refused.inc(),
    }
    tracing::info!(reason = %end, "no tunnel");
    let last_words = end.last_words();
    if last_words.is_empty() {
        return;
    }
    let stop = context.host.stop.token();
    let hear = async {
        talk.stream.write_all(&last_words).await?;
        talk.stream.shutdown().await?;
        stop.run_until_cancelled(talk.drop_incoming()).await.unwrap_or(Ok(()))
    };
    // Where the client is gone, nobody is left to tell.
    let _ = timeout(FAREWELL, hear).await;
}

/// The client's connection and what has come in of it.
struct Talk {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
}

impl Talk {
    /// The next message, however it is cut; what came behind it stays.
    async fn read<T>(&mut self, parse: impl Fn(&[u8]) -> Parsed<T>) -> Result<T, End> {
        loop {
            if let Some((message, used)) = parse(&self.incoming)? {
                self.incoming.advance(used);
                return Ok(message);
            }
            let room = INCOMING_BYTES_MAX - self.incoming.len();
            debug_assert!(room > 0, "every message is shorter");
            if self.stream.read_buf(&mut (&mut self.incoming).limit(room)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Reads on until the client closes: with bytes unread, the system would reset the connection, and what was written
    /// might not arrive.
    async fn drop_incoming(&mut self) -> io::Result<()> {
        tokio::io::copy(&mut (&mut self.stream).take(FAREWELL_BYTES_MAX), &mut tokio::io::sink()).await.map(drop)
    }
}
