//! `[proxy]`: where it listens, who may use it, from which addresses and to where.

use godwit_kit::config::{Faults, Section, values};
use ipnet::IpNet;
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct Config {
    pub listen: SocketAddr,
    /// `host:port` by which others reach the listener; empty: `listen`.
    pub advertise: String,
    /// The addresses that this proxy owns; none: the system chooses.
    pub sources: Vec<IpAddr>,
    /// Clients must give it, and the password; empty: no authentication.
    pub username: String,
    pub password: Secret,
    /// A file with the password instead.
    pub password_file: Option<PathBuf>,
    /// Networks that clients may come from. Not given: loopback, or anywhere where a username is set.
    pub clients: Option<Vec<IpNet>>,
    /// Ports that may be connected to.
    pub ports: Vec<u16>,
    /// Destinations that are not public and may be connected to all the same.
    pub allow_networks: Vec<IpNet>,
    /// A tunnel through which nothing moves for so long is closed. Longer than SMTP's ten minutes after the final dot.
    #[serde(with = "values::duration")]
    pub timeout: Duration,
    /// From accept to the whole request.
    #[serde(with = "values::duration")]
    pub handshake_timeout: Duration,
    /// To resolve the destination and connect to it.
    #[serde(with = "values::duration")]
    pub connect_timeout: Duration,
    /// How long tunnels may go on after a stop is asked for.
    #[serde(with = "values::duration")]
    pub stop_timeout: Duration,
    /// How often it is looked whether the sources are on this host.
    #[serde(with = "values::duration")]
    pub probe_interval: Duration,
    /// Half-open ones included; beyond it a new one is closed at once.
    pub sessions_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1080)),
            advertise: String::new(),
            sources: Vec::new(),
            username: String::new(),
            password: Secret::default(),
            password_file: None,
            clients: None,
            ports: vec![25, 465, 587, 2525],
            allow_networks: Vec::new(),
            timeout: Duration::from_secs(15 * 60),
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(20),
            probe_interval: Duration::from_secs(10),
            sessions_max: 8_192,
        }
    }
}

/// A value that logs do not show.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "set" })
    }
}

/// RFC 1929: at most 255 bytes each.
const CREDENTIAL_BYTES_MAX: usize = 255;

impl Config {
    /// The username and password that clients must give; `None`: none.
    ///
    /// # Errors
    /// Where the password's file cannot be read.
    pub fn credentials(&self) -> Result<Option<(String, Secret)>, String> {
        if self.username.is_empty() {
            return Ok(None);
        }
        let password = match &self.password_file {
            None => self.password.clone(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                Secret(text.trim_end_matches(['\r', '\n']).into())
            }
        };
        Ok(Some((self.username.clone(), password)))
    }

    fn check_credentials(&self, faults: &mut Faults) {
        if self.password != Secret::default() && self.password_file.is_some() {
            faults.add("proxy.password_file", "given together with proxy.password: give one of them");
        }
        if self.username.len() > CREDENTIAL_BYTES_MAX {
            faults.add("proxy.username", "must be at most 255 bytes");
        }
        let has_password = self.password != Secret::default() || self.password_file.is_some();
        if self.username.is_empty() && has_password {
            faults.add("proxy.username", "a password without a username");
        }
        match self.credentials() {
            Err(what) => faults.add("proxy.password_file", what),
            Ok(Some((_, Secret(password)))) if password.is_empty() || password.len() > CREDENTIAL_BYTES_MAX => {
                let key = if self.password_file.is_some() { "proxy.password_file" } else { "proxy.password" };
                faults.add(key, "the password must be 1 to 255 bytes");
            }
            Ok(_) => {}
        }
    }
}

impl Section for Config {
    const NAME: &'static str = "proxy";

    fn check(&self, faults: &mut Faults) {
        self.check_credentials(faults);
        if !self.listen.ip().is_loopback() && self.username.is_empty() && self.clients.is_none() {
            let what = "open beyond loopback: set proxy.username and proxy.password, or name proxy.clients";
            faults.add("proxy.listen", what);
        }
        if self.ports.is_empty() {
            faults.add("proxy.ports", "must name at least one");
        }
        if self.sessions_max == 0 {
            faults.add("proxy.sessions_max", "must be at least 1");
        }
        for (place, source) in self.sources.iter().enumerate() {
            if source.is_unspecified() || source.is_multicast() {
                faults.add(format!("proxy.sources[{place}]"), format!("{source} is no address to send from"));
            }
            if self.sources[..place].contains(source) {
                faults.add(format!("proxy.sources[{place}]"), format!("{source} is given twice"));
            }
        }
        let waits = [
            ("proxy.timeout", self.timeout),
            ("proxy.handshake_timeout", self.handshake_timeout),
            ("proxy.connect_timeout", self.connect_timeout),
            ("proxy.probe_interval", self.probe_interval),
        ];
        for (key, _) in waits.into_iter().filter(|(_, wait)| *wait < Duration::from_secs(1)) {
            faults.add(key, "must be at least 1s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_kit::config::Document;

    fn read(text: &str) -> (Option<Config>, Vec<String>) {
        let mut faults = Faults::default();
        let config = Document::parse(&format!("[proxy]\n{text}"), "test", &mut faults).section(&mut faults);
        (config, faults.0.into_iter().map(|fault| fault.key).collect())
    }

    #[test]
    fn defaults_are_in_order_and_safe() {
        let (config, faults) = read("");
        let config: Config = config.unwrap();
        assert_eq!(faults, [""; 0]);
        assert!(config.listen.ip().is_loopback());
        assert_eq!(config.ports, [25, 465, 587, 2525]);
    }

    #[test]
    fn open_beyond_loopback_is_a_fault() {
        let check = |text: &str, keys: &[&str]| assert_eq!(read(text).1, keys, "{text}");
        check("listen = \"0.0.0.0:1080\"", &["proxy.listen"]);
        check("listen = \"[::]:1080\"", &["proxy.listen"]);
        check("listen = \"[::1]:1080\"", &[]);
        check("listen = \"0.0.0.0:1080\"\nusername = \"u\"\npassword = \"p\"", &[]);
        check("listen = \"0.0.0.0:1080\"\nclients = [\"10.0.0.0/8\"]", &[]);
    }

    #[test]
    fn all_faults_at_once() {
        let text = "password = \"p\"\npassword_file = \"/nowhere\"\nports = []\nsessions_max = 0\ntimeout = \"1ms\"\n\
            sources = [\"10.0.0.1\", \"0.0.0.0\", \"10.0.0.1\"]";
        let expected = ["password_file", "username", "ports", "sessions_max", "sources[1]", "sources[2]", "timeout"];
        assert_eq!(read(text).1, expected.map(|key| format!("proxy.{key}")));
        assert_eq!(read("username = \"u\"\npassword_file = \"/nowhere\"").1, ["proxy.password_file"]);
        assert_eq!(read("username = \"u\"").1, ["proxy.password"]);
    }

    #[test]
    fn the_password_is_not_shown() {
        let (config, _) = read("username = \"u\"\npassword = \"hunter2\"");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
