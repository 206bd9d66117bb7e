//! A power cut at every call to the disk: what the cursor speaks of is there, once, and nothing else stays.

use super::*;
use crate::spool::sim::{Call, EIO, SimDisk};
use godwit_kit::config::Size;
use std::time::Duration;

const LINES: u64 = 40;

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn config() -> Config {
    Config { segment_bytes_max: Size(25), ..Config::default() }
}

fn open(disk: &SimDisk, config: &Config) -> io::Result<Segments> {
    Segments::open(Arc::new(disk.clone()), config, "log", LINES)
}

/// One line an event, two events an append; a second passes with each.
fn write_on(segments: &mut Segments) -> io::Result<()> {
    while segments.next_seq() <= LINES {
        let (first, next) = (segments.next_seq(), (segments.next_seq() + 2).min(LINES + 1));
        let lines: String = (first..next).map(|seq| format!("{seq}\n")).collect();
        segments.append(lines.as_bytes(), next, start() + Duration::from_secs(first))?;
    }
    Ok(())
}

/// All lines of all files, in the files' order.
fn lines(disk: &SimDisk) -> Vec<u64> {
    let mut names: Vec<_> = disk.names().into_iter().filter(|name| name.contains(FINISHED)).collect();
    names.sort();
    let read = |name: String| zstd::decode_all(&*disk.bytes(&name).unwrap()).unwrap();
    let text = String::from_utf8(names.into_iter().flat_map(read).collect()).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn numbers(end: u64) -> Vec<u64> {
    (1..end).collect()
}

#[test]
fn a_crash_at_any_call_loses_nothing_and_repeats_nothing() {
    let mut crashes = 0;
    for call in [Call::Create, Call::Write, Call::Sync, Call::SyncDir, Call::Read] {
        for (skip, seed) in (0..90).flat_map(|skip| (0..3).map(move |seed| (skip, seed))) {
            let disk = SimDisk::new(seed);
            disk.fail(call, skip, 1, EIO);
            let failed = open(&disk, &config()).and_then(|mut segments| write_on(&mut segments)).is_err();
            crashes += u32::from(failed);
            let disk = disk.crash();
            let mut segments = open(&disk, &config()).unwrap();
            assert_eq!(lines(&disk), numbers(segments.next_seq()), "{call:?} {skip} {seed}");
            write_on(&mut segments).unwrap();
            assert_eq!(lines(&disk), numbers(LINES + 1), "{call:?} {skip} {seed}");
            assert!(disk.names().iter().all(|name| !name.ends_with(DAMAGED)));
        }
    }
    assert!(crashes > 300, "only {crashes} of the faults were met");
}

/// Proof that the test above can fail.
#[test]
fn a_disk_that_lies_about_syncing_is_found_out() {
    let is_whole = |seed| {
        let disk = SimDisk::new(seed);
        disk.ignore_sync(true);
        write_on(&mut open(&disk, &config()).unwrap()).unwrap();
        let disk = disk.crash();
        let read = std::panic::catch_unwind(|| lines(&disk) == numbers(LINES + 1));
        read.unwrap_or(false)
    };
    assert!((0..20).any(|seed| !is_whole(seed)));
}

#[test]
fn an_error_without_a_crash_is_no_different() {
    for skip in 0..60 {
        let disk = SimDisk::new(1);
        disk.fail(Call::Sync, skip, 1, EIO);
        let mut segments = open(&disk, &config()).and_then(|mut segments| write_on(&mut segments).map(|()| segments));
        if segments.is_err() {
            segments = open(&disk, &config());
            write_on(segments.as_mut().unwrap()).unwrap();
        }
        assert_eq!(lines(&disk), numbers(LINES + 1), "{skip}");
    }
}

#[test]
fn files_are_named_by_time_and_finished_by_size_or_age() {
    let disk = SimDisk::new(1);
    let mut segments = open(&disk, &config()).unwrap();
    segments.append(b"1\n", 2, start()).unwrap();
    assert!(disk.names().contains(&"20231114-221320-0000000001.jsonl.zst.partial".into()));
    segments.commit(segments.finish_at().unwrap()).unwrap();
    assert!(disk.names().contains(&"20231114-221320-0000000001.jsonl.zst".into()));
    assert_eq!(segments.finish_at(), None);
    segments.append(&[b'x'; 25], 3, start()).unwrap();
    assert!(disk.names().contains(&"20231114-221320-0000000002.jsonl.zst".into()));
}

#[test]
fn the_folder_belongs_to_one() {
    let disk = SimDisk::new(1);
    let segments = open(&disk, &config()).unwrap();
    assert!(open(&disk, &config()).is_err());
    drop(segments);
    assert!(open(&disk, &config()).is_ok());
}

#[test]
fn a_cursor_that_cannot_be_read_begins_again_and_overwrites_nothing() {
    let disk = SimDisk::new(1);
    write_on(&mut open(&disk, &config()).unwrap()).unwrap();
    let mut segments = open(&disk, &Config::default()).unwrap();
    segments.append(b"41\n", 42, start()).unwrap();
    drop(segments);
    let before = lines(&disk);
    disk.tamper("cursor.json", |content| content.truncate(5));
    let mut segments = open(&disk, &config()).unwrap();
    assert_eq!(segments.next_seq(), 1);
    write_on(&mut segments).unwrap();
    assert_eq!(lines(&disk).len(), before.len() + LINES as usize);
    assert_eq!(disk.names().iter().filter(|name| name.ends_with(DAMAGED)).count(), 1);
}

#[test]
fn another_log_begins_at_its_first() {
    let disk = SimDisk::new(1);
    write_on(&mut open(&disk, &config()).unwrap()).unwrap();
    let shrunk = Segments::open(Arc::new(disk.clone()), &config(), "log", 3).unwrap();
    assert_eq!(shrunk.next_seq(), 4, "a log that was put back");
    drop(shrunk);
    let other = Segments::open(Arc::new(disk), &config(), "new", 3).unwrap();
    assert_eq!(other.next_seq(), 1);
}

#[test]
fn old_files_go_by_age_or_by_size_but_the_newest_stays() {
    let check = |config: Config, left: usize| {
        let disk = SimDisk::new(1);
        let mut segments = open(&disk, &config).unwrap();
        for hour in 0..10u64 {
            segments.append(&[b'x'; 30], hour + 2, start() + Duration::from_secs(3_600 * hour)).unwrap();
        }
        assert_eq!(disk.names().iter().filter(|name| name.ends_with(FINISHED)).count(), left);
    };
    check(config(), 10);
    check(Config { retain_bytes_max: Size(1), ..config() }, 1);
    // The last but one may hold events that are as young as the newest file.
    check(Config { retain_age_max: Some(Duration::from_secs(1)), ..config() }, 2);
    check(Config { retain_age_max: Some(Duration::from_secs(4 * 3_600 - 1)), ..config() }, 5);
}
