//! The session's state and its public face: advances over input until it must wait, ask or close.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Ask, Config, Helo, Recipient, Step, Tls, Transaction, Verdict,
    line::{Lines, Taken},
};
use crate::{
    address::ReversePath,
    command::{self, MailParams},
    data,
    reply::Reply,
};

/// What the session waits for: the driver picks its timeout by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing said yet.
    Banner,
    /// A command, or the end of a chunk that came with one that was refused.
    Command,
    /// Inside a message.
    Data,
    /// STARTTLS was answered 220.
    Handshake,
    /// An ask is open.
    Answer,
    Closed,
}

/// One client's connection.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<Config>,
    pub(super) state: State,
    pub(super) output: BytesMut,
    /// What is said now is said within TLS.
    pub(super) is_secured: bool,
    lines: Lines,
    /// What the open ask is about; nothing is consumed while there is one.
    pub(super) pending: Option<Pending>,
    pub(super) helo: Option<Helo>,
    pub(super) mail: Option<Mail>,
    pub(super) tally: Tally,
    shutting_down: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Not greeted yet.
    Fresh,
    Commands,
    /// Refused with 5yz at the banner: only QUIT is served (RFC 5321 section 3.1).
    Rejected,
    Data(data::Reader),
    /// Inside a chunk that nobody wants: so many octets to go.
    Skip(u64),
    /// STARTTLS was answered 220: nothing is read in the clear any more.
    Handshake,
    Closed,
}

/// What an ask leaves behind, to be acted on when it is answered.
#[derive(Debug)]
pub(super) enum Pending {
    Connect,
    Helo(Helo),
    Mail(Mail),
    Rcpt(Recipient),
    Vrfy,
    Message,
}

/// The transaction that is open.
#[derive(Debug, Clone)]
pub(super) struct Mail {
    pub(super) reverse_path: ReversePath,
    pub(super) params: MailParams,
    pub(super) recipients: Vec<Recipient>,
    pub(super) recipients_refused: usize,
}

/// What the connection has used of its limits.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) errors: usize,
    pub(super) idles: usize,
    pub(super) messages: usize,
}

impl Session {
    pub fn new(config: impl Into<Arc<Config>>) -> Self {
        let config = config.into();
        Self {
            is_secured: config.tls == Tls::Implicit,
            config,
            state: State::Fresh,
            output: BytesMut::new(),
            lines: Lines::default(),
            pending: None,
            helo: None,
            mail: None,
            tally: Tally::default(),
            shutting_down: false,
        }
    }

    /// Consumes what it can of `input`. While an ask is open it consumes nothing and gives `NeedInput`.
    pub fn advance(&mut self, input: &mut BytesMut) -> Step {
        while self.pending.is_none() {
            let asked = match &mut self.state {
                State::Fresh => self.ask(Pending::Connect, Ask::Connect),
                State::Closed => return Step::Close,
                State::Handshake => {
                    input.clear();
                    return Step::StartTls;
                }
                State::Data(reader) => match reader.advance(input) {
                    Some(result) => self.message(result),
                    None => return Step::NeedInput,
                },
                State::Skip(_) if input.is_empty() => return Step::NeedInput,
                State::Skip(left) => {
                    let here = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    input.advance(here);
                    *left -= here as u64;
                    if *left == 0 {
                        self.state = State::Commands;
                    }
                    None
                }
                State::Commands | State::Rejected => match self.lines_step(input) {
                    Some(asked) => asked,
                    None => return Step::NeedInput,
                },
            };
            if let Some(ask) = asked {
                return Step::Ask(ask);
            }
        }
        Step::NeedInput
    }

    /// Decides the open ask. Without one it does nothing.
    pub fn answer(&mut self, verdict: impl Into<Verdict>) {
        if let Some(pending) = self.pending.take() {
            self.decide(pending, verdict.into());
        }
    }

    /// The handshake is done: forgets all that the client said before it (RFC 3207 section 4.2), but not its refusals.
    pub fn secured(&mut self) {
        if matches!(self.state, State::Handshake) {
            self.state = State::Commands;
            self.is_secured = true;
            (self.helo, self.mail) = (None, None);
        }
    }

