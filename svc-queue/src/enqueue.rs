//! Enqueue: checks, one append for the request, then into the core. What has been begun is finished though the caller goes.

use crate::error::Error;
use crate::idempotency::{Claimed, Reservation};
use crate::intake::{self, Incoming, Source};
use crate::node::Node;
use crate::outcome;
use crate::spool::{self, Appended, Record, Verdict};
use crate::{events, stored};
use bytes::Bytes;
use godwit_kit::trace;
use godwit_proto::common::v1::body;
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::enqueue_response::{Outcome, Result as Reply};
use godwit_proto::queue::v1::{EnqueueMessage, EnqueueResponse};
use std::collections::HashSet;
use std::sync::Arc;
use tracing::{Instrument, Span};

pub const MESSAGES_MAX: usize = 1_000;
/// Bodies of one call; the rest of what a call may carry is for envelopes.
const BODIES_BYTES_MAX: usize = godwit_proto::CALL_BYTES_MAX / 8 * 7;

/// A message on its way, and the place of its answer.
struct Entry {
    place: usize,
    incoming: Incoming,
    body: Bytes,
}

pub async fn enqueue(node: &Arc<Node>, messages: Vec<EnqueueMessage>) -> Result<EnqueueResponse, Error> {
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        return Err(Error::invalid("messages", format!("{}, not 1 to {MESSAGES_MAX}", messages.len())));
    }
    if node.host.stop.is_requested() {
        let ids: Vec<_> = messages.iter().filter_map(|m| MessageId::try_from(&m.message_id).ok()).collect();
        return Err(turned_away(node, &ids, Error::Stopping));
    }
    let bytes: usize = messages.iter().map(inline_bytes).sum();
    if bytes > BODIES_BYTES_MAX {
        return Err(Error::invalid("messages", format!("bodies of {bytes} bytes, more than {BODIES_BYTES_MAX}")));
    }
    let now = node.host.clock.now();
    let mut replies = Vec::with_capacity(messages.len());
    let mut entries = Vec::with_capacity(messages.len());
    let mut ids = Vec::with_capacity(messages.len());
    for (place, message) in messages.into_iter().enumerate() {
        let id = MessageId::try_from(&message.message_id)
            .map_err(|invalid| Error::invalid(format!("messages[{place}].message_id"), invalid))?;
        ids.push(id);
        match intake::parse(id, message, &node.limits, now) {
            Ok(mut incoming) => {
                incoming.meta.trace = incoming.meta.trace.or_else(current_trace);
                replies.push(reply(id, Outcome::Unspecified));
                entries.push(Entry { place, incoming, body: Bytes::new() });
            }
            Err(refusal) => replies.push(refused(id, refusal)),
        }
    }
    let accepting = accept(node.clone(), entries, replies);
    let results = node.run(accepting).await.map_err(|error| turned_away(node, &ids, error))?;
    for result in &results {
        node.metrics.enqueued.with_label_values(&[label(result.outcome())]).inc();
    }
    Ok(EnqueueResponse { results })
}

/// It is written all at once or not at all; but what is here from an earlier call must not go to another node as well.
fn turned_away(node: &Node, ids: &[MessageId], error: Error) -> Error {
    match error {
        Error::Stopping | Error::Keys(_) | Error::Spool(spool::Error::Unavailable { .. })
            if !node.with(|core, _| ids.iter().any(|id| core.has_seen(id.0))) =>
        {
            Error::TurnedAway(error.to_string())
        }
        error => error,
    }
}

fn inline_bytes(message: &EnqueueMessage) -> usize {
    match message.body.as_ref().and_then(|body| body.content.as_ref()) {
        Some(body::Content::Inline(inline)) => inline.len(),
        Some(body::Content::UploadId(_) | body::Content::Stored(_)) | None => 0,
    }
}

/// The context of the call, where the message brings none.
fn current_trace() -> Option<godwit_proto::common::v1::TraceContext> {
    Some(trace::current()).filter(|trace| !trace.traceparent.is_empty())
}

async fn accept(node: Arc<Node>, entries: Vec<Entry>, mut replies: Vec<Reply>) -> Result<Vec<Reply>, Error> {
    let followers = accept_each(node, entries, &mut replies).await?;
    share_fates(&followers, &mut replies);
    Ok(replies)
}

