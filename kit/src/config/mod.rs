//! One TOML file for all services, overlaid by the environment and by `--set`; every fault is found at once.
//!
//! A service describes its section as a type whose fields all have defaults, implements [`Section`], and takes it with
//! [`Document::section`]. Values: durations "20m", sizes "25MiB", rates "100/min" (see [`values`]).

mod document;
mod read;
mod sections;
pub mod values;

pub use document::{Document, Fault, Faults};
pub use sections::{Address, OneOrMany, Peers, PeersTls, Server, ServerTls, Telemetry};
pub use values::{Rate, Size};

/// What a service reads from the file.
pub trait Section: serde::de::DeserializeOwned {
    /// The table's name.
    const NAME: &'static str;

    /// Adds a fault for every value that cannot work, with its key path from the file's root.
    fn check(&self, faults: &mut Faults);
}
