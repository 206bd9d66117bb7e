//! The contract of the throttle service: each case runs on each store, near and through the whole codec; and what only
//! limits do that several nodes share.
#![allow(clippy::unwrap_used)]

mod alike;
mod cluster;
mod cut;
mod faults;
mod listing;
mod load;
mod lost;
mod rates;
mod server;
mod sharing;
mod slots;
mod world;
