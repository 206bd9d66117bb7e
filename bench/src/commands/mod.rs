//! The commands, and what they share: how much is sent, and one measured run of it.

mod apart;
mod compare;
mod deliver;
mod kill;
mod law;
mod plain;
mod run;
mod source_sink;
mod through;

use anyhow::Result;
use bench::generate::{self, Plan};
use bench::load::Load;
use clap::{Args, Parser, Subcommand};
use std::io;
use std::path::PathBuf;
use tokio::sync::oneshot;

/// Loads an MTA, counts what comes out, and fails when a promise is broken. Everything stays on 127.0.0.1, or on the
/// private network of the containers under test.
#[derive(Debug, Parser)]
#[command(name = "godwit-bench", version)]
pub struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Send, compare the digests of what came with those of what was promised: equal sets, nothing twice.
    Deliver(deliver::Deliver),
    /// Kill -9 under load, again and again: nothing promised is lost, duplicates stay within their bound.
    Kill(kill::Kill),
    /// Delivered messages a second and CPU time beside Postfix, in one run.
    Compare(compare::Compare),
    /// Every service in a process of its own beside all in one, in one run: messages a second, CPU by service, calls.
    Apart(apart::Beside),
    /// The delivery check on an MTA that runs already, such as containers: load to its listeners, a sink for its routes.
    Through(through::Through),
    /// The delivery check with Postfix's smtp-source and smtp-sink in place of our own load and sink.
    SourceSink(source_sink::SourceSink),
    /// Only the sink.
    Sink(plain::SinkCommand),
    /// Only the load.
    Load(plain::LoadCommand),
}

impl Command {
    /// # Errors
    /// A law is broken, or something does not run.
    pub async fn run(self) -> Result<()> {
        match self.verb {
            Verb::Deliver(deliver) => deliver.run().await,
            Verb::Kill(kill) => kill.run().await,
            Verb::Compare(compare) => compare.run().await,
            Verb::Apart(apart) => apart.run().await,
            Verb::Through(through) => through.run().await,
            Verb::SourceSink(source_sink) => source_sink.run().await,
            Verb::Sink(sink) => sink.run().await,
            Verb::Load(load) => load.run().await,
        }
    }
}

/// How much is sent.
#[derive(Debug, Clone, Args)]
pub struct Work {
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages: u32,
    /// Of each message, in bytes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    size: u32,
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Recipients' domains, in turn d0.example, d1.example and so on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    domains: u32,
}

impl Work {
    fn load(&self, to: Vec<String>) -> Load {
        let domains = (0..self.domains).map(|number| format!("d{number}.example")).collect();
        let plan = Plan { seed: generate::seed(), size_bytes: self.size as usize, domains };
        let (connections, count) = (self.connections as usize, self.messages as usize);
        Load { to, connections, plan, first: 0, count, rate: None }
    }
}

/// Where and how the MTA runs.
#[derive(Debug, Clone, Args)]
pub struct Setting {
    /// Where the run's folder is made: its file system decides what a durable write costs. Default: the system's folder
    /// for temporary files.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// A setting for Godwit, such as queue.restart_grace=1s. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Without any progress for so many seconds the run has failed.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    stall: u64,
}

impl Setting {
    fn base(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn stall(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.stall)
    }
}

/// Never, unless it is wanted. A thread of its own reads, so that a run which ends earlier need not wait for it.
async fn input_ended(wanted: bool) {
    if !wanted {
        return std::future::pending().await;
    }
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = end.send(());
    });
    let _ = ended.await;
}
