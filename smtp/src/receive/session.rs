//! The session's state and its public face.

use std::sync::Arc;

use bytes::BytesMut;

use super::{Config, Step, Verdict};

/// What the session waits for: the driver picks its timeout by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing said yet.
    Banner,
    Command,
    /// Inside a message.
    Data,
    /// An ask is open.
    Answer,
    Closed,
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<Config>,
    output: BytesMut,
}

impl Session {
    pub fn new(config: impl Into<Arc<Config>>) -> Self {
        todo!()
    }

    /// Consumes what it can of `input`. Asks again (the same ask is not repeated) only after `answer`.
    pub fn advance(&mut self, input: &mut BytesMut) -> Step {
        todo!()
    }

    /// Decides the open ask. Without one it does nothing.
    pub fn answer(&mut self, verdict: impl Into<Verdict>) {
        todo!()
    }

    /// Replies to be written; the driver takes them (`split`).
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    pub fn phase(&self) -> Phase {
        todo!()
    }

    /// The next command is answered 421 4.3.2, then closed. A message in flight is still finished and answered.
    pub fn shutdown(&mut self) {
        todo!()
    }

    /// The client was silent too long: 421 4.4.2, then closed.
    pub fn timeout(&mut self) {
        todo!()
    }
}
