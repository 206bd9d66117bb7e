//! `WatchEvents`: where it begins, what it says of gaps, how it resumes, when it ends.

use super::{Memory, host, log};
use bytes::Bytes;
use futures::StreamExt;
use godwit_proto::Replies;
use godwit_proto::common::v1::{Cursor, Event, EventFilter, EventKind, Gap};
use godwit_proto::queue::v1::watch_events_response::Item;
use godwit_proto::queue::v1::{WatchEventsRequest, WatchEventsResponse};
use std::sync::Arc;
use svc_queue::events::{Log, codec};
use svc_queue::spool::sim::SimDisk;
use svc_queue::spool::{Config, Record, Spool};

/// One answer, shortened.
#[derive(Debug, PartialEq)]
enum Said {
    Events(Vec<u64>),
    Gap(u64, u64),
    CaughtUp,
}

async fn next(stream: &mut Replies<WatchEventsResponse>) -> (Said, Cursor) {
    let answer = stream.next().await.expect("the stream goes on").unwrap();
    let said = match answer.item.unwrap() {
        Item::Events(batch) => Said::Events(batch.events.iter().map(|event| event.seq).collect()),
        Item::Gap(Gap { from, to }) => Said::Gap(from, to),
        Item::CaughtUp(_) => Said::CaughtUp,
    };
    (said, answer.cursor.unwrap())
}

/// What a watcher hears until it has caught up, and where it is then.
async fn hear(stream: &mut Replies<WatchEventsResponse>) -> (Vec<Said>, Cursor) {
    let mut heard = Vec::new();
    loop {
        match next(stream).await {
            (Said::CaughtUp, cursor) => return (heard, cursor),
            (said, _) => heard.push(said),
        }
    }
}

fn from(log_id: &str, seq: u64) -> WatchEventsRequest {
    WatchEventsRequest { cursor: Some(Cursor { log_id: log_id.into(), seq }), filter: None }
}

fn range(range: std::ops::RangeInclusive<u64>) -> Said {
    Said::Events(range.collect())
}

#[tokio::test]
async fn where_it_begins_follows_from_the_cursor() {
    let (memory, host) = (Memory::new(1), host());
    let log = log(&memory, &host);
    memory.add_deliveries(5);
    let (here, other) = (log.log_id(), "ff".to_string());
    let check = async |request: WatchEventsRequest, expected: Vec<Said>| {
        let text = format!("{request:?}");
        let (heard, cursor) = hear(&mut log.watch(request).unwrap()).await;
        assert_eq!(heard, expected, "{text}");
        assert_eq!(cursor, Cursor { log_id: here.clone(), seq: 5 }, "{text}");
    };
    check(WatchEventsRequest::default(), vec![]).await;
    check(from("", 0), vec![range(1..=5)]).await;
    check(from(&here, 0), vec![range(1..=5)]).await;
    check(from(&here, 3), vec![range(4..=5)]).await;
    check(from(&here, 5), vec![]).await;
    check(from(&other, 4), vec![Said::Gap(0, 0), range(1..=5)]).await;
    memory.forget(1..=2);
    check(from("", 0), vec![range(3..=5)]).await;
    check(from(&here, 1), vec![Said::Gap(2, 2), range(3..=5)]).await;
    check(from(&here, 2), vec![range(3..=5)]).await;
    check(from(&other, 4), vec![Said::Gap(1, 2), range(3..=5)]).await;
    // Damage in the middle is said where it is met.
    memory.forget(4..=4);
    check(from("", 0), vec![range(3..=3), Said::Gap(4, 4), range(5..=5)]).await;
}

#[tokio::test]
async fn a_cursor_beyond_the_end_is_refused_by_name() {
    let (memory, host) = (Memory::new(1), host());
    let log = log(&memory, &host);
    let status = log.watch(from(&log.log_id(), 1)).err().unwrap();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().starts_with("cursor.seq"), "{status}");
    let filter = Some(EventFilter { kinds: vec![99], ..EventFilter::default() });
    let status = log.watch(WatchEventsRequest { cursor: None, filter }).err().unwrap();
    assert!(status.message().starts_with("filter.kinds[0]"), "{status}");
}

