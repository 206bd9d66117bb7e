//! A way to Redis that a test can cut, or hold up: what is held up arrives late.

use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections end, new ones end at once.
    Cut,
    /// Connections stay, nothing comes through until it is open again.
    HeldUp,
}

pub struct Cut {
    way: watch::Sender<Way>,
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Cut {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let way = watch::Sender::new(Way::Open);
        let task = tokio::spawn(accept(listener, server, way.clone()));
        Self { way, addr, task }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, way: watch::Sender<Way>) {
    // Dropped with this task, and so all of its connections.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *way.borrow() != Way::Cut {
            connections.spawn(connection(client, server, way.subscribe()));
        }
    }
}

async fn connection(client: TcpStream, server: SocketAddr, way: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pass(from_client, to_server, way.clone()) => {}
        () = pass(from_server, to_client, way.clone()) => {}
        () = cut(way) => {}
    }
}

async fn cut(mut way: watch::Receiver<Way>) {
    let _ = way.wait_for(|way| *way == Way::Cut).await;
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        let opened = way.wait_for(|way| *way != Way::HeldUp).await.map(drop);
        if opened.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
