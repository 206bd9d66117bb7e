//! Pushing to TSAs: each gets all that it needs, in order, whatever became of it or of the others. Time is paused.

use super::{Memory, host, log};
use godwit_kit::Host;
use godwit_kit::peers::{NodeCell, Peer, Peers};
use godwit_proto::common::v1::{EventKind, Gap};
use godwit_proto::id::NodeId;
use godwit_proto::tsa::v1::*;
use godwit_proto::tsa::{Tsa, TsaService, TsaServiceServer};
use godwit_proto::{Replies, wire};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use svc_queue::events::{Log, tsa};
use tokio::sync::watch::Sender;
use tonic::{Request, Response, Status};

/// How a fake TSA behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Away,
    /// Takes nothing and says so.
    Stubborn,
    /// Never answers.
    Asleep,
}

#[derive(Debug, Default, Clone)]
struct Seen {
    next: u64,
    seqs: Vec<u64>,
    gaps: Vec<(u64, u64)>,
    calls: u64,
    /// Of the newest call that carried events.
    first_seq: u64,
}

/// Holds what a TSA would, in memory.
#[derive(Clone)]
struct Fake {
    mood: Arc<Mutex<Mood>>,
    seen: Arc<Sender<Seen>>,
}

impl Fake {
    fn new() -> Self {
        Self {
            mood: Arc::new(Mutex::new(Mood::Well)),
            seen: Arc::new(Sender::new(Seen { next: 1, ..Seen::default() })),
        }
    }

    fn feels(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Once it holds everything before `next`.
    async fn until(&self, next: u64) -> Seen {
        let mut seen = self.seen.subscribe();
        let reached = tokio::time::timeout(Duration::from_secs(3_600), seen.wait_for(|seen| seen.next >= next));
        reached.await.unwrap_or_else(|_| panic!("not reached: {:?}", self.seen.borrow())).unwrap().clone()
    }

    async fn until_called(&self, calls: u64) {
        let mut seen = self.seen.subscribe();
        seen.wait_for(|seen| seen.calls >= calls).await.unwrap();
    }

    fn near(&self) -> Tsa {
        Arc::new(self.clone())
    }

    fn far(&self) -> Tsa {
        godwit_proto::tsa::at(wire(TsaServiceServer::new(self.clone())))
    }
}

#[tonic::async_trait]
impl TsaService for Fake {
    type WatchStream = Replies<WatchResponse>;

    async fn observe(&self, request: Request<ObserveRequest>) -> Result<Response<ObserveResponse>, Status> {
        let batch = request.into_inner();
        assert!(batch.node.is_some() && batch.events.len() <= 1_000);
        self.seen.send_modify(|seen| seen.calls += 1);
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Away => return Err(Status::unavailable("away")),
            Mood::Asleep => std::future::pending().await,
            Mood::Stubborn => return Ok(Response::new(ObserveResponse { next_seq: self.seen.borrow().next })),
            Mood::Well => {}
        }
        self.seen.send_modify(|seen| {
            if let Some(Gap { from, to }) = batch.gap {
                seen.gaps.push((from, to));
                seen.next = seen.next.max(to + 1);
            } else if batch.first_seq > seen.next {
                return;
            }
            if !batch.events.is_empty() {
                seen.first_seq = batch.first_seq;
            }
            seen.seqs.extend(batch.events.iter().map(|event| event.seq).filter(|seq| *seq >= seen.next));
            seen.next = seen.next.max(batch.next_seq);
        });
        Ok(Response::new(ObserveResponse { next_seq: self.seen.borrow().next }))
    }

    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        Err(Status::unimplemented("explain"))
    }
    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Err(Status::unimplemented("cancel"))
    }
    async fn add(&self, _: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        Err(Status::unimplemented("add"))
    }
    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        Err(Status::unimplemented("try"))
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("status"))
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

fn peer(name: &str, handle: Tsa) -> Peer<Tsa> {
    Peer { name: name.into(), handle, node: NodeCell::default() }
}

fn start(memory: &Memory, peers: Vec<Peer<Tsa>>) -> (Host, Log) {
    let host = host();
    let log = log(memory, &host);
    tsa::start(&log, &Peers::new(peers), &host);
    (host, log)
}

async fn end(host: &Host) {
    assert!(host.stop.finish(Duration::from_secs(60)).await);
}

