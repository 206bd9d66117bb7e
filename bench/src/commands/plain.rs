//! `sink` and `load`: the two ends alone, for runs that something else arranges.

use super::{Work, input_ended};
use anyhow::{Result, ensure};
use bench::load::{PATIENCE, Supply};
use bench::sink::{Keep, Obliging, Sink};
use clap::{Args, ValueEnum};
use godwit_kit::net::Net;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const REPORT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeepWhat {
    /// Their number.
    Count,
    /// Ids and digests; duplicates are an error.
    Sums,
}

/// Takes everything, and says each second how much.
#[derive(Debug, Args)]
pub struct SinkCommand {
    #[arg(long, default_value = "127.0.0.1:2526")]
    listen: SocketAddr,
    #[arg(long, value_enum, default_value = "count")]
    keep: KeepWhat,
    /// Ends after so many messages.
    #[arg(long)]
    count: Option<usize>,
    /// Ends when standard input does.
    #[arg(long)]
    until_eof: bool,
    /// With --keep sums: prints the ids as they come, a line each.
    #[arg(long)]
    list: bool,
    /// Ends after so many seconds; with --count not reached, that is an error.
    #[arg(long, default_value_t = 3_600)]
    seconds: u64,
}

impl SinkCommand {
    pub async fn run(&self) -> Result<()> {
        let keep = match self.keep {
            KeepWhat::Count => Keep::Count,
            KeepWhat::Sums => Keep::Sums,
        };
        let sink = Sink::start(&Net::Tcp, self.listen, keep, Obliging).await?;
        println!("listening at {}", sink.address());
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let target = self.count.unwrap_or(usize::MAX);
        let told = input_ended(self.until_eof);
        tokio::pin!(told);
        let mut before = 0;
        while sink.count() < target && Instant::now() < end {
            tokio::select! {
                () = &mut told => break,
                () = sink.wait_for(target) => {}
                () = tokio::time::sleep(REPORT_EVERY) => {}
            }
            let count = sink.count();
            if self.list {
                sink.sums().iter().skip(before).for_each(|(id, _)| println!("{id}"));
            }
            if count != before {
                println!(
                    "{count} messages, {} in the last second, {} connections",
                    count - before,
                    sink.open_connection_count()
                );
            }
            before = count;
        }
        if let KeepWhat::Sums = self.keep {
            let sums = sink.sums();
            let ids: HashSet<&str> = sums.iter().map(|(id, _)| id.as_str()).collect();
            println!("{} messages, {} ids", sums.len(), ids.len());
            ensure!(sums.len() == ids.len(), "{} came more than once", sums.len() - ids.len());
        }
        ensure!(self.count.is_none_or(|count| sink.count() >= count), "only {} came", sink.count());
        Ok(())
    }
}

/// Sends to an address on this machine, and fails unless everything is taken.
#[derive(Debug, Args)]
pub struct LoadCommand {
    #[arg(long, default_value = "127.0.0.1:2525")]
    to: SocketAddr,
    #[command(flatten)]
    work: Work,
}

impl LoadCommand {
    pub async fn run(&self) -> Result<()> {
        ensure!(self.to.ip().is_loopback(), "--to {}: only loopback", self.to);
        let load = self.work.load(vec![self.to.to_string()]);
        let messages = load.make();
        let start = Instant::now();
        let sent = load.start(&Net::Tcp, Supply::Made(messages), PATIENCE).finish().await;
        let seconds = start.elapsed().as_secs_f64();
        let rate = sent.accepted.len() as f64 / seconds;
        println!("250 for {} in {seconds:.2} s, {rate:.0} messages/s", sent.accepted.len());
        println!("refused {} {:?}, outcome unknown {}", sent.refused_count, sent.refusals, sent.unknown.len());
        ensure!(sent.accepted.len() == load.count, "not everything was taken");
        Ok(())
    }
}
