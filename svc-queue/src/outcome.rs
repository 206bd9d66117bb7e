//! What an attempt came to: which recipients stay open, when the delivery is due again, and the events that say so. Pure.

use crate::core::{Claimed, Next};
use crate::schedule::{Schedule, seed};
use crate::spool::Record;
use crate::stored::{self, Meta, State, Trace};
use godwit_proto::common::v1::{Event, EventKind, SmtpReply};
use godwit_proto::convert::timestamp;
use godwit_proto::id::LeaseId;
use godwit_proto::queue::v1::{Outcome, RecipientOutcome, RecipientResult, settle_response};
use std::time::{Duration, UNIX_EPOCH};

pub use settle_response::Result as Verdict;

/// What is recorded of one outcome, and what becomes of the delivery.
#[derive(Debug)]
pub struct Judged {
    pub verdict: Verdict,
    /// `None`: nothing changes.
    pub next: Option<Next>,
    pub events: Vec<Event>,
}

/// The instants that an outcome is judged by.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub schedule: &'a Schedule,
    pub now_ms: u64,
}

/// Delivered and bounced recipients are closed, whatever became of the lease; deferred ones count under a live lease.
pub fn judge(claimed: &Claimed, meta: &mut Meta, outcome: &mut Outcome, at: At<'_>) -> Judged {
    let open = claimed.open.clone().unwrap_or_else(|| meta.recipients_of(claimed.id.part));
    let counts = |named: &RecipientOutcome| match named.result() {
        RecipientResult::Delivered | RecipientResult::Bounced => true,
        RecipientResult::Deferred => claimed.live,
        RecipientResult::Unspecified => false,
    };
    let is_open = |named: &RecipientOutcome| u16::try_from(named.index).is_ok_and(|index| open.contains(&index));
    let mut named = std::mem::take(&mut outcome.recipients);
    named.retain(|named| is_open(named) && counts(named));
    named.sort_by_key(|named| named.index);
    named.dedup_by_key(|named| named.index);
    if named.is_empty() && !claimed.live {
        return Judged { verdict: Verdict::Stale, next: None, events: Vec::new() };
    }
    let attempt = claimed.attempts + u32::from(!named.is_empty());
    let is_closed = |index: &u16| {
        let of = |named: &RecipientOutcome| named.index == u32::from(*index);
        named.iter().any(|named| of(named) && named.result() != RecipientResult::Deferred)
    };
    let left: Box<[u16]> = open.iter().copied().filter(|index| !is_closed(index)).collect();
    let deferred = named.iter().rfind(|named| named.result() == RecipientResult::Deferred);
    let next = match (left.is_empty(), claimed.live) {
        (true, _) => Next::Finished,
        (false, false) => Next::Narrowed { open: left },
        (false, true) => Next::Retry {
            open: left,
            attempts: attempt,
            due_ms: due_again(claimed, attempt, deferred.is_some(), not_before(outcome), at),
            trace: outcome.attempt_trace.as_ref().and_then(Trace::parse).or(claimed.trace),
            reply_code: deferred
                .and_then(|named| named.reply.as_ref())
                .map_or(claimed.reply_code, |reply| reply.code as u16),
        },
    };
    let events = events(claimed, meta, outcome, named, (attempt, at.now_ms));
    let verdict = if claimed.live { Verdict::Applied } else { Verdict::LeaseExpiredApplied };
    Judged { verdict, next: Some(next), events }
}

fn not_before(outcome: &Outcome) -> u64 {
    let time = outcome.not_before.as_ref().and_then(godwit_proto::convert::system_time);
    time.map_or(0, crate::intake::since_epoch_ms)
}

/// What was deferred waits its interval; what was not tried at all is due at once.
pub fn due_again(claimed: &Claimed, attempts: u32, deferred: bool, not_before_ms: u64, at: At<'_>) -> u64 {
    let seed = seed(claimed.id.message.0, claimed.id.part, attempts);
    let due_ms = if deferred { at.schedule.retry_at(attempts, at.now_ms, seed) } else { at.now_ms };
    let due_ms = due_ms.max(not_before_ms);
    claimed.window.map_or(due_ms, |window| window.next(due_ms))
}

