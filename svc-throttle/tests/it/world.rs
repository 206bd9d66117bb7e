//! A service of the test's own, on each store, near and far, on a clock that the test moves.

use crate::server::Server;
use godwit_kit::{Host, clock::Clock, config::OneOrMany};
use godwit_proto::common::v1::NodeId;
use godwit_proto::throttle::{self, Throttle, ThrottleServiceServer, v1};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use svc_throttle::{Config, Service, config::Addresses, redis::Shared};
use tokio::time::Instant;
use tonic::{Code, Status};

pub const SECOND: Duration = Duration::from_secs(1);
/// Nothing that a test waits for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn origin() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// A service and its time.
#[derive(Clone)]
pub struct World {
    pub throttle: Throttle,
    time: Time,
}

#[derive(Clone)]
enum Time {
    /// Tokio's own, paused.
    Paused,
    /// What Redis' scripts are told.
    Given(Arc<AtomicU64>),
    /// It passes by itself.
    Real,
}

impl World {
    /// Lets so much time pass, and what is due in it be done.
    pub async fn pass(&self, time: Duration) {
        match &self.time {
            Time::Paused => tokio::time::sleep(time).await,
            Time::Given(given) => drop(given.fetch_add(time.as_micros() as u64, Ordering::Relaxed)),
            Time::Real => panic!("a test does not wait for time to pass"),
        }
    }

    pub async fn inspect(&self, key: &str) -> Result<v1::InspectResponse, Status> {
        let request = tonic::Request::new(v1::InspectRequest { key: key.into() });
        Ok(self.throttle.inspect(request).await?.into_inner())
    }

    /// Free and held of a key.
    pub async fn free_and_held(&self, key: &str) -> (u64, u64) {
        let summary = self.inspect(key).await.unwrap().summary.unwrap();
        (summary.free_count, summary.held_count)
    }

    /// Returns once a key that is at rest has been forgotten.
    pub async fn until_forgotten(&self, key: &str) {
        let deadline = Instant::now() + 4 * PATIENCE;
        loop {
            match self.inspect(key).await {
                Err(status) if status.code() == Code::NotFound => return,
                answer => assert!(Instant::now() < deadline, "{answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes a test of each case on each store. A case may be `with` a function that gives its configuration, and then `real`
/// where Redis' own time is to pass.
macro_rules! on_each_store {
    ($($case:ident $(with $config:ident)? $(: $real:ident)?),* $(,)?) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $case() {
                crate::world::in_memory(crate::world::on_each_store!(@config $($config)?), super::$case).await;
            })*
        }
        mod redis {
            $(#[tokio::test]
            async fn $case() {
                let real = crate::world::on_each_store!(@real $($real)?);
                crate::world::on_redis(crate::world::on_each_store!(@config $($config)?), real, super::$case).await;
            })*
        }
    };
    (@config) => { svc_throttle::Config::default() };
    (@config $config:ident) => { super::$config() };
    (@real) => { false };
    (@real real) => { true };
}
pub(crate) use on_each_store;

/// Runs `case` twice: with the service itself, and with a client of its server.
pub async fn in_memory<F: Future<Output = ()>>(config: Config, case: impl Fn(World) -> F) {
    for far in [false, true] {
        let mut host = host();
        host.clock = Clock::tokio(origin());
        let service = svc_throttle::build(config.clone(), &host).unwrap();
        case(World { throttle: handle(service, far), time: Time::Paused }).await;
        assert!(host.stop.finish(SECOND).await);
    }
}

/// The same on a Redis of its own.
pub async fn on_redis<F: Future<Output = ()>>(config: Config, real: bool, case: impl Fn(World) -> F) {
    for far in [false, true] {
        let (server, host) = (Server::start(), host());
        let micros = origin().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let given = (!real).then(|| Arc::new(AtomicU64::new(micros)));
        let shared = Shared::open_at(with_redis(config.clone(), &server.url()), &host, given.clone()).unwrap();
        let service = Service::new(Arc::new(shared), &host);
        ready(&host).await;
        let time = given.map_or(Time::Real, Time::Given);
        case(World { throttle: handle(service, far), time }).await;
        assert!(host.stop.finish(SECOND).await);
    }
}

pub fn host() -> Host {
    Host::new(godwit_proto::id::NodeId::new())
}

/// Limits on this Redis, with leases that a test can wait for.
pub fn with_redis(config: Config, url: &str) -> Config {
    let default = Config::default().member_lease;
    let member_lease = if config.member_lease == default { SECOND } else { config.member_lease };
    Config { redis: Addresses(OneOrMany::One(url.into())), member_lease, ..config }
}

/// Returns once all that the host runs is ready.
pub async fn ready(host: &Host) {
    until("ready", || host.health.causes().is_empty()).await;
}

/// Returns once it is so.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn handle(service: Service, far: bool) -> Throttle {
    let service = Arc::new(service);
    if far { throttle::at(godwit_kit::connect::pipe(ThrottleServiceServer::from_arc(service))) } else { service }
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

pub fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, field: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().starts_with(&format!("{field}: ")), "{} does not name {field}", status.message());
}

pub fn wait_of(wait: Option<prost_types::Duration>) -> Duration {
    godwit_proto::convert::std_duration(&wait.expect("a wait is given")).unwrap()
}
