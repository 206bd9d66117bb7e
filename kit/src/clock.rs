//! The seam for time: the wall clock, or one that follows tokio's (and so can be paused by a test).

use std::time::{Duration, SystemTime};

/// Tells the time and waits for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Wall,
    /// Wall time at `started`, and on from there as tokio's clock runs.
    Tokio {
        origin: SystemTime,
        started: tokio::time::Instant,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn wall() -> Self {
        Self(Source::Wall)
    }

    /// Starts at `origin` and runs with tokio's clock. Must be called within a runtime.
    pub fn tokio(origin: SystemTime) -> Self {
        Self(Source::Tokio { origin, started: tokio::time::Instant::now() })
    }

    pub fn now(&self) -> SystemTime {
        match &self.0 {
            Source::Wall => SystemTime::now(),
            Source::Tokio { origin, started } => *origin + started.elapsed(),
        }
    }

    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Returns at once where `time` has passed.
    pub async fn sleep_until(&self, time: SystemTime) {
        while let Ok(left) = time.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            // The wall clock may be set: look again at least every minute.
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}