/// A message whose key an earlier one of the batch has is no duplicate of it if that one was refused.
fn share_fates(followers: &[usize], replies: &mut [Reply]) {
    for place in followers {
        let first = replies[..*place].iter().find(|first| first.message_id == replies[*place].message_id);
        if let Some(first) = first.filter(|first| first.outcome() == Outcome::Refused) {
            replies[*place] = first.clone();
        }
    }
}

/// Fills in the replies; gives the places of those that were answered by their key.
async fn accept_each(node: Arc<Node>, mut entries: Vec<Entry>, replies: &mut [Reply]) -> Result<Vec<usize>, Error> {
    let (reservation, followers) = check_keys(&node, &mut entries, replies).await?;
    find_bodies(&node, &mut entries, replies);
    let arriving = Arriving::of(&node, &mut entries, replies)?;
    if entries.is_empty() {
        return Ok(followers);
    }
    let appended = append(&node, &entries).await?;
    node.metrics.enqueue_messages.observe(entries.len() as f64);
    let mut accepted = HashSet::new();
    arriving.finish(|core, now_ms| {
        for (entry, verdict) in entries.iter().zip(&appended.messages) {
            let id = entry.incoming.id;
            if *verdict == Verdict::Accepted {
                core.insert(id.0, &entry.incoming.head, entry.body.len() as u32, now_ms);
            }
        }
    });
    for (entry, verdict) in entries.iter().zip(&appended.messages) {
        let id = entry.incoming.id;
        replies[entry.place] = match verdict {
            Verdict::Accepted => {
                accepted.insert(id);
                reply(id, Outcome::Accepted)
            }
            Verdict::Duplicate => reply(id, Outcome::Duplicate),
        };
        if let Source::Upload(upload, _) = &entry.incoming.content {
            node.uploads.remove(upload);
        }
    }
    node.metrics.messages_accepted.inc_by(accepted.len() as u64);
    if let Some(reservation) = reservation
        && let Err(error) = reservation.keep(|id| accepted.contains(&id)).await
    {
        // They stay accepted; the key comes back from the message itself at the next start.
        tracing::warn!(%error, "idempotency keys not kept");
    }
    Ok(followers)
}

/// Messages whose key was used before are answered, and leave the batch.
async fn check_keys(
    node: &Node,
    entries: &mut Vec<Entry>,
    replies: &mut [Reply],
) -> Result<(Option<Reservation>, Vec<usize>), Error> {
    let claims: Vec<_> = entries.iter().filter_map(|entry| entry.incoming.claim).collect();
    let mut followers = Vec::new();
    if claims.is_empty() {
        return Ok((None, followers));
    }
    let answer = node.keys.claim(claims, node.host.clock.now()).await;
    let (answers, reservation) = answer.map_err(|error| Error::Keys(error.to_string()))?;
    let mut answers = answers.into_iter();
    entries.retain(|entry| {
        let Some(answer) = entry.incoming.claim.and_then(|_| answers.next()) else { return true };
        match answer {
            Claimed::Fresh => return true,
            Claimed::Same(first) => {
                replies[entry.place] = reply(first, Outcome::Duplicate);
                followers.push(entry.place);
            }
            Claimed::Conflict => {
                let what = "idempotency_key: was used for another message";
                replies[entry.place] = Reply { reason: what.into(), ..reply(entry.incoming.id, Outcome::Refused) };
            }
        }
        false
    });
    Ok((Some(reservation), followers))
}

fn find_bodies(node: &Node, entries: &mut Vec<Entry>, replies: &mut [Reply]) {
    entries.retain_mut(|entry| {
        let id = entry.incoming.id;
        let (upload, wanted) = match &entry.incoming.content {
            Source::Inline(body) => {
                entry.body = body.clone();
                return true;
            }
            Source::Upload(upload, size_bytes) => (upload, *size_bytes),
        };
        match node.uploads.get(upload) {
            Some(body) if wanted != 0 && wanted != body.len() as u64 => {
                let what = format!("body.size_bytes: {wanted}, but {} have been put", body.len());
                replies[entry.place] = Reply { reason: what, ..reply(id, Outcome::Refused) };
            }
            Some(body) => {
                entry.body = body;
                return true;
            }
            // The first try took it.
            None if node.with(|core, _| core.knows(id.0)) => replies[entry.place] = reply(id, Outcome::Duplicate),
            None => {
                let what = "body.upload_id: nothing has been put under it, or too long ago";
                replies[entry.place] = Reply { reason: what.into(), ..reply(id, Outcome::Refused) };
            }
        }
        false
    });
}

