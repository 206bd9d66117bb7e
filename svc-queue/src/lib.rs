//! The queue service.

pub mod spool;
