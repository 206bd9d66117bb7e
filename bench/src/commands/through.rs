//! `through`: the delivery check on an MTA that somebody else has started: containers, a cluster.

use super::law::{self, Law, Verdict};
use super::{Work, input_ended, run};
use crate::watch;
use anyhow::{Context, Result, ensure};
use bench::load::{Load, PATIENCE, Running, Supply};
use bench::sink::{Action, Behaviour, Keep, Sink};
use clap::Args;
use godwit_kit::net::Net;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct Through {
    /// An SMTP listener of the MTA. May be repeated: connections go to them by turns.
    #[arg(long, required = true, value_name = "HOST:PORT")]
    to: Vec<String>,
    /// Where the sink listens; the MTA's routes lead here.
    #[arg(long, default_value = "0.0.0.0:2526", value_name = "ADDRESS:PORT")]
    sink: SocketAddr,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    answers: Answers,
    /// Messages a second at the most.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// The load ends after so many seconds, even where --messages is not reached.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=36_000))]
    seconds: Option<u64>,
    /// The load ends when standard input does, even where --messages is not reached.
    #[arg(long)]
    until_eof: bool,
    /// Listeners may go away and refuse. They are tried again, and the law is that no promise is lost; duplicates are counted.
    #[arg(long)]
    faults: bool,
    /// Says each second how far it is, as a line of JSON.
    #[arg(long)]
    progress: bool,
    /// The same seed makes the same messages. Default: a random one.
    #[arg(long)]
    seed: Option<u64>,
    /// Without any progress for so many seconds the run has failed.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    stall: u64,
}

/// What the sink answers.
#[derive(Debug, Clone, Args)]
struct Answers {
    /// One recipient in so many is refused, the first to begin with; 0: none.
    #[arg(long, default_value_t = 0)]
    refuse_every: u32,
    #[arg(long, default_value = "451 4.7.1 Try again later", value_name = "REPLY")]
    refuse_with: String,
    /// How long the sink takes over a message, in milliseconds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    message_ms: u64,
}

impl Through {
    pub async fn run(&self) -> Result<()> {
        for to in &self.to {
            ensure_private(to).await?;
        }
        let sink = Sink::start(&Net::Tcp, self.sink, Keep::Sums, Ours::new(&self.answers)).await?;
        let load = self.load();
        println!("{} messages at most, seed {}, to {:?}, sink at {}", load.count, load.plan.seed, self.to, self.sink);
        let patience = if self.faults { self.stall() } else { PATIENCE };
        let start = Instant::now();
        let mut progress = Progress::new(self.progress);
        let running = load.start(&Net::Tcp, Supply::Fresh, patience);
        let loaded = self.until_sent(&running, &sink, &mut progress).await;
        running.stop();
        let sent = running.finish().await;
        let tell = || progress.tell(sent.accepted.len(), &sink);
        let drained = law::drained(&sink, &sent, self.stall(), tell).await;
        let seconds = start.elapsed().as_secs_f64();
        watch::quiet(run::QUIET, run::QUIET_TIME_MAX, || sink.count()).await;
        let verdict = Verdict::of(&sent, &sink);
        println!("{verdict}\n{}", summary(&verdict, &sink, start, seconds));
        loaded?;
        drained?;
        verdict.hold(self.law())
    }

    fn load(&self) -> Load {
        let mut load = Load { rate: self.rate, ..self.work.load(self.to.clone()) };
        load.plan.seed = self.seed.unwrap_or(load.plan.seed);
        load
    }

    fn law(&self) -> Law {
        if self.faults {
            return Law::Kept;
        }
        let ends_early = self.seconds.is_some() || self.until_eof;
        Law::Exact { messages: (!ends_early).then_some(self.work.messages as usize) }
    }

    fn stall(&self) -> Duration {
        Duration::from_secs(self.stall)
    }

    /// Everything is sent, the time is over, or somebody says so.
    async fn until_sent(&self, running: &Running, sink: &Sink, progress: &mut Progress) -> Result<()> {
        let seconds = self.seconds.map_or(Duration::MAX, Duration::from_secs);
        let done = || {
            progress.tell(running.accepted_count(), sink)?;
            Ok(running.is_done())
        };
        tokio::select! {
            result = watch::until("load", self.stall(), done, || sink.count() + running.accepted_count()) => result,
            () = tokio::time::sleep(seconds) => Ok(()),
            () = input_ended(self.until_eof) => Ok(()),
        }
    }
}

