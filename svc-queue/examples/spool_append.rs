//! How fast the spool takes mail, beside what the same disk does for a plain group-committed append of the same bytes.
//!
//! `cargo run --release -p svc-queue --example spool_append [folder] [messages]`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use svc_queue::spool::{Config, Record, Spool};
use tokio::sync::{mpsc, oneshot};

const PRODUCERS: u64 = 128;
const BODY_BYTES: usize = 10 << 10;
const META_BYTES: usize = 300;
const HEAD_BYTES: usize = 60;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let dir =
        args.next().map_or_else(std::env::temp_dir, PathBuf::from).join(format!("spool-append-{}", std::process::id()));
    let count: u64 = args.next().map_or(200_000, |n| n.parse().expect("a number of messages"));
    std::fs::create_dir_all(&dir).expect("a folder to write to");
    for round in 1..=3 {
        let raw = raw(&dir, count).await;
        let (kept, _) = spool(&dir.join("kept"), count, false).await;
        let (drained, p99) = spool(&dir.join("drained"), count, true).await;
        println!(
            "round {round}: raw append {raw:.0}/s; spool, backlog grows {kept:.0}/s (ratio {:.2}); spool, each ended and \
             recorded as events {drained:.0}/s (ratio {:.2}, append p99 {:.1} ms)",
            kept / raw,
            drained / raw,
            p99.as_secs_f64() * 1e3
        );
    }
    std::fs::remove_dir_all(&dir).expect("the folder is ours");
}

/// One thread, one file: takes all that waits, writes it, syncs, answers.
async fn raw(dir: &Path, count: u64) -> f64 {
    let (inbox, mut waiting) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>(4096);
    let path = dir.join("raw");
    let mut file = std::fs::File::create(&path).expect("a file to write to");
    let writer = std::thread::spawn(move || {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while let Ok(next) = waiting.try_recv() {
                group.push(next);
            }
            let mut parts: Vec<_> = group.iter().map(|(bytes, _)| std::io::IoSlice::new(bytes)).collect();
            let mut parts = &mut parts[..];
            while !parts.is_empty() {
                let n = file.write_vectored(parts).expect("the disk takes it");
                std::io::IoSlice::advance_slices(&mut parts, n);
            }
            file.sync_data().expect("the disk takes it");
            for (_, answer) in group {
                let _ = answer.send(());
            }
        }
    });
    let bytes = Bytes::from(vec![b'x'; BODY_BYTES + META_BYTES + HEAD_BYTES]);
    let start = Instant::now();
    run(count, move |_| {
        let (inbox, bytes) = (inbox.clone(), bytes.clone());
        async move {
            let (answer, done) = oneshot::channel();
            inbox.send((bytes, answer)).await.expect("the writer runs");
            done.await.expect("the writer answers");
        }
    })
    .await;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    writer.join().expect("the writer ends");
    std::fs::remove_file(path).expect("the file is ours");
    rate
}

/// With `drain`, each message is recorded as received, then as delivered, and ended: what a queue without a backlog does.
async fn spool(dir: &Path, count: u64, drain: bool) -> (f64, Duration) {
    let (spool, _) = Spool::open(Config::default(), dir).expect("a folder to write to");
    drop(spool.recovered());
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let (head, meta) = (Bytes::from(vec![b'h'; HEAD_BYTES]), Bytes::from(vec![b'm'; META_BYTES]));
    let slow = Arc::new(std::sync::Mutex::new(Vec::with_capacity(count as usize)));
    let start = Instant::now();
    run(count, |n| {
        let (spool, slow) = (spool.clone(), slow.clone());
        let (head, meta, body) = (head.clone(), meta.clone(), body.clone());
        async move {
            let id = u128::from(n) + 1;
            let event = || Record::Event { of: Some(id), payload: meta.clone() };
            let mut batch = vec![Record::Message { id, head, meta: meta.clone(), body }];
            if drain {
                batch.push(event());
            }
            let begun = Instant::now();
            spool.append(batch).await.expect("the disk takes it");
            slow.lock().expect("nobody panics").push(begun.elapsed());
            if drain {
                spool.append(vec![Record::End { id }, event()]).await.expect("the disk takes it");
            }
        }
    })
    .await;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let stats = spool.stats();
    spool.close().await;
    drop(spool);
    let mut slow = std::mem::take(&mut *slow.lock().expect("nobody panics"));
    slow.sort_unstable();
    let p99 = slow[slow.len() * 99 / 100];
    let begun = Instant::now();
    let (again, recovery) = Spool::open(Config::default(), dir).expect("it is there");
    println!(
        "  {} commits, {:.0} messages each; write amplification {:.2}; reopened in {:.0} ms with {} messages in {} segments",
        stats.commits,
        count as f64 / stats.commits as f64,
        stats.written_bytes as f64 / (count as f64 * (BODY_BYTES + META_BYTES + HEAD_BYTES) as f64),
        begun.elapsed().as_secs_f64() * 1e3,
        recovery.messages,
        recovery.segments
    );
    again.close().await;
    drop(again);
    std::fs::remove_dir_all(dir).expect("the folder is ours");
    (rate, p99)
}

async fn run<F: Future<Output = ()> + Send + 'static>(count: u64, work: impl Fn(u64) -> F) {
    let next = Arc::new(AtomicU64::new(0));
    let mut producers = tokio::task::JoinSet::new();
    let work: Vec<Vec<F>> = {
        let mut split: Vec<Vec<F>> = (0..PRODUCERS).map(|_| Vec::new()).collect();
        (0..count).for_each(|n| split[(n % PRODUCERS) as usize].push(work(n)));
        split
    };
    for mine in work {
        let next = next.clone();
        producers.spawn(async move {
            for one in mine {
                next.fetch_add(1, Ordering::Relaxed);
                one.await;
            }
        });
    }
    while let Some(result) = producers.join_next().await {
        result.expect("no producer panics");
    }
    assert_eq!(next.load(Ordering::Relaxed), count);
}
