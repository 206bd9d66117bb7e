//! `godwit certs`: a small authority for labs, and certificates of it.

use crate::certs::{Authority, Pair, Subject};
use crate::node;
use anyhow::{Result, bail, ensure};
use clap::Args;
use godwit_kit::roles::Role;
use godwit_kit::tls;
use std::path::{Path, PathBuf};

/// Certificates outlive no authority, and no lab.
const DAYS_MAX: u64 = 3_650;

#[derive(Debug, Args)]
pub struct Certs {
    /// The folder of ca.pem and ca.key, made where they are not there, and of NAME.pem and NAME.key.
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// What the holders may do: peer, inject, read, operate or admin.
    #[arg(long, default_value = "peer")]
    role: String,
    /// A further name or address that their servers answer to. May be repeated.
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// How long the certificates are good.
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// Whom to issue a certificate to; their servers answer to the name, to localhost and to loopback. One that is there is made anew.
    #[arg(required = true)]
    names: Vec<String>,
}

impl Certs {
    pub fn run(self) -> Result<()> {
        let Some(role) = Role::of(&self.role) else {
            bail!("--role {}: must be peer, inject, read, operate or admin", self.role);
        };
        ensure!((1..=DAYS_MAX).contains(&self.days), "--days {}: must be 1 to {DAYS_MAX}", self.days);
        for name in &self.names {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            ensure!(
                !name.is_empty() && name.chars().all(plain) && !name.starts_with('.'),
                "{name:?}: must be a host's name"
            );
            ensure!(name != "ca", "ca is the authority's own name");
        }
        let authority = authority(&self.dir)?;
        for name in self.names {
            let subject = Subject { name, role, hosts: self.host.clone(), days: self.days };
            write(&self.dir, &subject.name, &authority.issue(&subject)?)?;
            println!("{}", self.dir.join(format!("{}.pem", subject.name)).display());
        }
        Ok(())
    }
}

/// The folder's own, or a new one that the folder keeps.
fn authority(dir: &Path) -> Result<Authority> {
    let (cert, key) = paths(dir, "ca");
    match (node::read_text(&cert)?, node::read_text(&key)?) {
        (Some(text), Some(secret)) => {
            let own = tls::ServerFiles { cert, key, ..tls::ServerFiles::default() };
            // What a key that is not the authority's signed, nobody would believe.
            tls::Server::load(own)?;
            Authority::load(Pair { cert: text, key: secret })
        }
        (None, None) => {
            let (authority, pair) = Authority::create()?;
            write(dir, "ca", &pair)?;
            Ok(authority)
        }
        (Some(_), None) | (None, Some(_)) => bail!("{}: only one of ca.pem and ca.key is there", dir.display()),
    }
}

fn write(dir: &Path, name: &str, pair: &Pair) -> Result<()> {
    let (cert, key) = paths(dir, name);
    node::write_secret(&key, &pair.key)?;
    node::write_text(&cert, &pair.cert)
}

fn paths(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")))
}
