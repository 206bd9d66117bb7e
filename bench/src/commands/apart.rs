//! `apart`: every service in a process of its own beside all in one, on the same work, by turns: messages a second, CPU by
//! service, and what rides in one call.

use super::compare::Spread;
use super::run::{self, Figures};
use super::{Setting, Work};
use crate::apart::Apart;
use crate::mta::{Mta, Which};
use crate::place::{self, Folder};
use anyhow::{Result, ensure};
use bench::http;
use bench::sink::{Keep, Obliging, Sink};
use clap::Args;
use godwit_kit::net::Net;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Beside {
    /// The binary `godwit`; the services' own are beside it.
    #[arg(long, value_name = "PATH")]
    godwit: PathBuf,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    /// Mutual TLS between the services.
    #[arg(long)]
    tls: bool,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    setting: Setting,
}

/// One run of the services apart.
struct Run {
    figures: Figures,
    /// CPU seconds by service.
    cpu: BTreeMap<&'static str, f64>,
    /// Calls that came in, by call.
    calls: BTreeMap<&'static str, f64>,
}

/// The calls that mail rides in.
const CALLS: [&str; 10] = [
    "QueueService/Enqueue",
    "QueueService/Lease",
    "QueueService/Settle",
    "QueueService/Renew",
    "QueueService/Route",
    "TsaService/Observe",
    "ThrottleService/AcquireSlots",
    "ThrottleService/Acquire",
    "ThrottleService/Heartbeat",
    "ThrottleService/ReleaseSlots",
];

impl Beside {
    pub async fn run(&self) -> Result<()> {
        let Work { messages, size, connections, .. } = self.work;
        let kind = place::file_system(&self.setting.base().canonicalize()?);
        let tls = if self.tls { "mutual TLS" } else { "plaintext" };
        println!(
            "{messages} messages of {size} bytes over {connections} connections, {} pairs, {tls}, on {kind}",
            self.pairs
        );
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for pair in 0..self.pairs {
            // By turns, so that a machine that gets slower or faster favours neither.
            if pair % 2 == 1 {
                far.push(self.far().await?);
            }
            near.push(self.near().await?);
            if pair % 2 == 0 {
                far.push(self.far().await?);
            }
        }
        let show = |name: &str, runs: &[Figures]| {
            let rates = Spread::of(runs.iter().map(Figures::per_second)).show(0);
            let cpu = Spread::of(runs.iter().map(Figures::cpu_per_thousand)).show(3);
            println!("{name:26}  {rates:>26}  {cpu:>24}");
        };
        println!("\n{:26}  {:>26}  {:>24}", "", "delivered messages/s", "CPU s per 1,000");
        show("in one process", &near);
        show("apart", &far.iter().map(|run| run.figures).collect::<Vec<_>>());
        let rates = near.iter().zip(&far).map(|(near, far)| far.figures.per_second() / near.per_second());
        let cpu = near.iter().zip(&far).map(|(near, far)| far.figures.cpu_per_thousand() / near.cpu_per_thousand());
        println!("{:26}  {:>26}  {:>24}", "apart / one, by pair", Spread::of(rates).show(2), Spread::of(cpu).show(2));
        let thousands = f64::from(messages) / 1_000.0;
        for name in far[0].cpu.keys() {
            let cpu = Spread::of(far.iter().map(|run| run.cpu[name] / thousands)).show(3);
            println!("  {name:24}  {:>26}  {cpu:>24}", "");
        }
        println!("\n{:26}  {:>26}  {:>24}", "call", "calls per 1,000 messages", "messages a call");
        for call in CALLS {
            let per_thousand = Spread::of(far.iter().map(|run| run.calls[call] / thousands));
            let batch = Spread::of(far.iter().map(|run| f64::from(messages) / run.calls[call].max(1.0)));
            println!("  {call:30}  {:>20}  {:>24}", per_thousand.show(1), batch.show(1));
        }
        Ok(())
    }

    async fn near(&self) -> Result<Figures> {
        let (folder, sink) = self.ends().await?;
        let which = Which { godwit: Some(self.godwit.clone()), postfix: false };
        let mut mta = which.start(folder.path(), sink.address(), &self.setting.set).await?;
        let figures = self.measure(&mut mta, &sink).await?;
        println!("  in one process  {figures}");
        Ok(figures)
    }

    async fn far(&self) -> Result<Run> {
        let (folder, sink) = self.ends().await?;
        let settings = (self.setting.set.as_slice(), self.tls);
        let mut mta = Mta::Apart(Apart::start(&self.godwit, folder.path(), sink.address(), settings).await?);
        let before = readings(&mta).await?;
        let figures = self.measure(&mut mta, &sink).await?;
        let after = readings(&mta).await?;
        println!("  apart           {figures}");
        let cpu = after.0.iter().map(|(name, seconds)| (*name, seconds - before.0[name])).collect();
        let calls = after.1.iter().map(|(call, count)| (*call, count - before.1[call])).collect();
        Ok(Run { figures, cpu, calls })
    }

    async fn ends(&self) -> Result<(Folder, Sink)> {
        let folder = Folder::new(&self.setting.base())?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok((folder, Sink::start(&Net::Tcp, at, Keep::Count, Obliging).await?))
    }

    async fn measure(&self, mta: &mut Mta, sink: &Sink) -> Result<Figures> {
        let load = self.work.load(vec![mta.smtp().to_string()]);
        let (sent, figures) = run::own(Some(mta), &load, sink, self.setting.stall()).await;
        let figures = figures?;
        let (all, taken, came) = (self.work.messages as usize, sent.accepted.len(), sink.count());
        ensure!(taken == all && came == all, "sent {all}, promised {taken}, came {came}; refusals {:?}", sent.refusals);
        Ok(figures)
    }
}

/// CPU seconds by service, and calls by call.
type Readings = (BTreeMap<&'static str, f64>, BTreeMap<&'static str, f64>);

async fn readings(mta: &Mta) -> Result<Readings> {
    let Mta::Apart(apart) = mta else { return Ok(Readings::default()) };
    let (mut cpu, mut calls) = (BTreeMap::new(), BTreeMap::from(CALLS.map(|call| (call, 0.0))));
    for part in apart.parts() {
        cpu.insert(part.name, part.cpu_seconds());
        let text = part.metrics().await?;
        for (call, count) in &mut calls {
            *count += http::sum(&text, "godwit_grpc_calls_total", &format!(".{call}\""));
        }
    }
    Ok((cpu, calls))
}
