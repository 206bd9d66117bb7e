//! Ingress as its clients and its queues see it: sockets on one side, a scripted queue on the other.
#![allow(clippy::unwrap_used)]

mod dialogue;
mod inject;
mod limits;
mod queue;
mod relay;
mod smuggling;
mod stop;
mod support;
mod timeouts;
mod tls;