    /// Replies to be written; the driver takes them (`split`).
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Fresh => Phase::Banner,
            State::Handshake => Phase::Handshake,
            State::Commands | State::Rejected | State::Data(_) | State::Skip(_) if self.pending.is_some() => {
                Phase::Answer
            }
            State::Commands | State::Rejected | State::Skip(_) => Phase::Command,
            State::Data(_) => Phase::Data,
        }
    }

    /// The next command is answered 421 4.3.2, then closed. A message in flight is still finished and answered.
    pub fn shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// The client was silent too long: 421 4.4.2, then closed. Not for when an ask is open: then the client is waiting.
    pub fn timeout(&mut self) {
        self.close(Reply::new(421, (4, 4, 2), format!("{} Timeout, closing", self.config.hostname)));
    }

    /// One line of commands; `None` when there is none yet, else what it asks.
    fn lines_step(&mut self, input: &mut BytesMut) -> Option<Option<Ask>> {
        if command::is_foreign(input) {
            self.close(Reply::new(421, (4, 7, 0), "This is an SMTP server, closing"));
            return Some(None);
        }
        let asked = match self.lines.take(input, self.config.line_bytes_max) {
            Taken::More => return None,
            Taken::Line(_) | Taken::BareLf | Taken::TooLong if self.shutting_down => {
                self.close(Reply::new(421, (4, 3, 2), format!("{} Shutting down", self.config.hostname)));
                None
            }
            Taken::Line(line) => self.command(&line, !input.is_empty()),
            Taken::BareLf => self.refuse(Reply::new(500, (5, 5, 2), "Command must end with CRLF")),
            Taken::TooLong => self.refuse(Reply::new(500, (5, 5, 2), "Line too long")),
        };
        Some(asked)
    }

    /// The end of a message has come, for good or bad.
    fn message(&mut self, result: Result<Bytes, data::Fault>) -> Option<Ask> {
        self.state = State::Commands;
        self.tally.messages += 1;
        let (mail, helo) = (self.mail.take(), self.helo.clone());
        match (result, mail.zip(helo)) {
            (Ok(body), Some((Mail { reverse_path, params, recipients, recipients_refused: _ }, helo))) => {
                let transaction = Transaction { helo, reverse_path, params, recipients, body };
                self.ask(Pending::Message, Ask::Message(transaction))
            }
            // DATA is only begun inside a transaction.
            (Ok(_), None) => self.refuse(Reply::new(503, (5, 5, 1), "MAIL first")),
            (Err(fault), _) => self.refuse(fault_reply(fault)),
        }
    }

    pub(super) fn ask(&mut self, pending: Pending, ask: Ask) -> Option<Ask> {
        self.pending = Some(pending);
        Some(ask)
    }

    pub(super) fn reply(&mut self, reply: &Reply) -> Option<Ask> {
        reply.encode(&mut self.output);
        None
    }

    /// A refusal, which counts against the client until it is one too many.
    pub(super) fn refuse(&mut self, reply: Reply) -> Option<Ask> {
        if reply.code == 421 {
            return self.close(reply);
        }
        let (count, max) = match reply.is_permanent() {
            true => (&mut self.tally.errors, self.config.errors_max),
            false => (&mut self.tally.idles, self.config.idles_max),
        };
        *count += 1;
        if *count > max {
            return self.close(Reply::new(421, (4, 7, 0), format!("{} Too many refusals", self.config.hostname)));
        }
        self.reply(&reply)
    }

    /// The last reply of the connection.
    pub(super) fn close(&mut self, reply: Reply) -> Option<Ask> {
        if !matches!(self.state, State::Closed) {
            reply.encode(&mut self.output);
            self.state = State::Closed;
        }
        self.pending = None;
        None
    }
}

fn fault_reply(fault: data::Fault) -> Reply {
    match fault {
        data::Fault::TooLarge => Reply::new(552, (5, 3, 4), "Message is too large"),
        data::Fault::LineTooLong => Reply::new(554, (5, 6, 0), "Message has a line that is too long"),
        data::Fault::Nul => Reply::new(554, (5, 6, 0), "Message contains NUL"),
        data::Fault::BareLf => Reply::new(550, (5, 5, 2), "Message contains bare LF"),
        data::Fault::BareCr => Reply::new(550, (5, 5, 2), "Message contains bare CR"),
    }
}
