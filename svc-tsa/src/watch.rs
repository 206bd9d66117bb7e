//! One watcher's stream: a snapshot or what it missed, then each change, and a tick when nothing else says we live.
//!
//! A watcher holds no queue of its own: it reads the board's change log from where it is, and where that no longer
//! reaches, it gets a snapshot. So a slow one costs nothing and misses nothing.

use crate::ledger::Ledger;
use godwit_kit::stop::Stop;
use godwit_proto::Replies;
use godwit_proto::tsa::v1::WatchResponse;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const TICK_EVERY: Duration = Duration::from_secs(10);

pub struct Watcher {
    ledger: Arc<Mutex<Ledger>>,
    /// Wakes when the board's version has changed.
    changed: watch::Receiver<u64>,
    stop: Stop,
    instance_id: String,
    version: u64,
    news: VecDeque<WatchResponse>,
    /// Set once the caller has been told where it is.
    greeted: bool,
    tick_at: Instant,
}

impl Watcher {
    pub fn new(ledger: Arc<Mutex<Ledger>>, changed: watch::Receiver<u64>, stop: Stop) -> Self {
        let (instance_id, version, news) = (String::new(), 0, VecDeque::new());
        Self { ledger, changed, stop, instance_id, version, news, greeted: false, tick_at: Instant::now() + TICK_EVERY }
    }

    /// From what the caller knows already.
    pub fn stream(mut self, instance_id: String, version: u64) -> Replies<WatchResponse> {
        (self.instance_id, self.version) = (instance_id, version);
        Box::pin(futures::stream::unfold(self, |mut watcher| async move {
            watcher.next().await.map(|response| (Ok(response), watcher))
        }))
    }

    async fn next(&mut self) -> Option<WatchResponse> {
        loop {
            if let Some(response) = self.news.pop_front() {
                return Some(response);
            }
            if self.greeted && self.tick_at <= Instant::now() {
                return Some(self.tick());
            }
            self.fetch();
            if self.news.is_empty() {
                tokio::select! {
                    () = self.stop.requested() => return None,
                    changed = self.changed.changed() => changed.ok()?,
                    () = tokio::time::sleep_until(self.tick_at) => {}
                }
            }
        }
    }

    fn fetch(&mut self) {
        self.changed.borrow_and_update();
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        self.news = ledger.board.news(&self.instance_id, self.version).into();
        self.version = ledger.board.version();
        self.instance_id.clone_from(&ledger.board.instance_id);
        self.greeted = true;
    }

    fn tick(&mut self) -> WatchResponse {
        self.tick_at = Instant::now() + TICK_EVERY;
        // The version told is the one this watcher has, not the board's: a change may have come since.
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        WatchResponse { version: self.version, ..ledger.board.tick() }
    }
}
