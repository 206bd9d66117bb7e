//! What a sink does by a script.

use bench::sink::{Action, Behaviour};
use std::sync::Mutex;

/// The stage of a session at which a [`Script`] does something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Connect,
    Rcpt,
    Data,
    Content,
    Dot,
}

/// What a sink does: each line once, at its step, where the argument holds the needle; else the usual.
#[derive(Debug, Default)]
pub struct Script(Mutex<Vec<(Step, &'static str, Action)>>);

impl Script {
    pub fn new(lines: impl IntoIterator<Item = (Step, &'static str, Action)>) -> Self {
        Self(Mutex::new(lines.into_iter().collect()))
    }

    fn next(&self, step: Step, argument: &str) -> Action {
        let mut lines = self.0.lock().unwrap();
        let place = lines.iter().position(|(at, needle, _)| *at == step && argument.contains(needle));
        place.map_or(Action::Usual, |place| lines.remove(place).2)
    }
}

impl Behaviour for Script {
    fn connect(&self) -> Action {
        self.next(Step::Connect, "")
    }
    fn rcpt(&self, argument: &str) -> Action {
        self.next(Step::Rcpt, argument)
    }
    fn data(&self) -> Action {
        self.next(Step::Data, "")
    }
    fn content(&self) -> Action {
        self.next(Step::Content, "")
    }
    fn dot(&self, _content: &[u8]) -> Action {
        self.next(Step::Dot, "")
    }
}

pub fn reply(text: &str) -> Action {
    Action::Reply(text.to_string())
}
