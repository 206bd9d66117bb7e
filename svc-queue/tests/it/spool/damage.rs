//! Damage of every kind: each is reported and set aside, everything else loads, nothing is resurrected.

use std::collections::BTreeSet;

use svc_queue::spool::sim::SimDisk;
use svc_queue::spool::{Config, Fault, Id, Lookup, Record, Recovery, Spool, What};

use super::{body_of, change, late_crash, message, open, small, until, world};

const FIRST: &str = "seg-00000001.log";

fn config() -> Config {
    Config { compact_below_percent: 0, cache_bytes_max: 0, segment_bytes: 256 << 10, ..small() }
}

/// Ten messages of 2000 bytes in one unsealed segment, number 10 ended; the power is cut when all is acknowledged.
async fn ten() -> SimDisk {
    let disk = SimDisk::new(1);
    let (spool, _) = open(config(), &disk);
    for id in 1..=10 {
        spool.append(vec![message(id, body_of(id, 2000)), change(id, 0, "state")]).await.unwrap();
    }
    spool.append(vec![Record::End { id: 10 }]).await.unwrap();
    late_crash(&disk).await
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).expect("it was written there")
}

/// Opens, and checks that just these of the nine are there, whole; returns what was reported.
async fn expect(disk: &SimDisk, lost: &[Id]) -> (Spool, Recovery) {
    let (spool, recovery) = open(config(), disk);
    let world = world(&spool).await;
    let expect: BTreeSet<Id> = (1..=9).filter(|id| !lost.contains(id)).collect();
    assert_eq!(world.messages.keys().copied().collect::<BTreeSet<_>>(), expect, "{recovery:?}");
    for id in expect {
        let found = spool.read(vec![id]).await.unwrap().remove(0).found().expect("it is whole");
        assert_eq!(found.body, body_of(id, 2000));
    }
    (spool, recovery)
}

fn fault(recovery: &Recovery, what: What) -> Fault {
    let mut found = recovery.faults.iter().filter(|fault| fault.what == what);
    found.next().unwrap_or_else(|| panic!("{what:?} is not reported: {recovery:?}")).clone()
}

fn quarantined(disk: &SimDisk, piece: &[u8]) -> bool {
    let names = disk.names().into_iter().filter(|name| name.starts_with("quarantine/"));
    names.filter_map(|name| disk.bytes(&name)).any(|bytes| bytes.windows(piece.len()).any(|window| window == piece))
}

#[tokio::test]
async fn without_damage_there_is_nothing_to_report() {
    let (_, recovery) = expect(&ten().await, &[]).await;
    assert_eq!((recovery.faults, recovery.messages, recovery.segments_scanned), (vec![], 9, 1));
}

#[tokio::test]
async fn a_flipped_byte_in_header_meta_or_body_costs_that_message_alone() {
    type Place = fn(&[u8]) -> usize;
    let places: [(&str, Place, What); 4] = [
        ("header", |bytes| find(bytes, b"head 5") - 20, What::Garbage),
        ("head", |bytes| find(bytes, b"head 5"), What::BadContent),
        ("meta", |bytes| find(bytes, b"meta 5"), What::BadContent),
        ("body", |bytes| find(bytes, &body_of(5, 2000)) + 1000, What::BadContent),
    ];
    for (name, place, what) in places {
        let disk = ten().await;
        disk.tamper(FIRST, |bytes| {
            let at = place(bytes);
            bytes[at] ^= 0x40;
        });
        let (spool, recovery) = expect(&disk, &[5]).await;
        assert_eq!(recovery.faults.len(), 1, "{name}: {recovery:?}");
        let fault = fault(&recovery, what);
        assert_eq!((fault.segment.as_str(), fault.id), (FIRST, (what == What::BadContent).then_some(5)), "{name}");
        assert!(quarantined(&disk, &body_of(5, 2000)[..900]), "{name}: the damaged record is set aside");
        // Once it has been dealt with it is not met again.
        spool.close().await;
        drop(spool);
        let (_, again) = expect(&disk, &[5]).await;
        assert_eq!(again.faults, []);
    }
}

#[tokio::test]
async fn a_flipped_byte_behind_a_sidecar_is_met_when_it_is_read() {
    let disk = ten().await;
    let (spool, _) = expect(&disk, &[]).await;
    spool.close().await;
    drop(spool);
    disk.tamper(FIRST, |bytes| {
        let at = find(bytes, &body_of(5, 2000)) + 1000;
        bytes[at] ^= 1;
    });
    let (spool, recovery) = open(config(), &disk);
    assert_eq!((recovery.faults, recovery.segments_scanned), (vec![], 0));
    let mut found = spool.read((1..=9).collect()).await.unwrap();
    assert_eq!(found.remove(4), Lookup::Damaged);
    assert!(found.into_iter().all(|lookup| lookup.found().is_some()));
    assert_eq!(spool.stats().faults, 1);
    assert!(quarantined(&disk, b"meta 5"));
}

