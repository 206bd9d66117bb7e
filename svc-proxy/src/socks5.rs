//! The bytes of SOCKS5 (RFC 1928) and of its username and password (RFC 1929), both ways. Sans IO.
//!
//! Each `parse` takes what has come in so far and answers with the message and its length, `None` where more must come, or
//! why it will never be one. No message is longer than [`MESSAGE_BYTES_MAX`].

use std::net::{IpAddr, SocketAddr};

pub const MESSAGE_BYTES_MAX: usize = 513;

const VERSION: u8 = 5;
const AUTH_VERSION: u8 = 1;
pub const METHOD_NONE: u8 = 0;
pub const METHOD_PASSWORD: u8 = 2;
pub const METHOD_UNACCEPTABLE: u8 = 0xff;

const ATYP_V4: u8 = 1;
const ATYP_NAME: u8 = 3;
const ATYP_V6: u8 = 4;

/// A domain name has at most 253 bytes, and may end with a dot.
const NAME_BYTES_MAX: usize = 254;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("version {0}")]
    Version(u8),
    #[error("authentication version {0}")]
    AuthVersion(u8),
    #[error("address type {0}")]
    AddressType(u8),
    #[error("not a domain name")]
    Name,
    #[error("unknown reply code {0}")]
    ReplyCode(u8),
}

/// A message and its length, where all of it is there.
pub type Parsed<T> = Result<Option<(T, usize)>, Malformed>;

/// What the client offers to authenticate by (RFC 1928 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    pub methods: Vec<u8>,
}

impl Greeting {
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        expect(bytes, VERSION, Malformed::Version)?;
        let mut rest = Rest::new(bytes, 1);
        let methods = rest.counted().map(|methods| Self { methods: methods.to_vec() });
        Ok(methods.map(|greeting| (greeting, rest.used)))
    }

    /// Of at most 255 methods.
    pub fn encode(&self) -> Vec<u8> {
        [&[VERSION, length(&self.methods)], &*self.methods].concat()
    }
}

/// RFC 1929 section 2.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: Vec<u8>,
    pub password: Vec<u8>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        expect(bytes, AUTH_VERSION, Malformed::AuthVersion)?;
        let mut rest = Rest::new(bytes, 1);
        let read = |rest: &mut Rest<'_>| {
            let username = rest.counted()?.to_vec();
            Some(Self { username, password: rest.counted()?.to_vec() })
        };
        Ok(read(&mut rest).map(|credentials| (credentials, rest.used)))
    }

    /// Of at most 255 bytes each.
    pub fn encode(&self) -> Vec<u8> {
        let (username, password) = (&self.username, &self.password);
        [&[AUTH_VERSION, length(username)], &**username, &[length(password)], password].concat()
    }

    /// Whether they are these. Takes the same time wherever they differ.
    pub fn are(&self, username: &str, password: &str) -> bool {
        same(&self.username, username.as_bytes()) & same(&self.password, password.as_bytes())
    }
}

/// The answer to [`Greeting`].
pub fn encode_method(method: u8) -> [u8; 2] {
    [VERSION, method]
}

/// The answer to [`Credentials`].
pub fn encode_verdict(accepted: bool) -> [u8; 2] {
    [AUTH_VERSION, u8::from(!accepted)]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Connect,
    Bind,
    UdpAssociate,
    Unknown(u8),
}

/// An address or a name, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Address(SocketAddr),
    Name(String, u16),
}

/// RFC 1928 section 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub command: Command,
    pub target: Target,
}

impl Request {
    /// The reserved byte is not looked at.
    pub fn parse(bytes: &[u8]) -> Parsed<Self> {
        expect(bytes, VERSION, Malformed::Version)?;
        let Some(command) = bytes.get(1) else { return Ok(None) };
        let command = match command {
            1 => Command::Connect,
            2 => Command::Bind,
            3 => Command::UdpAssociate,
            unknown => Command::Unknown(*unknown),
        };
        let target = Target::parse(bytes)?;
        Ok(target.map(|(target, used)| (Self { command, target }, used)))
    }

    pub fn encode(&self) -> Vec<u8> {
        let command = match self.command {
            Command::Connect => 1,
            Command::Bind => 2,
            Command::UdpAssociate => 3,
            Command::Unknown(unknown) => unknown,
        };
        self.target.encode(command)
    }
}

