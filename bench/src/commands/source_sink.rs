//! `source-sink`: the delivery check from outside, with Postfix's `smtp-source` and `smtp-sink`.

use super::{Setting, Work, run};
use crate::mta::Which;
use crate::place::Folder;
use crate::tools::{self, SmtpSink, SmtpSource};
use crate::watch;
use anyhow::{Result, ensure};
use bench::sink::{Keep, Obliging, Sink};
use clap::Args;
use godwit_kit::net::Net;
use std::net::{Ipv4Addr, SocketAddr};

#[derive(Debug, Args)]
pub struct SourceSink {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    setting: Setting,
}

impl SourceSink {
    pub async fn run(&self) -> Result<()> {
        let folder = Folder::new(&self.setting.base())?;
        let reference = self.reference(&folder).await?;
        let dump = folder.inner("dump")?;
        let sink = SmtpSink::start(folder.path(), Some(&dump)).await?;
        let mut mta = self.which.start(folder.path(), sink.address(), &self.setting.set).await?;
        let figures = run::tools(Some(&mut mta), &self.work, (&sink, folder.path()), self.setting.stall()).await?;
        println!("{}, with smtp-source and a smtp-sink that writes to disk: {figures}", self.which.name());
        let (promised, came) = (self.work.messages as usize, tools::read_dump(&dump)?);
        println!(
            "promised {promised} came {} distinct {} bodies {}",
            came.messages,
            came.message_ids.len(),
            came.bodies.len()
        );
        ensure!(came.messages == promised, "promised {promised} and came {}", came.messages);
        ensure!(came.message_ids.len() == promised, "some came twice and others not at all");
        ensure!(came.bodies.iter().eq([&reference]), "a body was changed");
        println!("equal numbers, nothing twice, every body as smtp-source sends it");
        Ok(())
    }

    /// The digest of the body that `smtp-source` gives to all its messages: one sent straight into our own sink.
    async fn reference(&self, folder: &Folder) -> Result<[u8; 32]> {
        let sink = Sink::start(&Net::Tcp, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Keep::Content, Obliging).await?;
        let mut source = SmtpSource::start(folder.path(), sink.address(), [1, self.work.size as usize, 1])?;
        let done = || Ok(source.is_done()? && sink.count() == 1);
        watch::until("smtp-source into our sink", self.setting.stall(), done, || sink.count()).await?;
        Ok(tools::body_sum(&sink.taken()[0].content))
    }
}
