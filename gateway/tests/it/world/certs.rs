//! One world's authority, and a certificate for each of its processes.

use gateway::certs::{Authority, Pair, Subject};
use godwit_kit::roles::Role;
use godwit_kit::tls;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// The files are written when they are first asked for: a process that starts again has the same.
pub struct Trust {
    authority: Authority,
    folder: PathBuf,
}

impl Trust {
    pub fn create(folder: &Path) -> Self {
        let (authority, pair) = Authority::create().unwrap();
        let trust = Self { authority, folder: folder.join("certs") };
        std::fs::create_dir_all(&trust.folder).unwrap();
        std::fs::write(trust.ca(), pair.cert).unwrap();
        trust
    }

    /// The test as a caller.
    pub fn client(&self) -> tls::Client {
        let identity = Some(self.issued("test", IpAddr::from([127, 0, 0, 1])));
        tls::Client::load(tls::ClientFiles { ca: self.ca(), identity }).unwrap()
    }

    /// `server.tls` of the process of that name, which listens at `host`.
    pub fn server(&self, name: &str, host: IpAddr) -> String {
        let (cert, key) = self.issued(name, host);
        format!("tls = {{ cert = {cert:?}, key = {key:?}, client_ca = {:?} }}\n", self.ca())
    }

    /// `peers.tls` of the same.
    pub fn peers(&self, name: &str, host: IpAddr) -> String {
        let (cert, key) = self.issued(name, host);
        format!("tls = {{ ca = {:?}, cert = {cert:?}, key = {key:?} }}\n", self.ca())
    }

    fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    fn issued(&self, name: &str, host: IpAddr) -> (PathBuf, PathBuf) {
        let files = (self.folder.join(format!("{name}.pem")), self.folder.join(format!("{name}.key")));
        if !files.0.exists() {
            let subject = Subject { name: name.into(), role: Role::Peer, hosts: vec![host.to_string()], days: 1 };
            let Pair { cert, key } = self.authority.issue(&subject).unwrap();
            std::fs::write(&files.1, key).unwrap();
            std::fs::write(&files.0, cert).unwrap();
        }
        files
    }
}
