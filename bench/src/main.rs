//! `godwit-bench`: runs an MTA as its users would, and holds it to its promises. Each command prints its figures and fails
//! when its law is broken.

mod apart;
mod commands;
mod godwit;
mod mta;
mod place;
mod postfix;
mod tools;
mod watch;

use clap::Parser;
use commands::Command;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// On a signal the command's future is dropped, and with it every process and folder that it owns.
fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = command.run() => result,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminated.recv() => anyhow::bail!("terminated"),
        }
    })
}
