//! A load generator and a sink of our own, light enough that they are never what is measured, and the harness on them.
//!
//! - [`generate`]: messages with an id and a digest each · [`load`]: sends them · [`sink`]: takes them, as told by a [`sink::Behaviour`]
//! - [`process`]: starts an MTA, kills it, and counts its CPU time · [`account`]: compares what was promised with what came

pub mod account;
pub mod behaviour;
pub mod generate;
pub mod http;
pub mod load;
pub mod peaks;
pub mod process;
pub mod sink;
