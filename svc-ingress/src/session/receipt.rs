//! One message on its way in: its id from MAIL on, its span, and what it takes of the memory for messages.

use std::net::SocketAddr;

use godwit_proto::{
    common::v1::{Body, Peer, Received, Tls, body},
    convert::timestamp,
    id::MessageId,
    queue::v1::EnqueueMessage,
};
use godwit_smtp::{ReversePath, receive::Transaction};
use tracing::Span;

use crate::{door::Charge, envelope, listener::Listener, message, sessions::SessionId};

#[derive(Debug)]
pub struct Receipt {
    pub id: MessageId,
    /// Of the whole: from MAIL to the reply.
    pub span: Span,
    pub charge: Charge,
    pub reverse_path: String,
}

/// Who brings it, and how.
#[derive(Debug, Clone, Copy)]
pub struct Client<'s> {
    pub session: SessionId,
    pub peer: SocketAddr,
    pub tls: Option<&'s Tls>,
}

impl Receipt {
    pub fn begin(session: SessionId, reverse_path: &ReversePath, charge: Charge) -> Self {
        let id = MessageId::new();
        let span = tracing::info_span!(
            parent: None,
            "receive message",
            otel.kind = "server",
            godwit.message.id = %id,
            godwit.session.id = %session,
            godwit.domain = tracing::field::Empty,
            smtp.reply_code = tracing::field::Empty,
        );
        Self { id, span, charge, reverse_path: reverse_path.to_text() }
    }

    /// The message as a queue wants it.
    pub fn message(&self, transaction: Transaction, client: Client<'_>, listener: &Listener) -> EnqueueMessage {
        let envelope = envelope::of(&transaction);
        let with = match (transaction.helo.esmtp, client.tls) {
            (false, _) => "SMTP",
            (true, None) => "ESMTP",
            (true, Some(_)) => "ESMTPS",
        };
        let now = listener.ingress.clock.now();
        let recipient = match &envelope.recipients[..] {
            [one] => Some(one.address.as_str()),
            [..] => None,
        };
        let field = message::Received {
            helo: &transaction.helo.name,
            peer: Some(client.peer.ip()),
            tls: client.tls,
            by: &listener.hostname,
            with,
            id: self.id,
            recipient,
            time: now,
        };
        let content = message::assemble(&field.to_string(), transaction.body);
        EnqueueMessage {
            message_id: Some(self.id.into()),
            body: Some(Body { size_bytes: content.len() as u64, content: Some(body::Content::Inline(content)) }),
            envelope: Some(envelope),
            received: Some(Received {
                peer: Some(wire_peer(client.peer)),
                protocol: with.into(),
                tls: client.tls.cloned(),
                helo: transaction.helo.name,
                session_id: client.session.to_string(),
                ..Received::default()
            }),
            first_received: Some(timestamp(now)),
            ..EnqueueMessage::default()
        }
    }
}

pub fn wire_peer(peer: SocketAddr) -> Peer {
    Peer { name: String::new(), address: peer.ip().to_canonical().to_string(), port: u32::from(peer.port()) }
}
