//! Where a peer is, as configuration and command line give it: `https://10.0.0.1:50051`.

use std::net::IpAddr;
use std::str::FromStr;

/// An address that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    /// By TLS.
    pub secure: bool,
}

/// Why it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a URL such as https://10.0.0.1:50051")]
    Form,
    #[error("a user has no place in it: certificates and tokens say who calls")]
    User,
    #[error("its port must be 1 to 65535")]
    Port,
    #[error("a path has no place in it")]
    Path,
}

impl Target {
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(address: &str) -> Result<Self, Error> {
        let uri: http::Uri = address.parse().map_err(|_| Error::Form)?;
        let (secure, default_port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            Some(_) | None => return Err(Error::Form),
        };
        let authority = uri.authority().ok_or(Error::Form)?;
        if authority.as_str().contains('@') {
            return Err(Error::User);
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(Error::Path);
        }
        let host = authority.host();
        let port = match &authority.as_str()[host.len()..] {
            "" => default_port,
            port => port.trim_start_matches(':').parse().ok().filter(|port| *port != 0).ok_or(Error::Port)?,
        };
        let host = host.trim_matches(['[', ']']).to_string();
        if host.is_empty() { Err(Error::Form) } else { Ok(Self { host, port, secure }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_scheme_host_and_port() {
        for (address, expected) in [
            ("http://10.0.0.1:50051", Ok(("10.0.0.1:50051", false))),
            ("https://queue-1:50051/", Ok(("queue-1:50051", true))),
            ("HTTPS://queue-1", Ok(("queue-1:443", true))),
            ("http://queue-1", Ok(("queue-1:80", false))),
            ("https://[::1]:5", Ok(("[::1]:5", true))),
            ("http://a:500511", Err(Error::Port)),
            ("http://a:0", Err(Error::Port)),
            ("http://a:", Err(Error::Port)),
            ("http://user:secret@a:1", Err(Error::User)),
            ("http://a:1/queue", Err(Error::Path)),
            ("http://a:1?x", Err(Error::Path)),
            ("http://:1", Err(Error::Form)),
            ("http://[::1", Err(Error::Form)),
            ("ftp://a:1", Err(Error::Form)),
            ("a:1", Err(Error::Form)),
            ("", Err(Error::Form)),
        ] {
            let target = address.parse::<Target>().map(|target| (target.authority(), target.secure));
            assert_eq!(target, expected.map(|(authority, secure)| (authority.to_string(), secure)), "{address}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for (address, loopback) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9:1", true),
            ("http://[::1]:1", true),
            ("http://127.0.0.1.example:1", false),
            ("http://0.0.0.0:1", false),
        ] {
            assert_eq!(address.parse::<Target>().unwrap().is_loopback(), loopback, "{address}");
        }
    }
}
