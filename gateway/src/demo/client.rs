//! Hands mail to an MTA by SMTP, over godwit-smtp's machine.

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use godwit_smtp::submit::{self, Event, Start, Transaction};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing on loopback takes so long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A greeted connection.
pub struct Client {
    stream: TcpStream,
    machine: submit::Client,
    input: BytesMut,
}

impl Client {
    /// # Errors
    /// Nobody there, or nobody who greets.
    pub async fn connect(at: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(at).await.with_context(|| at.to_string())?;
        stream.set_nodelay(true)?;
        let machine = submit::Client::new(submit::Config::new("client.example"));
        let mut client = Self { stream, machine, input: BytesMut::new() };
        match client.next().await? {
            Event::Ready(_) => Ok(client),
            Event::Refused { reply, .. } => bail!("{at} says {reply}"),
            event @ (Event::TlsReady | Event::TlsRefused(_) | Event::Done(_) | Event::Closed(_)) => {
                bail!("{at} does not greet: {event:?}")
            }
        }
    }

    /// Returns once every recipient is accepted: then the message is on the MTA's disk.
    ///
    /// # Errors
    /// A refusal, or a connection that broke; it is of no use any more.
    pub async fn send(&mut self, transaction: Transaction) -> Result<()> {
        let outcome = match self.machine.start(transaction) {
            Start::Refused(outcome) => outcome,
            Start::Sent => match self.next().await? {
                Event::Done(outcome) => outcome,
                event @ (Event::Ready(_)
                | Event::Refused { .. }
                | Event::TlsReady
                | Event::TlsRefused(_)
                | Event::Closed(_)) => bail!("no answer to a message: {event:?}"),
            },
        };
        for delivery in outcome.deliveries {
            ensure!(delivery.reply.is_positive(), "not accepted: {}", delivery.reply);
        }
        Ok(())
    }

    /// Says QUIT and waits for the answer.
    pub async fn quit(mut self) {
        self.machine.quit();
        let _ = self.next().await;
    }

    async fn next(&mut self) -> Result<Event> {
        tokio::time::timeout(TIMEOUT, self.exchange()).await.context("no answer in time")?
    }

    /// Writes and reads until there is something to tell.
    async fn exchange(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.machine.feed(&mut self.input) {
                return Ok(event);
            }
            while let Some(piece) = self.machine.output().pop_front() {
                self.stream.write_all(&piece).await?;
            }
            ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the connection was closed");
        }
    }
}
