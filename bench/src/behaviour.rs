//! What a sink does at each step of a session: the usual, or what its [`Behaviour`] says instead.

use std::time::Duration;

/// What to do instead of the usual reply.
#[derive(Debug, Clone)]
pub enum Action {
    /// The usual.
    Usual,
    /// A full reply line without CRLF.
    Reply(String),
    /// Close without a reply.
    Close,
    /// Wait, then the usual.
    Wait(Duration),
    /// Take the message, but close instead of telling.
    TakeAndClose,
}

/// Decides at each step of a session. Everything is the usual unless overridden.
pub trait Behaviour: Send + Sync + 'static {
    fn connect(&self) -> Action {
        Action::Usual
    }
    /// The EHLO keywords.
    fn keywords(&self) -> Vec<&'static str> {
        vec!["PIPELINING", "8BITMIME", "SIZE 52428800", "ENHANCEDSTATUSCODES"]
    }
    fn mail(&self, _argument: &str) -> Action {
        Action::Usual
    }
    fn rcpt(&self, _argument: &str) -> Action {
        Action::Usual
    }
    fn data(&self) -> Action {
        Action::Usual
    }
    /// Before each read of content, the first one included: `Close` and `Wait` are done, anything else is the usual.
    fn content(&self) -> Action {
        Action::Usual
    }
    /// After the final dot.
    fn dot(&self, _content: &[u8]) -> Action {
        Action::Usual
    }
}

/// Takes everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Obliging;
impl Behaviour for Obliging {}
