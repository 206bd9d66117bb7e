//! `kill`: SIGKILL at random instants under load. Every promise outlives it, and duplicates stay within their bound.

use super::law::{self, Law, Verdict};
use super::{Setting, run};
use crate::godwit::Godwit;
use crate::place::{self, Folder};
use crate::watch;
use anyhow::{Result, ensure};
use bench::generate::{self, Plan};
use bench::load::{Load, Running, Sent, Supply};
use bench::sink::{Keep, Obliging, Sink};
use clap::Args;
use godwit_kit::net::Net;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The load waits so long for a restart.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long an egress is given after a restart to say what it still holds. Shorter than the default, so that what was
/// recovered is on its way again when the next kill comes.
const GRACE: &str = "queue.restart_grace=1s";
/// In which all that is still queued would come.
const AFTERMATH: Duration = Duration::from_secs(6);

#[derive(Debug, Args)]
pub struct Kill {
    /// The binary `godwit`.
    #[arg(long, value_name = "PATH")]
    godwit: PathBuf,
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// The same seed gives the same instants. Default: a random one.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Of each message, in bytes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    size: u32,
    /// The longest time from a start to its kill, in milliseconds.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    up_ms_max: u64,
    /// Messages sent in all.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages_max: u32,
    /// `egress.unsettled_per_connection_max`: with the connections it bounds the duplicates.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    #[command(flatten)]
    setting: Setting,
}

impl Kill {
    pub async fn run(&self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(generate::seed);
        let folder = Folder::new(&self.setting.base())?;
        let sink = Sink::start(&Net::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Keep::Sums, Obliging).await?;
        let batch = format!("egress.unsettled_per_connection_max={}", self.batch);
        let settings: Vec<String> = [GRACE.into(), batch].into_iter().chain(self.setting.set.iter().cloned()).collect();
        println!("seed {seed}, {} rounds, {settings:?}, on {}", self.rounds, place::file_system(folder.path()));
        let mut godwit = Godwit::start(&self.godwit, folder.path(), sink.address(), &settings).await?;
        let load = self.load(&godwit, seed).start(&Net::Tcp, Supply::Fresh, PATIENCE);
        let bound = self.rounds(&mut godwit, &sink, &load, seed).await?;
        load.stop();
        let sent = load.finish().await;
        let drained = self.drain(&mut godwit, &sink, &sent).await;
        let verdict = Verdict::of(&sent, &sink);
        println!("{verdict}");
        let duplicates = verdict.account.duplicates;
        println!("duplicates {duplicates} of at most {bound} (connections at each kill times {})", self.batch);
        drained?;
        verdict.hold(Law::Kept)?;
        ensure!(duplicates <= bound, "more duplicates than the bound");
        ensure!(sent.accepted.len() > self.rounds as usize, "almost nothing was taken: no load, no proof");
        after_one_more_restart(&mut godwit, &sink).await?;
        println!("no promise lost in {} kills, nothing left in the queue", self.rounds);
        Ok(())
    }

    fn load(&self, godwit: &Godwit, seed: u64) -> Load {
        let plan = Plan { seed, size_bytes: self.size as usize, domains: vec!["a.example".into(), "b.example".into()] };
        let (connections, count) = (self.connections as usize, self.messages_max as usize);
        Load { to: vec![godwit.smtp().to_string()], connections, plan, first: 0, count, rate: None }
    }

    /// How many duplicates there may be.
    async fn rounds(&self, godwit: &mut Godwit, sink: &Sink, load: &Running, seed: u64) -> Result<usize> {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut bound = 0;
        for round in 1..=self.rounds {
            let up = Duration::from_millis(random.random_range(0..self.up_ms_max));
            tokio::time::sleep(up).await;
            godwit.check()?;
            ensure!(!load.is_done(), "the load has ended before the last kill: raise --messages-max");
            let connections = sink.open_connection_count();
            godwit.kill()?;
            bound += connections * self.batch as usize;
            let (up, accepted, came, start) = (up.as_millis(), load.accepted_count(), sink.count(), Instant::now());
            godwit.restart().await?;
            let down = start.elapsed().as_millis();
            println!(
                "kill {round:2} after {up:4} ms: 250 for {accepted}, came {came}, {connections} connections; up again in {down} ms"
            );
        }
        Ok(bound)
    }

    async fn drain(&self, godwit: &mut Godwit, sink: &Sink, sent: &Sent) -> Result<()> {
        println!("250 for {}, came {}; draining", sent.accepted.len(), sink.count());
        law::drained(sink, sent, self.setting.stall(), || godwit.check()).await?;
        watch::quiet(run::QUIET, run::QUIET_TIME_MAX, || sink.count()).await;
        Ok(())
    }
}

/// What has been delivered and settled does not come back, and nothing has stayed behind.
async fn after_one_more_restart(godwit: &mut Godwit, sink: &Sink) -> Result<()> {
    let before = sink.count();
    godwit.kill()?;
    godwit.restart().await?;
    tokio::time::sleep(AFTERMATH).await;
    let more = sink.count() - before;
    ensure!(more == 0, "{more} more came after a further restart: they were left in the queue, or came back");
    Ok(())
}
