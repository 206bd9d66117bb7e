//! Folders and ports of a run: the folders are removed afterwards, the ports can be bound again and again.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// Below the ports that the system gives to outgoing connections: while the MTA is down nobody else may get its port, nor
/// may a client that tries to reach it connect to itself.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A folder, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// # Errors
    /// Those of the system.
    pub fn new(base: &Path) -> Result<Self> {
        let name = format!("godwit-bench-{}-{:08x}", std::process::id(), bench::generate::seed());
        let path = base.join(name);
        std::fs::create_dir(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(Self(path.canonicalize()?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// An empty folder in it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn inner(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::create_dir(&path).with_context(|| format!("folder {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("godwit-bench: {} stays: {error}", self.0.display());
        }
    }
}

/// Free ports on loopback.
///
/// # Errors
/// There are not that many.
pub fn ports<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let width = usize::from(PORTS.end - PORTS.start);
    let first = bench::generate::seed() as usize % width;
    let mut found = (0..width).filter_map(|step| {
        let port = PORTS.start + ((first + step) % width) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpListener::bind(address).is_ok().then_some(address)
    });
    let ports: Vec<SocketAddr> = found.by_ref().take(COUNT).collect();
    ports.try_into().ok().context("no free ports on loopback")
}

/// The kind of the file system under `path`, for the report: durable writes cost nothing on tmpfs.
pub fn file_system(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let under = mounts.filter(|(point, _)| path.starts_with(point)).max_by_key(|(point, _)| point.len());
    under.map_or("unknown".into(), |(_, kind)| kind.into())
}

/// The end of a log, for an error.
pub fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let ports = ports::<4>().unwrap();
        let bound: Vec<_> = ports.iter().map(|port| TcpListener::bind(port).unwrap()).collect();
        assert_eq!(bound.len(), 4);
    }

    #[test]
    fn a_folder_goes_with_its_content() {
        let folder = Folder::new(&std::env::temp_dir()).unwrap();
        let path = folder.path().to_path_buf();
        std::fs::write(folder.inner("a").unwrap().join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
