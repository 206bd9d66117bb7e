//! What every service stands on: configuration, time, network, telemetry, and the road between services.
//!
//! - [`config`]: one TOML for all, all faults at once · [`clock`], [`net`]: the seams for tests · [`stop`]: graceful stop
//! - [`metrics`]: a registry as a value · [`telemetry`]: logs and traces · [`trace`]: W3C context across calls and disks
//! - [`tls`]: certificates from files that may change · [`tokens`]: callers without one · [`accept`]: who is at the other end
//! - [`house`]: a process that is being built · [`alone`]: one service in a process of its own
//! - [`connect`]: the road to a peer · [`target`]: where it is · [`peers`]: services of which there are several · [`call`]: deadlines
//! - [`serve`]: the gRPC server with its layers, reflection and health · [`health`]: who is ready · [`http`]: both, over HTTP · [`roles`]: who may call what
//!
//! **Invariants**: knows no service, only contracts. Nothing here is process-wide, save what [`telemetry::init`] sets.

mod host;

pub mod accept;
pub mod alone;
pub mod call;
pub mod clock;
pub mod config;
pub mod connect;
mod crowd;
mod dial;
pub mod disk;
mod forward;
pub mod health;
pub mod house;
pub mod http;
pub mod metrics;
pub mod net;
pub mod peers;
pub mod roles;
pub mod serve;
pub mod stop;
pub mod target;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod trace;

pub use godwit_proto::CALL_BYTES_MAX;
pub use host::Host;
pub use house::House;