/// Messages that the core has been told of as being written; dropped, they are not coming after all.
struct Arriving {
    node: Arc<Node>,
    messages: Vec<(u128, usize)>,
}

impl Arriving {
    fn of(node: &Arc<Node>, entries: &mut Vec<Entry>, replies: &mut [Reply]) -> Result<Self, Error> {
        let mut arriving = Self { node: node.clone(), messages: Vec::with_capacity(entries.len()) };
        let full = node.with(|core, _| {
            let mut full = false;
            entries.retain(|entry| {
                let id = entry.incoming.id;
                if core.is_withdrawn(id.0) {
                    replies[entry.place] = Reply { reason: "withdrawn".into(), ..reply(id, Outcome::Refused) };
                    return false;
                }
                let count = entry.incoming.head.domains.len();
                full = full || !core.arrive(id.0, count);
                if !full {
                    arriving.messages.push((id.0, count));
                }
                true
            });
            full
        });
        if full {
            let value = node.config.deliveries_max as u64;
            return Err(Error::Full { limit: "queue.deliveries_max", value });
        }
        Ok(arriving)
    }

    /// They are on disk: `insert` takes them in, in the same breath.
    fn finish(mut self, insert: impl FnOnce(&mut crate::core::Core, u64)) {
        let messages = std::mem::take(&mut self.messages);
        self.node.with(|core, now_ms| {
            messages.iter().for_each(|(id, count)| core.arrived(*id, *count));
            insert(core, now_ms);
        });
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if !messages.is_empty() {
            self.node.with(|core, _| messages.iter().for_each(|(id, count)| core.arrived(*id, *count)));
        }
    }
}

async fn append(node: &Node, entries: &[Entry]) -> Result<Appended, Error> {
    let span = tracing::info_span!("queue.commit", messaging.batch.message_count = entries.len());
    let now_ms = node.now_ms();
    let mut records = Vec::with_capacity(2 * entries.len());
    // They end with this call: once their message is on disk.
    let _stores: Vec<Span> = entries.iter().filter_map(|entry| store_span(&entry.incoming, &span)).collect();
    for Entry { incoming, body, .. } in entries {
        let id = incoming.id.0;
        let head = stored::encode(&incoming.head);
        records.push(Record::Message { id, head, meta: stored::encode(&incoming.meta), body: body.clone() });
        let event = outcome::reception(incoming, body.len() as u64, now_ms);
        records.push(Record::Event { of: Some(id), payload: events::codec::encode(&event) });
    }
    Ok(node.spool.append(records).instrument(span).await?)
}

/// `store`: what the commit is to one message, in the trace of its creation. Linked with the commit, which many share.
fn store_span(incoming: &Incoming, commit: &Span) -> Option<Span> {
    let creation = incoming.meta.trace.as_ref().filter(|_| !commit.is_disabled())?;
    let head = &incoming.head;
    let span = tracing::info_span!(
        parent: None,
        "store",
        otel.kind = "internal",
        godwit.message.id = %incoming.id,
        godwit.tenant = head.tenant,
        godwit.campaign = head.campaign,
        godwit.domain = head.domains.first(),
    );
    trace::set_parent(&span, creation);
    trace::link(commit, creation);
    trace::link(&span, &trace::of(commit));
    Some(span)
}

fn reply(id: MessageId, outcome: Outcome) -> Reply {
    Reply { message_id: Some(id.into()), outcome: outcome.into(), reason: String::new(), transient: false }
}

fn refused(id: MessageId, refusal: intake::Refusal) -> Reply {
    Reply { reason: refusal.to_string(), ..reply(id, Outcome::Refused) }
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Duplicate => "duplicate",
        Outcome::Refused => "refused",
        Outcome::Unspecified => "unspecified",
    }
}
