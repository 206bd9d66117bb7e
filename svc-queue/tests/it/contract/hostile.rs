//! Requests that no honest caller makes, and races that no caller can help.

use super::*;
use godwit_kit::call::surely_not_started;
use godwit_proto::common::v1::{Lane, SendWindow};
use godwit_proto::queue::v1::{
    PutBodyRequest, RecordRequest, ReportLaneRequest, WatchDueRequest, WithdrawRequest,
    withdraw_response::Outcome as Withdrawn,
};
use prost_types::Timestamp;
use tonic::{Code, Status};

async fn withdraw(world: &World, id: MessageId) -> Withdrawn {
    let request = WithdrawRequest { message_ids: vec![id.into()] };
    world.queue.withdraw(Request::new(request)).await.unwrap().into_inner().outcomes().next().unwrap()
}

fn keyed(id: MessageId) -> EnqueueMessage {
    EnqueueMessage { idempotency_key: "k1".into(), ..message(id, &["x@a.example"]) }
}

fn upload(id: MessageId, size_bytes: u64) -> EnqueueMessage {
    let body = Body { content: Some(body::Content::UploadId("up".into())), size_bytes };
    EnqueueMessage { body: Some(body), ..message(id, &["x@a.example"]) }
}

const NEVER: Timestamp = Timestamp { seconds: i64::MAX, nanos: 0 };

