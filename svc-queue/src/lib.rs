//! The queue service.

pub mod events;
pub mod idempotency;
pub mod spool;
