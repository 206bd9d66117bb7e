//! Acquire and Refund.

use crate::world::{SECOND, World, acquire, limit, node, on_each_store, refused, wait_of};
use godwit_proto::throttle::{Throttle, v1};
use std::time::Duration;
use svc_throttle::Config;
use tonic::{Code, Request};

async fn granted_until_the_burst_and_then_after_the_wait(world: World) {
    let throttle = world.throttle.clone();
    let granted = acquire(&throttle, vec![limit("k", 10, 10)], false).await;
    assert_eq!((granted.granted, granted.count, granted.degraded), (true, 10, false));
    let refused = acquire(&throttle, vec![limit("k", 3, 10)], false).await;
    assert_eq!((refused.granted, refused.count, refused.refusing_key.as_str()), (false, 0, "k"));
    let wait = wait_of(refused.wait);
    assert_eq!(wait, Duration::from_millis(300));
    world.pass(wait).await;
    assert!(acquire(&throttle, vec![limit("k", 3, 10)], false).await.granted);
    assert!(!acquire(&throttle, vec![limit("k", 1, 10)], false).await.granted);
}

async fn all_limits_or_none_and_the_longest_wait_is_told(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("b", 5, 5), limit("c", 2, 2)], false).await;
    let limits = vec![limit("c", 1, 2), limit("a", 4, 10), limit("b", 1, 5)];
    let refused = acquire(&throttle, limits, false).await;
    assert_eq!((refused.granted, refused.refusing_key.as_str()), (false, "c"));
    assert_eq!(wait_of(refused.wait), Duration::from_millis(500));
    assert_eq!(world.free_and_held("a").await.0, 10, "given back");
    world.pass(Duration::from_millis(500)).await;
    let granted = acquire(&throttle, vec![limit("c", 1, 2), limit("a", 4, 10), limit("b", 1, 5)], false).await;
    assert_eq!((granted.granted, granted.count), (true, 1));
    assert_eq!(world.free_and_held("a").await.0, 6);
}

async fn partial_takes_the_same_part_of_each(world: World) {
    let throttle = world.throttle.clone();
    let granted = acquire(&throttle, vec![limit("messages", 10, 4), limit("bytes", 1_000, 700)], true).await;
    assert_eq!((granted.granted, granted.count), (true, 4));
    assert_eq!(world.free_and_held("messages").await.0, 0);
    assert_eq!(world.free_and_held("bytes").await.0, 300);
    let refused = acquire(&throttle, vec![limit("messages", 10, 4)], true).await;
    assert_eq!((refused.granted, wait_of(refused.wait)), (false, Duration::from_millis(250)));
    // A later limit has less: what the earlier one took over it goes back.
    acquire(&throttle, vec![limit("y", 8, 10)], false).await;
    let granted = acquire(&throttle, vec![limit("x", 9, 10), limit("y", 9, 10)], true).await;
    assert_eq!(granted.count, 2);
    assert_eq!((world.free_and_held("x").await.0, world.free_and_held("y").await.0), (8, 0));
}

async fn one_key_twice_in_one_request_counts_twice(world: World) {
    let throttle = world.throttle.clone();
    assert!(!acquire(&throttle, vec![limit("k", 6, 10), limit("k", 6, 10)], false).await.granted);
    assert_eq!(world.free_and_held("k").await.0, 10);
    assert!(acquire(&throttle, vec![limit("k", 5, 10), limit("k", 5, 10)], false).await.granted);
    assert_eq!(world.free_and_held("k").await.0, 0);
}

async fn what_is_refunded_can_be_taken_and_no_more(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("k", 10, 10)], false).await;
    let refund = |count| v1::RefundRequest { node: node("node_a"), limits: vec![limit("k", count, 10)] };
    throttle.refund(Request::new(refund(4))).await.unwrap();
    assert_eq!(world.free_and_held("k").await.0, 4);
    throttle.refund(Request::new(refund(1_000))).await.unwrap();
    assert_eq!(world.free_and_held("k").await.0, 10);
    let unknown = v1::RefundRequest { node: None, limits: vec![limit("unknown", 1, 1)] };
    throttle.refund(Request::new(unknown)).await.unwrap();
}

async fn requests_of_a_batch_stand_alone(world: World) {
    let throttle = world.throttle.clone();
    let item = |key, count| v1::acquire_request::Item { limits: vec![limit(key, count, 10)], partial: false };
    let nothing = v1::acquire_request::Item::default();
    let requests = vec![item("a", 8), item("a", 8), item("b", 8), nothing];
    let request = v1::AcquireRequest { node: None, requests };
    let answer = throttle.acquire(Request::new(request)).await.unwrap().into_inner();
    let granted: Vec<_> = answer.responses.iter().map(|item| (item.granted, item.count)).collect();
    assert_eq!(granted, [(true, 8), (false, 0), (true, 8), (true, 0)]);
}

async fn local_limits_are_each_nodes_own(world: World) {
    let throttle = world.throttle.clone();
    let take = async |name: &str, local| {
        let limits = vec![v1::RateLimit { local, ..limit("k", 10, 10) }];
        let requests = vec![v1::acquire_request::Item { limits, partial: false }];
        let request = v1::AcquireRequest { node: node(name), requests };
        throttle.acquire(Request::new(request)).await.unwrap().into_inner().responses.remove(0)
    };
    assert!(take("node_a", true).await.granted);
    assert!(take("node_b", true).await.granted);
    assert!(take("node_b", false).await.granted);
    let again = take("node_a", true).await;
    assert_eq!((again.granted, again.refusing_key.as_str()), (false, "k"));
}

