//! Brings changes to disk in the order in which they were made, many callers' in one flush.

use crate::ledger::{Ledger, Op};
use crate::state::Disk;
use godwit_kit::Host;
use godwit_kit::metrics::Distribution;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Callers that wait for one flush, or for their turn.
pub const BATCHES_MAX: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What one caller has changed.
#[derive(Debug)]
pub struct Batch {
    pub ops: Vec<Op>,
    /// Told once this and all before it is on disk, or why it is not yet.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// Runs until the stop; writes what was handed in before it.
pub struct Writer {
    pub disk: Arc<Disk>,
    pub ledger: Arc<Mutex<Ledger>>,
    pub inbox: mpsc::Receiver<Batch>,
    pub flush_seconds: Distribution,
    pub host: Host,
}

impl Writer {
    pub async fn run(mut self) {
        loop {
            let mut batches = Vec::new();
            tokio::select! {
                count = self.inbox.recv_many(&mut batches, BATCHES_MAX) => if count == 0 { return },
                () = self.host.stop.requested(), if !self.inbox.is_closed() => {
                    self.inbox.close();
                    continue;
                }
            }
            let (ops, waiting): (Vec<_>, Vec<_>) = batches.into_iter().map(|batch| (batch.ops, batch.done)).unzip();
            let ops: Vec<Op> = ops.into_iter().flatten().collect();
            if !self.write(ops, waiting).await {
                return;
            }
        }
    }

    /// Writes until it is written: what came first must be held first. False where the stop came before.
    async fn write(&self, ops: Vec<Op>, mut waiting: Vec<oneshot::Sender<Result<(), String>>>) -> bool {
        let ops = Arc::new(ops);
        loop {
            match self.attempt(ops.clone()).await {
                Ok(()) => {
                    self.confirm(&ops);
                    waiting.drain(..).for_each(|done| drop(done.send(Ok(()))));
                    self.host.health.set("tsa", "state", Ok(()));
                    return true;
                }
                Err(what) => {
                    waiting.drain(..).for_each(|done| drop(done.send(Err(what.clone()))));
                    self.host.health.set("tsa", "state", Err(what));
                    tokio::select! {
                        () = self.host.clock.sleep(RETRY_AFTER) => {}
                        () = self.host.stop.requested() => return false,
                    }
                }
            }
        }
    }

    async fn attempt(&self, ops: Arc<Vec<Op>>) -> Result<(), String> {
        if ops.is_empty() {
            return Ok(());
        }
        let disk = self.disk.clone();
        let _timed = self.flush_seconds.start_timer();
        tokio::task::spawn_blocking(move || disk.write(&ops)).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn confirm(&self, ops: &[Op]) {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match op {
                Op::Cursor(log, next_seq) => ledger.cursors.confirm(log, *next_seq),
                Op::Write(_) | Op::Erase(_) | Op::ForgetLog(_) => {}
            }
        }
    }
}
