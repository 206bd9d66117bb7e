//! The transaction in flight: who has been decided, by what, and who still hopes.

use bytes::Bytes;

use super::{Capabilities, Delivery, Outcome, Stage, Transaction};
use crate::{
    data::{self, LineEndings},
    reply::Reply,
};

#[derive(Debug)]
pub(super) struct Open {
    pub(super) transaction: Transaction,
    /// The message in its wire form, until it is handed out.
    pub(super) wire: Vec<Bytes>,
    /// One for each recipient.
    fates: Vec<Fate>,
    pub(super) mail_accepted: bool,
}

#[derive(Debug, Clone)]
enum Fate {
    /// RCPT unanswered.
    Open,
    /// RCPT accepted.
    Hopes,
    Decided(Delivery),
}

/// Who says no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Peer,
    /// We do, before or instead of the peer.
    Us,
    /// We do, and cannot know what the peer did with the message.
    UsInDoubt,
}

impl Open {
    /// Judges the transaction against what the peer offers; the error is the outcome when nothing can be sent.
    pub(super) fn new(transaction: Transaction, offered: &Capabilities) -> Result<Self, Outcome> {
        let fates = vec![Fate::Open; transaction.recipients.len()];
        let mut open = Self { transaction, wire: Vec::new(), fates, mail_accepted: false };
        if let Some(reply) = open.obstacle(offered) {
            open.decide_all(&reply, Stage::Mail, By::Us);
        }
        for (fate, recipient) in open.fates.iter_mut().zip(&open.transaction.recipients) {
            if !offered.smtputf8 && !recipient.address.is_ascii() {
                fate.decide(&utf8_refused(), Stage::Rcpt, By::Us);
            }
        }
        match data::stuff(&open.transaction.body, LineEndings::Normalise) {
            Ok(wire) => open.wire = wire,
            Err(fault) => open.decide_all(&Reply::new(554, (5, 6, 0), fault.to_string()), Stage::Mail, By::Us),
        }
        if open.unanswered().next().is_some() { Ok(open) } else { Err(open.outcome(true)) }
    }

    /// What this peer cannot carry at all.
    fn obstacle(&self, offered: &Capabilities) -> Option<Reply> {
        let Transaction { reverse_path, body, body_8bit, smtputf8, requiretls, .. } = &self.transaction;
        if let Some(limit) = offered.size_bytes_max.filter(|limit| body.len() as u64 > *limit) {
            let text = format!("Message of {} octets is over the peer's limit of {limit}", body.len());
            return Some(Reply::new(552, (5, 3, 4), text));
        }
        let utf8 = *smtputf8 || reverse_path.address().is_some_and(|address| !address.is_ascii());
        if utf8 && !offered.smtputf8 {
            return Some(utf8_refused());
        }
        if *body_8bit && !offered.eight_bit_mime {
            return Some(Reply::new(554, (5, 6, 3), "Message is 8-bit and the peer does not offer 8BITMIME"));
        }
        let untrusted = *requiretls && !offered.requiretls;
        untrusted.then(|| Reply::new(550, (5, 7, 30), "The peer does not offer REQUIRETLS"))
    }

    /// The recipients whose RCPT is to be sent, or answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = usize> {
        self.fates.iter().enumerate().filter(|(_, fate)| matches!(fate, Fate::Open)).map(|(at, _)| at)
    }

    /// Some recipient was accepted and is not decided yet.
    pub(super) fn hopes(&self) -> bool {
        self.fates.iter().any(|fate| matches!(fate, Fate::Hopes))
    }

    pub(super) fn accept(&mut self, recipient: usize) {
        if let Some(fate @ Fate::Open) = self.fates.get_mut(recipient) {
            *fate = Fate::Hopes;
        }
    }

    pub(super) fn refuse(&mut self, recipient: usize, reply: &Reply) {
        if let Some(fate) = self.fates.get_mut(recipient) {
            fate.decide(reply, Stage::Rcpt, By::Peer);
        }
    }

    /// Decides everybody who is not decided yet.
    pub(super) fn decide_all(&mut self, reply: &Reply, stage: Stage, by: By) {
        self.fates.iter_mut().for_each(|fate| fate.decide(reply, stage, by));
    }

    /// Whoever is still undecided was forgotten by the peer; the caller decides them first.
    pub(super) fn outcome(self, reusable: bool) -> Outcome {
        let undecided = Delivery {
            reply: Reply::new(451, (4, 5, 0), "No answer for this recipient"),
            stage: Stage::Rcpt,
            local: true,
            maybe_delivered: false,
        };
        let deliveries = self.fates.into_iter().map(|fate| match fate {
            Fate::Decided(delivery) => delivery,
            Fate::Open | Fate::Hopes => undecided.clone(),
        });
        Outcome { deliveries: deliveries.collect(), reusable }
    }
}

impl Fate {
    fn decide(&mut self, reply: &Reply, stage: Stage, by: By) {
        match self {
            Self::Decided(_) => {}
            Self::Open | Self::Hopes => {
                let (local, maybe_delivered) = (by != By::Peer, by == By::UsInDoubt);
                *self = Self::Decided(Delivery { reply: reply.clone(), stage, local, maybe_delivered });
            }
        }
    }
}

/// RFC 6531 section 3.2: no downgrade exists.
fn utf8_refused() -> Reply {
    Reply::new(553, (5, 6, 7), "Address or header is beyond ASCII and the peer does not offer SMTPUTF8")
}
