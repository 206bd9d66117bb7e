//! A SOCKS5 client (RFC 1928, RFC 1929): CONNECT, after a BIND that tells the proxy which address to leave from.

use crate::source::Credentials;
use godwit_kit::net::Stream;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const USERNAME_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const BIND: u8 = 2;

/// Why there is no connection through the proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("proxy failed: {0}")]
    Io(#[from] io::Error),
    #[error("proxy does not speak SOCKS5")]
    Protocol,
    #[error("proxy refuses our username and password")]
    Credentials,
    /// The source's address is not the proxy's to use.
    #[error("proxy does not send from {address}: {why}")]
    Source { address: IpAddr, why: &'static str },
    /// The proxy works, the destination does not.
    #[error("{0}")]
    Destination(&'static str),
}

/// Agrees with the proxy at the other end of `stream` on who we are and where we leave from: all that is the proxy's alone.
///
/// # Errors
/// As in [`Error`]; the stream is then of no more use.
pub async fn prepare(
    stream: &mut dyn Stream,
    credentials: Option<&Credentials>,
    source: Option<IpAddr>,
) -> Result<(), Error> {
    authenticate(stream, credentials).await?;
    if let Some(address) = source {
        request(stream, BIND, SocketAddr::new(address, 0))
            .await?
            .map_err(|reply| Error::Source { address, why: text(reply) })?;
    }
    Ok(())
}

/// Asks for the connection, after [`prepare`]; gives the address that it leaves from. Afterwards the stream is the
/// destination's.
///
/// # Errors
/// As in [`Error`]; the stream is then of no more use.
pub async fn connect(stream: &mut dyn Stream, to: SocketAddr) -> Result<SocketAddr, Error> {
    request(stream, CONNECT, to).await?.map_err(|reply| Error::Destination(text(reply)))
}

async fn authenticate(stream: &mut dyn Stream, credentials: Option<&Credentials>) -> Result<(), Error> {
    let methods: &[u8] = match credentials {
        Some(_) => &[NO_AUTHENTICATION, USERNAME_PASSWORD],
        None => &[NO_AUTHENTICATION],
    };
    let greeting = [&[VERSION, methods.len() as u8], methods].concat();
    stream.write_all(&greeting).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    match (chosen, credentials) {
        ([VERSION, NO_AUTHENTICATION], _) => Ok(()),
        ([VERSION, USERNAME_PASSWORD], Some(credentials)) => log_in(stream, credentials).await,
        ([VERSION, _], _) => Err(Error::Credentials),
        (_, _) => Err(Error::Protocol),
    }
}

/// RFC 1929. Both parts are at most 255 bytes: the configuration is checked.
async fn log_in(stream: &mut dyn Stream, credentials: &Credentials) -> Result<(), Error> {
    let mut request = vec![1];
    for part in [&credentials.username, &credentials.password] {
        let part = &part.as_bytes()[..part.len().min(255)];
        request.push(part.len() as u8);
        request.extend_from_slice(part);
    }
    stream.write_all(&request).await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    if answer[1] == 0 { Ok(()) } else { Err(Error::Credentials) }
}

/// The proxy's bound address, or its reply code.
async fn request(stream: &mut dyn Stream, command: u8, address: SocketAddr) -> Result<Result<SocketAddr, u8>, Error> {
    let mut request = vec![VERSION, command, 0];
    match address.ip() {
        IpAddr::V4(ip) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
    }
    request.extend_from_slice(&address.port().to_be_bytes());
    stream.write_all(&request).await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [VERSION, reply, _, kind] = head else { return Err(Error::Protocol) };
    let bound = bound_address(stream, kind).await?;
    Ok(if reply == 0 { Ok(bound) } else { Err(reply) })
}

async fn bound_address(stream: &mut dyn Stream, kind: u8) -> Result<SocketAddr, Error> {
    let ip: IpAddr = match kind {
        1 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            Ipv4Addr::from(octets).into()
        }
        4 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            Ipv6Addr::from(octets).into()
        }
        3 => {
            let mut name = vec![0; stream.read_u8().await?.into()];
            stream.read_exact(&mut name).await?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        _ => return Err(Error::Protocol),
    };
    Ok(SocketAddr::new(ip, stream.read_u16().await?))
}

/// RFC 1928 section 6.
fn text(reply: u8) -> &'static str {
    match reply {
        1 => "general failure of the proxy",
        2 => "not allowed by the proxy",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "timed out",
        7 => "command not supported by the proxy",
        8 => "address type not supported by the proxy",
        _ => "unknown failure of the proxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the proxy: expects `heard`, says `said`, by turns.
    async fn check(
        credentials: Option<&Credentials>,
        source: Option<&str>,
        turns: &[(&[u8], &[u8])],
    ) -> Result<SocketAddr, Error> {
        let (mut ours, mut theirs) = tokio::io::duplex(1024);
        let turns: Vec<(Vec<u8>, Vec<u8>)> =
            turns.iter().map(|(heard, said)| (heard.to_vec(), said.to_vec())).collect();
        let proxy = tokio::spawn(async move {
            for (heard, said) in turns {
                let mut buffer = vec![0; heard.len()];
                theirs.read_exact(&mut buffer).await.unwrap();
                assert_eq!(buffer, heard);
                theirs.write_all(&said).await.unwrap();
            }
        });
        let source = source.map(|source| source.parse().unwrap());
        let result = match prepare(&mut ours, credentials, source).await {
            Ok(()) => connect(&mut ours, "192.0.2.1:25".parse().unwrap()).await,
            Err(error) => Err(error),
        };
        proxy.await.unwrap();
        result
    }

    const CONNECT_REQUEST: &[u8] = &[5, 1, 0, 1, 192, 0, 2, 1, 0, 25];
    const BIND_REQUEST: &[u8] = &[5, 2, 0, 1, 10, 0, 0, 1, 0, 0];
    const OK: &[u8] = &[5, 0, 0, 1, 10, 0, 0, 1, 0x12, 0x34];

    #[tokio::test]
    async fn binds_then_connects() {
        let turns = [(&[5, 1, 0][..], &[5, 0][..]), (BIND_REQUEST, OK), (CONNECT_REQUEST, OK)];
        let local = check(None, Some("10.0.0.1"), &turns).await.unwrap();
        assert_eq!(local, "10.0.0.1:4660".parse().unwrap());
    }

    #[tokio::test]
    async fn logs_in() {
        let credentials = Credentials { username: "u".into(), password: "pw".into() };
        let login = (&[1, 1, b'u', 2, b'p', b'w'][..], &[1, 0][..]);
        let turns = [(&[5, 2, 0, 2][..], &[5, 2][..]), login, (CONNECT_REQUEST, OK)];
        check(Some(&credentials), None, &turns).await.unwrap();
        let refused = [(&[5, 2, 0, 2][..], &[5, 2][..]), (login.0, &[1, 1][..])];
        assert!(matches!(check(Some(&credentials), None, &refused).await, Err(Error::Credentials)));
        assert!(matches!(check(None, None, &[(&[5, 1, 0], &[5, 0xff])]).await, Err(Error::Credentials)));
    }

    #[tokio::test]
    async fn tells_whose_fault_it_is() {
        let refused = &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0][..];
        let of_source = check(None, Some("10.0.0.1"), &[(&[5, 1, 0], &[5, 0]), (BIND_REQUEST, refused)]).await;
        assert!(matches!(of_source, Err(Error::Source { .. })));
        let of_host = check(None, None, &[(&[5, 1, 0], &[5, 0]), (CONNECT_REQUEST, refused)]).await;
        assert!(matches!(of_host, Err(Error::Destination("connection refused"))));
        assert!(matches!(check(None, None, &[(&[5, 1, 0], b"HT")]).await, Err(Error::Protocol)));
    }
}
