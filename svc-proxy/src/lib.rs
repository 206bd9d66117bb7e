//! The egress proxy: SOCKS5 (RFC 1928, RFC 1929) for mail, from the addresses that it owns.
//!
//! The listener accepts ([`listener`]), a session is negotiated and its destination connected to ([`session`], whose bytes
//! are [`socks5`] and whose rules are [`source`]), and then a tunnel copies ([`tunnel`]). What runs, and how the sources
//! are, stands in [`register`]; the contract tells of it ([`service`]).
//!
//! **Invariants**: a name is resolved first and its addresses are checked; nothing is connected to that the rules do not
//! allow; a session leaves only from an address that is owned; everything before the tunnel has a deadline.

pub mod config;
pub mod error;
mod listener;
mod register;
pub mod service;
mod session;
pub mod socks5;
pub mod source;
mod tunnel;

pub use config::Config;
pub use error::Error;
pub use service::Service;

use godwit_kit::{Host, House, sized};
use godwit_proto::proxy::ProxyServiceServer;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Listens, and accepts in tasks of its own until the stop or a drain.
///
/// # Errors
/// Where it cannot listen, or the password cannot be read.
pub async fn build(config: Config, host: &Host) -> Result<Service, Error> {
    let credentials = config.credentials().map_err(|what| Error::Password { what })?;
    let listening = host.net.listen(config.listen).await;
    let listener = listening.map_err(|source| Error::Listen { at: config.listen, source })?;
    let listen = listener.local_addr().map_err(|source| Error::Listen { at: config.listen, source })?;
    let register = Arc::new(register::Register::new(&config, listen, host));
    let rules = source::Rules::new(&config, listen, credentials.is_some());
    let lookups = Arc::new(Semaphore::new(session::LOOKUPS_MAX));
    host.stop.spawn(register::probe(register.clone(), config.probe_interval, host.clone()));
    let context =
        session::Context { config, credentials, rules, register: register.clone(), lookups, host: host.clone() };
    host.stop.spawn(listener::run(listener, Arc::new(context)));
    Ok(Service::new(register, listen, host))
}

/// It stands alone.
pub const NEEDS: &[&str] = &[];

/// Builds the service in `house`, which serves it.
///
/// # Errors
/// As [`build`].
pub async fn place(config: Config, house: &mut House) -> Result<Arc<Service>, Error> {
    let service = Arc::new(build(config, &house.host).await?);
    house.serve(sized!(ProxyServiceServer::from_arc(service.clone())));
    house.placed("proxy", NEEDS);
    Ok(service)
}