#[tokio::test]
async fn a_torn_last_record_is_a_torn_tail_and_its_batch_is_not_half_applied() {
    let disk = ten().await;
    let clean = disk.bytes(FIRST).unwrap();
    let (spool, _) = open(config(), &disk);
    // A new segment: its first commit is torn in the middle of its second message.
    spool
        .append(vec![message(11, body_of(11, 2000)), message(12, body_of(12, 2000)), change(1, 0, "new")])
        .await
        .unwrap();
    let name = disk.names().into_iter().filter(|n| n.ends_with(".log") && n.starts_with("seg")).nth(1).unwrap();
    let torn = disk.bytes(&name).unwrap();
    let at = find(&torn, &body_of(12, 2000)) + 512;
    let disk = late_crash(&disk).await;
    drop(spool);
    disk.tamper(&name, |bytes| bytes[at..].fill(0));
    let (spool, recovery) = expect(&disk, &[]).await;
    assert_eq!(fault(&recovery, What::TornTail).segment, name, "{recovery:?}");
    assert_eq!(world(&spool).await.states[&(1, 0)], "state");
    assert_eq!(disk.bytes(FIRST).unwrap(), clean);
}

#[tokio::test]
async fn a_truncated_file_loses_what_is_cut_off() {
    for sealed in [false, true] {
        let disk = ten().await;
        if sealed {
            let (spool, _) = expect(&disk, &[]).await;
            spool.close().await;
        }
        disk.tamper(FIRST, |bytes| bytes.truncate(find(bytes, &body_of(8, 2000)) + 700));
        // Number 10's end was cut off too, but so was number 10.
        let (_, recovery) = expect(&disk, &[8, 9]).await;
        assert_eq!(fault(&recovery, What::Truncated).segment, FIRST);
    }
}

#[tokio::test]
async fn stale_records_in_a_recycled_segment_stay_dead() {
    let disk = SimDisk::new(2);
    let (spool, _) = open(config(), &disk);
    world(&spool).await;
    let mut stale = Vec::new();
    // Enough to fill segments, end everything in them, and have one written over.
    for id in 1000..1400 {
        spool.append(vec![message(id, body_of(id, 4000))]).await.unwrap();
        if stale.is_empty() && id == 1010 {
            stale = disk.bytes(FIRST).unwrap();
        }
        spool.append(vec![Record::End { id }]).await.unwrap();
    }
    until("segments are recycled", || spool.stats().segments == 1).await;
    for id in 1..=9 {
        spool.append(vec![message(id, body_of(id, 2000))]).await.unwrap();
    }
    let disk = late_crash(&disk).await;
    drop(spool);
    let names: Vec<String> = disk.names().into_iter().filter(|n| n.starts_with("seg") && n.ends_with(".log")).collect();
    let recycled = names.iter().find(|name| find_opt(&disk.bytes(name).unwrap(), &body_of(5, 2000)).is_some()).unwrap();
    // Records that were valid here, or at the very same place of the file's former life, over a live one.
    disk.tamper(recycled, |bytes| {
        let at = find(bytes, &body_of(5, 2000));
        let record = find(&stale, b"head 1003") - 72;
        bytes[at..at + 1500].copy_from_slice(&stale[record..record + 1500]);
    });
    let (_, recovery) = expect(&disk, &[5]).await;
    assert_eq!(fault(&recovery, What::BadContent).id, Some(5));
}

