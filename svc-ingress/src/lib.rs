//! The way in: SMTP sessions and the same door for APIs.
//!
//! ```text
//! listener ─► session (godwit-smtp's machine, its socket and timers) ─► policy ─► message (Received on top) ─┐
//! service: Inject ─► inject (one message, judged) ───────────────────────────────────────────────────────────┴► enqueue ─► queue
//! ```
//! - [`config`]: `[ingress]` · [`error`]: what can go wrong · [`service`]: the contract
//! - `policy`, `message`, `envelope`, `inject`, `reply`: pure; time and addresses come in as arguments
//! - `listener`, `door`: who may connect · `tls`: a port's handshakes
//! - `session`, `sessions`: one client's connection, and all of them
//! - `enqueue`: batches to the queue nodes, fail-over, and the unknown outcome · `rejections`: events of what was refused
//!
//! **Invariants**: 250 is said only after a queue node has said that the message is on disk; one message id is asked of a
//! second node only when the first surely did not take it; the only caller of `Enqueue`.

mod door;
mod enqueue;
mod envelope;
mod ingress;
mod inject;
mod listener;
mod message;
mod meters;
mod policy;
mod rejections;
mod reply;
mod session;
mod sessions;
mod tls;

pub mod config;
pub mod error;
pub mod service;

pub use config::Config;
pub use error::Error;
pub use service::Service;

use std::sync::Arc;

use godwit_kit::{Host, House, peers::Peers, sized};
use godwit_proto::{ingress::IngressServiceServer, queue::Queue};

/// Opens the listeners and starts to accept. Stops with `host.stop`: clients are told 421, messages in hand are finished.
///
/// # Errors
/// Where a listener cannot be opened, or its certificate not be used.
pub async fn build(config: Config, queues: Peers<Queue>, host: &Host) -> Result<Service, Error> {
    let ingress = Arc::new(ingress::Ingress::new(&config, queues, host));
    let mut listen_addrs = Vec::with_capacity(config.listeners.len());
    for (place, listener) in config.listeners.iter().enumerate() {
        let tls = listener.tls.is_set().then(|| tls::Tls::load(&listener.tls, place, host)).transpose()?;
        let opened = host.net.listen(listener.listen).await;
        let opened = opened.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (at, socket) = opened.map_err(|source| Error::Listen { place, at: listener.listen, source })?;
        tracing::info!(listen = %at, "listening for SMTP");
        let listener = listener::Listener::new(listener, at, tls, ingress.clone());
        host.stop.spawn(listener::run(socket, Arc::new(listener)));
        listen_addrs.push(at);
    }
    host.health.set("ingress", "listeners", Ok(()));
    Ok(Service::new(ingress, listen_addrs))
}

/// Without these it is not ready.
pub const NEEDS: &[&str] = &["queue"];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub async fn place(config: Config, queues: Peers<Queue>, house: &mut House) -> Result<Arc<Service>, Error> {
    let service = Arc::new(build(config, queues, &house.host).await?);
    house.serve(sized!(IngressServiceServer::from_arc(service.clone())));
    house.placed("ingress", NEEDS);
    Ok(service)
}
