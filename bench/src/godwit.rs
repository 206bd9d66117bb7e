//! Godwit as one process with every service in it, on embedded defaults but for its folder and its ports.

use crate::place;
use anyhow::{Context, Result, bail};
use bench::process::{self, Process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// From the start of the process to its listener.
const START_TIME_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Godwit {
    smtp: SocketAddr,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Process,
}

impl Godwit {
    /// Runs in `folder`, sends everything to `sink`; `settings` lie over everything else.
    ///
    /// # Errors
    /// A program that does not start or does not listen.
    pub async fn start(program: &Path, folder: &Path, sink: SocketAddr, settings: &[String]) -> Result<Self> {
        let program = program.canonicalize().with_context(|| format!("{}: build it first", program.display()))?;
        let [grpc, smtp, http, socks] = place::ports()?;
        let data = folder.join("data");
        let sections = ["throttle", "tsa", "proxy", "queue", "ingress", "egress", "gateway"];
        let own = [
            format!("server.data_dir={:?}", data.display().to_string()),
            format!("server.listen={:?}", grpc.to_string()),
            format!("ingress.listeners=[{{listen={:?}}}]", smtp.to_string()),
            format!("gateway.listen={:?}", http.to_string()),
            format!("proxy.listen={:?}", socks.to_string()),
            format!("egress.routes.\"*\".hosts=[{:?}]", sink.to_string()),
        ];
        let placed = sections.iter().map(|section| format!("{section}={{}}"));
        let set = placed.chain(own).chain(settings.iter().cloned()).flat_map(|setting| ["--set".into(), setting]);
        let arguments: Vec<String> = std::iter::once("serve".into()).chain(set).collect();
        let log = folder.join("godwit.log");
        let process = Process::start(&program, &arguments, &log).context("godwit")?;
        let mut godwit = Self { smtp, program, arguments, log, process };
        godwit.wait().await?;
        Ok(godwit)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().context("kill -9")
    }

    /// Again, after a kill, on the same folder and ports.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Process::start(&self.program, &self.arguments, &self.log).context("godwit")?;
        self.wait().await
    }

    async fn wait(&mut self) -> Result<()> {
        let listening = process::listening(self.smtp, START_TIME_MAX);
        tokio::pin!(listening);
        loop {
            tokio::select! {
                result = &mut listening => {
                    self.check()?;
                    return result.with_context(|| format!("godwit\n{}", place::tail(&self.log)));
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => self.check()?,
            }
        }
    }

    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.process.ended()? {
            Some(status) => bail!("godwit has ended ({status}); the end of its log:\n{}", place::tail(&self.log)),
            None => Ok(()),
        }
    }

    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&process::tree(self.process.id()))
    }
}
