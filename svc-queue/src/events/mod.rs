//! The event log as the world sees it: read by cursor, streamed to watchers, pushed to every TSA, written to sinks.
//!
//! - [`codec`]: an event's form in the spool · [`Log`]: the log, read from the spool · `watch`: `WatchEvents`
//! - [`tsa`]: one pusher a TSA · [`sinks`]: files · [`json`]: an event as a line of JSON
//!
//! **Invariants**: nothing here is waited for by mail. Each reader keeps its own cursor and pulls at its own pace, so a slow or
//! absent one costs nothing but retention; what fell off that is said as a gap, never passed over in silence.

pub mod codec;
mod filter;
pub mod json;
mod log;
mod progress;
pub mod sinks;
mod source;
pub mod tsa;
mod watch;

pub use log::{Log, Page};
pub use source::Source;
