//! The whole: walls, configuration, the front door, and the scenarios near and spread.

mod config;
mod dns;
mod front;
mod reflection;
mod scenarios;
mod tidy;
mod trace;
mod world;
mod world_lossy;