async fn a_changed_rate_keeps_the_debt(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("k", 10, 10)], false).await;
    assert!(!acquire(&throttle, vec![limit("k", 11, 20)], false).await.granted);
    assert!(acquire(&throttle, vec![limit("k", 10, 20)], false).await.granted);
}

async fn acquire_refused(throttle: &Throttle, limits: Vec<v1::RateLimit>, field: &str) {
    let good = v1::acquire_request::Item { limits: vec![limit("good", 1, 1)], partial: false };
    let requests = vec![good, v1::acquire_request::Item { limits, partial: false }];
    let answer = throttle.acquire(Request::new(v1::AcquireRequest { node: None, requests })).await;
    refused(answer, Code::InvalidArgument, field);
}

async fn what_is_invalid_is_named_and_takes_nothing(world: World) {
    let throttle = world.throttle.clone();
    let good = limit("k", 1, 10);
    let period = |period| v1::RateLimit { period, ..good.clone() };
    let days = |days: u64| Some(godwit_proto::convert::duration(Duration::from_secs(days * 86_400)));
    let at = "requests[1].limits[0]";
    acquire_refused(&throttle, vec![limit("", 1, 1)], &format!("{at}.key")).await;
    acquire_refused(&throttle, vec![limit(&"k".repeat(257), 1, 1)], &format!("{at}.key")).await;
    acquire_refused(&throttle, vec![limit("k", 0, 1)], &format!("{at}.count")).await;
    acquire_refused(&throttle, vec![limit("k", 2, 1)], &format!("{at}.count")).await;
    acquire_refused(&throttle, vec![limit("k", 1, 0)], &format!("{at}.limit")).await;
    acquire_refused(&throttle, vec![period(None)], &format!("{at}.period")).await;
    acquire_refused(&throttle, vec![period(days(32))], &format!("{at}.period")).await;
    let micros = prost_types::Duration { seconds: 0, nanos: 999_000 };
    acquire_refused(&throttle, vec![period(Some(micros))], &format!("{at}.period")).await;
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    acquire_refused(&throttle, vec![good.clone(), period(Some(negative))], "requests[1].limits[1].period").await;
    acquire_refused(&throttle, vec![good.clone(); 17], "requests[1].limits").await;
    acquire_refused(&throttle, vec![v1::RateLimit { local: true, ..good.clone() }], "node.value").await;
    let requests = vec![v1::acquire_request::Item::default(); 1_001];
    let answer = throttle.acquire(Request::new(v1::AcquireRequest { node: None, requests })).await;
    refused(answer, Code::InvalidArgument, "requests");
    let listed = throttle.list(Request::new(v1::ListRequest::default())).await.unwrap().into_inner();
    assert_eq!(listed.keys, [], "nothing was taken");
    assert!(acquire(&throttle, vec![limit(&"k".repeat(256), 1, 1), period(days(31))], false).await.granted);
}

async fn a_full_store_says_so_and_keys_at_rest_make_room(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("a", 1, 10)], false).await;
    let item = |key| v1::acquire_request::Item { limits: vec![limit(key, 5, 10)], partial: false };
    let request = || v1::AcquireRequest { node: None, requests: vec![item("a"), item("b"), item("c")] };
    refused(throttle.acquire(Request::new(request())).await, Code::ResourceExhausted, "throttle.keys_max");
    assert_eq!(world.free_and_held("a").await.0, 9, "what the batch had taken is given back");
    world.pass(2 * SECOND).await;
    acquire(&throttle, vec![limit("x", 1, 10), limit("y", 1, 10)], false).await;
    assert!(acquire(&throttle, vec![limit("x", 1, 10)], false).await.granted);
}

async fn keys_at_rest_are_forgotten_in_the_background(world: World) {
    assert!(acquire(&world.throttle, vec![limit("k", 1, 10)], false).await.granted);
    world.until_forgotten("k").await;
}

async fn concurrent_asks_take_no_more_than_there_is(world: World) {
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let throttle = world.throttle.clone();
        asks.spawn(async move {
            let slow =
                v1::RateLimit { period: Some(godwit_proto::convert::duration(86_400 * SECOND)), ..limit("k", 1, 20) };
            acquire(&throttle, vec![slow], false).await.count
        });
    }
    assert_eq!(asks.join_all().await.into_iter().sum::<u64>(), 20);
}

fn two_keys() -> Config {
    Config { keys_max: 2, ..Config::default() }
}

on_each_store! {
    granted_until_the_burst_and_then_after_the_wait,
    all_limits_or_none_and_the_longest_wait_is_told,
    partial_takes_the_same_part_of_each,
    one_key_twice_in_one_request_counts_twice,
    what_is_refunded_can_be_taken_and_no_more,
    requests_of_a_batch_stand_alone,
    local_limits_are_each_nodes_own,
    a_changed_rate_keeps_the_debt,
    what_is_invalid_is_named_and_takes_nothing,
    a_full_store_says_so_and_keys_at_rest_make_room with two_keys,
    keys_at_rest_are_forgotten_in_the_background with defaults: real,
    concurrent_asks_take_no_more_than_there_is,
}

fn defaults() -> Config {
    Config::default()
}
