//! What a power cut leaves: everything that was answered for, in its place.

use super::*;
use godwit_proto::queue::v1::{HeldLease, WatchDueRequest};

const GRACE: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn accepted_mail_is_leased_after_the_grace() {
    both(|world| async move {
        let id = world.accept(&["x@a.example", "y@a.example"]).await;
        let world = world.crash().await;
        world.route().await;
        assert_eq!(world.lease().await, []);
        // New mail does not wait for the grace.
        let new = world.accept(&["x@b.example"]).await;
        assert_eq!(world.lease_one().await.message_id, Some(new.into()));
        world.pass(GRACE).await;
        let leased = world.lease_one().await;
        assert_eq!((&leased.message_id, addresses(&leased).len()), (&Some(id.into()), 2));
        assert!(inline(&leased).starts_with(format!("Subject: {id}").as_bytes()));
        assert_eq!(world.enqueue(vec![message(id, &["x@a.example"])]).await, [reply(id, Accepted::Duplicate)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn attempts_due_times_and_open_recipients_come_back() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example", "y@a.example"]).await;
        let leased = world.lease_one().await;
        let mut mixed = outcome(&leased, RecipientResult::Delivered);
        mixed.recipients[1].result = RecipientResult::Deferred.into();
        world.settle_all(vec![mixed]).await;
        let world = world.crash().await;
        world.route().await;
        world.pass(MINUTE * 19).await;
        assert_eq!(world.lease().await, []);
        world.pass(MINUTE * 2).await;
        let leased = world.lease_one().await;
        assert_eq!((addresses(&leased), leased.attempt), (vec!["y@a.example"], 2));
        assert_eq!(world.settle(&leased, RecipientResult::Delivered).await, Verdict::Applied);
        let world = world.crash().await;
        world.route().await;
        world.pass(MINUTE).await;
        assert_eq!(world.lease().await, []);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_egress_still_holds_is_not_leased_twice() {
    both(|world| async move {
        world.route().await;
        world.accept(&["x@a.example"]).await;
        let other = world.accept(&["x@b.example"]).await;
        let leased = world.lease().await;
        let held = leased.iter().find(|leased| leased.message_id != Some(other.into())).unwrap();
        let world = world.crash().await;
        world.route().await;
        let request = WatchDueRequest {
            egress_node: Some(world.egress.into()),
            egress_pools: Vec::new(),
            held: vec![HeldLease { lease_id: held.lease_id.clone(), delivery_id: held.delivery_id.clone() }],
        };
        let mut answers = world.queue.watch_due(Request::new(request)).await.unwrap().into_inner();
        answers.next().await.unwrap().unwrap();
        world.pass(GRACE).await;
        assert_eq!(world.lease_one().await.message_id, Some(other.into()));
        assert_eq!(world.settle(held, RecipientResult::Deferred).await, Verdict::Applied);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_senders_key_comes_back() {
    both(|world| async move {
        let keyed = |id| EnqueueMessage { idempotency_key: "k1".into(), ..message(id, &["x@a.example"]) };
        let one = MessageId::new();
        world.enqueue(vec![keyed(one)]).await;
        let world = world.crash().await;
        assert_eq!(world.enqueue(vec![keyed(MessageId::new())]).await, [reply(one, Accepted::Duplicate)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn max_age_counts_over_a_restart() {
    both_with(Config { max_age: MINUTE * 10, ..Config::default() }, |world| async move {
        let id = world.accept(&["x@a.example"]).await;
        world.pass(MINUTE * 9).await;
        let world = world.crash().await;
        world.pass(MINUTE).await;
        assert_eq!(world.event(EventKind::Expiration).await.message_id, Some(id.into()));
    })
    .await;
}
