//! The whole: walls, configuration, the front door, and the scenarios near and spread.

// Tests fail by panicking; the lint's own exception covers only #[test] functions.
#![allow(clippy::unwrap_used)]

mod config;
mod demo;
mod dns;
mod front;
mod nodes;
mod reflection;
mod scenarios;
mod security;
mod tidy;
mod trace;
mod world;
mod world_lossy;
