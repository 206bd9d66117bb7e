//! A process of a test: services on a runtime of their own, so that its end may be as sudden as a kill.

use super::HANG;
use anyhow::Result;
use gateway::compose::{self, Running};
use godwit_kit::config::{Document, Faults};
use godwit_proto::id::MessageId;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokio::runtime::Runtime;

/// A folder that goes with the test.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("godwit-test-{}", MessageId::new()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Services that run. Dropped, they end at once, whatever they are at.
pub struct Process {
    runtime: Option<Runtime>,
    pub running: Running,
}

impl Process {
    pub async fn start(text: &str) -> Result<Self> {
        let mut faults = Faults::default();
        let document = Document::parse(text, "test", &mut faults);
        assert!(faults.is_empty(), "{faults}\n{text}");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let running = runtime.spawn(async move { compose::start(&document).await }).await?;
        match running {
            Ok(running) => Ok(Self { runtime: Some(runtime), running }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// For a caller without TLS.
    pub fn address(&self) -> String {
        format!("http://{}", self.running.grpc)
    }

    /// One of its figures, over all labels.
    pub fn figure(&self, name: &str) -> u64 {
        let text = self.running.host.metrics.text();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        let value = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
        text.lines().filter(of_name).map(value).sum()
    }

    pub async fn stop(mut self) {
        assert!(self.running.stop().await, "a process did not stop");
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Ends it at once; finished, released or sealed is nothing. Returns when its sockets are closed and it answers nobody.
    pub async fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            tokio::task::spawn_blocking(move || runtime.shutdown_timeout(HANG)).await.unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether no store in this folder is locked: threads that a kill left behind hold on for a moment.
pub fn is_free(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().all(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return is_free(&path);
        }
        let is_lock = path.ends_with("lock") || path.ends_with("db");
        !is_lock || File::open(&path).unwrap().try_lock().is_ok()
    })
}
