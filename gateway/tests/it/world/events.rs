//! What queues tell of their mail, and the law that every accepted message comes to its end.

use super::{HANG, until};
use godwit_proto::common::v1::{Cursor, Event, EventKind, Selector};
use godwit_proto::convert::system_time;
use godwit_proto::queue::v1::{SummariseRequest, WatchEventsRequest, watch_events_response::Item};
use godwit_proto::queue::{Queue, QueueAdmin};
use std::sync::Mutex;
use std::time::SystemTime;
use tokio_stream::StreamExt;
use tonic::Request;

/// Reads a queue's events from the first on until `enough` of them are there.
pub async fn events_until(queue: &Queue, enough: impl Fn(&[Event]) -> bool) -> Vec<Event> {
    let seen = Mutex::new(Vec::new());
    let reading = async {
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut stream = queue.watch_events(Request::new(request)).await.unwrap().into_inner();
        while let Some(answer) = stream.next().await {
            if let Some(Item::Events(batch)) = answer.unwrap().item {
                let mut seen = seen.lock().unwrap();
                seen.extend(batch.events);
                if enough(&seen) {
                    return;
                }
            }
        }
        panic!("the event stream ended");
    };
    if tokio::time::timeout(HANG, reading).await.is_err() {
        panic!("these events are not enough: {:#?}", brief(&seen.lock().unwrap()));
    }
    seen.into_inner().unwrap()
}

/// What a queue has told so far.
pub async fn told(queue: &Queue) -> Vec<Event> {
    let reading = async {
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut stream = queue.watch_events(Request::new(request)).await.unwrap().into_inner();
        let mut events = Vec::new();
        loop {
            match stream.next().await.unwrap().unwrap().item {
                Some(Item::Events(batch)) => events.extend(batch.events),
                Some(Item::CaughtUp(_)) => return events,
                Some(Item::Gap(gap)) => panic!("{gap:?}"),
                None => {}
            }
        }
    };
    tokio::time::timeout(HANG, reading).await.expect("the end of what was told")
}

fn brief(events: &[Event]) -> Vec<String> {
    let line = |event: &Event| {
        let reply = event.reply.as_ref().map(|reply| reply.line()).unwrap_or_default();
        format!("{:?} attempt {} {:?} {reply}", event.kind(), event.attempt, event.recipients)
    };
    events.iter().map(line).collect()
}

/// Returns once a queue holds no mail, with all that it ever told.
pub async fn drained(queue: &Queue, admin: &QueueAdmin) -> Vec<Event> {
    let empty = || async {
        let selector = Some(Selector { all: true, ..Selector::default() });
        let request = SummariseRequest { selector, ..SummariseRequest::default() };
        let summary = admin.summarise(Request::new(request)).await.ok()?.into_inner();
        (summary.message_count == 0).then_some(())
    };
    until("empty queue", empty).await;
    events_until(queue, |events| {
        let ends = ends_of(events).flat_map(|event| &event.recipients).count();
        ends >= of_kind(events, EventKind::Reception).iter().map(|event| event.recipients.len()).sum()
    })
    .await
}

/// The events of one kind.
pub fn of_kind(events: &[Event], kind: EventKind) -> Vec<&Event> {
    events.iter().filter(|event| event.kind() == kind).collect()
}

pub fn count(events: &[Event], kind: EventKind) -> usize {
    of_kind(events, kind).len()
}

pub fn time(event: &Event) -> SystemTime {
    system_time(event.time.as_ref().unwrap()).unwrap()
}

fn ends_of(events: &[Event]) -> impl Iterator<Item = &Event> {
    let ends = [EventKind::Delivery, EventKind::Bounce, EventKind::Expiration];
    events.iter().filter(move |event| ends.contains(&event.kind()))
}

/// Every message that was accepted has come to its end, for each of its recipients exactly once; the log has no hole.
pub fn law(events: &[Event]) {
    for (place, event) in events.iter().enumerate() {
        assert_eq!(event.seq, place as u64 + 1, "a hole in the log: {event:?}");
    }
    for reception in of_kind(events, EventKind::Reception) {
        let same = ends_of(events).filter(|event| event.message_id == reception.message_id);
        let mut ended: Vec<_> = same.flat_map(|event| event.recipients.clone()).collect();
        let mut open = reception.recipients.clone();
        ended.sort();
        open.sort();
        assert_eq!(ended, open, "{reception:?}");
    }
}