#[tokio::test(start_paused = true)]
async fn the_key_of_a_withdrawn_message_is_free() {
    both(|world| async move {
        let (one, two) = (MessageId::new(), MessageId::new());
        assert_eq!(world.enqueue(vec![keyed(one)]).await, [reply(one, Accepted::Accepted)]);
        assert_eq!(withdraw(&world, one).await, Withdrawn::Withdrawn);
        // Whoever was told to come again is not told that it is there already.
        assert_eq!(world.enqueue(vec![keyed(two)]).await, [reply(two, Accepted::Accepted)]);
        let world = world.crash().await;
        assert_eq!(world.enqueue(vec![keyed(MessageId::new())]).await, [reply(two, Accepted::Duplicate)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_message_is_refused_though_it_was_there() {
    both(|world| async move {
        let id = world.accept(&["x@a.example"]).await;
        assert_eq!(withdraw(&world, id).await, Withdrawn::Withdrawn);
        assert_eq!(withdraw(&world, id).await, Withdrawn::Withdrawn);
        let replies = world.enqueue(vec![message(id, &["x@a.example"])]).await;
        assert_eq!((replies[0].outcome(), replies[0].reason.as_str()), (Accepted::Refused, "withdrawn"));
        let world = world.crash().await;
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await[0].outcome(), Accepted::Refused);
        world.route().await;
        world.pass(MINUTE).await;
        assert_eq!(world.lease().await, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_shares_the_key_of_a_refused_message_is_refused_with_it() {
    both(|world| async move {
        world.route().await;
        let (one, two) = (MessageId::new(), MessageId::new());
        let absent = EnqueueMessage { idempotency_key: "k1".into(), ..upload(one, 10) };
        let replies = world.enqueue(vec![absent, keyed(two)]).await;
        assert_eq!([replies[0].outcome(), replies[1].outcome()], [Accepted::Refused; 2]);
        assert_eq!(world.lease().await, []);
        assert_eq!(world.enqueue(vec![keyed(two)]).await, [reply(two, Accepted::Accepted)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_of_which_a_piece_is_missing_is_refused() {
    both(|world| async move {
        let put = PutBodyRequest { upload_id: "up".into(), offset: 0, content: Bytes::from_static(b"1234") };
        world.queue.put_body(Request::new(put)).await.unwrap();
        let id = MessageId::new();
        let replies = world.enqueue(vec![upload(id, 5)]).await;
        assert_eq!(replies[0].reason, "body.size_bytes: 5, but 4 have been put");
        assert_eq!(world.enqueue(vec![upload(id, 4)]).await, [reply(id, Accepted::Accepted)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_lease_fits_a_call_whatever_the_envelopes() {
    both(|world| async move {
        world.route().await;
        // About a megabyte of envelope each, more than a call may carry in sum.
        let recipients: Vec<String> = (0..1_000).map(|n| format!("{n:01000}@a.example")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        for _ in 0..7 {
            let batch: Vec<_> = (0..10).map(|_| message(MessageId::new(), &recipients)).collect();
            assert!(world.enqueue(batch).await.iter().all(|reply| reply.outcome() == Accepted::Accepted));
        }
        let (mut seen, mut calls) = (std::collections::HashSet::new(), 0);
        while seen.len() < 70 {
            let answer = world.lease_as(LeaseRequest { bytes_max: u64::MAX, ..world.ask(1_000) }).await;
            assert_eq!(answer.remaining_due as usize, 70 - seen.len() - answer.deliveries.len());
            for delivery in &answer.deliveries {
                assert_eq!(delivery.recipients.len(), 1_000);
                assert!(seen.insert(delivery.message_id.clone()), "leased twice");
            }
            assert!(!answer.deliveries.is_empty());
            calls += 1;
        }
        assert!((3..6).contains(&calls), "{calls}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused_near_and_far() {
    both(|world| async move {
        let mut fat = message(MessageId::new(), &["x@a.example"]);
        fat.envelope.as_mut().unwrap().recipients[0].orcpt = "x".repeat(5 << 20);
        let replies = world.enqueue(vec![fat]).await;
        assert_eq!(replies[0].outcome(), Accepted::Refused);
        assert!(replies[0].reason.starts_with("envelope: "), "{}", replies[0].reason);
        let large = |_| {
            let body = Body { content: Some(body::Content::Inline(vec![b'x'; 15 << 20].into())), size_bytes: 0 };
            EnqueueMessage { body: Some(body), ..message(MessageId::new(), &["x@a.example"]) }
        };
        let messages: Vec<_> = (0..4).map(large).collect();
        let status = world.queue.enqueue(Request::new(EnqueueRequest { messages })).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_not_woken_for_the_mail_of_anothers_pool() {
    both(|world| async move {
        world.route().await;
        let ask = |pool: &str| LeaseRequest { egress_pools: vec![pool.into()], wait_ms: 30_000, ..world.ask(1) };
        let of =
            |pool: &str| EnqueueMessage { egress_pool: pool.into(), ..message(MessageId::new(), &["x@a.example"]) };
        let (first, second) = (ask("one"), ask("two"));
        let later = async {
            world.pass(Duration::ZERO).await;
            world.enqueue(vec![of("two")]).await;
            world.event(EventKind::Reception).await;
        };
        let second = async { tokio::join!(world.lease_as(second), later).0 };
        let second_then_first = async {
            let second = second.await;
            world.enqueue(vec![of("one")]).await;
            second
        };
        let (first, second) = tokio::join!(world.lease_as(first), second_then_first);
        assert_eq!((first.deliveries.len(), second.deliveries.len()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_waiters_get_one_each_of_two_that_come_together() {
    both(|world| async move {
        world.route().await;
        let ask = || LeaseRequest { wait_ms: 30_000, ..world.ask(1) };
        let both = async {
            world.pass(Duration::ZERO).await;
            world.enqueue((0..2).map(|_| message(MessageId::new(), &["x@a.example"])).collect()).await
        };
        let (one, two, _) = tokio::join!(world.lease_as(ask()), world.lease_as(ask()), both);
        assert_eq!((one.deliveries.len(), two.deliveries.len()), (1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn instants_without_sense_panic_nowhere() {
    both(|world| async move {
        world.route().await;
        let window = Some(SendWindow { days: vec![1], start_minute: 1, ..SendWindow::default() });
        let never =
            EnqueueMessage { first_attempt: Some(NEVER), window, ..message(MessageId::new(), &["x@a.example"]) };
        assert_eq!(world.enqueue(vec![never]).await[0].outcome(), Accepted::Refused);
        let always = Some(SendWindow::default());
        let id = MessageId::new();
        world.enqueue(vec![EnqueueMessage { window: always, ..message(id, &["x@a.example"]) }]).await;
        let leased = world.lease_one().await;
        let deferred = Outcome { not_before: Some(NEVER), ..outcome(&leased, RecipientResult::Deferred) };
        assert_eq!(world.settle_all(vec![deferred]).await, [Verdict::Applied]);
        world.pass(MINUTE * 60 * 24 * 7).await;
        assert_eq!(world.event(EventKind::Expiration).await.message_id, Some(id.into()));
    })
    .await;
}

async fn record(world: &World, event: Event) -> Result<u64, Status> {
    let answer = world.queue.record(Request::new(RecordRequest { events: vec![event] })).await;
    answer.map(|answer| answer.into_inner().first_seq)
}

#[tokio::test(start_paused = true)]
async fn events_and_reports_without_sense_are_refused_by_name() {
    both(|world| async move {
        let good = Event { kind: EventKind::Rejection.into(), ..Event::default() };
        let before = Some(Timestamp { seconds: -1, nanos: 0 });
        let cases = [
            ("events[0].kind", Event::default()),
            ("events[0].kind", Event { kind: 99, ..good.clone() }),
            ("events[0].time", Event { time: before, ..good.clone() }),
            ("events: ", Event { site: "x".repeat(9 << 20), ..good.clone() }),
        ];
        for (field, event) in cases {
            let status = record(&world, event).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{status:?}");
        }
        assert_eq!(record(&world, good).await.unwrap(), 1);
        let lane = Some(Lane { routing_domain: "a.example".into(), egress_pool: "default".into() });
        let reports = [
            ("state", ReportLaneRequest { lane: lane.clone(), state: 99, ..ReportLaneRequest::default() }),
            ("until", ReportLaneRequest { lane, state: 1, until: before, ..ReportLaneRequest::default() }),
        ];
        for (field, report) in reports {
            let status = world.queue.report_lane(Request::new(report)).await.unwrap_err();
            assert!(status.message().starts_with(field), "{status:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn watchers_and_routes_are_bounded() {
    both_with(Config { watchers_max: 1, routes_max: 2, ..Config::default() }, |world| async move {
        let events = || world.queue.watch_events(Request::new(WatchEventsRequest::default()));
        let first = events().await.unwrap();
        let Err(status) = events().await else { panic!() };
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "queue.watchers_max is reached (1)"));
        drop(first);
        world.pass(Duration::ZERO).await;
        let due = WatchDueRequest { egress_node: Some(world.egress.into()), ..WatchDueRequest::default() };
        let _due = world.queue.watch_due(Request::new(due)).await.unwrap();
        assert!(events().await.is_err());
        // What is routed already may be routed again.
        world.route().await;
        world.route().await;
        let entry = route_request::Entry { routing_domain: "c.example".into(), site: "mx".into(), ttl_ms: 1 };
        let status = world.queue.route(Request::new(RouteRequest { entries: vec![entry] })).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "queue.routes_max is reached (2)"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_hands_out_nothing_settles_and_seals() {
    both(|world| async move {
        world.route().await;
        let kept = world.accept(&["x@a.example", "x@b.example"]).await;
        let first = world.lease_as(world.ask(1)).await.deliveries.remove(0);
        world.host.stop.request();
        let asked = world.queue.lease(Request::new(world.ask(1))).await.unwrap_err();
        let messages = vec![message(MessageId::new(), &["x@a.example"])];
        let brought = world.queue.enqueue(Request::new(EnqueueRequest { messages })).await.unwrap_err();
        let known = EnqueueRequest { messages: vec![message(kept, &["x@a.example"])] };
        let again = world.queue.enqueue(Request::new(known)).await.unwrap_err();
        for status in [&asked, &brought, &again] {
            assert_eq!((status.code(), status.message()), (Code::Unavailable, "the queue is stopping"));
        }
        // What is here must not be brought to another node as well.
        assert!(surely_not_started(&brought) && !surely_not_started(&again), "{brought:?} {again:?}");
        assert_eq!(world.settle(&first, RecipientResult::Delivered).await, Verdict::Applied);
        assert!(world.host.stop.finish(MINUTE).await);
        world.service.close().await;
        let (_, recovery) = Spool::open_on(spool::Config::default(), Arc::new(world.disk.crash())).unwrap();
        assert_eq!((recovery.messages, recovery.segments_scanned, recovery.faults), (1, 0, vec![]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_finished_id_stays_a_duplicate_over_a_clean_restart() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example"]).await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease().await;
        let first = leased.iter().find(|leased| leased.message_id == Some(id.into())).unwrap();
        world.settle(first, RecipientResult::Delivered).await;
        world.host.stop.request();
        world.service.close().await;
        let world = world.crash().await;
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await, [reply(id, Accepted::Duplicate)]);
    })
    .await;
}
