//! Starts an MTA as a process of its own, kills it, and reads its CPU time.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// # Errors
    /// A program that cannot be started.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(|_| ())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Returns once something accepts connections at `address`.
///
/// # Errors
/// Nothing does so within `limit`.
pub async fn listening(address: SocketAddr, limit: Duration) -> io::Result<()> {
    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(limit, connected).await.map_err(|_| io::Error::other(format!("nobody listens at {address}")))
}

/// CPU seconds, user and system, of the processes and of those children they have waited for.
pub fn cpu_seconds(ids: &[u32]) -> f64 {
    ids.iter().filter_map(|id| ticks(*id)).sum::<u64>() as f64 / TICKS_PER_SECOND
}

/// Linux gives these in hundredths of a second whatever the kernel's own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

fn ticks(id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Fields 14 to 17 of proc(5); the name in parentheses may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

/// A process and everything below it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut place = 0;
    while let Some(id) = found.get(place).copied() {
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        place += 1;
    }
    found
}
