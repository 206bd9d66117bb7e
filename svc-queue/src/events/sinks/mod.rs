//! Sinks: whoever else is to have every event. Each reads the log at its own pace and keeps a cursor that is never ahead of what it
//! has durably written.

mod config;
mod place;
mod run;
mod segments;

pub use config::{Config, Kind, check};
pub use run::start;
