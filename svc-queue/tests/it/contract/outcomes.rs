//! Settle, SettleLane and expiry.

use super::*;
use godwit_proto::common::v1::{Lane, TraceContext};
use godwit_proto::convert::system_time;
use godwit_proto::queue::v1::{SettleLaneRequest, SettleLaneResponse};

#[tokio::test(start_paused = true)]
async fn delivered_is_finished_with_its_event() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        assert_eq!(world.settle(&leased, RecipientResult::Delivered).await, Verdict::Applied);
        assert_eq!(world.settle(&leased, RecipientResult::Delivered).await, Verdict::Unknown);
        let events = world.events().await;
        let delivery = &events[1];
        assert_eq!(
            (delivery.kind(), delivery.attempt, &delivery.message_id),
            (EventKind::Delivery, 1, &Some(id.into()))
        );
        assert_eq!((delivery.site.as_str(), delivery.source.as_str()), ("mx", "ip-1"));
        assert_eq!((delivery.recipients.concat(), delivery.reply.as_ref().unwrap().code), ("x@a.example".into(), 250));
        assert_eq!((delivery.metadata["k"].as_str(), events.len()), ("v", 2));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn deferred_is_tried_again_after_its_interval_then_twice_that() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let trace = TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: String::new(),
        };
        for (attempt, minutes) in [(1, 20), (2, 40), (3, 80)] {
            let leased = world.lease_one().await;
            assert_eq!(leased.attempt, attempt);
            assert_eq!(leased.previous_attempt, (attempt > 1).then(|| trace.clone()));
            let outcome = Outcome { attempt_trace: Some(trace.clone()), ..outcome(&leased, RecipientResult::Deferred) };
            assert_eq!(world.settle_all(vec![outcome]).await, [Verdict::Applied]);
            world.pass(MINUTE * (minutes - 1)).await;
            assert_eq!(world.lease().await, []);
            world.pass(MINUTE * 2).await;
        }
        assert_eq!(world.kinds().await[1..], [EventKind::TransientFailure; 3]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn recipients_fare_apart_and_the_open_ones_are_tried_again() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example", "y@a.example", "z@a.example"]).await;
        let leased = world.lease_one().await;
        let mut mixed = outcome(&leased, RecipientResult::Delivered);
        mixed.recipients[1].result = RecipientResult::Deferred.into();
        mixed.recipients[2].result = RecipientResult::Bounced.into();
        assert_eq!(world.settle_all(vec![mixed]).await, [Verdict::Applied]);
        world.pass(MINUTE * 21).await;
        let leased = world.lease_one().await;
        assert_eq!((addresses(&leased), leased.recipients[0].index, leased.attempt), (vec!["y@a.example"], 1, 2));
        assert_eq!(world.settle(&leased, RecipientResult::Bounced).await, Verdict::Applied);
        let mut kinds = world.kinds().await;
        kinds[1..4].sort_unstable();
        let expected = [EventKind::Delivery, EventKind::TransientFailure, EventKind::Bounce, EventKind::Bounce];
        assert_eq!(kinds[1..], expected);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn two_deliveries_of_a_message_end_apart_or_together() {
    both(|world| async move {
        world.route().await;
        for together in [true, false] {
            world.accept(&["x@a.example", "x@b.example"]).await;
            let leased = world.lease().await;
            let outcomes: Vec<_> = leased.iter().map(|leased| outcome(leased, RecipientResult::Delivered)).collect();
            if together {
                assert_eq!(world.settle_all(outcomes).await, [Verdict::Applied; 2]);
            } else {
                for outcome in outcomes {
                    assert_eq!(world.settle_all(vec![outcome]).await, [Verdict::Applied]);
                }
            }
        }
        let world = world.crash().await;
        world.pass(MINUTE).await;
        world.route().await;
        assert_eq!(world.lease().await, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_same_delivery_twice_in_a_batch_counts_once() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        let twice = vec![outcome(&leased, RecipientResult::Delivered); 2];
        assert_eq!(world.settle_all(twice).await, [Verdict::Applied, Verdict::Unknown]);
        assert_eq!(world.kinds().await.len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_settled_as_a_whole() {
    both(|world| async move {
        world.route().await;
        for _ in 0..5 {
            world.accept(&["x@a.example"]).await;
        }
        world.accept(&["x@b.example"]).await;
        let ask = |result: RecipientResult, messages_max| SettleLaneRequest {
            egress_node: Some(world.egress.into()),
            lane: Some(Lane { routing_domain: "a.example".into(), egress_pool: "default".into() }),
            result: result.into(),
            reply: Some(SmtpReply::internal(451, (4, 4, 1), "connection refused")),
            messages_max,
            ..SettleLaneRequest::default()
        };
        let settle = async |request| world.queue.settle_lane(Request::new(request)).await.unwrap().into_inner();
        let leased = world.lease_as(world.ask(1)).await.deliveries.remove(0);
        assert_eq!(leased.queue_name.as_ref().unwrap().domain, "a.example");
        let answer = settle(ask(RecipientResult::Deferred, 3)).await;
        assert_eq!(answer, SettleLaneResponse { settled_count: 3, remaining_due: 1 });
        let answer = settle(ask(RecipientResult::Bounced, 0)).await;
        assert_eq!(answer, SettleLaneResponse { settled_count: 1, remaining_due: 0 });
        assert_eq!(addresses(&world.lease_one().await), ["x@b.example"]);
        world.pass(MINUTE * 21).await;
        let leased = world.lease().await;
        assert_eq!(leased.iter().filter(|leased| leased.attempt == 2).count(), 3);
        let counted = |kind| async move { world.kinds().await.into_iter().filter(|other| *other == kind).count() };
        assert_eq!(counted(EventKind::TransientFailure).await, 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn age_ends_what_waits_but_not_what_is_leased() {
    both_with(Config { max_age: MINUTE * 30, ..Config::default() }, |world| async move {
        world.route().await;
        let id = world.accept(&["x@c.example"]).await;
        world.pass(MINUTE * 30).await;
        let event = world.event(EventKind::Expiration).await;
        assert_eq!((event.message_id, event.recipients.concat()), (Some(id.into()), "x@c.example".into()));
        let reply = event.reply.unwrap();
        assert_eq!((reply.code, reply.enhanced.unwrap().to_string(), reply.internal), (551, "5.4.7".into(), true));
        world.accept(&["x@a.example"]).await;
        let before = world.host.clock.now();
        world.pass(MINUTE * 30 - Duration::from_secs(30)).await;
        let leased = world.lease_one().await;
        world.pass(Duration::from_secs(45)).await;
        assert_eq!(world.settle(&leased, RecipientResult::Deferred).await, Verdict::Applied);
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut answers = world.queue.watch_events(Request::new(request)).await.unwrap().into_inner();
        let mut expired = Vec::new();
        while expired.len() < 2 {
            if let Some(Item::Events(batch)) = answers.next().await.unwrap().unwrap().item {
                expired.extend(batch.events.into_iter().filter(|event| event.kind() == EventKind::Expiration));
            }
        }
        let at = system_time(&expired[1].time.unwrap()).unwrap();
        assert_eq!(at.duration_since(before).unwrap(), MINUTE * 30 + Duration::from_secs(15));
    })
    .await;
}