/// One event for the recipients that fared alike.
fn events(
    claimed: &Claimed,
    meta: &mut Meta,
    outcome: &Outcome,
    named: Vec<RecipientOutcome>,
    (attempt, now_ms): (u32, u64),
) -> Vec<Event> {
    let mut groups: Vec<(RecipientOutcome, Vec<String>)> = Vec::with_capacity(1);
    for named in named {
        let address = meta.address(named.index as u16).unwrap_or_default().to_owned();
        let alike = |(first, _): &&mut (RecipientOutcome, Vec<String>)| {
            first.result == named.result
                && first.reply == named.reply
                && first.bounce_class == named.bounce_class
                && first.maybe_delivered == named.maybe_delivered
        };
        match groups.iter_mut().find(alike) {
            Some((_, recipients)) => recipients.push(address),
            None => groups.push((named, vec![address])),
        }
    }
    let event = |(named, recipients): (RecipientOutcome, Vec<String>)| Event {
        kind: kind(named.result()).into(),
        recipients,
        reply: named.reply,
        bounce_class: named.bounce_class,
        maybe_delivered: named.maybe_delivered,
        attempt,
        site: outcome.site.clone(),
        source: outcome.source.clone(),
        provider: outcome.provider.clone(),
        egress_pool: claimed.label.egress_pool.as_ref().into(),
        peer: outcome.peer.clone(),
        tls: outcome.tls.clone(),
        session_id: outcome.session_id.clone(),
        protocol: outcome.protocol.clone(),
        source_address: outcome.source_address.clone(),
        trace: outcome.attempt_trace.clone().or_else(|| meta.trace.clone()),
        ..about(claimed, meta, now_ms)
    };
    groups.into_iter().map(event).collect()
}

fn kind(result: RecipientResult) -> EventKind {
    match result {
        RecipientResult::Delivered => EventKind::Delivery,
        RecipientResult::Deferred => EventKind::TransientFailure,
        RecipientResult::Bounced => EventKind::Bounce,
        RecipientResult::Unspecified => EventKind::Unspecified,
    }
}

/// What every event of a delivery says.
pub fn about(claimed: &Claimed, meta: &Meta, now_ms: u64) -> Event {
    let received_ms = if meta.received_ms == 0 { u64::from(claimed.received_s) * 1_000 } else { meta.received_ms };
    Event {
        message_id: Some(claimed.id.message.into()),
        delivery_id: Some(claimed.id.into()),
        time: Some(instant(now_ms)),
        queue_name: Some(claimed.label.queue_name()),
        egress_pool: claimed.label.egress_pool.as_ref().into(),
        reverse_path: meta.reverse_path().into(),
        size_bytes: claimed.size_bytes.into(),
        metadata: meta.metadata.clone(),
        created: Some(instant(received_ms)),
        attempt: claimed.attempts,
        trace: meta.trace.clone(),
        ..Event::default()
    }
}

/// An event about all recipients that are open, with a reply of our own making.
pub fn about_open(kind: EventKind, claimed: &Claimed, meta: &Meta, reply: SmtpReply, now_ms: u64) -> Event {
    let open = claimed.open.clone().unwrap_or_else(|| meta.recipients_of(claimed.id.part));
    Event {
        kind: kind.into(),
        recipients: open.iter().filter_map(|index| meta.address(*index)).map(String::from).collect(),
        reply: Some(reply),
        ..about(claimed, meta, now_ms)
    }
}

/// A message was accepted.
pub fn reception(incoming: &crate::intake::Incoming, size_bytes: u64, now_ms: u64) -> Event {
    let crate::intake::Incoming { id, head, meta, .. } = incoming;
    let received = meta.received.clone().unwrap_or_default();
    let envelope = meta.envelope.as_ref();
    let recipients = envelope.map_or(&[][..], |envelope| &envelope.recipients);
    Event {
        kind: EventKind::Reception.into(),
        message_id: Some((*id).into()),
        time: Some(instant(now_ms)),
        queue_name: Some(godwit_proto::common::v1::QueueName {
            campaign: head.campaign.clone(),
            tenant: head.tenant.clone(),
            domain: head.domains.first().cloned().unwrap_or_default(),
            routing_domain: head.routing_domain.clone(),
        }),
        egress_pool: head.egress_pool.clone(),
        reverse_path: meta.reverse_path().into(),
        recipients: recipients.iter().map(|recipient| recipient.address.clone()).collect(),
        size_bytes,
        peer: received.peer,
        tls: received.tls,
        session_id: received.session_id,
        protocol: received.protocol,
        metadata: meta.metadata.clone(),
        trace: meta.trace.clone(),
        created: Some(instant(head.received_ms)),
        ..Event::default()
    }
}

/// The lines of the log that make `next` durable.
pub fn record(claimed: &Claimed, next: &Next) -> Record {
    let (id, part) = (claimed.id.message.0, claimed.id.part);
    let state = match next {
        Next::Finished if claimed.last => return Record::End { id },
        Next::Finished => return Record::Done { id, part },
        Next::Retry { open, attempts, due_ms, trace, reply_code } => State {
            open: wide(open),
            attempts: *attempts,
            due_ms: *due_ms,
            trace: trace.map(|trace| trace.wire()),
            reply_code: (*reply_code).into(),
        },
        Next::Narrowed { open } => State { open: wide(open), ..unchanged(claimed) },
        Next::Rescheduled { due_ms } => State { due_ms: *due_ms, ..unchanged(claimed) },
    };
    Record::Change { id, part, state: stored::encode(&state) }
}

fn unchanged(claimed: &Claimed) -> State {
    State {
        open: claimed.open.as_deref().map_or_else(Vec::new, wide),
        attempts: claimed.attempts,
        due_ms: claimed.due_ms,
        trace: claimed.trace.map(|trace| trace.wire()),
        reply_code: claimed.reply_code.into(),
    }
}