#[tokio::test]
async fn another_log_that_is_empty_is_a_gap_too() {
    let host = host();
    let log = log(&Memory::new(1), &host);
    let mut stream = log.watch(from("ff", 9)).unwrap();
    assert_eq!(next(&mut stream).await, (Said::Gap(0, 0), Cursor { log_id: log.log_id(), seq: 0 }));
    assert_eq!(next(&mut stream).await.0, Said::CaughtUp);
}

#[tokio::test]
async fn it_resumes_wherever_it_was_cut() {
    let (memory, host) = (Memory::new(1), host());
    let log = log(&memory, &host);
    memory.add_deliveries(3_500);
    let (mut seen, mut cursor) = (Vec::new(), Cursor::default());
    for _ in 0..4 {
        let request = WatchEventsRequest { cursor: Some(cursor), filter: None };
        let (said, at) = next(&mut log.watch(request).unwrap()).await;
        let Said::Events(events) = said else { panic!("{said:?}") };
        assert!(events.len() <= 1_000);
        seen.extend(events);
        cursor = at;
    }
    assert_eq!(range(1..=3_500), Said::Events(seen));
}

#[tokio::test]
async fn what_comes_later_follows_and_each_end_is_said() {
    let (memory, host) = (Memory::new(1), host());
    let log = log(&memory, &host);
    let mut stream = log.watch(WatchEventsRequest::default()).unwrap();
    assert_eq!(next(&mut stream).await.0, Said::CaughtUp);
    for round in 0..3u64 {
        assert!(futures::poll!(stream.next()).is_pending());
        memory.add_deliveries(2);
        let (heard, cursor) = hear(&mut stream).await;
        assert_eq!((heard, cursor.seq), (vec![range(2 * round + 1..=2 * round + 2)], 2 * round + 2));
    }
}

#[tokio::test]
async fn the_cursor_moves_over_what_is_not_wanted() {
    let (memory, host) = (Memory::new(1), host());
    let log = log(&memory, &host);
    let filter = Some(EventFilter { kinds: vec![EventKind::Bounce.into()], ..EventFilter::default() });
    memory.add([EventKind::Delivery, EventKind::Bounce, EventKind::Delivery]);
    let mut stream = log.watch(WatchEventsRequest { filter, ..from("", 0) }).unwrap();
    let (heard, cursor) = hear(&mut stream).await;
    assert_eq!((heard, cursor.seq), (vec![range(2..=2)], 3));
    // A few unwanted ones are not worth an answer, many are.
    memory.add_deliveries(5);
    assert!(futures::poll!(stream.next()).is_pending());
    memory.add_deliveries(1_000);
    assert_eq!(next(&mut stream).await, (Said::CaughtUp, Cursor { log_id: log.log_id(), seq: 1_008 }));
}

#[tokio::test]
async fn it_ends_with_the_host() {
    let host = host();
    let mut stream = log(&Memory::new(1), &host).watch(WatchEventsRequest::default()).unwrap();
    assert_eq!(next(&mut stream).await.0, Said::CaughtUp);
    let (end, ()) = tokio::join!(stream.next(), async { host.stop.request() });
    assert!(end.is_none());
}

#[tokio::test]
async fn the_spools_events_come_stamped() {
    let host = host();
    let (spool, _) = Spool::open_on(Config::default(), Arc::new(SimDisk::new(1))).unwrap();
    let log = Log::new(spool.clone(), &host);
    let event = Event { kind: EventKind::Audit.into(), session_id: "s".into(), ..Event::default() };
    let mut stream = log.watch(WatchEventsRequest::default()).unwrap();
    assert_eq!(next(&mut stream).await.0, Said::CaughtUp);
    let record = |payload: Bytes| Record::Event { of: None, payload };
    spool.append(vec![record(codec::encode(&event)), record(codec::encode(&event))]).await.unwrap();
    let answer = stream.next().await.unwrap().unwrap();
    let Some(Item::Events(batch)) = answer.item else { panic!("{answer:?}") };
    let node = Some(host.node.into());
    let stamped = |seq| Event { seq, log_id: log.log_id(), node: node.clone(), ..event.clone() };
    assert_eq!(batch.events, [stamped(1), stamped(2)]);
    assert_eq!(log.log_id(), format!("{:032x}", spool.log_id()));
    spool.close().await;
}
