//! A disk that fails, a message that is damaged, a throttle that says no or nothing.

use super::*;
use godwit_kit::config::Size;
use godwit_proto::throttle::ThrottleService;
use godwit_proto::throttle::v1::{
    AcquireRequest, AcquireResponse, AcquireSlotsRequest, AcquireSlotsResponse, HeartbeatRequest, HeartbeatResponse,
    InspectRequest, InspectResponse, ListRequest, ListResponse, RefundRequest, RefundResponse, ReleaseSlotsRequest,
    ReleaseSlotsResponse, ResetRequest, ResetResponse, acquire_response,
};
use std::sync::atomic::{AtomicU64, Ordering};
use svc_queue::config::Spool as SpoolConfig;
use svc_queue::spool::sim::{Call, EIO};
use tonic::{Code, Response, Status};

#[tokio::test(start_paused = true)]
async fn outcomes_that_could_not_be_written_may_be_told_again() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        world.disk.fail(Call::Write, 0, 1_000, EIO);
        let outcomes = vec![outcome(&leased, RecipientResult::Deferred)];
        let request = || SettleRequest { egress_node: Some(world.egress.into()), outcomes: outcomes.clone() };
        let status = world.queue.settle(Request::new(request())).await.unwrap_err();
        assert!(matches!(status.code(), Code::Unavailable | Code::Internal), "{status:?}");
        world.disk.heal();
        // The spool tries its disk again by its own clock.
        let verdict = loop {
            match world.queue.settle(Request::new(request())).await {
                Ok(answer) => break answer.into_inner().results().next().unwrap(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable),
            }
            tokio::task::spawn_blocking(std::thread::yield_now).await.unwrap();
        };
        assert_eq!((verdict, world.kinds().await.len()), (Verdict::Applied, 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_message_blocks_nobody() {
    let uncached = SpoolConfig { cache_bytes_max: Size(0), ..SpoolConfig::default() };
    both_with(Config { spool: uncached, max_age: MINUTE * 10, ..Config::default() }, |world| async move {
        world.route().await;
        let ids = [world.accept(&["x@a.example"]).await, world.accept(&["x@a.example"]).await];
        let text = format!("Subject: {}", ids[0]);
        for name in world.disk.names().into_iter().filter(|name| name.starts_with("seg-") && name.ends_with(".log")) {
            world.disk.tamper(&name, |bytes| {
                if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
                    bytes[at] ^= 1;
                }
            });
        }
        let leased = world.lease_one().await;
        assert_eq!(leased.message_id, Some(ids[1].into()));
        assert_eq!(world.settle(&leased, RecipientResult::Delivered).await, Verdict::Applied);
        assert_eq!(world.lease().await, []);
        assert!(world.host.metrics.text().contains("godwit_queue_deliveries_damaged_total 1"));
        world.pass(MINUTE * 10).await;
        assert_eq!(world.event(EventKind::Expiration).await.message_id, Some(ids[0].into()));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_will_not_give_waits_and_blocks_nobody() {
    let uncached = SpoolConfig { cache_bytes_max: Size(0), ..SpoolConfig::default() };
    both_with(Config { spool: uncached, ..Config::default() }, |world| async move {
        world.route().await;
        let ids = [world.accept(&["x@a.example"]).await, world.accept(&["x@a.example"]).await];
        world.disk.fail(Call::Read, 0, 1, EIO);
        let leased = world.lease().await;
        assert_eq!(leased.len(), 1);
        assert_eq!(world.lease().await, []);
        world.pass(Duration::from_secs(10)).await;
        let other = world.lease_one().await;
        assert!(ids.iter().all(|id| [&leased[0], &other].iter().any(|leased| leased.message_id == Some((*id).into()))));
    })
    .await;
}

/// Grants so many tokens, and then none for a minute; without any left it does not answer.
struct Tokens {
    left: AtomicU64,
    answers: bool,
}

#[tonic::async_trait]
impl ThrottleService for Tokens {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        if !self.answers {
            return Err(Status::unavailable("gone"));
        }
        let answer = |item: &godwit_proto::throttle::v1::acquire_request::Item| {
            assert_eq!((item.limits[0].key.as_str(), item.limits[0].limit), ("queue:t@a.example", 2));
            let wanted = item.limits[0].count;
            let left = self.left.load(Ordering::SeqCst);
            self.left.store(left.saturating_sub(wanted), Ordering::SeqCst);
            acquire_response::Item {
                granted: left > 0,
                count: wanted.min(left),
                wait: Some(godwit_proto::convert::duration(MINUTE)),
                ..acquire_response::Item::default()
            }
        };
        let responses = request.get_ref().requests.iter().map(answer).collect();
        Ok(Response::new(AcquireResponse { responses }))
    }

    async fn refund(&self, _: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn acquire_slots(&self, _: Request<AcquireSlotsRequest>) -> Result<Response<AcquireSlotsResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn release_slots(&self, _: Request<ReleaseSlotsRequest>) -> Result<Response<ReleaseSlotsResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
        Err(Status::internal("not asked"))
    }
    async fn reset(&self, _: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        Err(Status::internal("not asked"))
    }
}

async fn throttled(left: u64, answers: bool) -> World {
    let rate = "2/min".parse().unwrap();
    let config = Config { max_message_rate: Some(rate), ..Config::default() };
    let tokens = Tokens { left: AtomicU64::new(left), answers };
    let world = World::new(config, Some(Arc::new(tokens)), false).await;
    world.route().await;
    for _ in 0..3 {
        world.accept(&["x@a.example"]).await;
    }
    world
}

#[tokio::test(start_paused = true)]
async fn a_queues_rate_is_asked_before_a_lease() {
    let world = throttled(2, true).await;
    let answer = world.lease_as(world.ask(3)).await;
    assert_eq!((answer.deliveries.len(), answer.remaining_due, answer.next_due.is_some()), (2, 0, true));
}

#[tokio::test(start_paused = true)]
async fn without_the_throttle_mail_waits_and_is_not_stuck() {
    let world = throttled(0, false).await;
    assert_eq!(world.lease().await, []);
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.lease_as(world.ask(1)).await.remaining_due, 2);
}
