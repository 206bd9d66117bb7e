//! Answers that Redis gave and nobody heard, and calls that are large.

use crate::load::Member;
use crate::server::Server;
use crate::world::{PATIENCE, SECOND, node};
use godwit_proto::throttle::v1;
use std::time::Duration;
use svc_throttle::Config;
use tokio::time::Instant;
use tonic::Request;

/// Longer than anything here is waited for.
const TTL_MS: u64 = 3_600_000;

fn item(key: &str, holder: &str, limit: u32) -> v1::acquire_slots_request::Item {
    let (key, holder) = (key.into(), holder.into());
    v1::acquire_slots_request::Item { key, limit, count: 1, holder, ttl_ms: TTL_MS, local: false }
}

async fn ask(member: &Member, requests: Vec<v1::acquire_slots_request::Item>) -> Vec<v1::acquire_slots_response::Item> {
    let request = v1::AcquireSlotsRequest { node: node("n"), requests };
    member.throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner().responses
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_answer_is_lost_comes_free_before_its_ttl() {
    let server = Server::start();
    let config = Config { member_lease: 5 * SECOND, redis_timeout: Duration::from_millis(200), ..Config::default() };
    let member = Member::start_with(config, &server.url());
    member.ready().await;
    server.signal("-STOP");
    // It is done as soon as Redis goes on, when nobody waits for it any more.
    let answer = ask(&member, vec![item("k", "gone", 1)]).await;
    assert!(answer[0].slots.is_empty() && answer[0].degraded, "{answer:?}");
    server.signal("-CONT");
    member.ready().await;
    let deadline = Instant::now() + PATIENCE;
    while ask(&member, vec![item("k", "next", 1)]).await[0].slots.is_empty() {
        assert!(Instant::now() < deadline, "the slot is nobody's, and counts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A script that takes long holds all up: the work grows with the asks and with the slots, not with one times the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_asks_of_one_key_with_many_slots_are_answered() {
    let server = Server::start();
    let patient = Config { redis_timeout: SECOND, member_lease: 4 * SECOND, ..Config::default() };
    let member = Member::start_with(patient, &server.url());
    member.ready().await;
    for round in 0..4 {
        let asks = (0..1_000).map(|number| item("k", &format!("{round}-{number}"), 4_000)).collect();
        let answers = ask(&member, asks).await;
        let given: usize = answers.iter().map(|answer| answer.slots.len()).sum();
        assert_eq!((given, answers.iter().any(|answer| answer.degraded)), (1_000, false), "round {round}");
    }
}