#[tokio::test(start_paused = true)]
async fn every_tsa_gets_all_that_it_needs() {
    let (memory, a, b) = (Memory::new(1), Fake::new(), Fake::new());
    memory.add_deliveries(2_500);
    let (host, log) = start(&memory, vec![peer("a", a.near()), peer("b", b.far())]);
    for tsa in [&a, &b] {
        tsa.until(2_501).await;
    }
    memory.add([EventKind::Reception, EventKind::Bounce, EventKind::Delayed, EventKind::TransientFailure]);
    memory.add([EventKind::Reception]);
    let expected: Vec<_> = (1..=2_500).chain([2_502, 2_504]).collect();
    for tsa in [&a, &b] {
        assert_eq!(tsa.until(2_505).await.seqs, expected);
    }
    memory.add([EventKind::Audit]);
    for tsa in [&a, &b] {
        let seen = tsa.until(2_507).await;
        assert_eq!(seen.seqs.last(), Some(&2_506));
        assert!(seen.first_seq <= 2_506 && seen.gaps.is_empty());
    }
    end(&host).await;
    assert_eq!(log.sinks().iter().map(|sink| &*sink.name).collect::<Vec<_>>(), ["tsa:a", "tsa:b"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_was_away_or_asleep_misses_nothing() {
    for mood in [Mood::Away, Mood::Asleep, Mood::Stubborn] {
        let (memory, gone, there) = (Memory::new(1), Fake::new(), Fake::new());
        let (host, log) = start(&memory, vec![peer("gone", gone.near()), peer("there", there.near())]);
        memory.add_deliveries(10);
        gone.until(11).await;
        gone.feels(mood);
        for _ in 0..5 {
            memory.add_deliveries(700);
            there.until(*log.newest().borrow() + 1).await;
        }
        let calls = gone.seen.borrow().calls;
        gone.until_called(calls + 3).await;
        let sinks = log.sinks();
        assert_eq!((sinks[0].lag_events, sinks[1].lag_events), (3_500, 0), "{mood:?}");
        assert!(!sinks[0].last_error.is_empty(), "{mood:?}");
        assert!(host.metrics.text().contains("godwit_queue_sink_errors_total{sink=\"tsa:gone\"}"));
        gone.feels(Mood::Well);
        assert_eq!(gone.until(3_511).await.seqs, (1..=3_510).collect::<Vec<_>>(), "{mood:?}");
        assert_eq!(there.until(3_511).await.seqs, (1..=3_510).collect::<Vec<_>>(), "{mood:?}");
        end(&host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_takes_nothing_is_not_pressed() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    tsa.feels(Mood::Stubborn);
    memory.add_deliveries(10);
    let (host, _) = start(&memory, vec![peer("a", tsa.near())]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let calls = tsa.seen.borrow().calls;
    assert!((20..700).contains(&calls), "{calls} calls in ten minutes");
    end(&host).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_forgot_is_sent_it_again() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    memory.add_deliveries(10);
    let (host, _) = start(&memory, vec![peer("a", tsa.near())]);
    tsa.until(11).await;
    tsa.seen.send_modify(|seen| {
        seen.next = 4;
        seen.seqs.retain(|seq| *seq < 4);
    });
    memory.add_deliveries(1);
    assert_eq!(tsa.until(12).await.seqs, (1..=11).collect::<Vec<_>>());
    end(&host).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_forgot_is_sent_it_again_though_nothing_new_comes() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    memory.add_deliveries(10);
    // Nothing that a TSA needs: where it is asked from must not begin there again each time.
    memory.add([EventKind::Reception, EventKind::Reception]);
    let (host, _) = start(&memory, vec![peer("a", tsa.near())]);
    tsa.until(11).await;
    for kept in [4, 1] {
        tsa.seen.send_modify(|seen| {
            seen.next = kept;
            seen.seqs.retain(|seq| *seq < kept);
        });
        assert_eq!(tsa.until(11).await.seqs, (1..=10).collect::<Vec<_>>());
    }
    end(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_the_tsa_is() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    for round in 1..=3u64 {
        memory.add_deliveries(5);
        let (host, _) = start(&memory, vec![peer("a", tsa.far())]);
        let seen = tsa.until(5 * round + 1).await;
        assert_eq!(seen.seqs, (1..=5 * round).collect::<Vec<_>>());
        assert_eq!(seen.first_seq, 5 * round - 4, "nothing is sent twice");
        end(&host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_fell_off_is_said_and_counted() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    memory.add_deliveries(20);
    tsa.seen.send_modify(|seen| seen.next = 5);
    memory.forget(1..=9);
    let (host, log) = start(&memory, vec![peer("a", tsa.near())]);
    let seen = tsa.until(21).await;
    assert_eq!((seen.gaps, seen.seqs), (vec![(5, 9)], (10..=20).collect::<Vec<_>>()));
    memory.add_deliveries(1);
    tsa.until(22).await;
    assert!(host.metrics.text().contains("godwit_queue_sink_lost_events_total{sink=\"tsa:a\"} 5"));
    assert_eq!(log.sinks()[0].last_error, "");
    end(&host).await;
}

#[tokio::test(start_paused = true)]
async fn what_no_tsa_needs_moves_its_cursor_now_and_then() {
    let (memory, tsa) = (Memory::new(1), Fake::new());
    let (host, _) = start(&memory, vec![peer("a", tsa.near())]);
    for _ in 0..15 {
        memory.add(vec![EventKind::Reception; 1_000]);
    }
    let seen = tsa.until(10_001).await;
    assert!(seen.seqs.is_empty() && seen.calls <= 3, "{seen:?}");
    end(&host).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_listed_twice_is_fed_once_until_its_second_address_leads_elsewhere() {
    let (memory, tsa, other, node) = (Memory::new(1), Fake::new(), Fake::new(), NodeId::new());
    let cell = NodeCell::from(node);
    let again = Peer { name: "again".into(), handle: other.far(), node: cell.clone() };
    let (host, log) = start(&memory, vec![Peer::here(node, tsa.near()), again]);
    memory.add_deliveries(3);
    let seen = tsa.until(4).await;
    assert_eq!(seen.seqs.iter().collect::<HashSet<_>>().len(), seen.seqs.len());
    assert_eq!(log.sinks().len(), 1);
    assert_eq!(other.seen.borrow().calls, 0);

    cell.learn(NodeId::new());
    assert_eq!(other.until(4).await.seqs, [1, 2, 3]);
    assert_eq!(log.sinks().len(), 2);
    // And back: what is known meanwhile is not asked for twice.
    cell.learn(node);
    memory.add_deliveries(3);
    tsa.until(7).await;
    while log.sinks().len() > 1 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!host.metrics.text().contains("godwit_queue_sink_lag_events{sink=\"tsa:again\"}"));
    end(&host).await;
}
