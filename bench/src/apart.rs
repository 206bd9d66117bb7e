//! Godwit with each service in a process of its own, by the services' own binaries, on loopback.

use crate::place;
use anyhow::{Context, Result, bail, ensure};
use bench::http;
use bench::process::{self, Process};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// From the start of the processes until all are ready.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// Leaves first, and what each calls.
const SERVICES: [(&str, &[&str]); 6] = [
    ("throttle", &[]),
    ("tsa", &[]),
    ("proxy", &[]),
    ("queue", &["throttle", "tsa"]),
    ("ingress", &["queue"]),
    ("egress", &["queue", "throttle", "tsa"]),
];

/// All of them.
#[derive(Debug)]
pub struct Apart {
    smtp: SocketAddr,
    parts: Vec<Part>,
}

/// One service.
#[derive(Debug)]
pub struct Part {
    pub name: &'static str,
    process: Process,
    http: SocketAddr,
    log: PathBuf,
}

/// Where everything is.
struct Plan<'a> {
    folder: &'a Path,
    /// By the services' order.
    grpc: &'a [SocketAddr],
    status: &'a [SocketAddr],
    certs: Option<PathBuf>,
    /// SMTP in, SOCKS5, and the sink.
    ends: [SocketAddr; 3],
    settings: &'a [String],
}

impl Plan<'_> {
    /// Of the service at `place` of the order.
    fn settings(&self, place: usize, needs: &[&str]) -> impl Iterator<Item = String> {
        let (name, _) = SERVICES[place];
        let [smtp, socks, sink] = self.ends.map(|address| format!("{:?}", address.to_string()));
        let mut set = vec![
            format!("server.data_dir={:?}", self.folder.join(name).display().to_string()),
            format!("server.listen={:?}", self.grpc[place].to_string()),
            format!("telemetry.listen={:?}", self.status[place].to_string()),
        ];
        let scheme = if self.certs.is_some() { "https" } else { "http" };
        let peers = SERVICES.iter().zip(self.grpc).filter(|((peer, _), _)| needs.contains(peer));
        set.extend(peers.map(|((peer, _), at)| format!("peers.{peer}=[\"{scheme}://{at}\"]")));
        if let Some(certs) = &self.certs {
            let file = |name: String| format!("{:?}", certs.join(name).display().to_string());
            let (cert, key, ca) = (file(format!("{name}.pem")), file(format!("{name}.key")), file("ca.pem".into()));
            set.push(format!("server.tls={{cert={cert},key={key},client_ca={ca}}}"));
            set.push(format!("peers.tls={{cert={cert},key={key},ca={ca}}}"));
        }
        match name {
            "ingress" => set.push(format!("ingress.listeners=[{{listen={smtp}}}]")),
            "egress" => set.push(format!("egress.routes.\"*\".hosts=[{sink}]")),
            "proxy" => set.push(format!("proxy.listen={socks}")),
            _ => {}
        }
        set.extend(self.settings.iter().filter(|setting| setting.starts_with(name)).cloned());
        set.into_iter()
    }
}

impl Apart {
    /// Runs in `folder`, sends everything to `sink`; over mutual TLS where `tls`. The services' binaries are beside `godwit`.
    ///
    /// # Errors
    /// A program that is not there, does not start, or does not get ready.
    pub async fn start(
        godwit: &Path,
        folder: &Path,
        sink: SocketAddr,
        (settings, tls): (&[String], bool),
    ) -> Result<Self> {
        let godwit = godwit.canonicalize().with_context(|| format!("{}: build it first", godwit.display()))?;
        let binaries = godwit.parent().context("no folder of binaries")?;
        let [smtp, socks] = place::ports()?;
        let ports: [SocketAddr; 12] = place::ports()?;
        let (grpc, status) = ports.split_at(SERVICES.len());
        let certs = tls.then(|| certificates(&godwit, folder)).transpose()?;
        let plan = Plan { folder, grpc, status, certs, ends: [smtp, socks, sink], settings };
        let mut parts = Vec::new();
        for (place, (name, needs)) in SERVICES.into_iter().enumerate() {
            let arguments: Vec<String> = plan.settings(place, needs).flat_map(|set| ["--set".into(), set]).collect();
            let program = binaries.join(format!("svc-{name}"));
            ensure!(program.is_file(), "{}: build it first", program.display());
            let log = folder.join(format!("{name}.log"));
            let process = Process::start(&program, &arguments, &log).with_context(|| format!("svc-{name}"))?;
            parts.push(Part { name, process, http: status[place], log });
        }
        let mut apart = Self { smtp, parts };
        apart.wait().await?;
        Ok(apart)
    }

    async fn wait(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + START_TIME_MAX;
        loop {
            self.check()?;
            let mut waiting = Vec::new();
            for part in &self.parts {
                match http::get(part.http, "/healthz/ready").await {
                    Ok((200, _)) => {}
                    Ok((_, why)) => waiting.push(format!("{}: {why}", part.name)),
                    Err(error) => waiting.push(format!("{}: {error:#}", part.name)),
                }
            }
            if waiting.is_empty() {
                return Ok(());
            }
            ensure!(tokio::time::Instant::now() < deadline, "not ready: {}", waiting.join("; "));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// # Errors
    /// One of them has ended.
    pub fn check(&mut self) -> Result<()> {
        for part in &mut self.parts {
            if let Some(status) = part.process.ended()? {
                bail!("svc-{} has ended ({status}); the end of its log:\n{}", part.name, place::tail(&part.log));
            }
        }
        Ok(())
    }

    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.parts.iter().map(Part::cpu_seconds).sum()
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Part {
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&[self.process.id()])
    }

    /// In Prometheus' text format.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn metrics(&self) -> Result<String> {
        http::get(self.http, "/metrics").await.map(|(_, text)| text)
    }
}

/// Of an authority of the run's own.
fn certificates(godwit: &Path, folder: &Path) -> Result<PathBuf> {
    let dir = folder.join("certs");
    let mut command = Command::new(godwit);
    command.args(["certs", "--dir"]).arg(&dir).args(SERVICES.map(|(name, _)| name));
    let output = command.output().context("godwit certs")?;
    ensure!(output.status.success(), "godwit certs: {}", String::from_utf8_lossy(&output.stderr));
    Ok(dir)
}
