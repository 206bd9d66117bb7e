//! A strict peer that speaks STARTTLS, well or badly, and the authorities that certify it.

use godwit_kit::net::{Connection, Net, Stream};
use godwit_kit::tls::provider;
use godwit_proto::id::NodeId;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{HandshakeKind, ServerConfig};
use rustls_pki_types::PrivateKeyDer;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        // A name of its own: else the one is taken for the other, and its signatures for bad.
        params.distinguished_name.push(DnType::CommonName, format!("Authority {}", NodeId::new()));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A host with a certificate for `name`.
    pub fn host(&self, name: &str) -> Arc<ServerConfig> {
        self.host_until(name, 4000)
    }

    pub fn host_until(&self, name: &str, year: i32) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// What the peer offers in the clear and behind TLS, and what it does at STARTTLS.
#[derive(Clone)]
pub struct Manner {
    pub clear: &'static [&'static str],
    pub encrypted: &'static [&'static str],
    pub start: Start,
}

#[derive(Clone)]
pub enum Start {
    Handshake(Arc<ServerConfig>),
    /// The handshake goes well, and then it hangs up.
    HandshakeThenClose(Arc<ServerConfig>),
    /// Somebody between puts this behind the 220, in the same segment; the peer itself knows nothing of it.
    Injected(&'static [u8], Arc<ServerConfig>),
    /// Not 220.
    Answer(&'static str),
    /// 220, and this instead of a handshake once the client has begun its own.
    Instead(&'static [u8]),
    /// 220, and closed.
    Close,
    /// 220, and nothing more.
    Silence,
    /// Nothing at all.
    Mute,
}

impl Manner {
    pub fn new(start: Start) -> Self {
        Self { clear: &["STARTTLS", "PIPELINING", "8BITMIME"], encrypted: &["PIPELINING", "8BITMIME"], start }
    }
}

#[derive(Debug, Default, Clone)]
pub struct Heard {
    pub connection_count: usize,
    pub open_count: usize,
    /// Each with whether it was encrypted.
    pub commands: Vec<(bool, String)>,
    pub messages: Vec<(bool, Vec<u8>)>,
    /// The names that clients asked for in the handshake.
    pub names: Vec<Option<String>>,
    pub resumed_count: usize,
    /// Encrypted connections that ended by the client's own word.
    pub closed_count: usize,
    /// What a client said where no handshake followed.
    pub instead: Vec<u8>,
    /// How clients broke the protocol.
    pub faults: Vec<String>,
}

/// Runs until dropped.
pub struct Peer {
    pub at: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    accepting: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Peer {
    /// On a loopback socket.
    pub async fn start(manner: Manner) -> Self {
        Self::start_on(&Net::Tcp, manner).await
    }

    pub async fn start_on(net: &Net, manner: Manner) -> Self {
        let listener = net.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (at, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Heard::default())));
        let noted = heard.clone();
        let accepting = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok(Connection { stream, .. }) = listener.accept().await {
                noted.lock().unwrap().connection_count += 1;
                noted.lock().unwrap().open_count += 1;
                let (manner, noted) = (manner.clone(), noted.clone());
                sessions.spawn(async move {
                    let _ = session(stream, manner, noted.clone()).await;
                    noted.lock().unwrap().open_count -= 1;
                });
            }
        });
        Self { at, heard, accepting }
    }

    pub fn heard(&self) -> Heard {
        let heard = self.heard.lock().unwrap().clone();
        assert_eq!(heard.faults, Vec::<String>::new());
        heard
    }

