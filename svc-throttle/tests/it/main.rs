//! The contract of the throttle service: each case runs near and through the whole codec.
#![allow(clippy::unwrap_used)]

mod listing;
mod rates;
mod slots;
mod world;
