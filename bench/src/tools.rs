//! Postfix's own load and sink, as an outside check on ours: `smtp-source` and `smtp-sink`.

use crate::place;
use anyhow::{Context, Result, ensure};
use bench::process::{self, Process};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Waiting to be accepted.
const BACKLOG: usize = 1024;

/// `smtp-sink`, counting.
#[derive(Debug)]
pub struct SmtpSink {
    address: SocketAddr,
    log: PathBuf,
    _process: Process,
}

impl SmtpSink {
    /// Writes each message into a file of its own in `dump`, where that is given.
    ///
    /// # Errors
    /// It is not installed or does not listen.
    pub async fn start(folder: &Path, dump: Option<&Path>) -> Result<Self> {
        let [address] = place::ports()?;
        let log = folder.join("smtp-sink.log");
        let mut arguments: Vec<String> = ["-c", "-h", "sink.example"].map(String::from).into();
        if rustix::process::geteuid().is_root() {
            arguments.extend(["-u".into(), "postfix".into()]);
        }
        if let Some(dump) = dump {
            let owned = std::process::Command::new("chown").arg("postfix").arg(dump).output()?;
            ensure!(owned.status.success(), "no user postfix: install the Debian package postfix");
            arguments.extend(["-d".into(), format!("{}/m.", dump.display())]);
        }
        arguments.extend([address.to_string(), BACKLOG.to_string()]);
        let process = start("smtp-sink", &arguments, &log)?;
        process::listening(address, START_TIME_MAX).await.with_context(|| place::tail(&log))?;
        Ok(Self { address, log, _process: process })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// It writes `sess=1 quit=1 mesg=1` and CR at each change.
    pub fn count(&self) -> usize {
        last_count(&self.log).unwrap_or(0)
    }
}

fn last_count(log: &Path) -> Option<usize> {
    const TAIL_BYTES: u64 = 200;
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let whole = &text[..text.rfind('\r')?];
    whole.rsplit_once("mesg=")?.1.parse().ok()
}

/// `smtp-source`, which fails on the first reply that is not what it hopes for.
#[derive(Debug)]
pub struct SmtpSource {
    process: Process,
    log: PathBuf,
}

impl SmtpSource {
    /// # Errors
    /// It is not installed.
    pub fn start(folder: &Path, to: SocketAddr, [messages, size, sessions]: [usize; 3]) -> Result<Self> {
        let log = folder.join("smtp-source.log");
        let counts = [("-m", messages), ("-l", size), ("-s", sessions)];
        let mut arguments: Vec<String> =
            counts.iter().flat_map(|(flag, count)| [flag.to_string(), count.to_string()]).collect();
        let fixed = ["-d", "-M", "load.bench.example", "-f", "load@bench.example", "-t", "sink@a.example"];
        arguments.extend(fixed.map(String::from));
        arguments.push(to.to_string());
        Ok(Self { process: start("smtp-source", &arguments, &log)?, log })
    }

    /// True once all that it had to send has got its 250.
    ///
    /// # Errors
    /// Something else came.
    pub fn is_done(&mut self) -> Result<bool> {
        let Some(status) = self.process.ended()? else { return Ok(false) };
        ensure!(status.success(), "smtp-source: {status}\n{}", place::tail(&self.log));
        Ok(true)
    }
}

fn start(program: &str, arguments: &[String], log: &Path) -> Result<Process> {
    let process = Process::start(Path::new(program), arguments, log);
    process.with_context(|| format!("{program}: not found; install the Debian package postfix"))
}

/// What `smtp-sink` has written down.
#[derive(Debug, Default)]
pub struct Dump {
    pub messages: usize,
    /// `smtp-source` gives each message one of its own.
    pub message_ids: HashSet<String>,
    /// Of what follows the header.
    pub bodies: HashSet<[u8; 32]>,
}

/// # Errors
/// A file that cannot be read.
pub fn read_dump(folder: &Path) -> Result<Dump> {
    let mut dump = Dump::default();
    for entry in std::fs::read_dir(folder)? {
        let content = std::fs::read(entry?.path())?;
        dump.messages += 1;
        dump.message_ids.extend(message_id(&content));
        dump.bodies.insert(body_sum(&content));
    }
    Ok(dump)
}

fn message_id(content: &[u8]) -> Option<String> {
    let start = memchr::memmem::find(content, b"\nMessage-Id: ")? + 13;
    let end = start + memchr::memchr2(b'\r', b'\n', &content[start..])?;
    Some(String::from_utf8_lossy(&content[start..end]).into_owned())
}

/// With line ends as LF: the dump may keep or drop CR.
pub fn body_sum(content: &[u8]) -> [u8; 32] {
    let plain: Vec<u8> = content.iter().copied().filter(|octet| *octet != b'\r').collect();
    let start = memchr::memmem::find(&plain, b"\n\n").map_or(0, |place| place + 2);
    Sha256::digest(plain[start..].trim_ascii_end()).into()
}
