//! The roof: places the services in a process, and is the front door to them.
//!
//! - [`compose`]: which services run here, which are peers, and how each gets its handles. The one crate that sees all
//! - [`http`]: `POST /api/inject/v1`, `/metrics`, `/healthz/live`, `/healthz/ready`
//! - [`cli`]: the commands of the binary `godwit`
//! - [`demo`]: the whole with a make-believe internet around it
//! - [`config`]: the section `[gateway]`, and the whole document read with all its faults
//!
//! **Invariants**: decides nothing about mail; whatever a service does here it does alone in a process of its own, too.

pub mod certs;
pub mod cli;
pub mod compose;
pub mod config;
pub mod demo;
pub mod http;
pub mod node;
