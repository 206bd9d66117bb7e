//! AcquireSlots, Heartbeat and ReleaseSlots.

use crate::world::{SECOND, World, node, on_each_store, refused, wait_of};
use godwit_proto::throttle::{Throttle, v1};
use std::time::Duration;
use svc_throttle::Config;
use tonic::{Code, Request};

fn item(holder: &str, count: u32) -> v1::acquire_slots_request::Item {
    v1::acquire_slots_request::Item { key: "site".into(), limit: 2, count, holder: holder.into(), ..Default::default() }
}

async fn ask(throttle: &Throttle, item: v1::acquire_slots_request::Item) -> v1::acquire_slots_response::Item {
    let request = v1::AcquireSlotsRequest { node: node("node_a"), requests: vec![item] };
    throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner().responses.remove(0)
}

async fn beat(throttle: &Throttle, slots: &[v1::Slot]) -> v1::HeartbeatResponse {
    let request = v1::HeartbeatRequest { node: node("node_a"), slots: slots.to_vec(), ttl_ms: 0 };
    throttle.heartbeat(Request::new(request)).await.unwrap().into_inner()
}

async fn release(throttle: &Throttle, slots: &[v1::Slot]) {
    let request = v1::ReleaseSlotsRequest { node: node("node_a"), slots: slots.to_vec() };
    throttle.release_slots(Request::new(request)).await.unwrap();
}

async fn slots_are_counted_and_served_in_turn(world: World) {
    let throttle = world.throttle.clone();
    let first = ask(&throttle, item("a", 2)).await;
    assert_eq!((first.slots.len(), first.place_in_queue, first.wait), (2, 0, None));
    assert_ne!(first.slots[0].slot_id, first.slots[1].slot_id);
    let second = ask(&throttle, item("b", 1)).await;
    assert_eq!((second.slots.len(), second.place_in_queue), (0, 1));
    assert!(wait_of(second.wait) > Duration::ZERO);
    let third = ask(&throttle, item("c", 1)).await;
    assert_eq!((third.slots.len(), third.place_in_queue), (0, 2));
    assert!(wait_of(third.wait) > wait_of(second.wait));
    let waiters = beat(&throttle, &first.slots).await.waiters;
    assert_eq!(waiters, [v1::heartbeat_response::Waiters { key: "site".into(), waiter_count: 2 }]);

    release(&throttle, &first.slots[..1]).await;
    release(&throttle, &first.slots[..1]).await;
    assert_eq!(ask(&throttle, item("c", 1)).await.place_in_queue, 2, "it is not its turn");
    assert_eq!(ask(&throttle, item("b", 1)).await.slots.len(), 1);
    assert_eq!(world.free_and_held("site").await, (0, 2));
}

async fn a_dead_nodes_slots_come_free_after_their_ttl(world: World) {
    let throttle = world.throttle.clone();
    let dead = ask(&throttle, item("dead", 1)).await.slots;
    let living = ask(&throttle, item("living", 1)).await.slots;
    world.pass(10 * SECOND).await;
    assert_eq!(beat(&throttle, &living).await, v1::HeartbeatResponse::default());
    assert_eq!(ask(&throttle, item("c", 1)).await.place_in_queue, 1);
    world.pass(5 * SECOND).await;
    assert_eq!(ask(&throttle, item("c", 1)).await.slots.len(), 1);
    let both = [dead.clone(), living].concat();
    assert_eq!(beat(&throttle, &both).await.lost, dead);
}

async fn a_ttl_can_be_chosen_and_slots_outlive_pruning(world: World) {
    let throttle = world.throttle.clone();
    let held = ask(&throttle, v1::acquire_slots_request::Item { ttl_ms: 120_000, ..item("a", 1) }).await.slots;
    world.pass(Duration::from_secs(100)).await;
    assert_eq!(world.free_and_held("site").await, (1, 1));
    assert_eq!(beat(&throttle, &held).await.lost, []);
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(beat(&throttle, &held).await.lost, held);
}

async fn local_slots_are_each_nodes_own(world: World) {
    let throttle = world.throttle.clone();
    let local = v1::acquire_slots_request::Item { local: true, ..item("a", 2) };
    let ours = ask(&throttle, local.clone()).await.slots;
    assert_eq!(ask(&throttle, item("a", 2)).await.slots.len(), 2, "the shared key is another");
    assert_eq!((ours.len(), ours[0].key.as_str()), (2, "site"));
    let request = v1::AcquireSlotsRequest { node: node("node_b"), requests: vec![local.clone()] };
    let theirs = throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner();
    assert_eq!(theirs.responses[0].slots.len(), 2);
    assert_eq!(beat(&throttle, &ours).await.lost, []);
    release(&throttle, &ours).await;
    assert_eq!(ask(&throttle, local).await.slots.len(), 2);
}

