//! A proxy of the test's own, a client that speaks bytes, and destinations that echo or tell who came.

use godwit_kit::{Host, clock::Clock, net::Net};
use godwit_proto::proxy::{ProxyService, v1};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};
use svc_proxy::socks5::{Command, Credentials, Greeting, Parsed, Reply, Request, Target};
use svc_proxy::{Config, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub type Stream = Box<dyn godwit_kit::net::Stream>;

pub struct World {
    pub proxy: Service,
    pub host: Host,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Listens at a free port of loopback; the rest is the default's.
pub fn config() -> Config {
    Config { listen: at("127.0.0.1:0"), ..Config::default() }
}

/// As `config`, and `port` of loopback may be connected to.
pub fn open_to(port: u16) -> Config {
    Config { ports: vec![port], allow_networks: vec!["127.0.0.0/8".parse().unwrap()], ..config() }
}

impl World {
    pub async fn new(config: Config, net: Net) -> Self {
        let mut host = Host::new(godwit_proto::id::NodeId::new());
        host.net = net;
        host.clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        let proxy = svc_proxy::build(config, &host).await.unwrap();
        Self { proxy, host }
    }

    pub async fn tcp(config: Config) -> Self {
        Self::new(config, Net::Tcp).await
    }

    pub async fn client(&self) -> Client {
        let connection = self.host.net.connect(self.proxy.listen_addr(), None).await.unwrap();
        Client { stream: connection.stream, incoming: Vec::new() }
    }

    /// A client that has greeted without authentication.
    pub async fn greeted(&self) -> Client {
        let mut client = self.client().await;
        client.send(&[5, 1, 0]).await;
        assert_eq!(client.take(2).await, [5, 0]);
        client
    }

    pub async fn status(&self) -> v1::StatusResponse {
        self.proxy.status(tonic::Request::new(v1::StatusRequest {})).await.unwrap().into_inner()
    }

    pub async fn stop(self) {
        assert!(self.host.stop.finish(Duration::from_secs(60)).await, "tasks were left");
    }
}

pub struct Client {
    pub stream: Stream,
    incoming: Vec<u8>,
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next `count` bytes.
    pub async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.incoming.len() < count {
            assert!(self.stream.read_buf(&mut self.incoming).await.unwrap() > 0, "closed after {:?}", self.incoming);
        }
        self.incoming.drain(..count).collect()
    }

    /// Everything up to the other side's end of sending.
    pub async fn rest(&mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.incoming).await.unwrap();
        std::mem::take(&mut self.incoming)
    }

    pub async fn authenticate(&mut self, username: &str, password: &str) -> Vec<u8> {
        self.send(&Greeting { methods: vec![0, 2] }.encode()).await;
        assert_eq!(self.take(2).await, [5, 2]);
        self.send(&Credentials { username: username.into(), password: password.into() }.encode()).await;
        self.take(2).await
    }

    pub async fn request(&mut self, command: Command, target: Target) -> (Reply, Target) {
        self.send(&Request { command, target }.encode()).await;
        self.read(Reply::parse).await
    }

    pub async fn connect(&mut self, to: SocketAddr) -> Reply {
        self.request(Command::Connect, Target::Address(to)).await.0
    }

    pub async fn bind(&mut self, source: &str) -> (Reply, Target) {
        self.request(Command::Bind, Target::Address(SocketAddr::new(ip(source), 0))).await
    }

    async fn read<T>(&mut self, parse: fn(&[u8]) -> Parsed<T>) -> T {
        loop {
            if let Some((message, used)) = parse(&self.incoming).unwrap() {
                self.incoming.drain(..used);
                return message;
            }
            assert!(self.stream.read_buf(&mut self.incoming).await.unwrap() > 0, "closed after {:?}", self.incoming);
        }
    }
}

/// A destination on loopback.
pub async fn destination() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// A destination that echoes one connection, then ends its sending; says who came.
pub async fn echo() -> (tokio::task::JoinHandle<SocketAddr>, SocketAddr) {
    let (listener, at) = destination().await;
    let serving = tokio::spawn(async move {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
        write.shutdown().await.unwrap();
        peer
    });
    (serving, at)
}
