//! The MTA under test: Godwit, or Postfix for comparison and to check the harness itself.

use crate::apart::Apart;
use crate::godwit::Godwit;
use crate::postfix::Postfix;
use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Which MTA.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// The binary `godwit`.
    #[arg(long, value_name = "PATH")]
    pub godwit: Option<PathBuf>,
    /// Postfix instead, to check the harness (Debian package postfix, as root).
    #[arg(long)]
    pub postfix: bool,
}

#[derive(Debug)]
pub enum Mta {
    Godwit(Godwit),
    Postfix(Postfix),
    /// Each service in a process of its own.
    Apart(Apart),
}

impl Which {
    pub fn name(&self) -> &'static str {
        if self.godwit.is_some() { "Godwit" } else { "Postfix" }
    }

    /// # Errors
    /// It does not start.
    pub async fn start(&self, folder: &Path, sink: SocketAddr, settings: &[String]) -> Result<Mta> {
        match &self.godwit {
            Some(program) => Godwit::start(program, folder, sink, settings).await.map(Mta::Godwit),
            None => Postfix::start(folder, sink).await.map(Mta::Postfix),
        }
    }
}

impl Mta {
    pub fn smtp(&self) -> SocketAddr {
        match self {
            Self::Godwit(godwit) => godwit.smtp(),
            Self::Postfix(postfix) => postfix.smtp(),
            Self::Apart(apart) => apart.smtp(),
        }
    }

    pub fn cpu_seconds(&self) -> f64 {
        match self {
            Self::Godwit(godwit) => godwit.cpu_seconds(),
            Self::Postfix(postfix) => postfix.cpu_seconds(),
            Self::Apart(apart) => apart.cpu_seconds(),
        }
    }

    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Self::Godwit(godwit) => godwit.check(),
            Self::Postfix(postfix) => postfix.check(),
            Self::Apart(apart) => apart.check(),
        }
    }
}
