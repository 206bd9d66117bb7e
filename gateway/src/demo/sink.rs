//! A make-believe mail host: receives by godwit-smtp's machine, and treats what comes as its manners say.

use super::manners::Manners;
use anyhow::{Context, Result};
use bytes::BytesMut;
use godwit_smtp::receive::{self, Step};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Open at once; those who come then wait.
const CONNECTIONS_MAX: usize = 256;
/// After an accept that failed: too many open files, for one.
const ACCEPT_WAIT: Duration = Duration::from_millis(100);

/// A running host. It ends when dropped, and its connections with it.
pub struct Sink {
    pub port: u16,
    accepting: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sink {
    /// # Errors
    /// No port.
    pub async fn start(hostname: String, manners: Manners) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.with_context(|| format!("a port for {hostname}"))?;
        let port = listener.local_addr().map(|at: SocketAddr| at.port())?;
        // It turns nobody away but by its manners.
        let (messages_max, errors_max, idles_max) = (usize::MAX, usize::MAX, usize::MAX);
        let config = receive::Config { hostname, messages_max, errors_max, idles_max, ..receive::Config::default() };
        let accepting = tokio::spawn(accept(listener, Arc::new(config), Arc::new(Mutex::new(manners))));
        Ok(Self { port, accepting })
    }
}

async fn accept(listener: TcpListener, config: Arc<receive::Config>, manners: Arc<Mutex<Manners>>) {
    let mut sessions = JoinSet::new();
    loop {
        while sessions.try_join_next().is_some() {}
        if sessions.len() >= CONNECTIONS_MAX {
            sessions.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                sessions.spawn(serve(stream, config.clone(), manners.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_WAIT).await,
        }
    }
}

/// A client that goes amiss only ends its session.
async fn serve(mut stream: TcpStream, config: Arc<receive::Config>, manners: Arc<Mutex<Manners>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = receive::Session::new(config);
    let mut input = BytesMut::new();
    loop {
        match session.advance(&mut input) {
            Step::NeedInput => {
                stream.write_all_buf(&mut session.output().split()).await?;
                if stream.read_buf(&mut input).await? == 0 {
                    return Ok(());
                }
            }
            Step::Ask(ask) => {
                let verdict = manners.lock().unwrap_or_else(PoisonError::into_inner).decide(&ask, Instant::now());
                session.answer(verdict);
            }
            // Never offered, so never asked for.
            Step::StartTls => return Ok(()),
            Step::Close => {
                stream.write_all_buf(&mut session.output().split()).await?;
                return stream.shutdown().await;
            }
        }
    }
}
