//! The client's state and its public face: what is planned, what is sent, what is awaited.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Capabilities, Closed, Event, Lost, Outcome, Stage, Transaction, Violation,
    open::{By, Open},
    wire,
};
use crate::reply::{self, Reply};

#[derive(Debug, Clone)]
pub struct Config {
    /// The name given in EHLO and HELO.
    pub ehlo_domain: String,
    /// Caps on the peer's replies.
    pub reply: reply::Limits,
}

impl Config {
    /// The usual caps on replies.
    pub fn new(ehlo_domain: impl Into<String>) -> Self {
        Self { ehlo_domain: ehlo_domain.into(), reply: reply::Limits::default() }
    }
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
    pub(super) config: Config,
    output: VecDeque<Bytes>,
    /// Octets ever put into `output`.
    queued_bytes: u64,
    pub(super) capabilities: Capabilities,
    parser: reply::Parser,
    pub(super) link: Link,
    /// Commands to be sent once nothing is awaited, or at once when pipelining.
    pub(super) plan: VecDeque<Said>,
    /// Commands sent and not answered, in order, each with where in the output it ended.
    awaited: VecDeque<(Said, u64)>,
    pub(super) open: Option<Open>,
    /// The last transaction was left unfinished: say RSET before the next.
    pub(super) rset_due: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Not greeted yet.
    New,
    /// Greeted: transactions may be started.
    Ready,
    /// STARTTLS was answered 220: the driver does the handshake.
    Handshake,
    Closed,
}

/// What the peer owes an answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Greeting(Greeting),
    StartTls,
    In(Step),
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Nothing was said: the peer speaks first.
    Banner,
    Ehlo,
    Helo,
}

/// A step of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The message with its final dot.
    Message,
    /// A dot alone: DATA was accepted and there is nobody to send to.
    LoneDot,
}

impl Client {
    /// Waits for the peer's banner.
    pub fn new(config: Config) -> Self {
        Self {
            parser: reply::Parser::new(config.reply),
            config,
            output: VecDeque::new(),
            queued_bytes: 0,
            capabilities: Capabilities::default(),
            link: Link::New,
            plan: VecDeque::new(),
            awaited: VecDeque::from([(Said::Greeting(Greeting::Banner), 0)]),
            open: None,
            rset_due: false,
        }
    }

    /// What the client waits for.
    pub fn stage(&self) -> Stage {
        let awaited = self.awaited.front().map(|(said, _)| *said);
        match (self.link, awaited.or(self.plan.front().copied())) {
            (Link::Closed, _) => Stage::Closed,
            (Link::Handshake, _) => Stage::StartTls,
            (Link::New | Link::Ready, None) => Stage::Idle,
            // Only when all of it was handed out may the peer have taken the message.
            (Link::New | Link::Ready, Some(Said::In(Step::Message)))
                if awaited.is_none() || !self.output.is_empty() =>
            {
                Stage::DataBlock
            }
            (Link::New | Link::Ready, Some(said)) => said.stage(),
        }
    }

    /// What the peer offered; all off before `Event::Ready`.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// To be changed after `Event::Ready`, where the driver knows better than the peer.
    pub fn capabilities_mut(&mut self) -> &mut Capabilities {
        &mut self.capabilities
    }

    /// Begins a transaction, in one flight if the peer pipelines. Feed what has arrived first.
    pub fn start(&mut self, transaction: Transaction) -> Start {
        let ready = self.link == Link::Ready && self.stage() == Stage::Idle && !self.parser.is_partial();
        let open = match Open::new(transaction, &self.capabilities) {
            Ok(open) if ready => open,
            Ok(mut open) => {
                open.decide_all(&Reply::new(451, (4, 4, 2), "Connection is not ready"), Stage::Mail, By::Us);
                return Start::Refused(open.outcome(false));
            }
            Err(outcome) => return Start::Refused(Outcome { reusable: ready, ..outcome }),
        };
        self.plan.extend(std::mem::take(&mut self.rset_due).then_some(Said::In(Step::Rset)));
        self.plan.push_back(Said::In(Step::Mail));
        self.plan.extend(open.unanswered().map(|at| Said::In(Step::Rcpt(at))));
        self.plan.push_back(Said::In(Step::Data));
        self.open = Some(open);
        self.say_next();
        Start::Sent
    }

    /// Takes replies off `input` until something is worth telling. Call again until `None`.
    pub fn feed(&mut self, input: &mut BytesMut) -> Option<Event> {
        loop {
            if self.link == Link::Closed || (self.link == Link::Handshake && input.is_empty()) {
                return None;
            }
            if self.link == Link::Handshake {
                return self.give_up(Violation::Injected);
            }
            // The next command is sent only when everything the peer has said is understood.
            if self.awaited.is_empty() && input.is_empty() && !self.parser.is_partial() {
                self.say_next();
            }
            let event = match self.parser.advance(input) {
                Ok(None) => return None,
                Ok(Some(reply)) => self.hear(reply, input.is_empty()),
                Err(error) => self.give_up(error.into()),
            };
            if event.is_some() {
                return event;
            }
        }
    }

    /// To be written, front first. Take slices off only as they are handed to the socket, or tell `wrote`.
    pub fn output(&mut self) -> &mut VecDeque<Bytes> {
        &mut self.output
    }