async fn slots_that_nobody_gave_are_lost_and_release_to_no_effect(world: World) {
    let throttle = world.throttle.clone();
    ask(&throttle, item("a", 1)).await;
    let slot = |key: &str, id: &str| v1::Slot { key: key.into(), slot_id: id.into() };
    let strange = [slot("site", ""), slot("site", "slot_1"), slot("nowhere", "slot_1"), slot("site", "slot_é")];
    assert_eq!(beat(&throttle, &strange).await.lost, strange);
    release(&throttle, &strange).await;
    assert_eq!(world.free_and_held("site").await, (1, 1));
}

async fn beyond_the_queues_limit_no_place_is_kept(world: World) {
    let throttle = world.throttle.clone();
    ask(&throttle, item("a", 2)).await;
    assert_eq!(ask(&throttle, item("b", 1)).await.place_in_queue, 1);
    assert_eq!(ask(&throttle, item("c", 1)).await.place_in_queue, 2);
    assert_eq!(ask(&throttle, item("d", 1)).await.place_in_queue, 2);
    assert_eq!(ask(&throttle, item("b", 0)).await.place_in_queue, 0);
    assert_eq!(ask(&throttle, item("d", 1)).await.place_in_queue, 1);
}

async fn a_full_store_gives_no_slots_of_the_batch(world: World) {
    let throttle = world.throttle.clone();
    let other = v1::acquire_slots_request::Item { key: "other".into(), ..item("a", 1) };
    let request = v1::AcquireSlotsRequest { node: None, requests: vec![item("a", 2), other] };
    let answer = throttle.acquire_slots(Request::new(request)).await;
    refused(answer, Code::ResourceExhausted, "throttle.keys_max");
    let held = world.inspect("site").await.map_or(0, |answer| answer.summary.unwrap().held_count);
    assert_eq!(held, 0);
    assert_eq!(ask(&throttle, item("a", 2)).await.slots.len(), 2);
}

async fn what_is_invalid_is_named(world: World) {
    let throttle = world.throttle.clone();
    let check = async |item: v1::acquire_slots_request::Item, field: &str| {
        let request = v1::AcquireSlotsRequest { node: None, requests: vec![item] };
        let answer = throttle.acquire_slots(Request::new(request)).await;
        refused(answer, Code::InvalidArgument, &format!("requests[0].{field}"));
    };
    type Item = v1::acquire_slots_request::Item;
    check(Item { key: String::new(), ..item("a", 1) }, "key").await;
    check(Item { key: "k".repeat(257), ..item("a", 1) }, "key").await;
    check(Item { limit: 0, ..item("a", 1) }, "limit").await;
    check(Item { ttl_ms: 3_600_001, ..item("a", 1) }, "ttl_ms").await;
    check(item("", 1), "holder").await;
    check(item("a", 1_001), "count").await;
    let slots = vec![v1::Slot::default(); 10_001];
    let answer = throttle.heartbeat(Request::new(v1::HeartbeatRequest { slots, ..Default::default() })).await;
    refused(answer, Code::InvalidArgument, "slots");
    let request = v1::HeartbeatRequest { ttl_ms: u64::MAX, ..Default::default() };
    refused(throttle.heartbeat(Request::new(request)).await, Code::InvalidArgument, "ttl_ms");
    let slots = vec![v1::Slot { key: "k".into(), slot_id: "local_1".into() }];
    let answer = throttle.release_slots(Request::new(v1::ReleaseSlotsRequest { node: None, slots })).await;
    refused(answer, Code::InvalidArgument, "node.value");
}

fn one_waiter() -> Config {
    Config { waiters_max: 1, ..Config::default() }
}

fn one_key() -> Config {
    Config { keys_max: 1, ..Config::default() }
}

on_each_store! {
    slots_are_counted_and_served_in_turn,
    a_dead_nodes_slots_come_free_after_their_ttl,
    a_ttl_can_be_chosen_and_slots_outlive_pruning,
    local_slots_are_each_nodes_own,
    slots_that_nobody_gave_are_lost_and_release_to_no_effect,
    beyond_the_queues_limit_no_place_is_kept with one_waiter,
    a_full_store_gives_no_slots_of_the_batch with one_key,
    what_is_invalid_is_named,
}
