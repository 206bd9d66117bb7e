//! The crate's one integration-test binary.

mod contract;
mod events;
mod idempotency;
mod spool;
