//! Space comes back, and nothing comes back with it.

use svc_queue::spool::sim::SimDisk;
use svc_queue::spool::{Config, Id, Lookup, Record};

use super::{body_of, change, late_crash, message, open, small, until, world};

#[tokio::test]
async fn emptied_segments_are_used_again() {
    let disk = SimDisk::new(1);
    let (spool, _) = open(small(), &disk);
    world(&spool).await;
    for id in 1..=500 {
        spool.append(vec![message(id, body_of(id, 2000))]).await.unwrap();
        spool.append(vec![Record::End { id }]).await.unwrap();
    }
    until("all but the active segment are free", || spool.stats().segments == 1).await;
    let stats = spool.stats();
    assert_eq!((stats.messages, stats.live_bytes), (0, 0));
    // About 16 segments went by; files are the active one, one made ready, and spares.
    assert!(disk.names().iter().filter(|name| name.ends_with(".log")).count() <= 8, "{:?}", disk.names());
}

/// The marks lie in segments that are dropped before the messages' own.
#[tokio::test]
async fn dropping_a_mark_s_segment_resurrects_nothing() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let config = Config { compact_below_percent: 0, ..small() };
        let (spool, _) = open(config.clone(), &disk);
        world(&spool).await;
        // One segment that stays because of message 1, whose other messages end in later segments.
        for id in 1..=20 {
            spool.append(vec![message(id, body_of(id, 2000))]).await.unwrap();
        }
        for id in 2..=20 {
            spool.append(vec![change(id, 3, "old"), change(id, 3, &format!("state {id}"))]).await.unwrap();
            spool.append(vec![Record::Done { id: 1, part: id as u16 }]).await.unwrap();
            if id % 2 == 0 {
                spool.append(vec![Record::End { id }]).await.unwrap();
            }
            // Fill a segment that will be dropped with the marks in it.
            for filler in 0..12 {
                let filler = id * 1000 + filler;
                spool.append(vec![message(filler, body_of(filler, 5000))]).await.unwrap();
                spool.append(vec![Record::End { id: filler }]).await.unwrap();
            }
        }
        until("the fillers' segments are gone", || spool.stats().segments <= 2).await;
        let disk = late_crash(&disk).await;
        drop(spool);
        let (spool, recovery) = open(config, &disk);
        assert_eq!(recovery.faults, []);
        let world = world(&spool).await;
        let odd: Vec<Id> = (1..=20).filter(|id| id % 2 == 1).collect();
        assert_eq!(world.messages.keys().copied().collect::<Vec<_>>(), odd);
        assert!(odd[1..].iter().all(|id| world.states[&(*id, 3)] == format!("state {id}")));
        assert_eq!(world.done, (2..=20).map(|part| (1, part)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn stragglers_move_with_all_that_is_known_of_them() {
    let disk = SimDisk::new(3);
    let (spool, _) = open(small(), &disk);
    world(&spool).await;
    spool.append(vec![message(7, body_of(7, 3000)), change(7, 0, "a"), change(7, 1, "b")]).await.unwrap();
    spool.append(vec![Record::Done { id: 7, part: 1 }, change(7, 2, "gone")]).await.unwrap();
    for id in 100..600 {
        spool.append(vec![message(id, body_of(id, 2000)), change(7, 2, &format!("c{id}"))]).await.unwrap();
        spool.append(vec![Record::End { id }]).await.unwrap();
    }
    until("only the straggler's and the active segment are left", || spool.stats().segments <= 2).await;
    assert!(!disk.names().contains(&"seg-00000001.log".to_owned()), "it was moved out of there");
    for _ in 0..2 {
        let found = spool.read(vec![7]).await.unwrap().remove(0);
        assert!(matches!(found, Lookup::Found(stored) if stored.body == body_of(7, 3000)));
    }
    let disk = late_crash(&disk).await;
    drop(spool);
    let (spool, recovery) = open(small(), &disk);
    assert_eq!(recovery.faults, []);
    let world = world(&spool).await;
    assert_eq!(world.messages.len(), 1);
    assert_eq!((&world.states[&(7, 0)][..], &world.states[&(7, 2)][..]), (&b"a"[..], &b"c599"[..]));
    assert_eq!(world.done, [(7, 1)]);
}

#[tokio::test]
async fn admin_state_outlives_its_segment() {
    let disk = SimDisk::new(4);
    let (spool, _) = open(small(), &disk);
    world(&spool).await;
    let admin = |key: &'static str, value: Option<&'static str>| Record::Admin {
        key: key.into(),
        value: value.map(Into::into),
    };
    spool.append(vec![admin("kept", Some("1")), admin("deleted", Some("2")), admin("new", Some("old"))]).await.unwrap();
    spool.append(vec![message(1, "holds the first segment")]).await.unwrap();
    for id in 100..300 {
        spool.append(vec![message(id, body_of(id, 2000))]).await.unwrap();
        spool.append(vec![Record::End { id }]).await.unwrap();
        if id == 150 {
            spool.append(vec![admin("deleted", None), admin("new", Some("new"))]).await.unwrap();
        }
    }
    until("segments go", || spool.stats().segments <= 3).await;
    let disk = late_crash(&disk).await;
    drop(spool);
    let (spool, _) = open(small(), &disk);
    let world = world(&spool).await;
    let admin: Vec<_> = world.admin.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!(admin, [(&b"kept"[..], &b"1"[..]), (b"new", b"new")]);
}

#[tokio::test]
async fn bodies_are_read_in_pieces() {
    let disk = SimDisk::new(5);
    let (spool, _) = open(Config { cache_bytes_max: 0, ..small() }, &disk);
    let body = body_of(1, 1_000_000);
    spool.append(vec![message(1, body.clone()), message(2, "small")]).await.unwrap();
    for (offset, len) in [(0, 10), (262_143, 2), (300_000, 600_000), (999_990, 100), (1_000_000, 5), (2_000_000, 5)] {
        let piece = spool.read_body(1, offset, len).await.unwrap();
        let from = (offset as usize).min(body.len());
        let expect = &body[from..(from + len).min(body.len())];
        assert!(matches!(piece, svc_queue::spool::Piece::Found { bytes, body_bytes: 1_000_000 } if bytes == expect));
    }
    let piece = spool.read_body(2, 1, 3).await.unwrap();
    assert!(matches!(piece, svc_queue::spool::Piece::Found { bytes, .. } if bytes == "mal"));
    assert_eq!(spool.read_body(3, 0, 3).await.unwrap(), svc_queue::spool::Piece::Missing);
    assert_eq!(spool.read(vec![2, 3]).await.unwrap()[1], Lookup::Missing);
}
