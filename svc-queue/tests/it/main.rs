//! The crate's one integration-test binary.

mod events;
mod idempotency;
mod spool;
