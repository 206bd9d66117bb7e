//! A peer that is a script, on a loopback socket of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How the peer behaves.
#[derive(Clone)]
pub struct Script {
    pub banner: &'static str,
    pub extensions: &'static [&'static str],
    /// The reply to RCPT by the recipient's address.
    pub rcpt: fn(&str) -> &'static str,
    pub data: Data,
}

#[derive(Clone)]
pub enum Data {
    /// Takes the message and answers this.
    Reply(&'static str),
    /// Closes in the middle of the message.
    DisconnectWithin,
    /// Takes the whole message and closes without an answer.
    DisconnectAfter,
    /// Takes the message and answers 250 once a permit is there.
    Wait(Arc<Semaphore>),
    /// The same for messages that say `slow`; others at once.
    WaitIfSlow(Arc<Semaphore>),
}

impl Default for Script {
    fn default() -> Self {
        Self {
            banner: "220 sink.example",
            extensions: &["PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 1000000"],
            rcpt: |_| "250 2.1.5 ok",
            data: Data::Reply("250 2.0.0 taken"),
        }
    }
}

#[derive(Debug, Default, Clone)]
pub struct Heard {
    pub connection_count: usize,
    pub commands: Vec<String>,
    pub messages: Vec<String>,
    pub quit_count: usize,
}

/// Runs until dropped.
pub struct Sink {
    pub at: SocketAddr,
    pub heard: Arc<Mutex<Heard>>,
    accepting: JoinHandle<()>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Sink {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, heard) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Heard::default())));
        let noted = heard.clone();
        let accepting = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                noted.lock().unwrap().connection_count += 1;
                let (script, noted) = (script.clone(), noted.clone());
                sessions.spawn(async move { drop(session(stream, script, noted).await) });
            }
        });
        Self { at, heard, accepting }
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn session(stream: TcpStream, script: Script, heard: Arc<Mutex<Heard>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    say(&mut stream, script.banner).await?;
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_string();
        heard.lock().unwrap().commands.push(command.clone());
        let verb = command.split([' ', ':']).next().unwrap().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => {
                for (place, extension) in ["sink.example"].iter().chain(script.extensions).enumerate() {
                    let separator = if place < script.extensions.len() { '-' } else { ' ' };
                    say(&mut stream, &format!("250{separator}{extension}")).await?;
                }
            }
            "MAIL" | "RSET" => say(&mut stream, "250 2.0.0 ok").await?,
            "RCPT" => {
                let address = command.split(['<', '>']).nth(1).unwrap_or_default().to_string();
                say(&mut stream, (script.rcpt)(&address)).await?;
            }
            "DATA" => {
                say(&mut stream, "354 go").await?;
                if !take_message(&mut stream, &script.data, &heard).await? {
                    return Ok(());
                }
            }
            "QUIT" => {
                heard.lock().unwrap().quit_count += 1;
                return say(&mut stream, "221 bye").await;
            }
            _ => say(&mut stream, "500 what").await?,
        }
    }
}

async fn take_message(stream: &mut BufReader<TcpStream>, data: &Data, heard: &Mutex<Heard>) -> std::io::Result<bool> {
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(false);
        }
        if matches!(data, Data::DisconnectWithin) {
            return Ok(false);
        }
        if line == b".\r\n" {
            break;
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
    heard.lock().unwrap().messages.push(String::from_utf8_lossy(&message).into_owned());
    match data {
        Data::Reply(reply) => say(stream, reply).await?,
        Data::DisconnectWithin | Data::DisconnectAfter => return Ok(false),
        Data::Wait(gate) => {
            gate.acquire().await.unwrap().forget();
            say(stream, "250 2.0.0 taken at last").await?;
        }
        Data::WaitIfSlow(gate) => {
            if String::from_utf8_lossy(&message).contains("slow") {
                gate.acquire().await.unwrap().forget();
            }
            say(stream, "250 2.0.0 taken").await?;
        }
    }
    Ok(true)
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await
}
