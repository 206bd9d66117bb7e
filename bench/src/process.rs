//! Starts an MTA as a process of its own, kills it, and reads its CPU time.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Runs `program` in the log's folder, with both its outputs appended to the log, and without configuration from our
    /// own environment.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> io::Result<Self> {
        let output = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.current_dir(log.parent().unwrap_or(Path::new("/")));
        let ours =
            std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("GODWIT__"));
        ours.for_each(|name| {
            command.env_remove(name);
        });
        command.spawn().map(Self)
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// Those of the system.
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(|_| ())
    }

    /// How it ended, where it has.
    ///
    /// # Errors
    /// Those of the system.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
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

/// Places in proc(5)'s stat, counted from what follows the name: the parent, and the first of four times.
const PARENT: usize = 1;
const TIMES: std::ops::Range<usize> = 11..15;

fn ticks(id: u32) -> Option<u64> {
    stat(id)?.get(TIMES)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

fn stat(id: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold spaces.
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(String::from).collect())
}

/// A process and everything below it.
pub fn tree(root: u32) -> Vec<u32> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let ids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    let parents: Vec<(u32, u32)> =
        ids.into_iter().filter_map(|id| Some((id, stat(id)?.get(PARENT)?.parse().ok()?))).collect();
    let mut found = vec![root];
    let mut place = 0;
    while let Some(id) = found.get(place).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == id).map(|(child, _)| *child));
        place += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_the_root_and_its_children() {
        let log = std::env::temp_dir().join(format!("bench-process-{}", std::process::id()));
        let mut child = Process::start(Path::new("/bin/sleep"), &["600".into()], &log).unwrap();
        assert!(tree(std::process::id()).contains(&child.id()));
        assert!(child.ended().unwrap().is_none());
        child.kill().unwrap();
        assert!(!tree(std::process::id()).contains(&child.id()));
        std::fs::remove_file(log).unwrap();
    }
}
