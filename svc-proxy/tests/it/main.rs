//! The proxy by its two faces: SOCKS5 over real sockets (and in memory where the clock is paused), and its contract near
//! and through the whole codec.
#![allow(clippy::unwrap_used)]

mod contract;
mod hostile;
mod paused;
mod tunnels;
mod world;
