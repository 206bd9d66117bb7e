//! A redis-server of the test's own: its process, port and folder, gone when dropped.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    child: Child,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments. Keeps nothing on disk unless they say so.
    pub fn start_with(arguments: &[&str]) -> Self {
        let name = godwit_proto::id::MessageId::new().to_string();
        let folder = std::env::temp_dir().join(format!("godwit-redis-{name}"));
        std::fs::create_dir(&folder).unwrap();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        // A port that was free may be taken by the time Redis comes.
        for _ in 0..10 {
            let port = free_port();
            let mut child = spawn(port, &folder, &arguments);
            if answers(&mut child, port) {
                return Self { child, port, folder, arguments };
            }
            let _ = child.wait();
        }
        panic!("redis-server does not start");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As by `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// After `kill`: at the same place.
    pub fn restart(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.child = spawn(self.port, &self.folder, &self.arguments);
            if answers(&mut self.child, self.port) {
                return;
            }
            assert!(Instant::now() < deadline, "redis-server does not come back");
            self.kill();
        }
    }

    /// SIGSTOP and SIGCONT: it accepts, and never answers.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// One command's answer as it comes: of few and short words.
    pub fn ask(&self, words: &[&str]) -> String {
        ask(self.addr(), words).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(port: u16, folder: &Path, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--dir", folder.to_str().unwrap(), "--loglevel", "warning"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server must be installed: see .ci/packages")
}

/// False: it has ended.
fn answers(child: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = ask(SocketAddr::from(([127, 0, 0, 1], port)), &["PING"]);
        if said.is_ok_and(|said| said.starts_with("+PONG") || said.starts_with("-NOAUTH")) {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < deadline, "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn ask(addr: SocketAddr, words: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
