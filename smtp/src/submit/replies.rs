//! What each reply does. A reply counts only for a command that was sent, so none is ever taken for another's.

use super::{
    Capabilities, Client, Closed, Event, Stage, Violation,
    client::{Greeting, Link, Said, Step},
    open::{By, Open},
};
use crate::reply::{Kind, Reply};

impl Client {
    /// `last` says that nothing has come behind the reply.
    pub(super) fn hear(&mut self, reply: Reply, last: bool) -> Option<Event> {
        let stage = self.stage();
        let Some((said, sent)) = self.awaited() else {
            return self.unasked(reply, stage);
        };
        if reply.code == 421 {
            return self.gone(reply, said);
        }
        if !sent {
            return self.early(reply, said);
        }
        match said {
            Said::Greeting(greeting) => self.greeting(reply, greeting),
            Said::StartTls => self.tls(reply, last),
            Said::Quit => {
                self.end(&reply, Stage::Quit, By::Peer);
                Some(Event::Closed(Closed::Quit))
            }
            Said::In(step) => {
                let mut open = self.open.take()?;
                let next = self.step(&mut open, step, &reply);
                self.open = Some(open);
                match next {
                    Next::Continue => None,
                    Next::Finish => self.finish(last),
                    // At the stage before this reply was taken off: doubt about a sent message is not forgotten.
                    Next::Violation(violation) => self.give_up_at(stage, violation),
                }
            }
        }
    }

    fn greeting(&mut self, reply: Reply, greeting: Greeting) -> Option<Event> {
        match (greeting, reply.kind()) {
            (Greeting::Banner, Kind::Completion) => self.plan.push_back(Said::Greeting(Greeting::Ehlo)),
            // An old peer knows only HELO (RFC 5321 section 3.2).
            (Greeting::Ehlo, Kind::Permanent) => self.plan.push_back(Said::Greeting(Greeting::Helo)),
            (Greeting::Ehlo, Kind::Completion) => return self.ready(Capabilities::parse(&reply)),
            (Greeting::Helo, Kind::Completion) => return self.ready(Capabilities::default()),
            (
                Greeting::Banner | Greeting::Ehlo | Greeting::Helo,
                Kind::Intermediate | Kind::Transient | Kind::Permanent,
            ) => {
                let stage = Said::Greeting(greeting).stage();
                self.end(&reply, stage, By::Peer);
                return Some(Event::Refused { stage, reply });
            }
        }
        None
    }

    fn ready(&mut self, offered: Capabilities) -> Option<Event> {
        self.link = Link::Ready;
        self.capabilities = offered.clone();
        Some(Event::Ready(offered))
    }

    fn tls(&mut self, reply: Reply, last: bool) -> Option<Event> {
        match reply.kind() {
            Kind::Completion if last => {
                self.link = Link::Handshake;
                Some(Event::TlsReady)
            }
            Kind::Completion => self.give_up(Violation::Injected),
            Kind::Intermediate | Kind::Transient | Kind::Permanent => Some(Event::TlsRefused(reply)),
        }
    }

    /// One reply inside a transaction.
    fn step(&mut self, open: &mut Open, step: Step, reply: &Reply) -> Next {
        match (step, reply.kind()) {
            (Step::Rset, Kind::Completion) => {}
            (Step::Rset, Kind::Transient | Kind::Permanent) => return Next::Violation(Violation::RsetRefused),
            (Step::Mail, Kind::Completion) => open.mail_accepted = true,
            (Step::Mail, Kind::Transient | Kind::Permanent) => open.decide_all(reply, Stage::Mail, By::Peer),
            (Step::Rcpt(at), Kind::Completion) => open.accept(at),
            (Step::Rcpt(at), Kind::Transient | Kind::Permanent) => open.refuse(at, reply),
            (Step::Data, Kind::Intermediate) => {
                self.plan.push_back(Said::In(if open.hopes() { Step::Message } else { Step::LoneDot }));
            }
            (Step::Data, Kind::Transient | Kind::Permanent) => {
                open.decide_all(reply, Stage::DataInit, By::Peer);
                self.rset_due = open.mail_accepted;
                return Next::Finish;
            }
            (Step::Message, Kind::Completion | Kind::Transient | Kind::Permanent) => {
                open.decide_all(reply, Stage::Dot, By::Peer);
                return Next::Finish;
            }
            // An empty message to nobody: whatever the peer makes of it, it is over.
            (Step::LoneDot, Kind::Completion | Kind::Transient | Kind::Permanent) => return Next::Finish,
            (Step::Data, Kind::Completion)
            | (Step::Rset | Step::Mail | Step::Rcpt(_) | Step::Message | Step::LoneDot, Kind::Intermediate) => {
                return Next::Violation(Violation::Unfit);
            }
        }
        // One command at a time: nobody to send to means that the rest is not said.
        let nobody = !open.hopes() && open.unanswered().next().is_none();
        let unsaid = self.plan.front().is_some_and(|next| matches!(next, Said::In(Step::Rcpt(_) | Step::Data)));
        if nobody && unsaid {
            self.plan.clear();
            self.rset_due = open.mail_accepted;
            return Next::Finish;
        }
        Next::Continue
    }

    fn finish(&mut self, last: bool) -> Option<Event> {
        // More has come than was asked for: the next transaction would read it as its own.
        self.open.take().map(|open| Event::Done(open.outcome(last)))
    }

    /// The peer closes.
    fn gone(&mut self, reply: Reply, said: Said) -> Option<Event> {
        let stage = said.stage();
        if let Some(outcome) = self.end(&reply, stage, By::Peer) {
            return Some(Event::Done(outcome));
        }
        Some(match said {
            Said::Greeting(_) => Event::Refused { stage, reply },
            Said::Quit => Event::Closed(Closed::Quit),
            Said::StartTls | Said::In(_) => Event::Closed(Closed::Unsolicited(reply)),
        })
    }

    /// A reply to what is not wholly written. A refusal in mid-message is an answer, if an impatient one.
    fn early(&mut self, reply: Reply, said: Said) -> Option<Event> {
        let is_message = said == Said::In(Step::Message);
        if is_message && (reply.is_transient() || reply.is_permanent()) {
            return self.end(&reply, Stage::DataBlock, By::Peer).map(Event::Done);
        }
        self.give_up_at(if is_message { Stage::DataBlock } else { said.stage() }, Violation::Early)
    }

    /// A reply to nothing.
    fn unasked(&mut self, reply: Reply, stage: Stage) -> Option<Event> {
        if reply.code == 421 {
            let outcome = self.end(&reply, stage, By::Peer);
            return Some(outcome.map_or(Event::Closed(Closed::Unsolicited(reply)), Event::Done));
        }
        match self.open {
            Some(_) => self.give_up(Violation::Unasked),
            None => {
                self.end(&reply, stage, By::Peer);
                Some(Event::Closed(Closed::Unsolicited(reply)))
            }
        }
    }
}

/// Where a transaction stands after a reply.
enum Next {
    Continue,
    Finish,
    Violation(Violation),
}
