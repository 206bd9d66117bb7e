//! What the session answers to the machine's questions.

use bytes::BytesMut;
use godwit_proto::{
    common::v1::{Event, EventKind, TraceContext},
    convert::timestamp,
};
use godwit_smtp::{
    Address, Reply,
    receive::{Ask, Transaction, Verdict},
    reply::Parser,
};

use super::{
    Session,
    receipt::{Client, Receipt, wire_peer},
};
use crate::{
    message,
    meters::{Door, Outcome},
    reply,
};

impl Session {
    pub(super) async fn decide(&mut self, ask: Ask) -> Verdict {
        match ask {
            Ask::Connect | Ask::Vrfy { argument: _ } => Verdict::Accept,
            Ask::Helo(helo) => {
                self.receipt = None;
                self.entry.greeted(&helo.name);
                Verdict::Accept
            }
            Ask::Mail { reverse_path, params: _ } => {
                let charge = self.listener.ingress.budget.charge();
                self.receipt = Some(Receipt::begin(self.entry.id(), &reverse_path, charge));
                Verdict::Accept
            }
            Ask::Rcpt { address, params: _ } => self.recipient(&address),
            Ask::Message(transaction) => self.message(transaction).await.into(),
        }
    }

    fn recipient(&mut self, address: &Address) -> Verdict {
        match self.listener.relay.recipient(self.peer.ip()) {
            Ok(()) => {
                if let Some(receipt) = &self.receipt {
                    receipt.span.record("godwit.domain", address.domain());
                }
                Verdict::Accept
            }
            Err(reply) => {
                self.listener.ingress.meters.recipient_refused();
                self.rejected(self.receipt.as_ref(), vec![address.to_string()], &reply, "RCPT");
                reply.into()
            }
        }
    }

    /// Answers once the message is safe, or surely not taken.
    async fn message(&mut self, transaction: Transaction) -> Reply {
        let Some(receipt) = self.receipt.take() else {
            return Reply::new(451, (4, 3, 0), "Local error in processing");
        };
        let bytes = transaction.body.len();
        if message::hops(&transaction.body) >= message::HOPS_MAX {
            let reply = Reply::new(554, (5, 4, 6), "Too many hops: this message goes round in circles");
            let recipients = transaction.recipients.iter().map(|recipient| recipient.address.to_string()).collect();
            self.rejected(Some(&receipt), recipients, &reply, "DATA");
            self.finish(receipt, &reply, Outcome::Refused, bytes);
            return reply;
        }
        let listener = self.listener.clone();
        let client = Client { session: self.entry.id(), peer: self.peer, tls: self.tls.as_ref() };
        let message = receipt.message(transaction, client, &listener);
        let (reply, outcome) = match listener.ingress.enqueue(message, &receipt.span, &TraceContext::default()).await {
            Ok(queued) => (reply::queued(&queued), Outcome::from(&queued)),
            Err(status) => {
                tracing::warn!(message_id = %receipt.id, %status, "message not queued");
                (reply::of(&status), Outcome::Deferred)
            }
        };
        if outcome == Outcome::Accepted {
            self.entry.took_message();
        }
        self.finish(receipt, &reply, outcome, bytes);
        reply
    }

    fn finish(&self, receipt: Receipt, reply: &Reply, outcome: Outcome, bytes: usize) {
        receipt.span.record("smtp.reply_code", reply.code);
        let ingress = &self.listener.ingress;
        ingress.meters.message(Door::Smtp, outcome, bytes);
        drop(receipt);
        ingress.meters.data_in_flight_bytes.set(i64::try_from(ingress.budget.used_bytes()).unwrap_or(i64::MAX));
    }

    /// A message broke the rules of content, and the machine has said so: its reply is the first in the output.
    pub(super) fn faulty(&mut self) {
        let mut said: BytesMut = self.machine.output().clone();
        let Some(receipt) = self.receipt.take() else { return };
        if let Ok(Some(reply)) = Parser::default().advance(&mut said) {
            self.rejected(Some(&receipt), Vec::new(), &reply, "DATA");
            self.finish(receipt, &reply, Outcome::Faulty, 0);
        }
    }

    fn rejected(&self, receipt: Option<&Receipt>, recipients: Vec<String>, reply: &Reply, command: &str) {
        if !reply.is_permanent() {
            return;
        }
        let ingress = &self.listener.ingress;
        ingress.rejections.record(Event {
            node: Some(ingress.node.into()),
            kind: EventKind::Rejection.into(),
            message_id: receipt.map(|receipt| receipt.id.into()),
            time: Some(timestamp(ingress.clock.now())),
            reverse_path: receipt.map(|receipt| receipt.reverse_path.clone()).unwrap_or_default(),
            recipients,
            reply: Some(reply::wire(reply, command)),
            peer: Some(wire_peer(self.peer)),
            tls: self.tls.clone(),
            session_id: self.entry.id().to_string(),
            trace: receipt.map(|receipt| godwit_kit::trace::of(&receipt.span)),
            ..Event::default()
        });
    }
}
