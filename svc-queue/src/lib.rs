//! The queue service.

pub mod config;
pub mod core;
pub mod error;
pub mod events;
mod finished;
pub mod idempotency;
pub mod lane;
pub mod lease;
pub mod schedule;
pub mod spool;
pub mod stored;
