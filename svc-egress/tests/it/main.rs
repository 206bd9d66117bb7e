//! Egress against scripted peers: sinks on loopback sockets, a queue, a throttle and a TSA that are scripts in memory.

#![allow(clippy::unwrap_used)]

mod adverse;
mod contract;
mod dns;
mod limits;
mod nodes;
mod outcomes;
mod proxy;
mod queue;
mod routing;
mod sink;
mod stop;
mod throttle;
mod tls;
mod tls_peer;
mod tsa;
mod world;
