//! The commands of the binary `godwit`.

mod certs;
mod check;
mod demo;
mod health;
mod inject;
mod remote;
mod serve;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use godwit_kit::config::Document;
use std::path::PathBuf;

/// Godwit, a mail transfer agent built of services.
#[derive(Debug, Parser)]
#[command(name = "godwit", version)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the services that the configuration has sections for; without a configuration, all of them on defaults.
    Serve(Source),
    /// See mail flow: the MTA with a make-believe internet and a load, for a minute. Needs nothing, leaves nothing.
    Demo(demo::Demo),
    /// Read the configuration, print every fault with its key path, and change nothing.
    Check(Source),
    /// Ask a process whether it is ready: exit status 0, or 1 and the reason.
    Health(health::Health),
    /// Make a small certificate authority for labs, and certificates of it.
    Certs(certs::Certs),
    /// Hand a message to a running ingress, and print its id.
    Inject(inject::Inject),
}

/// Where the configuration comes from. The environment (`GODWIT__SECTION__KEY`) lies over the file, `--set` over both.
#[derive(Debug, Args)]
pub struct Source {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as queue.retry_interval=5m. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Source {
    /// # Errors
    /// Every part that cannot be read.
    pub fn load(&self) -> Result<Document> {
        let document = Document::load(self.config.as_deref(), std::env::vars_os(), &self.set)?;
        Ok(match self.config {
            Some(_) => document,
            None => crate::config::everything(document),
        })
    }
}

impl Command {
    /// # Errors
    /// What went wrong, for the operator.
    pub fn run(self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("runtime")?;
        match self.verb {
            Verb::Serve(source) => runtime.block_on(serve::serve(&source)),
            Verb::Demo(demo) => runtime.block_on(demo.run()),
            Verb::Check(source) => check::check(&source),
            Verb::Health(health) => runtime.block_on(health.run()),
            Verb::Certs(certs) => certs.run(),
            Verb::Inject(inject) => runtime.block_on(inject.run()),
        }
    }
}
