//! What an answer does: the state moves only here, once somebody has said yes.

use super::{
    Config, Helo, Tls, Verdict,
    session::{Mail, Pending, Session, State},
};
use crate::reply::{Kind, Reply};

impl Session {
    pub(super) fn decide(&mut self, pending: Pending, verdict: Verdict) {
        match verdict {
            Verdict::Accept => self.accept(pending, None),
            Verdict::Reply(reply) => match reply.kind() {
                Kind::Completion => self.accept(pending, Some(reply)),
                // 3yz says neither yes nor no; nothing here may be answered so.
                Kind::Intermediate => self.reject(pending, Reply::new(451, (4, 3, 0), "Local error")),
                Kind::Transient | Kind::Permanent => self.reject(pending, reply),
            },
        }
    }

    fn accept(&mut self, pending: Pending, reply: Option<Reply>) {
        let own = |text: &str, detail: (u8, u16, u16)| Reply::new(250, detail, text);
        let reply = match pending {
            Pending::Connect => {
                self.state = State::Commands;
                banner(&self.config, reply)
            }
            Pending::Helo(helo) => {
                self.mail = None;
                let reply = hello(&self.config, self.is_secured, &helo, reply);
                self.helo = Some(helo);
                reply
            }
            Pending::Mail(mail) => {
                self.mail = Some(mail);
                reply.unwrap_or_else(|| own("Ok", (2, 1, 0)))
            }
            Pending::Rcpt(recipient) => {
                self.mail.iter_mut().for_each(|mail: &mut Mail| mail.recipients.push(recipient.clone()));
                reply.unwrap_or_else(|| own("Ok", (2, 1, 5)))
            }
            Pending::Vrfy => reply.unwrap_or_else(|| {
                Reply::new(252, (2, 5, 0), "Cannot VRFY user, but will accept message and attempt delivery")
            }),
            Pending::Message => {
                (self.tally.errors, self.tally.idles) = (0, 0);
                reply.unwrap_or_else(|| own("Ok", (2, 0, 0)))
            }
        };
        self.reply(&reply);
    }

    fn reject(&mut self, pending: Pending, reply: Reply) {
        match pending {
            // 5yz: the client is still owed an answer to QUIT. 4yz: come again, on another connection.
            Pending::Connect if reply.is_permanent() => {
                self.state = State::Rejected;
                self.reply(&Reply { enhanced: None, ..reply });
            }
            Pending::Connect => {
                self.close(Reply { enhanced: None, ..reply });
            }
            Pending::Rcpt(_) => {
                self.refuse_recipient(reply);
            }
            Pending::Helo(_) | Pending::Mail(_) | Pending::Vrfy | Pending::Message => {
                self.refuse(reply);
            }
        }
    }
}

/// Greeting and EHLO carry no enhanced codes (RFC 2034 section 4).
fn banner(config: &Config, reply: Option<Reply>) -> Reply {
    match reply {
        Some(reply) => Reply { enhanced: None, ..reply },
        None => Reply::plain(220, format!("{} {}", config.hostname, config.banner)),
    }
}

fn hello(config: &Config, is_secured: bool, helo: &Helo, reply: Option<Reply>) -> Reply {
    let reply = match reply {
        Some(reply) => Reply { enhanced: None, ..reply },
        None => Reply::plain(250, &config.hostname),
    };
    match helo.esmtp {
        true => offers(config, is_secured).into_iter().fold(reply, Reply::line),
        false => reply,
    }
}

fn offers(config: &Config, is_secured: bool) -> Vec<String> {
    let always = ["PIPELINING".into(), "8BITMIME".into(), format!("SIZE {}", config.size_bytes_max)];
    let extensions = config.extensions;
    let more = [
        (true, "ENHANCEDSTATUSCODES"),
        (extensions.smtputf8, "SMTPUTF8"),
        (extensions.dsn, "DSN"),
        (extensions.requiretls && is_secured, "REQUIRETLS"),
        (config.tls != Tls::Absent && !is_secured, "STARTTLS"),
    ];
    always.into_iter().chain(more.iter().filter(|(on, _)| *on).map(|(_, word)| (*word).into())).collect()
}
