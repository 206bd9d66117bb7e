//! List, Inspect and Reset.

use crate::world::{World, acquire, limit, node, on_each_store, origin, refused};
use godwit_proto::common::v1::Page;
use godwit_proto::convert;
use godwit_proto::throttle::{Throttle, v1};
use std::time::Duration;
use tonic::{Code, Request};

async fn list(throttle: &Throttle, prefix: &str, size: u32, token: &str) -> (Vec<String>, String) {
    let page = Some(Page { size, token: token.into() });
    let answer =
        throttle.list(Request::new(v1::ListRequest { prefix: prefix.into(), page })).await.unwrap().into_inner();
    (answer.keys.into_iter().map(|summary| summary.key).collect(), answer.next_token)
}

async fn hold(throttle: &Throttle, key: &str, holder: &str) {
    let item = v1::acquire_slots_request::Item {
        key: key.into(),
        limit: 1,
        count: 1,
        holder: holder.into(),
        ..Default::default()
    };
    let request = v1::AcquireSlotsRequest { node: node("node_a"), requests: vec![item] };
    throttle.acquire_slots(Request::new(request)).await.unwrap();
}

async fn keys_are_listed_in_order_page_by_page(world: World) {
    let throttle = world.throttle.clone();
    for number in (0..25).rev() {
        acquire(&throttle, vec![limit(&format!("k{number:02}"), 1, 1)], false).await;
    }
    acquire(&throttle, vec![limit("other", 1, 1)], false).await;
    // Both a rate and slots: listed as both.
    hold(&throttle, "k09", "a").await;
    let (mut all, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let (keys, next) = list(&throttle, "k", 10, &token).await;
        all.extend(keys);
        pages += 1;
        token = next;
        if token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<_> = (0..25).map(|number| format!("k{number:02}")).collect();
    expected.insert(9, "k09".into());
    assert_eq!((all, pages), (expected, 3));
    assert_eq!(list(&throttle, "", 0, "").await.0.len(), 27);
    let request =
        |size, token: &str| v1::ListRequest { prefix: String::new(), page: Some(Page { size, token: token.into() }) };
    refused(throttle.list(Request::new(request(1_001, ""))).await, Code::InvalidArgument, "page.size");
    refused(throttle.list(Request::new(request(1, "é"))).await, Code::InvalidArgument, "page.token");
}

async fn a_rate_is_inspected(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("k", 4, 4)], false).await;
    let request = Request::new(v1::InspectRequest { key: "k".into() });
    let answer = throttle.inspect(request).await.unwrap().into_inner();
    let summary = answer.summary.unwrap();
    assert_eq!((summary.key.as_str(), summary.free_count, summary.limit), ("k", 0, 4));
    assert_eq!(summary.period, Some(convert::duration(Duration::from_secs(1))));
    let free_at = convert::system_time(&summary.empty_until.unwrap()).unwrap();
    assert_eq!(free_at.duration_since(origin()).unwrap().as_micros() % 250_000, 0);
    assert_eq!(answer.holders, [""; 0]);
}

async fn slots_are_inspected(world: World) {
    let throttle = world.throttle.clone();
    hold(&throttle, "k", "worker 1").await;
    hold(&throttle, "k", "worker 2").await;
    let request = Request::new(v1::InspectRequest { key: "k".into() });
    let answer = throttle.inspect(request).await.unwrap().into_inner();
    let summary = answer.summary.unwrap();
    assert_eq!((summary.held_count, summary.limit, summary.waiter_count), (1, 1, 1));
    assert_eq!((summary.period, answer.holders), (None, vec!["worker 1".to_string()]));
    let request = Request::new(v1::InspectRequest { key: "unknown".into() });
    refused(throttle.inspect(request).await, Code::NotFound, "key");
}

async fn a_reset_forgets_debts_and_slots(world: World) {
    let throttle = world.throttle.clone();
    acquire(&throttle, vec![limit("rate", 4, 4)], false).await;
    hold(&throttle, "slots", "a").await;
    hold(&throttle, "rate", "a").await;
    let keys = ["rate", "slots", "unknown"].map(String::from).to_vec();
    let answer = throttle.reset(Request::new(v1::ResetRequest { keys: keys.clone() })).await.unwrap().into_inner();
    assert_eq!(answer.reset_count, 2);
    assert_eq!(list(&throttle, "", 0, "").await.0, [""; 0]);
    assert!(acquire(&throttle, vec![limit("rate", 4, 4)], false).await.granted);
    let keys = vec![String::new(); 1_001];
    refused(throttle.reset(Request::new(v1::ResetRequest { keys })).await, Code::InvalidArgument, "keys");
}

on_each_store! {
    keys_are_listed_in_order_page_by_page,
    a_rate_is_inspected,
    slots_are_inspected,
    a_reset_forgets_debts_and_slots,
}