    /// Drops the first `bytes` octets of the output: they were written.
    pub fn wrote(&mut self, mut bytes: usize) {
        while let Some(front) = self.output.front_mut() {
            if bytes < front.len() {
                front.advance(bytes);
                return;
            }
            bytes -= front.len();
            self.output.pop_front();
        }
    }

    /// Asks for TLS; `Event::TlsReady` or `Event::TlsRefused` follows. False, and nothing sent, unless idle and offered.
    pub fn start_tls(&mut self) -> bool {
        self.capabilities.starttls && self.say_if_idle(Said::StartTls)
    }

    /// The handshake is done: forgets all that the peer said before it, and greets again.
    pub fn secured(&mut self) {
        if self.link == Link::Handshake {
            self.capabilities = Capabilities::default();
            self.parser = reply::Parser::new(self.config.reply);
            self.link = Link::New;
            self.rset_due = false;
            self.plan.push_back(Said::Greeting(Greeting::Ehlo));
            self.say_next();
        }
    }

    /// Says QUIT if idle; `Event::Closed` follows.
    pub fn quit(&mut self) {
        self.say_if_idle(Said::Quit);
    }

    /// The connection is gone. Gives the outcome of the open transaction, if any.
    pub fn lost(&mut self, why: Lost) -> Option<Outcome> {
        let stage = self.stage();
        let text = match why {
            Lost::Disconnected => format!("Connection lost while waiting: {stage}"),
            Lost::TimedOut => format!("Timed out while waiting: {stage}"),
        };
        let by = if stage == Stage::Dot { By::UsInDoubt } else { By::Us };
        self.end(&Reply::new(421, (4, 4, 2), text), stage, by)
    }

    /// The connection ends here: nothing more is sent or heard.
    pub(super) fn end(&mut self, reply: &Reply, stage: Stage, by: By) -> Option<Outcome> {
        self.link = Link::Closed;
        self.plan.clear();
        self.awaited.clear();
        self.output.clear();
        let mut open = self.open.take()?;
        open.decide_all(reply, stage, by);
        Some(open.outcome(false))
    }

    /// The peer broke the protocol: what is undecided is put off, whatever the peer may have said about it.
    pub(super) fn give_up(&mut self, violation: Violation) -> Option<Event> {
        self.give_up_at(self.stage(), violation)
    }

    pub(super) fn give_up_at(&mut self, stage: Stage, violation: Violation) -> Option<Event> {
        let by = if stage == Stage::Dot { By::UsInDoubt } else { By::Us };
        let reply = Reply::new(451, (4, 5, 0), format!("Protocol error at {stage}: {violation}"));
        Some(self.end(&reply, stage, by).map_or(Event::Closed(Closed::Protocol(violation)), Event::Done))
    }

    /// What the next reply answers, and whether that was sent at all.
    pub(super) fn awaited(&mut self) -> Option<(Said, bool)> {
        let unwritten: usize = self.output.iter().map(Bytes::len).sum();
        let (said, end) = self.awaited.pop_front()?;
        Some((said, end <= self.queued_bytes - unwritten as u64))
    }

    fn say_if_idle(&mut self, said: Said) -> bool {
        let idle = self.link == Link::Ready && self.stage() == Stage::Idle;
        if idle {
            self.plan.push_back(said);
            self.say_next();
        }
        idle
    }

    /// Sends what is planned: all of it if the peer pipelines, else one command.
    fn say_next(&mut self) {
        let count = if self.capabilities.pipelining { self.plan.len() } else { self.plan.len().min(1) };
        let mut flight = String::new();
        let mut message = Vec::new();
        for said in self.plan.drain(..count).collect::<Vec<_>>() {
            match said {
                Said::Greeting(Greeting::Banner) => {}
                Said::Greeting(Greeting::Ehlo) => flight += &wire::hello("EHLO", &self.config.ehlo_domain),
                Said::Greeting(Greeting::Helo) => flight += &wire::hello("HELO", &self.config.ehlo_domain),
                Said::StartTls => flight += "STARTTLS\r\n",
                Said::Quit => flight += "QUIT\r\n",
                Said::In(step) => match &mut self.open {
                    Some(open) if step == Step::Message => message.append(&mut open.wire),
                    Some(open) => flight += &wire::step(step, &open.transaction, &self.capabilities),
                    None => {}
                },
            }
            let bytes = flight.len() + message.iter().map(Bytes::len).sum::<usize>();
            self.awaited.push_back((said, self.queued_bytes + bytes as u64));
        }
        let flight = (!flight.is_empty()).then(|| Bytes::from(flight));
        for piece in flight.into_iter().chain(message) {
            self.queued_bytes += piece.len() as u64;
            self.output.push_back(piece);
        }
    }
}

impl Said {
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::Greeting(Greeting::Banner) => Stage::Banner,
            Self::Greeting(Greeting::Ehlo | Greeting::Helo) => Stage::Ehlo,
            Self::StartTls => Stage::StartTls,
            Self::In(Step::Rset) => Stage::Rset,
            Self::In(Step::Mail) => Stage::Mail,
            Self::In(Step::Rcpt(_)) => Stage::Rcpt,
            Self::In(Step::Data) => Stage::DataInit,
            Self::In(Step::Message | Step::LoneDot) => Stage::Dot,
            Self::Quit => Stage::Quit,
        }
    }
}
