//! `[tsa]`: which rules, and how much is remembered.

use godwit_kit::config::{Faults, Section};
use godwit_shaping::Shaping;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Whose automation rules are run; later files over earlier ones. Empty: those of `[egress]`.
    pub shaping_files: Vec<PathBuf>,
    /// Windows, one a rule, site and source, that are kept at once. Beyond, events do not open new ones.
    pub windows_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { shaping_files: Vec::new(), windows_max: 50_000 }
    }
}

impl Section for Config {
    const NAME: &'static str = "tsa";

    fn check(&self, faults: &mut Faults) {
        if self.windows_max == 0 {
            faults.add("tsa.windows_max", "must be at least 1");
        }
        Shaping::load(&self.shaping_files, faults);
    }
}
