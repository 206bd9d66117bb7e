//! A service of the test's own, near or far, on a clock that the test moves.

use godwit_kit::{Host, clock::Clock};
use godwit_proto::common::v1::NodeId;
use godwit_proto::throttle::{self, Throttle, ThrottleServiceServer, v1};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use svc_throttle::Config;
use tonic::{Code, Status};

pub const SECOND: Duration = Duration::from_secs(1);

pub fn origin() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// Runs `case` twice: with the service itself, and with a client of its server.
pub async fn near_and_far<F: Future<Output = ()>>(config: Config, case: impl Fn(Throttle) -> F) {
    for far in [false, true] {
        let mut host = Host::new(godwit_proto::id::NodeId::new());
        host.clock = Clock::tokio(origin());
        let service = Arc::new(svc_throttle::build(config.clone(), &host));
        let handle: Throttle = if far {
            throttle::at(godwit_kit::connect::pipe(ThrottleServiceServer::from_arc(service)))
        } else {
            service
        };
        case(handle).await;
        assert!(host.stop.finish(SECOND).await);
    }
}

pub fn node(name: &str) -> Option<NodeId> {
    Some(NodeId { value: name.into() })
}

/// `count` of `limit` in a second.
pub fn limit(key: &str, count: u64, limit: u64) -> v1::RateLimit {
    let period = Some(godwit_proto::convert::duration(SECOND));
    v1::RateLimit { key: key.into(), count, limit, period, ..Default::default() }
}

pub async fn acquire(throttle: &Throttle, limits: Vec<v1::RateLimit>, partial: bool) -> v1::acquire_response::Item {
    let requests = vec![v1::acquire_request::Item { limits, partial }];
    let request = v1::AcquireRequest { node: node("node_a"), requests };
    let answer = throttle.acquire(tonic::Request::new(request)).await.unwrap();
    answer.into_inner().responses.remove(0)
}

/// Free and held of a key.
pub async fn free_and_held(throttle: &Throttle, key: &str) -> (u64, u64) {
    let answer = throttle.inspect(tonic::Request::new(v1::InspectRequest { key: key.into() })).await.unwrap();
    let summary = answer.into_inner().summary.unwrap();
    (summary.free_count, summary.held_count)
}

pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().starts_with(&format!("{field}: ")), "{} does not name {field}", status.message());
}

pub fn wait_of(wait: Option<prost_types::Duration>) -> Duration {
    godwit_proto::convert::std_duration(&wait.expect("a wait is given")).unwrap()
}
