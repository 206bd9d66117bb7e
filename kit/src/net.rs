//! The seam for the network: TCP, or pipes in memory by the same addresses (for tests under a paused clock).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

/// Bytes that a pipe in memory holds before its writer waits.
const PIPE_BYTES_MAX: usize = 256 << 10;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 1024;

/// Both ways of a connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open connection and the addresses of its two ends.
pub struct Connection {
    pub stream: Box<dyn Stream>,
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// Opens connections and listeners. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Net {
    #[default]
    Tcp,
    Memory(Memory),
}

/// A world of pipes: listeners by address. Each test owns its own.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    listeners: HashMap<SocketAddr, mpsc::Sender<(DuplexStream, SocketAddr)>>,
    port_last: u16,
}

impl Net {
    /// Connects to `to`, from the local address `from` where it is given.
    ///
    /// # Errors
    /// Those of the system; `AddrNotAvailable` where `from` is not on this host.
    pub async fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Connection> {
        match self {
            Self::Tcp => connect_tcp(to, from).await,
            Self::Memory(memory) => memory.connect(to, from).await,
        }
    }

    /// Listens at `at`; port 0 chooses a free one.
    ///
    /// # Errors
    /// Those of the system; `AddrInUse` where somebody listens there.
    pub async fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        match self {
            Self::Tcp => Ok(Listener(Accepting::Tcp(listen_tcp(at)?))),
            Self::Memory(memory) => memory.listen(at),
        }
    }
}

/// Accepts connections. Closed when dropped.
pub struct Listener(Accepting);

enum Accepting {
    Tcp(TcpListener),
    Memory { at: SocketAddr, queue: tokio::sync::Mutex<mpsc::Receiver<(DuplexStream, SocketAddr)>>, world: Memory },
}

impl Listener {
    /// # Errors
    /// Those of the system's accept; the caller may go on accepting.
    pub async fn accept(&self) -> io::Result<Connection> {
        match &self.0 {
            Accepting::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?;
                Ok(Connection { stream: Box::new(stream), peer, local })
            }
            Accepting::Memory { at, queue, .. } => {
                let (stream, peer) = queue.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected)?;
                Ok(Connection { stream: Box::new(stream), peer, local: *at })
            }
        }
    }

    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Accepting::Tcp(listener) => listener.local_addr(),
            Accepting::Memory { at, .. } => Ok(*at),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Accepting::Memory { at, world, .. } = &self.0 {
            world.lock().listeners.remove(at);
        }
    }
}

async fn connect_tcp(to: SocketAddr, from: Option<IpAddr>) -> io::Result<Connection> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream: TcpStream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    let (peer, local) = (stream.peer_addr()?, stream.local_addr()?);
    Ok(Connection { stream: Box::new(stream), peer, local })
}

fn listen_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart may not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG_MAX as u32)
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, to: SocketAddr, from: Option<IpAddr>) -> io::Result<Connection> {
        let (accepting, local) = {
            let mut world = self.lock();
            let local = SocketAddr::new(from.unwrap_or(Ipv4Addr::LOCALHOST.into()), world.port());
            (world.listeners.get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?, local)
        };
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES_MAX);
        accepting.send((theirs, local)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Connection { stream: Box::new(ours), peer: to, local })
    }

    fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        let mut world = self.lock();
        let at = if at.port() == 0 { SocketAddr::new(at.ip(), world.port()) } else { at };
        if world.listeners.contains_key(&at) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, queue) = mpsc::channel(BACKLOG_MAX);
        world.listeners.insert(at, sender);
        Ok(Listener(Accepting::Memory { at, queue: tokio::sync::Mutex::new(queue), world: self.clone() }))
    }
}

impl World {
    fn port(&mut self) -> u16 {
        self.port_last = if self.port_last < 20_000 { 20_000 } else { self.port_last.wrapping_add(1).max(20_000) };
        self.port_last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo(net: Net) {
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut connection = listener.accept().await.unwrap();
            let mut bytes = [0; 4];
            connection.stream.read_exact(&mut bytes).await.unwrap();
            connection.stream.write_all(&bytes).await.unwrap();
            connection.peer
        });
        let mut connection = net.connect(at, None).await.unwrap();
        connection.stream.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        connection.stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        assert_eq!(served.await.unwrap(), connection.local);
        assert_eq!(net.connect(at, None).await.err().map(|e| e.kind()), Some(io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn tcp_and_memory_behave_alike() {
        echo(Net::Tcp).await;
        echo(Net::Memory(Memory::default())).await;
    }
}