fn find_opt(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[tokio::test]
async fn records_inside_a_mail_body_are_mail() {
    let disk = SimDisk::new(3);
    let (spool, _) = open(config(), &disk);
    // A record of this very segment (and of another disk's) as somebody's mail, in front of which the log is damaged.
    spool.append(vec![message(1, body_of(1, 2000)), Record::End { id: 999 }]).await.unwrap();
    spool.append(vec![message(2, body_of(2, 2000))]).await.unwrap();
    spool.append(vec![message(666, "to be ended")]).await.unwrap();
    let own = disk.bytes(FIRST).unwrap();
    let foreign = ten().await.bytes(FIRST).unwrap();
    spool.append(vec![Record::End { id: 666 }]).await.unwrap();
    let own_end = disk.bytes(FIRST).unwrap();
    let at = find(&own, b"head 666") - 72;
    let forged = [&own[at..at + 200], &own_end[at..at + 400], &foreign[4096..40000]].concat();
    spool.append(vec![message(3, forged.clone())]).await.unwrap();
    spool.append(vec![message(4, body_of(4, 2000))]).await.unwrap();
    let disk = late_crash(&disk).await;
    drop(spool);
    disk.tamper(FIRST, |bytes| {
        let at = find(bytes, b"head 3") - 40;
        bytes[at] ^= 1;
    });
    let (spool, recovery) = open(config(), &disk);
    let world = world(&spool).await;
    assert_eq!(world.messages.keys().copied().collect::<Vec<_>>(), [1, 2, 4], "{recovery:?}");
    assert_eq!(recovery.faults.len(), 1);
    assert_eq!(fault(&recovery, What::Garbage).size_bytes as usize, 72 + 12 + forged.len());
    assert!(quarantined(&disk, &forged));
}

#[tokio::test]
async fn a_bad_or_missing_sidecar_is_made_again() {
    for missing in [false, true] {
        let disk = ten().await;
        let (spool, _) = expect(&disk, &[]).await;
        spool.close().await;
        drop(spool);
        disk.tamper("seg-00000001.idx", |bytes| if missing { bytes.clear() } else { bytes[300] ^= 1 });
        let (_, recovery) = expect(&disk, &[]).await;
        assert_eq!(recovery.segments_scanned, 1);
        fault(&recovery, What::BadSidecar);
    }
}

#[tokio::test]
async fn a_segment_without_its_header_is_set_aside_whole() {
    let disk = ten().await;
    let one_copy = ten().await;
    one_copy.tamper(FIRST, |bytes| bytes[20] ^= 1);
    assert_eq!(expect(&one_copy, &[]).await.1.faults, [], "the second copy serves");
    disk.tamper(FIRST, |bytes| {
        bytes[20] ^= 1;
        bytes[2048 + 20] ^= 1;
    });
    let (spool, recovery) = open(config(), &disk);
    fault(&recovery, What::BadHeader);
    assert_eq!(world(&spool).await.messages.len(), 0);
    assert!(quarantined(&disk, &body_of(1, 2000)));
    spool.append(vec![message(1, "life goes on")]).await.unwrap();
}

#[tokio::test]
async fn damage_anywhere_never_stops_the_start() {
    for seed in 0..300u64 {
        let disk = ten().await;
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = |sides: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            (dice >> 20) as usize % sides
        };
        disk.tamper(FIRST, |bytes| {
            for _ in 0..=roll(4) {
                let (at, len) = (roll(30_000), roll(900));
                match roll(3) {
                    0 => bytes[at..at + len].fill(0),
                    1 => (at..at + len).for_each(|i| bytes[i] ^= 0x5a),
                    _ => bytes.copy_within(at..at + len, (at / 2).max(1)),
                }
            }
        });
        let (spool, recovery) = open(config(), &disk);
        let world = world(&spool).await;
        assert!(world.messages.keys().all(|id| (1..=10).contains(id)));
        for &id in world.messages.keys() {
            let found = spool.read(vec![id]).await.unwrap().remove(0).found().expect("what is given out is whole");
            assert_eq!(found.body, body_of(id, 2000));
        }
        assert!(world.messages.len() == 9 || !recovery.faults.is_empty(), "seed {seed}: lost without a word");
    }
}

#[tokio::test]
async fn an_envelope_is_read_without_its_body() {
    let disk = SimDisk::new(1);
    let (spool, _) = open(config(), &disk);
    let meta = vec![b'm'; 10_000];
    let record =
        |id, body: Vec<u8>| Record::Message { id, head: "h".into(), meta: meta.clone().into(), body: body.into() };
    spool.append(vec![record(1, body_of(1, 2_000)), record(2, body_of(2, 400_000))]).await.unwrap();
    let far_in = &body_of(2, 400_000)[200_000..200_016];
    let name = disk
        .names()
        .into_iter()
        .find(|name| name.ends_with(".log") && disk.bytes(name).unwrap().windows(16).any(|at| at == far_in));
    disk.tamper(&name.unwrap(), |bytes| {
        let at = find(bytes, far_in);
        bytes[at] ^= 1;
    });
    let found = spool.read_up_to(vec![1, 2], 2_000).await.unwrap();
    let found: Vec<_> = found.into_iter().map(|lookup| lookup.found().unwrap()).collect();
    assert_eq!((found[0].meta.len(), found[0].body.len()), (10_000, 2_000));
    assert_eq!((found[1].meta.len(), found[1].body.len()), (10_000, 0));
    assert_eq!(spool.read(vec![2]).await.unwrap(), [Lookup::Damaged]);
}
