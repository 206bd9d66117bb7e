//! What each command does: order and limits are checked here, then somebody is asked.

use super::{
    Ask, Helo, Recipient, Tls,
    session::{Mail, Pending, Session, State},
};
use crate::{
    address::{Address, ForwardPath, ReversePath},
    command::{self, BodyType, Command, MailParams, RcptParams},
    data,
    reply::Reply,
};

impl Session {
    /// `more` says that input follows the command already.
    pub(super) fn command(&mut self, line: &[u8], more: bool) -> Option<Ask> {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(reply) => return self.refuse(reply),
        };
        if matches!(self.state, State::Rejected) && command != Command::Quit {
            return self.refuse(bad_sequence("No SMTP service here"));
        }
        if self.config.tls == Tls::Required && !self.is_secured && !is_for_all(&command) {
            return self.refuse(Reply::new(530, (5, 7, 0), "Must issue a STARTTLS command first"));
        }
        match command {
            Command::Ehlo(name) => self.helo(Helo { name, esmtp: true }),
            Command::Helo(name) => self.helo(Helo { name, esmtp: false }),
            Command::Mail { reverse_path, params } => self.mail(reverse_path, params),
            Command::Rcpt { forward_path: _, params: _ } if !line.is_ascii() && !self.is_smtputf8() => {
                self.refuse_recipient(command::utf8_refused())
            }
            Command::Rcpt { forward_path, params } => self.rcpt(forward_path, params),
            Command::Data => self.data(more),
            Command::Rset => {
                self.mail = None;
                self.idle(|session| session.reply(&Reply::new(250, (2, 0, 0), "Ok")))
            }
            Command::Noop => self.idle(|session| session.reply(&Reply::new(250, (2, 0, 0), "Ok"))),
            Command::Quit => self.close(Reply::new(221, (2, 0, 0), "Bye")),
            Command::Vrfy(argument) => self.idle(|session| session.ask(Pending::Vrfy, Ask::Vrfy { argument })),
            Command::Help(_) => self.idle(|session| session.reply(&Reply::new(214, (2, 0, 0), "See RFC 5321"))),
            Command::Bdat { size_bytes, last: _ } => {
                // The chunk comes whatever the answer is; read as commands it would be smuggled mail.
                if size_bytes > 0 {
                    self.state = State::Skip(size_bytes);
                }
                self.refuse(unimplemented())
            }
            Command::StartTls => self.start_tls(),
            Command::Expn(_) | Command::Auth { .. } | Command::Unimplemented(_) => self.refuse(unimplemented()),
        }
    }

    fn helo(&mut self, helo: Helo) -> Option<Ask> {
        self.idle(|session| session.ask(Pending::Helo(helo.clone()), Ask::Helo(helo)))
    }

    fn start_tls(&mut self) -> Option<Ask> {
        if self.is_secured {
            return self.refuse(bad_sequence("TLS is on already"));
        }
        if self.config.tls == Tls::Absent {
            return self.refuse(unimplemented());
        }
        if self.mail.is_some() {
            return self.refuse(bad_sequence("A transaction is open"));
        }
        self.state = State::Handshake;
        self.reply(&Reply::new(220, (2, 0, 0), "Ready to start TLS"))
    }

    fn mail(&mut self, reverse_path: ReversePath, params: MailParams) -> Option<Ask> {
        if self.helo.is_none() {
            return self.refuse(bad_sequence("EHLO first"));
        }
        if self.mail.is_some() {
            return self.refuse(bad_sequence("A transaction is open already"));
        }
        if self.tally.messages >= self.config.messages_max {
            return self.close(Reply::new(421, (4, 7, 0), format!("{} Too many messages", self.config.hostname)));
        }
        let offered = self.config.extensions;
        let unoffered = (params.smtputf8 && !offered.smtputf8)
            || (params.requiretls && !(offered.requiretls && self.is_secured))
            || ((params.ret.is_some() || params.envid.is_some()) && !offered.dsn)
            || params.body == Some(BodyType::BinaryMime);
        if unoffered {
            return self.refuse(Reply::new(555, (5, 5, 4), "Parameter of an extension that is not offered"));
        }
        if params.size_bytes.is_some_and(|size| size > self.config.size_bytes_max as u64) {
            return self.refuse(Reply::new(552, (5, 3, 4), "Message is too large"));
        }
        let ask = Ask::Mail { reverse_path: reverse_path.clone(), params: params.clone() };
        let mail = Mail { reverse_path, params, recipients: Vec::new(), recipients_refused: 0 };
        self.ask(Pending::Mail(mail), ask)
    }

    fn is_smtputf8(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.params.smtputf8)
    }

    fn rcpt(&mut self, forward_path: ForwardPath, params: RcptParams) -> Option<Ask> {
        let Some(mail) = &self.mail else {
            return self.refuse(bad_sequence("MAIL first"));
        };
        // Not the client's fault, and so not held against it: it cannot know the limit, and sends the rest later.
        if mail.recipients.len() >= self.config.recipients_max {
            return self.reply(&Reply::new(452, (4, 5, 3), "Too many recipients"));
        }
        if params != RcptParams::default() && !self.config.extensions.dsn {
            return self.refuse_recipient(Reply::new(555, (5, 5, 4), "Parameter of an extension that is not offered"));
        }
        let address = match forward_path {
            ForwardPath::Address(address) => Ok(address),
            ForwardPath::Postmaster => Address::postmaster(&self.config.hostname),
        };
        match address {
            Ok(address) => {
                let recipient = Recipient { address: address.clone(), params: params.clone() };
                self.ask(Pending::Rcpt(recipient), Ask::Rcpt { address, params })
            }
            Err(_) => self.refuse_recipient(Reply::new(501, (5, 1, 3), "Postmaster of which domain?")),
        }
    }

    /// A refusal that also decides what DATA answers if no recipient is left. Recipients put off are no nuisance (a
    /// greylist puts off all of them), until they are as many as could have been accepted.
    pub(super) fn refuse_recipient(&mut self, reply: Reply) -> Option<Ask> {
        let Some(mail) = &mut self.mail else {
            return self.refuse(reply);
        };
        mail.recipients_refused += 1;
        match reply.is_transient() && reply.code != 421 && mail.recipients_refused <= self.config.recipients_max {
            true => self.reply(&reply),
            false => self.refuse(reply),
        }
    }

    fn data(&mut self, more: bool) -> Option<Ask> {
        // DATA ends a pipelined group (RFC 2920 section 3.1): whoever talks on sends a body unasked, and would have it
        // read as commands if DATA is refused.
        if more {
            return self.close(Reply::new(554, (5, 5, 0), "Data before 354, closing"));
        }
        match &self.mail {
            None => self.refuse(bad_sequence("MAIL first")),
            Some(mail) if !mail.recipients.is_empty() => {
                let limits = data::Limits {
                    size_bytes_max: self.config.size_bytes_max,
                    line_bytes_max: self.config.data_line_bytes_max,
                };
                self.state = State::Data(data::Reader::new(limits, mail.params.size_bytes));
                self.reply(&Reply::plain(354, "End data with <CR><LF>.<CR><LF>"))
            }
            Some(mail) if mail.recipients_refused > 0 => self.refuse(Reply::new(554, (5, 5, 1), "No valid recipients")),
            Some(_) => self.refuse(bad_sequence("RCPT first")),
        }
    }

    /// Something that moves no mail: harmless now and then, a nuisance by the hundred.
    fn idle(&mut self, act: impl FnOnce(&mut Self) -> Option<Ask>) -> Option<Ask> {
        self.tally.idles += 1;
        if self.tally.idles > self.config.idles_max {
            return self.close(Reply::new(421, (4, 7, 0), format!("{} Too many idle commands", self.config.hostname)));
        }
        act(self)
    }
}

/// What is served before TLS where that is required (RFC 3207 section 4). BDAT is refused in its own place, which knows
/// of its chunk.
fn is_for_all(command: &Command) -> bool {
    matches!(command, Command::Ehlo(_) | Command::Noop | Command::StartTls | Command::Quit | Command::Bdat { .. })
}

fn bad_sequence(text: &str) -> Reply {
    Reply::new(503, (5, 5, 1), text)
}

fn unimplemented() -> Reply {
    Reply::new(502, (5, 5, 1), "Command not implemented")
}
