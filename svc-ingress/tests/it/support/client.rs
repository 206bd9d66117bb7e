//! A client that says what it is told and counts the replies.

use std::{io, time::Duration};

use godwit_kit::net::{Connection, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Trust;

/// A test that waits this long waits for something that never comes.
const LIMIT: Duration = Duration::from_secs(7_200);

pub struct Client {
    stream: Box<dyn Stream>,
    said: String,
}

impl Client {
    pub fn new(connection: Connection) -> Self {
        Self { stream: connection.stream, said: String::new() }
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.try_send(text).await.unwrap();
    }

    pub async fn try_send(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(text.as_ref()).await?;
        self.stream.flush().await
    }

    /// The handshake, with nothing left to be read in the clear.
    pub async fn handshake(self, trust: &Trust) -> io::Result<Self> {
        assert_eq!(self.said, "", "said before the handshake");
        Ok(Self { stream: trust.handshake(self.stream).await?, said: String::new() })
    }

    /// Says STARTTLS, does the handshake and greets again.
    pub async fn secured(mut self, trust: &Trust) -> Self {
        assert_eq!(self.say("STARTTLS\r\n", 1).await, ["220 2.0.0"]);
        let mut client = self.handshake(trust).await.unwrap();
        assert_eq!(client.say("EHLO client.test\r\n", 1).await, ["250"]);
        client
    }

    /// Whatever comes until the server closes.
    pub async fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.said).into_bytes();
        let read = tokio::time::timeout(LIMIT, self.stream.read_to_end(&mut bytes)).await.expect("an end");
        read.unwrap();
        bytes
    }

    /// `250 2.1.0` of each of the next `count` replies.
    pub async fn replies(&mut self, count: usize) -> Vec<String> {
        let mut codes = Vec::new();
        while codes.len() < count {
            let line = self.line().await.unwrap_or_else(|| panic!("closed after {codes:?}"));
            codes.extend(code(&line));
        }
        codes
    }

    pub async fn say(&mut self, text: impl AsRef<[u8]>, count: usize) -> Vec<String> {
        self.send(text).await;
        self.replies(count).await
    }

    /// Says it, and gives all replies until the server closes.
    pub async fn say_last(&mut self, text: impl AsRef<[u8]>) -> Vec<String> {
        self.send(text).await;
        self.rest().await
    }

    pub async fn rest(&mut self) -> Vec<String> {
        let mut codes = Vec::new();
        while let Some(line) = self.line().await {
            codes.extend(code(&line));
        }
        codes
    }

    /// One whole line without its CRLF; `None` where the server has closed.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some((line, rest)) = self.said.split_once("\r\n") {
                let (line, rest) = (line.to_owned(), rest.to_owned());
                self.said = rest;
                return Some(line);
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(LIMIT, self.stream.read(&mut bytes)).await.expect("a reply");
            match read.unwrap() {
                0 => return None,
                count => self.said += std::str::from_utf8(&bytes[..count]).unwrap(),
            }
        }
    }

    /// Opens a message: the server waits for its content.
    pub async fn open(&mut self) {
        let opening = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n";
        assert_eq!(self.say(opening, 3).await, ["250 2.1.0", "250 2.1.5", "354"]);
    }

    /// The reply to a small message.
    pub async fn message(&mut self) -> String {
        self.open().await;
        self.say("Subject: x\r\n\r\nhello\r\n.\r\n", 1).await.remove(0)
    }
}

/// Code and enhanced code of a reply's last line.
fn code(line: &str) -> Option<String> {
    let (code, text) = line.split_at_checked(4)?;
    let word = text.split(' ').next().filter(|word| godwit_smtp::Enhanced::parse(word).is_some());
    code.ends_with(' ').then(|| word.map_or(code[..3].to_owned(), |word| format!("{code}{word}")))
}