fn wide(open: &[u16]) -> Vec<u32> {
    open.iter().map(|index| u32::from(*index)).collect()
}

pub fn instant(ms: u64) -> prost_types::Timestamp {
    timestamp(UNIX_EPOCH + Duration::from_millis(ms))
}

/// The lease that an outcome names; a malformed one is none.
pub fn lease_of(outcome: &Outcome) -> Option<LeaseId> {
    LeaseId::try_from(&outcome.lease_id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use godwit_proto::common::v1::{Envelope, Recipient};
    use godwit_proto::id::{DeliveryId, MessageId};

    fn claimed(live: bool, open: Option<&[u16]>) -> Claimed {
        Claimed {
            key: 0,
            id: DeliveryId { message: MessageId(1), part: 0 },
            label: Default::default(),
            live,
            last: true,
            attempts: 2,
            due_ms: 5,
            received_s: 0,
            size_bytes: 10,
            trace: None,
            reply_code: 0,
            open: open.map(Into::into),
            window: None,
            meta: Default::default(),
        }
    }

    fn meta() -> Meta {
        let recipient = |address: &str| Recipient { address: address.into(), ..Recipient::default() };
        let recipients = ["a@x", "b@x", "c@x"].map(recipient).to_vec();
        Meta { envelope: Some(Envelope { recipients, ..Envelope::default() }), ..Meta::default() }
    }

    fn outcome(results: &[(u32, RecipientResult, u32)]) -> Outcome {
        let named = |(index, result, code): &(u32, RecipientResult, u32)| RecipientOutcome {
            index: *index,
            result: (*result).into(),
            reply: Some(SmtpReply { code: *code, ..SmtpReply::default() }),
            ..RecipientOutcome::default()
        };
        Outcome { recipients: results.iter().map(named).collect(), ..Outcome::default() }
    }

    fn judged(claimed: &Claimed, results: &[(u32, RecipientResult, u32)]) -> Judged {
        let schedule = Schedule {
            retry_interval: Duration::from_secs(1_200),
            max_retry_interval: None,
            max_age: Duration::from_secs(1),
        };
        judge(claimed, &mut meta(), &mut outcome(results), At { schedule: &schedule, now_ms: 1_000 })
    }

    use RecipientResult::{Bounced, Deferred, Delivered};

    #[test]
    fn recipients_fare_apart() {
        let judged = judged(&claimed(true, None), &[(0, Delivered, 250), (1, Deferred, 451), (2, Bounced, 550)]);
        let Some(Next::Retry { open, attempts, due_ms, reply_code, .. }) = judged.next else { panic!() };
        assert_eq!((&*open, attempts, reply_code), (&[1][..], 3, 451));
        assert!((4_700_000..4_900_000).contains(&due_ms), "{due_ms}");
        let kinds: Vec<_> = judged.events.iter().map(|event| (event.kind(), event.recipients.concat())).collect();
        assert_eq!(
            kinds,
            [
                (EventKind::Delivery, "a@x".into()),
                (EventKind::TransientFailure, "b@x".into()),
                (EventKind::Bounce, "c@x".into())
            ]
        );
    }

    #[test]
    fn those_that_fared_alike_share_an_event() {
        let judged = judged(&claimed(true, None), &[(0, Delivered, 250), (1, Delivered, 250), (2, Delivered, 250)]);
        assert!(matches!(judged.next, Some(Next::Finished)));
        assert_eq!((judged.events.len(), judged.events[0].recipients.len(), judged.events[0].attempt), (1, 3, 3));
    }

    #[test]
    fn without_its_lease_only_the_end_counts() {
        let late = |results| judged(&claimed(false, None), results);
        assert_eq!(late(&[(0, Deferred, 451)]).verdict, Verdict::Stale);
        let mixed = late(&[(0, Deferred, 451), (1, Bounced, 550)]);
        assert_eq!((mixed.verdict, mixed.events.len()), (Verdict::LeaseExpiredApplied, 1));
        assert!(matches!(mixed.next, Some(Next::Narrowed { open }) if *open == [0, 2]));
    }

    #[test]
    fn what_was_closed_before_is_not_closed_again() {
        let judged = judged(&claimed(false, Some(&[2])), &[(0, Delivered, 250)]);
        assert_eq!((judged.verdict, judged.events.len()), (Verdict::Stale, 0));
    }

    #[test]
    fn what_was_not_tried_is_due_at_once() {
        let partly = judged(&claimed(true, None), &[(0, Delivered, 250)]);
        let Some(Next::Retry { open, due_ms, attempts, .. }) = partly.next else { panic!() };
        assert_eq!((&*open, due_ms, attempts), (&[1, 2][..], 1_000, 3));
        let Some(Next::Retry { attempts, .. }) = judged(&claimed(true, None), &[]).next else { panic!() };
        assert_eq!(attempts, 2);
    }
}