impl Target {
    /// What follows the first three bytes of a request or a reply.
    fn parse(bytes: &[u8]) -> Parsed<Self> {
        let mut rest = Rest::new(bytes, 3);
        let Some(&[kind]) = rest.take(1) else { return Ok(None) };
        let address = match kind {
            ATYP_V4 => rest.array::<4>().map(|octets| Host::Address(octets.into())),
            ATYP_V6 => rest.array::<16>().map(|octets| Host::Address(octets.into())),
            ATYP_NAME => match rest.counted() {
                Some(name) => Some(Host::Name(host_name(name)?)),
                // Empty: no more needs to come to know it.
                None if bytes.get(4) == Some(&0) => return Err(Malformed::Name),
                None => None,
            },
            unknown => return Err(Malformed::AddressType(unknown)),
        };
        let (Some(host), Some(port)) = (address, rest.array::<2>()) else { return Ok(None) };
        let port = u16::from_be_bytes(port);
        let target = match host {
            Host::Address(ip) => Self::Address(SocketAddr::new(ip, port)),
            Host::Name(name) => Self::Name(name, port),
        };
        Ok(Some((target, rest.used)))
    }

    fn encode(&self, second: u8) -> Vec<u8> {
        let mut bytes = vec![VERSION, second, 0];
        let port = match self {
            Self::Address(at) => {
                match at.ip() {
                    IpAddr::V4(ip) => bytes.extend([&[ATYP_V4][..], &ip.octets()].concat()),
                    IpAddr::V6(ip) => bytes.extend([&[ATYP_V6][..], &ip.octets()].concat()),
                }
                at.port()
            }
            Self::Name(name, port) => {
                bytes.extend([&[ATYP_NAME, length(name.as_bytes())], name.as_bytes()].concat());
                *port
            }
        };
        bytes.extend(port.to_be_bytes());
        bytes
    }
}

enum Host {
    Address(IpAddr),
    Name(String),
}

/// RFC 1928 section 6: how a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Succeeded = 0,
    Failure = 1,
    NotAllowed = 2,
    NetworkUnreachable = 3,
    HostUnreachable = 4,
    Refused = 5,
    TtlExpired = 6,
    CommandNotSupported = 7,
    AddressTypeNotSupported = 8,
}

impl Reply {
    const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::Failure,
        Self::NotAllowed,
        Self::NetworkUnreachable,
        Self::HostUnreachable,
        Self::Refused,
        Self::TtlExpired,
        Self::CommandNotSupported,
        Self::AddressTypeNotSupported,
    ];

    /// With the address that was bound, where one was.
    pub fn encode(self, bound: SocketAddr) -> Vec<u8> {
        Target::Address(bound).encode(self as u8)
    }

    pub fn parse(bytes: &[u8]) -> Parsed<(Self, Target)> {
        expect(bytes, VERSION, Malformed::Version)?;
        let Some(code) = bytes.get(1) else { return Ok(None) };
        let reply = Self::ALL.get(usize::from(*code)).ok_or(Malformed::ReplyCode(*code))?;
        Ok(Target::parse(bytes)?.map(|(bound, used)| ((*reply, bound), used)))
    }
}

/// Refuses at the first byte, before more is waited for.
fn expect(bytes: &[u8], version: u8, malformed: fn(u8) -> Malformed) -> Result<(), Malformed> {
    match bytes.first() {
        Some(other) if *other != version => Err(malformed(*other)),
        Some(_) | None => Ok(()),
    }
}

fn host_name(name: &[u8]) -> Result<String, Malformed> {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:".contains(byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(valid) {
        return Err(Malformed::Name);
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn length(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).expect("callers give at most 255 bytes")
}

fn same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |all, (one, other)| all | (one ^ other));
    std::hint::black_box(differences) == 0 && one.len() == other.len()
}

