//! `[[queue.sinks]]`: where events go besides the TSAs.

use crate::events::json;
use godwit_kit::config::{Faults, Size, values};
use serde::Deserialize;
use std::collections::HashSet;
use std::time::Duration;

/// One sink. There is none unless it is configured.
///
/// ```toml
/// [[queue.sinks]]
/// kind = "file"
/// dir = "log"                # relative to server.data_dir
/// segment_age_max = "1h"
/// retain_age_max = "30d"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    pub kind: Kind,
    /// In metrics and listings; empty: the folder's name.
    pub name: String,
    /// The folder; relative to `server.data_dir`.
    pub dir: String,
    /// A file is finished once its lines have this size, before compression.
    pub segment_bytes_max: Size,
    /// Or once it is this old.
    #[serde(with = "values::duration")]
    pub segment_age_max: Duration,
    /// How long events are gathered before they are written and synced.
    #[serde(with = "values::duration")]
    pub flush_interval: Duration,
    /// zstd's levels, 1 to 19.
    pub compression_level: i32,
    /// Finished files are removed, oldest first, beyond this size in sum; 0: never.
    pub retain_bytes_max: Size,
    /// Finished files are removed once their newest event is older; unset: never.
    #[serde(with = "values::duration_option")]
    pub retain_age_max: Option<Duration>,
    /// Names of the kinds that are written: `Delivery`, `Bounce`…; empty: all.
    pub events: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// zstd-compressed files with one JSON object a line.
    #[default]
    File,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kind: Kind::File,
            name: String::new(),
            dir: String::new(),
            segment_bytes_max: Size(1_000_000_000),
            segment_age_max: Duration::from_secs(3_600),
            flush_interval: Duration::from_secs(1),
            compression_level: 3,
            retain_bytes_max: Size(0),
            retain_age_max: None,
            events: Vec::new(),
        }
    }
}

impl Config {
    pub fn name(&self) -> &str {
        let folder = self.dir.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if self.name.is_empty() { folder } else { &self.name }
    }
}

/// Adds a fault for everything that cannot work; `key` is the list's own key, `queue.sinks`.
pub fn check(sinks: &[Config], key: &str, faults: &mut Faults) {
    let (mut names, mut dirs) = (HashSet::new(), HashSet::new());
    for (place, sink) in sinks.iter().enumerate() {
        let key = |field: &str| format!("{key}[{place}].{field}");
        if sink.dir.is_empty() {
            faults.add(key("dir"), "missing");
        } else if !dirs.insert(sink.dir.trim_end_matches('/')) {
            faults.add(key("dir"), "another sink writes there");
        } else if !names.insert(sink.name()) {
            faults.add(key("name"), format!("another sink is called {:?}", sink.name()));
        }
        if sink.segment_bytes_max.0 == 0 {
            faults.add(key("segment_bytes_max"), "must be above 0");
        }
        if sink.segment_age_max < Duration::from_secs(1) {
            faults.add(key("segment_age_max"), "must be at least 1s");
        }
        if sink.flush_interval > Duration::from_secs(60) {
            faults.add(key("flush_interval"), "must be at most 1m");
        }
        if !(1..=19).contains(&sink.compression_level) {
            faults.add(key("compression_level"), "must be between 1 and 19");
        }
        for name in sink.events.iter().filter(|name| json::kind(name).is_none()) {
            faults.add(key("events"), format!("{name:?} is no kind of event"));
        }
    }
}
