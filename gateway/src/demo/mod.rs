//! The whole MTA with a make-believe internet around it and a load, told as it happens: the queue's events and the TSA's
//! actions, as anybody may watch them by gRPC.
//!
//! - [`plan`]: which domains there are, how much mail they get, what the MTA is told
//! - [`dns`], [`sink`], [`manners`]: the internet
//! - [`load`], [`client`]: those who send
//! - [`story`], [`reactions`], [`counts`], [`lines`]: what is printed
//!
//! **Invariants**: what is told comes from the MTA, never from what load and sinks know; every port is free, every file is in
//! one folder that goes at the end; any number of demos run beside each other.

mod client;
mod counts;
mod dns;
mod lines;
mod load;
mod manners;
mod plan;
mod reactions;
mod sink;
mod story;
mod teller;

use crate::compose::{self, Running};
use crate::config::Config;
use crate::node::{self, Scratch};
use anyhow::{Context, Result, ensure};
use godwit_kit::Host;
use godwit_kit::config::{Document, Faults};
use godwit_kit::stop::Signals;
use godwit_proto::id::NodeId;
use plan::Plan;
use std::net::SocketAddr;
use std::time::Duration;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    pub length: Duration,
    /// In sum, on the average.
    pub messages_per_second: u32,
    /// Go on after that, until told to end.
    pub keep: bool,
}

/// Runs until its time is over or a signal comes, and takes everything down again.
///
/// # Errors
/// What did not start or stop; or its time was over, and something was not to be seen.
pub async fn run(wish: Wish) -> Result<()> {
    let mut signals = Signals::listen().context("signals")?;
    let plan = Plan::new(wish.messages_per_second);
    let folder = Scratch::new("godwit-demo")?;
    let internet = Internet::start(&plan).await?;
    let mta = start(&plan, &internet, &folder).await?;
    let told = teller::tell(wish, plan, (&mta, internet.dns.at), &mut signals).await;
    let clean = mta.stop().await;
    drop((mta, internet));
    let removed = folder.remove();
    told?;
    ensure!(clean, "some work was still running after {} s", compose::GRACE.as_secs());
    removed
}

/// What lies outside. It ends when dropped.
struct Internet {
    dns: dns::Dns,
    /// By domain.
    sinks: Vec<(&'static str, sink::Sink)>,
}

impl Internet {
    async fn start(plan: &Plan) -> Result<Self> {
        let mut sinks = Vec::new();
        for domain in plan::DOMAINS {
            sinks.push((domain, sink::Sink::start(dns::mail_host(domain), plan.manners(domain)).await?));
        }
        Ok(Self { dns: dns::Dns::start(plan::DOMAINS).await?, sinks })
    }
}

async fn start(plan: &Plan, internet: &Internet, folder: &Scratch) -> Result<Running> {
    let ports: Vec<_> = internet.sinks.iter().map(|(domain, sink)| (*domain, sink.port)).collect();
    let shaping = folder.path().join("shaping.toml");
    node::write_text(&shaping, &plan.shaping(&ports))?;
    let dns: SocketAddr = internet.dns.at;
    let mut faults = Faults::default();
    let document = Document::parse(&plan::configuration(folder.path(), &shaping, dns), "demo", &mut faults);
    ensure!(faults.is_empty(), "{faults}");
    compose::start_on(Config::read(&document)?, Host::new(NodeId::new())).await
}
