//! Traffic shaping files: how mail is sent to a destination, and what a destination's answers change.
//!
//! - [`Shaping`]: the files, merged; [`Shaping::load`] from disk, [`Shaping::parse`] from a text
//! - [`Query`] → [`Resolved`]: what holds for one domain, site and source, each value with its [`Origin`]
//! - [`Path`]: the values, typed, grouped by what they limit
//! - [`Rule`]: an automation rule; the TSA runs them over events, egress and queue know only their outcome
//!
//! The format is the widespread `shaping.toml`: `["default"]`, `["domain"]`, `["domain".sources."source"]`,
//! `[provider."name"]`, `[[….automation]]`. Keys of the format that Godwit does not use are warnings, others faults.
//!
//! **Invariants**: pure but for `load.rs`, the one file that says `std::fs`; no clock, no DNS: whoever knows the site of a
//! domain tells it by [`Shaping::with_site`].

mod block;
mod known;
mod load;
mod merge;
pub mod path;
mod provider;
mod resolve;
mod rule;

pub use godwit_kit::config::{Fault, Faults, Rate};
pub use merge::Shaping;
pub use path::{EnableTls, IpLookupStrategy, Limit, Path, ReconnectStrategy};
pub use provider::Match;
pub use resolve::{Origin, PathValue, Query, Resolved};
pub use rule::{Action, AppliesTo, Rule, Trigger};
