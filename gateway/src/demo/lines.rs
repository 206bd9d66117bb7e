//! The form of what is printed: `  +3.1s  deferred   …`, in seconds since the beginning. Pure.

use std::time::SystemTime;

/// When the demo began.
#[derive(Debug, Clone, Copy)]
pub struct Lines(pub SystemTime);

impl Lines {
    pub fn line(self, time: SystemTime, verb: &str, text: &str) -> String {
        format!("{:>8}  {verb:<9}  {text}", self.clock(time))
    }

    /// Without a time, under the line before.
    pub fn more(self, text: &str) -> String {
        format!("{:21}{text}", "")
    }

    pub fn clock(self, time: SystemTime) -> String {
        format!("+{:.1}s", time.duration_since(self.0).unwrap_or_default().as_secs_f64())
    }
}