/// A load is for machines of one's own.
async fn ensure_private(to: &str) -> Result<()> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(to).await.with_context(|| format!("--to {to}"))?.collect();
    ensure!(addresses.iter().all(|address| is_private(address.ip())), "--to {to}: only loopback and private networks");
    Ok(())
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// The answers, and how many recipients there were.
struct Ours {
    answers: Answers,
    recipients: AtomicU32,
}

impl Ours {
    fn new(answers: &Answers) -> Self {
        Self { answers: answers.clone(), recipients: AtomicU32::new(0) }
    }
}

impl Behaviour for Ours {
    fn rcpt(&self, _argument: &str) -> Action {
        let before = self.recipients.fetch_add(1, Ordering::Relaxed);
        let every = self.answers.refuse_every;
        let refused = every > 0 && before.is_multiple_of(every);
        if refused { Action::Reply(self.answers.refuse_with.clone()) } else { Action::Usual }
    }

    fn dot(&self, _content: &[u8]) -> Action {
        match self.answers.message_ms {
            0 => Action::Usual,
            time => Action::Wait(Duration::from_millis(time)),
        }
    }
}

/// Tells how far it is, now and then.
struct Progress {
    wanted: bool,
    start: Instant,
    told: Instant,
}

impl Progress {
    fn new(wanted: bool) -> Self {
        let now = Instant::now();
        Self { wanted, start: now, told: now }
    }

    #[expect(clippy::unnecessary_wraps, reason = "stands where a run's own check stands")]
    fn tell(&mut self, accepted: usize, sink: &Sink) -> Result<()> {
        if self.wanted && self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let connections_max = sink.take_recent_connections_max();
            let seconds = self.start.elapsed().as_secs_f64();
            let line = json!({
                "seconds": seconds, "accepted": accepted, "came": sink.count(), "connections_max": connections_max,
            });
            println!("{line}");
        }
        Ok(())
    }
}

/// The last line, for programs.
fn summary(verdict: &Verdict, sink: &Sink, start: Instant, seconds: f64) -> serde_json::Value {
    let (messages_max, at) = sink.messages_per_second_max();
    let at = at.map(|at| (at - start).as_secs_f64());
    let account = &verdict.account;
    json!({
        "promised": account.promised, "came": account.came, "lost": account.lost.len(),
        "changed": account.changed.len(), "duplicates": account.duplicates, "unpromised": account.unpromised,
        "refused": verdict.refused, "unknown": verdict.unknown,
        "seconds": seconds, "per_second": account.came as f64 / seconds,
        "connections_max": sink.connections_max(), "messages_per_second_max": messages_max, "messages_per_second_max_at": at,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Command;
    use super::*;
    use clap::Parser;

    /// Straight into its own sink, which stands for an MTA that does everything right.
    async fn through(more: &[&str]) -> Result<()> {
        let [port] = crate::place::ports::<1>()?;
        let port = port.to_string();
        let fixed = ["godwit-bench", "through", "--to", &port, "--sink", &port, "--size", "300", "--connections", "3"];
        Command::try_parse_from(fixed.iter().chain(more))?.run().await
    }

    #[tokio::test]
    async fn everything_once_is_lawful() {
        through(&["--messages", "120"]).await.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_a_fault_unless_faults_are_expected() {
        let refusing = ["--messages", "60", "--refuse-every", "7"];
        let error = through(&refusing).await.unwrap_err().to_string();
        assert_eq!(error, "only 51 of 60 were taken");
        through(&[&refusing[..], &["--faults"]].concat()).await.unwrap();
    }

    #[tokio::test]
    async fn a_load_with_a_time_ends_by_it() {
        through(&["--messages", "1000000", "--rate", "50", "--seconds", "1"]).await.unwrap();
    }

    #[tokio::test]
    async fn no_load_for_other_peoples_machines() {
        for to in ["192.0.2.1:25", "[2001:db8::1]:25"] {
            let error = ensure_private(to).await.unwrap_err().to_string();
            assert_eq!(error, format!("--to {to}: only loopback and private networks"));
        }
        for to in ["127.0.0.1:25", "172.18.0.2:2525", "[fd00::1]:25"] {
            ensure_private(to).await.unwrap();
        }
    }
}
