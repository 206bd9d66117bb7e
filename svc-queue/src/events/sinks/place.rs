//! How far a file sink is: one small file beside its segments, replaced as a whole after the lines it speaks of are synced.

use crate::spool::disk::{self, Disk};
use serde::{Deserialize, Serialize};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const NAME: &str = "cursor.json";

/// What the sink holds durably.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub log_id: String,
    /// Everything before is written (or was not wanted).
    pub next_seq: u64,
    /// The file that is being written.
    pub segment: Option<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Without `.partial`.
    pub name: String,
    /// Bytes of it that count; what is behind them was never answered for.
    pub size_bytes: u64,
    /// The same before compression.
    pub lines_bytes: u64,
    pub opened_ms: u64,
    /// Nothing is added any more.
    pub finished: bool,
}

impl Segment {
    pub fn opened(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.opened_ms)
    }
}

impl Place {
    /// `None` where there is none, or none that can be read: then nothing is known.
    pub fn load(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let content = match disk::read_whole(disk, NAME) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice(&content) {
            Ok(place) => Ok(Some(place)),
            Err(error) => {
                tracing::error!(dir = disk.describe(), %error, "the sink's cursor cannot be read; it begins again");
                Ok(None)
            }
        }
    }

    /// Durable when it returns.
    pub fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        disk::replace(disk, NAME, &[&serde_json::to_vec(self)?])
    }
}