    /// Once all connections have ended.
    pub async fn heard_in_the_end(&self) -> Heard {
        let ended = async {
            while self.heard().open_count > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("connections are closed");
        self.heard()
    }
}

type Noted = Arc<Mutex<Heard>>;

async fn session(stream: Box<dyn Stream>, manner: Manner, heard: Noted) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(b"220 peer.example\r\n").await?;
    let clear = Talk { encrypted: false, greeted: false, offered: manner.clear, heard: heard.clone() };
    if !clear.run(&mut stream).await? {
        return Ok(());
    }
    let mut stream = stream.into_inner();
    let hangs_up = matches!(manner.start, Start::HandshakeThenClose(_));
    let config = match manner.start {
        Start::Answer(reply) => {
            stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
            let clear = Talk { greeted: true, ..clear };
            return clear.run(&mut BufReader::new(stream)).await.map(drop);
        }
        Start::Mute => return silence(stream).await,
        Start::Injected(injected, config) => {
            stream.write_all(&[b"220 go\r\n", injected].concat()).await?;
            config
        }
        Start::Handshake(config) | Start::HandshakeThenClose(config) => {
            stream.write_all(b"220 go\r\n").await?;
            config
        }
        Start::Instead(octets) => {
            stream.write_all(b"220 go\r\n").await?;
            let hello = stream.read_u8().await?;
            stream.write_all(octets).await?;
            let mut said = vec![hello];
            let _ = stream.read_to_end(&mut said).await;
            heard.lock().unwrap().instead = said;
            return Ok(());
        }
        Start::Close => return stream.write_all(b"220 go\r\n").await,
        Start::Silence => {
            stream.write_all(b"220 go\r\n").await?;
            return silence(stream).await;
        }
    };
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let (_, connection) = stream.get_ref();
    let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    heard.lock().unwrap().names.push(connection.server_name().map(String::from));
    heard.lock().unwrap().resumed_count += usize::from(is_resumed);
    if hangs_up {
        return Ok(());
    }
    let mut stream = BufReader::new(stream);
    let talk = Talk { encrypted: true, greeted: false, offered: manner.encrypted, heard: heard.clone() };
    talk.run(&mut stream).await?;
    // Without the client's own word this is an error.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    heard.lock().unwrap().closed_count += 1;
    Ok(())
}

async fn silence(mut stream: Box<dyn Stream>) -> io::Result<()> {
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

/// One side of STARTTLS: what is not offered on it is not understood.
struct Talk {
    encrypted: bool,
    greeted: bool,
    offered: &'static [&'static str],
    heard: Noted,
}

impl Talk {
    /// True where it ends with STARTTLS.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> io::Result<bool> {
        let mut line = String::new();
        let mut greeted = self.greeted;
        loop {
            line.clear();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(false);
            }
            let command = line.trim_end().to_string();
            let verb = command.split([' ', ':']).next().unwrap().to_ascii_uppercase();
            self.judge(&command, &verb, (greeted, !stream.buffer().is_empty()));
            self.heard.lock().unwrap().commands.push((self.encrypted, command));
            let answer = match verb.as_str() {
                "EHLO" => {
                    greeted = true;
                    let lines: Vec<&str> = [&["peer.example"], self.offered].concat();
                    let (last, lines) = lines.split_last().unwrap();
                    lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + "250 " + last
                }
                "STARTTLS" => return Ok(true),
                "DATA" => {
                    stream.get_mut().write_all(b"354 go\r\n").await?;
                    self.message(stream).await?;
                    "250 2.0.0 taken".into()
                }
                "QUIT" => "221 bye".into(),
                _ => "250 2.0.0 ok".into(),
            };
            stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).await?;
            stream.get_mut().flush().await?;
            if verb == "QUIT" {
                return Ok(false);
            }
        }
    }

    fn offers(&self, extension: &str) -> bool {
        self.offered.iter().any(|line| line.split(' ').next() == Some(extension))
    }

    fn judge(&self, command: &str, verb: &str, (greeted, more): (bool, bool)) {
        let uses = |parameter: &str| command.split(' ').skip(1).any(|word| word.starts_with(parameter));
        let checks = [
            (greeted || verb == "EHLO" || verb == "QUIT", "before EHLO"),
            (!more || self.offers("PIPELINING"), "more than one command at once"),
            (!uses("SIZE=") || self.offers("SIZE"), "SIZE"),
            (!uses("BODY=") || self.offers("8BITMIME"), "BODY"),
            (!uses("REQUIRETLS") || self.offers("REQUIRETLS"), "REQUIRETLS"),
            (verb != "STARTTLS" || (self.offers("STARTTLS") && !more), "STARTTLS"),
        ];
        let faults = checks.iter().filter(|(holds, _)| !holds).map(|(_, what)| format!("{what}: {command}"));
        self.heard.lock().unwrap().faults.extend(faults);
    }

    async fn message<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> io::Result<()> {
        let (mut message, mut line) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            if stream.read_until(b'\n', &mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == b".\r\n" {
                self.heard.lock().unwrap().messages.push((self.encrypted, message));
                return Ok(());
            }
            message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
    }
}
