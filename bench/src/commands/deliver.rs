//! `deliver`: everything that was promised comes once and unchanged.

use super::law::{Law, Verdict};
use super::{Setting, Work, run};
use crate::mta::Which;
use crate::place::{self, Folder};
use anyhow::Result;
use bench::sink::{Keep, Obliging, Sink};
use clap::Args;
use godwit_kit::net::Net;
use std::net::{Ipv4Addr, SocketAddr};

#[derive(Debug, Args)]
pub struct Deliver {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    setting: Setting,
}

impl Deliver {
    pub async fn run(&self) -> Result<()> {
        let folder = Folder::new(&self.setting.base())?;
        let sink = Sink::start(&Net::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Keep::Sums, Obliging).await?;
        let mut mta = self.which.start(folder.path(), sink.address(), &self.setting.set).await?;
        let Work { messages, size, connections, .. } = self.work;
        let (name, kind) = (self.which.name(), place::file_system(folder.path()));
        println!("{name}: {messages} messages of {size} bytes over {connections} connections, on {kind}");
        let load = self.work.load(vec![mta.smtp().to_string()]);
        let (sent, figures) = run::own(Some(&mut mta), &load, &sink, self.setting.stall()).await;
        let verdict = Verdict::of(&sent, &sink);
        println!("{verdict}");
        println!("{}", figures?);
        verdict.hold(Law::Exact { messages: Some(messages as usize) })?;
        println!("equal sets, nothing twice");
        Ok(())
    }
}
