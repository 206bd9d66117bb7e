//! Keeps a file sink going: reads the log, writes what it read, and begins again from the cursor after any failure.

use super::Config;
use super::segments::Segments;
use crate::events::progress::Reporter;
use crate::events::{Log, Page, json};
use crate::spool::disk::{Disk, RealDisk};
use godwit_kit::Host;
use godwit_proto::common::v1::{Event, EventKind};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What is read, compressed and synced at once.
const EVENTS_MAX: usize = 8_192;
const BYTES_MAX: usize = 8 << 20;

const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Starts the configured sinks; they end with the host, once what is there has been written.
pub fn start(sinks: &[Config], data_dir: &Path, log: &Log, host: &Host) {
    for config in sinks {
        let dir = data_dir.join(&config.dir);
        let folder = move || Ok(Arc::new(RealDisk::at(&dir)?) as Arc<dyn Disk>);
        let sink = Sink {
            reporter: log.reporter(config.name()),
            kinds: config.events.iter().filter_map(|name| json::kind(name)).collect(),
            config: config.clone(),
            folder: Arc::new(folder),
            log: log.clone(),
            host: host.clone(),
        };
        host.stop.spawn(sink.run());
    }
}

struct Sink {
    config: Config,
    /// Empty: all.
    kinds: HashSet<EventKind>,
    folder: Arc<dyn Fn() -> io::Result<Arc<dyn Disk>> + Send + Sync>,
    log: Log,
    reporter: Reporter,
    host: Host,
}

impl Sink {
    async fn run(self) {
        let mut retry = RETRY_MIN;
        while let Err(error) = self.write_on(&mut retry).await {
            self.reporter.failed(&error, *self.log.newest().borrow());
            tokio::select! {
                () = self.host.clock.sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
                () = self.host.stop.requested() => return,
            }
        }
    }

    /// Writes until the host stops, or something fails.
    async fn write_on(&self, retry: &mut Duration) -> Result<(), String> {
        let mut segments = self.open().await?;
        loop {
            self.wait(&segments).await;
            let is_last = self.host.stop.is_requested();
            while segments.next_seq() <= *self.log.newest().borrow() {
                segments = self.copy(segments).await?;
                *retry = RETRY_MIN;
                self.reporter.at(self.log.cursor(segments.next_seq()), *self.log.newest().borrow());
            }
            if is_last {
                return Ok(());
            }
            let now = self.host.clock.now();
            if segments.finish_at().is_some_and(|at| at <= now) {
                segments = blocking(move || segments.commit(now).map(|()| segments)).await?;
            }
        }
    }

    async fn open(&self) -> Result<Segments, String> {
        let (folder, config) = (self.folder.clone(), self.config.clone());
        let (log_id, newest) = (self.log.log_id(), *self.log.newest().borrow());
        let segments = blocking(move || Segments::open(folder()?, &config, &log_id, newest)).await?;
        self.reporter.at(self.log.cursor(segments.next_seq()), newest);
        Ok(segments)
    }

    /// Until events are there and have been gathered a while, or the open file is old, or the host stops.
    async fn wait(&self, segments: &Segments) {
        let events = async {
            self.log.reaches(segments.next_seq()).await;
            self.host.clock.sleep(self.config.flush_interval).await;
        };
        let age = async {
            match segments.finish_at() {
                Some(at) => self.host.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = events => {}
            () = age => {}
            () = self.host.stop.requested() => {}
        }
    }

    /// One page from the log to the disk.
    async fn copy(&self, mut segments: Segments) -> Result<Segments, String> {
        let page =
            self.log.read(segments.next_seq(), EVENTS_MAX, BYTES_MAX).await.map_err(|error| error.to_string())?;
        let (gap, next, now) = (page.gap, page.next, self.host.clock.now());
        let (kinds, log) = (self.kinds.clone(), self.log.clone());
        let segments = blocking(move || {
            let lines = lines(&page, &log, |event| kinds.is_empty() || kinds.contains(&event.kind()));
            segments.append(&lines, next, now)?;
            Ok(segments)
        });
        let segments = segments.await?;
        if let Some(gap) = gap {
            self.reporter.lost(&gap);
        }
        Ok(segments)
    }
}

fn lines(page: &Page, log: &Log, is_wanted: impl Fn(&Event) -> bool) -> Vec<u8> {
    let mut lines = Vec::new();
    if let Some(gap) = &page.gap {
        json::write_gap(&mut lines, gap, &log.log_id(), log.node());
    }
    page.events.iter().filter(|event| is_wanted(event)).for_each(|event| json::write_line(&mut lines, event));
    lines
}

/// Runs disk work off the async threads. What was being written when it failed is opened anew.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
