//! WatchDue, Route and ReportLane.

use super::*;
use godwit_proto::convert::timestamp;
use godwit_proto::queue::v1::watch_due_response::LaneDue;
use godwit_proto::queue::v1::{WatchDueRequest, WatchDueResponse};
use godwit_proto::{Replies, common::v1::Lane};

async fn watch(world: &World, pools: &[&str]) -> Replies<WatchDueResponse> {
    let request = WatchDueRequest {
        egress_node: Some(world.egress.into()),
        egress_pools: pools.iter().map(|pool| (*pool).into()).collect(),
        held: Vec::new(),
    };
    world.queue.watch_due(Request::new(request)).await.unwrap().into_inner()
}

/// The next answer, for which the watcher may have to wait a moment.
async fn next(world: &World, answers: &mut Replies<WatchDueResponse>) -> WatchDueResponse {
    loop {
        if let std::task::Poll::Ready(answer) = futures::poll!(answers.next()) {
            return answer.unwrap().unwrap();
        }
        world.pass(Duration::from_millis(2)).await;
    }
}

fn lane(domain: &str, due_count: u64, site: &str) -> LaneDue {
    LaneDue {
        lane: Some(Lane { routing_domain: domain.into(), egress_pool: "default".into() }),
        due_count,
        site: site.into(),
        ..LaneDue::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_then_what_changes() {
    both(|world| async move {
        let mut answers = watch(&world, &[]).await;
        assert_eq!(next(&world, &mut answers).await, WatchDueResponse { lanes: vec![], snapshot_done: true });
        let now = Some(timestamp(world.host.clock.now()));
        world.accept(&["x@a.example"]).await;
        let answer = next(&world, &mut answers).await;
        assert_eq!(
            (answer.lanes, answer.snapshot_done),
            (vec![LaneDue { oldest_due: now, ..lane("a.example", 1, "") }], false)
        );
        world.route().await;
        assert_eq!(next(&world, &mut answers).await.lanes, [LaneDue { oldest_due: now, ..lane("a.example", 1, "mx") }]);
        let leased = world.lease_one().await;
        assert_eq!(next(&world, &mut answers).await.lanes, [lane("a.example", 0, "mx")]);
        world.settle(&leased, RecipientResult::Deferred).await;
        let changed = next(&world, &mut answers).await.lanes.remove(0);
        assert_eq!((changed.due_count, changed.next_due.is_some()), (0, true));
        // Another watcher gets the whole.
        let mut second = watch(&world, &[]).await;
        let snapshot = next(&world, &mut second).await;
        assert_eq!((snapshot.lanes, snapshot.snapshot_done), (vec![changed], true));
        world.pass(MINUTE * 21).await;
        for answers in [&mut answers, &mut second] {
            assert_eq!(next(&world, answers).await.lanes[0].due_count, 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_change() {
    both(|world| async move {
        let mut answers = watch(&world, &[]).await;
        next(&world, &mut answers).await;
        world.enqueue((0..200).map(|_| message(MessageId::new(), &["x@a.example"])).collect()).await;
        let answer = next(&world, &mut answers).await;
        assert_eq!((answer.lanes.len(), answer.lanes[0].due_count), (1, 200));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_sees_its_pools_alone() {
    both(|world| async move {
        let vip = EnqueueMessage { egress_pool: "vip".into(), ..message(MessageId::new(), &["x@a.example"]) };
        world.enqueue(vec![vip, message(MessageId::new(), &["x@a.example"])]).await;
        let mut answers = watch(&world, &["vip"]).await;
        let answer = next(&world, &mut answers).await;
        assert_eq!((answer.lanes.len(), answer.lanes[0].lane.as_ref().unwrap().egress_pool.as_str()), (1, "vip"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_route_ends_with_its_ttl() {
    both(|world| async move {
        let entry = route_request::Entry { routing_domain: "A.example".into(), site: "mx".into(), ttl_ms: 60_000 };
        world.queue.route(Request::new(RouteRequest { entries: vec![entry] })).await.unwrap();
        world.accept(&["x@a.example"]).await;
        let mut answers = watch(&world, &[]).await;
        assert_eq!(next(&world, &mut answers).await.lanes[0].site, "mx");
        world.pass(MINUTE).await;
        assert_eq!(next(&world, &mut answers).await.lanes[0].site, "");
        assert_eq!(world.lease().await, []);
        world.route().await;
        world.lease_one().await;
    })
    .await;
}
