//! The contract, each case near and through the whole codec; and what is on disk after a restart.

#![allow(clippy::unwrap_used)] // helpers of tests are tests too

mod actions;
mod observe;
mod restart;
mod watch;
mod world;
