//! File sinks from the configuration to the files, on the real disk.

use super::{Memory, host, log};
use godwit_kit::config::Faults;
use godwit_proto::common::v1::EventKind;
use godwit_proto::id::MessageId;
use std::path::{Path, PathBuf};
use std::time::Duration;
use svc_queue::events::sinks::{self, Config};

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("godwit-sink-{}", MessageId::new())))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// Every line of every file: its type, and its number (or where the gap begins).
fn lines(dir: &Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().contains(".zst"));
    files.sort();
    let text: Vec<u8> =
        files.iter().flat_map(|path| zstd::decode_all(&*std::fs::read(path).unwrap()).unwrap()).collect();
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = line.get("seq").or(line.get("from")).and_then(serde_json::Value::as_u64).unwrap();
        (line["type"].as_str().unwrap().to_string(), number)
    };
    String::from_utf8(text).unwrap().lines().map(line).collect()
}

/// Runs the sinks over what the log holds, and stops them as a process does.
async fn run(sinks: &[Config], dir: &Dir, memory: &Memory) -> String {
    let host = host();
    let log = log(memory, &host);
    sinks::start(sinks, &dir.0, &log, &host);
    assert!(host.stop.finish(Duration::from_secs(60)).await);
    for sink in log.sinks() {
        assert_eq!((sink.lag_events, sink.last_error), (0, String::new()), "{}", sink.name);
    }
    host.metrics.text()
}

#[tokio::test]
async fn events_are_written_once_over_restarts() {
    let (dir, memory) = (Dir::new(), Memory::new(1));
    let sinks = [
        config("dir = \"all\""),
        config(
            "name = \"bad news\"\nkind = \"file\"\ndir = \"some/bad\"\nevents = [\"Bounce\"]\nsegment_bytes_max = \"1KiB\"",
        ),
    ];
    for _ in 0..3 {
        memory.add([EventKind::Reception, EventKind::Bounce, EventKind::Audit]);
        memory.add_deliveries(20);
        let metrics = run(&sinks, &dir, &memory).await;
        assert!(metrics.contains("godwit_queue_sink_lag_events{sink=\"bad news\"} 0"), "{metrics}");
    }
    let all = lines(&dir.0.join("all"));
    assert_eq!(all.iter().map(|(_, seq)| *seq).collect::<Vec<_>>(), (1..=69).collect::<Vec<_>>());
    let bad: Vec<_> = [2, 25, 48].map(|seq| ("Bounce".to_string(), seq)).into();
    assert_eq!(lines(&dir.0.join("some/bad")), bad);
}

#[tokio::test]
async fn what_fell_off_is_a_line_and_a_count() {
    let (dir, memory) = (Dir::new(), Memory::new(1));
    let sinks = [config("dir = \"all\"")];
    memory.add_deliveries(2);
    run(&sinks, &dir, &memory).await;
    memory.add_deliveries(3);
    memory.forget(1..=4);
    let metrics = run(&sinks, &dir, &memory).await;
    let expected = [("Delivery", 1), ("Delivery", 2), ("Gap", 3), ("Delivery", 5)];
    assert_eq!(lines(&dir.0.join("all")), expected.map(|(kind, number)| (kind.to_string(), number)));
    assert!(metrics.contains("godwit_queue_sink_lost_events_total{sink=\"all\"} 2"), "{metrics}");
}

#[test]
fn every_fault_of_the_configuration_is_named() {
    let check = |sinks: &[&str], expected: &[&str]| {
        let mut faults = Faults::default();
        let sinks: Vec<_> = sinks.iter().map(|text| config(text)).collect();
        sinks::check(&sinks, "queue.sinks", &mut faults);
        let keys: Vec<_> = faults.0.iter().map(|fault| &*fault.key).collect();
        assert_eq!(keys, expected, "{faults}");
    };
    check(&["dir = \"log\"", "dir = \"/var/log/mail\""], &[]);
    check(&[""], &["queue.sinks[0].dir"]);
    check(&["dir = \"log\"", "dir = \"log/\""], &["queue.sinks[1].dir"]);
    check(&["dir = \"log\"", "dir = \"/var/log\""], &["queue.sinks[1].name"]);
    check(
        &[
            "dir = \"a\"\nsegment_bytes_max = 0\nsegment_age_max = \"1ms\"\nflush_interval = \"1h\"\ncompression_level = 30\nevents = [\"X\"]",
        ],
        &["segment_bytes_max", "segment_age_max", "flush_interval", "compression_level", "events"]
            .map(|field| format!("queue.sinks[0].{field}"))
            .each_ref()
            .map(|key| &**key),
    );
}
