//! Lease, Renew, Release, and what happens when an egress goes away.

use super::*;
use godwit_proto::convert::timestamp;
use godwit_proto::queue::v1::{ReleaseRequest, RenewRequest};

#[tokio::test(start_paused = true)]
async fn a_lease_holds_all_that_an_attempt_needs() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example", "y@A.example", "z@b.example"]).await;
        let mut deliveries = world.lease().await;
        assert_eq!(deliveries.len(), 2);
        deliveries.sort_by_key(|delivery| delivery.queue_name.as_ref().unwrap().domain.clone());
        assert_eq!(addresses(&deliveries[0]), ["x@a.example", "y@A.example"]);
        assert_eq!(addresses(&deliveries[1]), ["z@b.example"]);
        assert_eq!(deliveries[1].recipients[0].index, 2);
        let first = &deliveries[0];
        assert_eq!((first.attempt, first.egress_pool.as_str(), first.metadata["k"].as_str()), (1, "default", "v"));
        assert_eq!(first.queue_name.as_ref().unwrap().to_string(), "t@a.example");
        let envelope = first.envelope.as_ref().unwrap();
        assert_eq!((envelope.reverse_path.as_str(), envelope.recipients.len()), ("sender@s.example", 0));
        assert!(inline(first).starts_with(format!("Subject: {id}").as_bytes()));
        assert_eq!(world.lease().await, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn lease_waits_for_the_first() {
    both(|world| async move {
        world.route().await;
        let (leased, id) = tokio::join!(world.lease_one(), async {
            tokio::task::yield_now().await;
            world.accept(&["x@a.example"]).await
        });
        assert_eq!(leased.message_id, Some(id.into()));
        let request = LeaseRequest { wait_ms: 1_000, ..world.ask(1) };
        let (empty, ()) = tokio::join!(world.lease_as(request), world.pass(Duration::from_secs(1)));
        assert_eq!(empty, LeaseResponse::default());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_left_is_said() {
    both(|world| async move {
        world.route().await;
        for _ in 0..3 {
            world.accept(&["x@a.example"]).await;
        }
        let later = world.host.clock.now() + MINUTE;
        let id = MessageId::new();
        world
            .enqueue(vec![EnqueueMessage { first_attempt: Some(timestamp(later)), ..message(id, &["x@a.example"]) }])
            .await;
        let answer = world.lease_as(world.ask(2)).await;
        assert_eq!((answer.deliveries.len(), answer.remaining_due), (2, 1));
        assert_eq!(answer.next_due, Some(timestamp(later)));
        let tight = LeaseRequest { bytes_max: 1, ..world.ask(9) };
        assert_eq!(world.lease_as(tight).await.deliveries.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_egress_frees_its_mail_in_a_minute() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let first = world.lease_one().await;
        world.pass(MINUTE - Duration::from_millis(1)).await;
        assert_eq!(world.lease().await, []);
        world.pass(Duration::from_millis(1)).await;
        let second = world.lease_one().await;
        assert_eq!((second.attempt, &second.delivery_id), (1, &first.delivery_id));
        // Deferred without a live lease does not count, delivered does, and then nothing is left for the second.
        assert_eq!(world.settle(&first, RecipientResult::Deferred).await, Verdict::Stale);
        assert_eq!(world.settle(&first, RecipientResult::Delivered).await, Verdict::LeaseExpiredApplied);
        assert_eq!(world.settle(&second, RecipientResult::Delivered).await, Verdict::Unknown);
        assert_eq!(world.kinds().await, [EventKind::Reception, EventKind::Delivery]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_lasts() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        let renew = |egress: NodeId| RenewRequest {
            egress_node: Some(egress.into()),
            lease_ids: leased.lease_id.clone().into_iter().collect(),
            lease_ms: 0,
        };
        for _ in 0..15 {
            world.pass(Duration::from_secs(40)).await;
            let ended = world.queue.renew(Request::new(renew(world.egress))).await.unwrap().into_inner().ended;
            assert_eq!(ended, []);
        }
        let others = world.queue.renew(Request::new(renew(NodeId(5)))).await.unwrap().into_inner().ended;
        assert_eq!((world.lease().await, others.len()), (vec![], 1));
        world.pass(MINUTE).await;
        assert_eq!(world.queue.renew(Request::new(renew(world.egress))).await.unwrap().into_inner().ended.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn released_mail_is_due_when_it_says_and_unattempted() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let leased = world.lease_one().await;
        let request = ReleaseRequest {
            egress_node: Some(world.egress.into()),
            lease_ids: leased.lease_id.clone().into_iter().collect(),
            not_before: Some(timestamp(world.host.clock.now() + MINUTE)),
            reason: "throttled".into(),
        };
        assert_eq!(world.queue.release(Request::new(request.clone())).await.unwrap().into_inner().ended, []);
        assert_eq!(world.queue.release(Request::new(request)).await.unwrap().into_inner().ended.len(), 1);
        assert_eq!(world.lease().await, []);
        world.pass(MINUTE).await;
        assert_eq!(world.lease_one().await.attempt, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn too_many_lost_leases_hold_a_delivery_and_say_so() {
    both(|world| async move {
        world.route().await;
        let id = world.accept(&["x@a.example"]).await;
        for _ in 0..5 {
            world.lease_one().await;
            world.pass(MINUTE).await;
        }
        let event = world.event(EventKind::Delayed).await;
        assert_eq!((event.message_id, event.recipients), (Some(id.into()), vec!["x@a.example".to_string()]));
        assert_eq!(world.lease().await, []);
        world.pass(21 * MINUTE).await;
        world.lease_one().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_while_leasing_leaves_nothing_leased() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        {
            let call = world.queue.lease(Request::new(world.ask(1)));
            tokio::pin!(call);
            let _ = futures::poll!(call);
        }
        world.lease_one().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tenants_share_a_site() {
    both(|world| async move {
        world.route().await;
        let of = |tenant: &str, domain: &str| EnqueueMessage {
            tenant: tenant.into(),
            ..message(MessageId::new(), &[format!("x@{domain}").as_str()])
        };
        world.enqueue((0..500).map(|_| of("big", "a.example")).collect()).await;
        world.enqueue((0..10).map(|_| of("small", "b.example")).collect()).await;
        let deliveries = world.lease_as(world.ask(20)).await.deliveries;
        let small = deliveries.iter().filter(|leased| leased.queue_name.as_ref().unwrap().tenant == "small").count();
        assert_eq!(small, 10);
    })
    .await;
}
