//! The client's state and its public face.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{Capabilities, Event, Lost, Outcome, Stage, Transaction};
use crate::reply;

#[derive(Debug, Clone)]
pub struct Config {
    /// The name given in EHLO and HELO.
    pub ehlo_domain: String,
    /// Caps on the peer's replies.
    pub reply: reply::Limits,
}

/// Whether a transaction got under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Start {
    /// `output` has its first bytes; an `Event::Done` follows.
    Sent,
    /// It cannot be sent to this peer, or not now. Nothing was sent.
    Refused(Outcome),
}

/// One connection to a peer.
#[derive(Debug)]
pub struct Client {
    output: VecDeque<Bytes>,
    capabilities: Capabilities,
}

impl Client {
    /// Waits for the peer's banner.
    pub fn new(config: Config) -> Self {
        todo!()
    }

    /// What the client waits for.
    pub fn stage(&self) -> Stage {
        todo!()
    }

    /// What the peer offered; all off before `Event::Ready`.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Begins a transaction, in one flight if the peer pipelines. Feed what has arrived first.
    pub fn start(&mut self, transaction: Transaction) -> Start {
        todo!()
    }

    /// Takes replies off `input` until something is worth telling. Call again until `None`.
    pub fn feed(&mut self, input: &mut BytesMut) -> Option<Event> {
        todo!()
    }

    /// To be written, front first. Take slices off only as they are handed to the socket, or tell `wrote`.
    pub fn output(&mut self) -> &mut VecDeque<Bytes> {
        &mut self.output
    }

    /// Drops the first `bytes` octets of the output: they were written.
    pub fn wrote(&mut self, bytes: usize) {
        todo!()
    }

    /// Asks for TLS; `Event::TlsReady` or `Event::TlsRefused` follows. False, and nothing sent, unless idle and offered.
    pub fn start_tls(&mut self) -> bool {
        todo!()
    }

    /// The handshake is done: forgets all that the peer said before it, and greets again.
    pub fn secured(&mut self) {
        todo!()
    }

    /// Says QUIT if idle; `Event::Closed` follows.
    pub fn quit(&mut self) {
        todo!()
    }

    /// The connection is gone. Gives the outcome of the open transaction, if any.
    pub fn lost(&mut self, why: Lost) -> Option<Outcome> {
        todo!()
    }
}
