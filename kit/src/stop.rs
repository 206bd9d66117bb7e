//! Graceful stop: one signal for all tasks of a service, and a wait for them to end.

use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Given to everything that runs in the background. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that `finish` waits for. It must watch `requested` and end soon after.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// A part that can be stopped alone, and is stopped with the whole.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: TaskTracker::new() }
    }

    /// Returns once a stop was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks for the stop; returns at once.
    pub fn request(&self) {
        self.token.cancel();
    }

    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks for the stop and waits for the tasks; false where some still run after `grace`.
    pub async fn finish(&self, grace: Duration) -> bool {
        self.request();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

/// What tells the process to end: SIGTERM or SIGINT. Heard from [`Signals::listen`] on, not only while waited for: a
/// process that is told to end while it starts ends as gracefully.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// SIGHUP has files looked at; where nothing follows any, it must not end the process.
    #[allow(dead_code, reason = "being there is what it does")]
    hangup: Signal,
}

impl Signals {
    /// # Errors
    /// Where the system gives no signal handlers.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns once one came.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a handler it would end this process.
    #[tokio::test]
    async fn a_hangup_ends_no_process() {
        let mut signals = Signals::listen().unwrap();
        let told = std::process::Command::new("kill").args(["-HUP", &std::process::id().to_string()]).status().unwrap();
        assert!(told.success());
        signals.hangup.recv().await.unwrap();
    }
}
