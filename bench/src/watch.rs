//! Waits for something to be done, as long as there is progress.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Between two looks; the most that a time measured by this is too long.
const LOOK: Duration = Duration::from_millis(5);

/// Returns once `done` says so.
///
/// # Errors
/// `done`'s own, and `progress` standing still for `stall`.
pub async fn until(
    what: &str,
    stall: Duration,
    mut done: impl FnMut() -> Result<bool>,
    progress: impl Fn() -> usize,
) -> Result<()> {
    let (mut reached, mut since) = (progress(), Instant::now());
    while !done()? {
        let now = progress();
        if now != reached {
            (reached, since) = (now, Instant::now());
        }
        if since.elapsed() > stall {
            bail!("{what}: no progress for {} s, at {reached}", stall.as_secs());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Returns once `progress` has stood still for `quiet`, or after `limit`.
pub async fn quiet(quiet: Duration, limit: Duration, progress: impl Fn() -> usize) {
    let start = Instant::now();
    let (mut reached, mut since) = (progress(), Instant::now());
    while since.elapsed() < quiet && start.elapsed() < limit {
        tokio::time::sleep(LOOK).await;
        let now = progress();
        if now != reached {
            (reached, since) = (now, Instant::now());
        }
    }
}
