//! What every process says over HTTP where it is asked to: `/metrics`, `/healthz/live`, `/healthz/ready`.

mod listener;
mod status;

pub use listener::run;
pub use status::router;

use crate::Host;
use crate::tokens::Tokens;
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Serves metrics and health at `at` until the host stops: for whoever reaches the address. Returns once it listens.
///
/// # Errors
/// An address that cannot be listened at.
pub async fn serve(host: &Host, at: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(at).await?;
    let bound = listener.local_addr()?;
    host.stop.spawn(run(listener, router(host, Tokens::default()), host.stop.clone()));
    Ok(bound)
}