/// Reads on from a place in the bytes.
struct Rest<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Rest<'a> {
    fn new(bytes: &'a [u8], used: usize) -> Self {
        Self { bytes, used }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.used..self.used + count)?;
        self.used += count;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A length in one byte, and as many bytes.
    fn counted(&mut self) -> Option<&'a [u8]> {
        let [count] = self.array()?;
        self.take(usize::from(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every shorter prefix asks for more; the whole is read, and what follows it is left alone.
    fn check_at_every_split<T: PartialEq + std::fmt::Debug>(bytes: &[u8], parse: fn(&[u8]) -> Parsed<T>, expected: T) {
        assert!(bytes.len() <= MESSAGE_BYTES_MAX);
        for split in 0..bytes.len() {
            assert_eq!(parse(&bytes[..split]), Ok(None), "after {split} bytes");
        }
        let followed = [bytes, b"more"].concat();
        assert_eq!(parse(&followed), Ok(Some((expected, bytes.len()))));
    }

    fn targets() -> impl Strategy<Value = Target> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| Target::Address((ip, port).into())),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| Target::Address((ip, port).into())),
            (proptest::collection::vec(proptest::sample::select(b"az09-._".to_vec()), 1..=254), any::<u16>())
                .prop_map(|(name, port)| Target::Name(String::from_utf8(name).unwrap(), port)),
        ]
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..=255)
    }

    proptest! {
        #[test]
        fn messages_are_read_back_at_every_split(
            methods in bytes(), username in bytes(), password in bytes(), target in targets(), command in 0..5u8, reply in 0..9usize,
        ) {
            let greeting = Greeting { methods };
            check_at_every_split(&greeting.encode(), Greeting::parse, greeting.clone());
            let credentials = Credentials { username, password };
            check_at_every_split(&credentials.encode(), Credentials::parse, credentials.clone());
            let command = [Command::Unknown(0), Command::Connect, Command::Bind, Command::UdpAssociate, Command::Unknown(4)]
                [usize::from(command)];
            let request = Request { command, target };
            check_at_every_split(&request.encode(), Request::parse, request.clone());
            if let Target::Address(bound) = request.target {
                let reply = Reply::ALL[reply];
                check_at_every_split(&reply.encode(bound), Reply::parse, (reply, Target::Address(bound)));
            }
        }

        #[test]
        fn junk_is_read_without_harm_and_decided_within_bounds(junk in proptest::collection::vec(any::<u8>(), 0..600)) {
            let undecided = [
                Greeting::parse(&junk) == Ok(None),
                Credentials::parse(&junk) == Ok(None),
                Request::parse(&junk) == Ok(None),
                Reply::parse(&junk) == Ok(None),
            ];
            prop_assert!(junk.len() < MESSAGE_BYTES_MAX || undecided == [false; 4]);
        }
    }

    #[test]
    fn the_first_wrong_byte_decides() {
        assert_eq!(Greeting::parse(b"\x04"), Err(Malformed::Version(4)));
        assert_eq!(Greeting::parse(b"CONNECT example.com:25 HTTP/1.1"), Err(Malformed::Version(b'C')));
        assert_eq!(Credentials::parse(b"\x05"), Err(Malformed::AuthVersion(5)));
        assert_eq!(Request::parse(b"\x05\x01\x00\x02"), Err(Malformed::AddressType(2)));
    }

    #[test]
    fn names_are_names() {
        let request = |name: &[u8]| Request::parse(&[&[5, 1, 0, 3, name.len() as u8], name, &[0, 25]].concat());
        assert!(matches!(request(b"mx.example.com"), Ok(Some(_))));
        assert!(matches!(request(&[b'a'; 254]), Ok(Some(_))));
        for name in
            [&b""[..], &[b'a'; 255], b"localhost\0.example.com", b"a b", b"\xff", b"a\r\n", b"[::1]", b"a/b", b"a%1"]
        {
            assert_eq!(request(name), Err(Malformed::Name), "{name:?}");
        }
        assert_eq!(Request::parse(&[5, 1, 0, 3, 0]), Err(Malformed::Name));
    }

    #[test]
    fn credentials_are_compared_whole() {
        let credentials = Credentials { username: b"user".into(), password: b"pass".into() };
        assert!(credentials.are("user", "pass"));
        for (username, password) in [("user", "pas"), ("user", "passs"), ("user", ""), ("", "pass"), ("User", "pass")] {
            assert!(!credentials.are(username, password));
        }
        assert!(!format!("{credentials:?}").contains("pass"));
    }
}
