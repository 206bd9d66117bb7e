//! The event log: dense numbers, tailing, moving out of the log, retention.

use std::time::Duration;

use bytes::Bytes;
use svc_queue::spool::sim::SimDisk;
use svc_queue::spool::{Config, Events, Record, Spool, Verdict};

use super::{event, message, open, small, until, world};

async fn all(spool: &Spool, from: u64) -> (Vec<(u64, Bytes)>, Option<(u64, u64)>) {
    let mut items = Vec::new();
    let mut gap = None;
    let mut next = from;
    loop {
        let page = spool.events(next, 100, 4 << 10).await.unwrap();
        gap = gap.or(page.gap);
        if page.items.is_empty() {
            return (items, gap);
        }
        items.extend(page.items);
        next = page.next;
    }
}

#[tokio::test]
async fn events_are_numbered_from_one_without_gaps() {
    let disk = SimDisk::new(1);
    let (spool, _) = open(small(), &disk);
    let mut newest = spool.newest_event();
    assert_eq!(*newest.borrow_and_update(), 0);
    let appended = spool.append(vec![event("a"), message(1, "x"), event("b")]).await.unwrap();
    assert_eq!((appended.first_event_seq, appended.messages), (Some(1), vec![Verdict::Accepted]));
    newest.changed().await.unwrap();
    assert_eq!(*newest.borrow(), 2);
    let page = spool.events(1, 10, 1000).await.unwrap();
    let expect = vec![(1, Bytes::from("a")), (2, Bytes::from("b"))];
    assert_eq!(page, Events { items: expect, gap: None, next: 3 });
    let page = spool.events(3, 10, 1000).await.unwrap();
    assert_eq!(page, Events { items: vec![], gap: None, next: 3 });
}

#[tokio::test]
async fn a_duplicate_message_brings_no_events() {
    let disk = SimDisk::new(2);
    let (spool, _) = open(small(), &disk);
    let of = |id, text: &'static str| Record::Event { of: Some(id), payload: Bytes::from(text) };
    let first = spool.append(vec![message(1, "x"), of(1, "one")]);
    let again = spool.append(vec![message(1, "x"), of(1, "one again"), message(2, "y"), of(2, "two")]);
    let (first, again) = tokio::join!(first, again);
    assert_eq!(first.unwrap().messages, [Verdict::Accepted]);
    let again = again.unwrap();
    assert_eq!(again.messages, [Verdict::Duplicate, Verdict::Accepted]);
    assert_eq!(again.first_event_seq, Some(2));
    // Ended a moment ago is a duplicate too, and nothing more is a message.
    spool.append(vec![Record::End { id: 1 }]).await.unwrap();
    assert_eq!(spool.append(vec![message(1, "x")]).await.unwrap().messages, [Verdict::Duplicate]);
    assert!(spool.read(vec![1]).await.unwrap().remove(0).found().is_none());
    let (items, _) = all(&spool, 1).await;
    assert_eq!(items.iter().map(|(_, p)| &p[..]).collect::<Vec<_>>(), [&b"one"[..], b"two"]);
}

#[tokio::test]
async fn moved_events_let_the_log_go_and_are_still_read() {
    let disk = SimDisk::new(3);
    let (spool, _) = open(small(), &disk);
    world(&spool).await;
    for n in 1..=3000u64 {
        spool.append(vec![event(&format!("event {n} {}", "-".repeat(100)))]).await.unwrap();
    }
    until("the log is let go", || spool.stats().events_moved_seq == 3000 && spool.stats().segments <= 2).await;
    let (items, gap) = all(&spool, 1).await;
    assert_eq!((items.len(), gap), (3000, None));
    assert!(
        items
            .iter()
            .enumerate()
            .all(|(i, (seq, p))| *seq == i as u64 + 1 && p.starts_with(format!("event {seq} ").as_bytes()))
    );
    let (log_id, disk) = (spool.log_id(), disk.crash());
    drop(spool);
    let (spool, _) = open(small(), &disk);
    assert_eq!(spool.log_id(), log_id);
    assert_eq!(all(&spool, 2990).await.0.len(), 11);
    assert_eq!(spool.append(vec![event("next")]).await.unwrap().first_event_seq, Some(3001));
    assert_ne!(open(small(), &SimDisk::new(4)).0.log_id(), log_id, "a new disk is a new log");
}

#[tokio::test]
async fn retention_leaves_a_gap_and_says_so() {
    let disk = SimDisk::new(5);
    let (spool, _) = open(Config { events_bytes_max: 64 << 10, ..small() }, &disk);
    world(&spool).await;
    for n in 1..=4000u64 {
        let noise: String = super::body_of(n.into(), 60).iter().map(|b| format!("{b:02x}")).collect();
        spool.append(vec![event(&noise)]).await.unwrap();
    }
    until("events are moved", || spool.stats().events_moved_seq == 4000).await;
    let stats = spool.stats();
    assert!(stats.events_bytes <= (64 << 10) + (16 << 10), "{}", stats.events_bytes);
    let (items, gap) = all(&spool, 1).await;
    let (from, to) = gap.expect("the oldest are gone");
    assert_eq!((from, to + 1), (1, items[0].0));
    assert_eq!((stats.events_oldest_seq, items.last().unwrap().0), (to + 1, 4000));
    assert_eq!(items.len() as u64, 4000 - to);
}

#[tokio::test]
async fn a_tail_behind_the_ring_and_the_mover_reads_the_log() {
    let disk = SimDisk::new(6);
    let (spool, _) = open(Config { events_move_after: Duration::from_secs(600), ..small() }, &disk);
    for n in 1..=1000u64 {
        spool.append(vec![event(&format!("{n} {}", "-".repeat(100)))]).await.unwrap();
    }
    assert_eq!(spool.stats().events_moved_seq, 0);
    let (items, gap) = all(&spool, 1).await;
    assert_eq!((items.len(), gap), (1000, None));
    spool.close().await;
    assert_eq!(spool.stats().events_moved_seq, 1000, "closing moves what is left");
}
