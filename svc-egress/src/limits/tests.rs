//! Slots under a throttle that is slow, away, or says that they are lost.

use super::*;
use godwit_proto::id::NodeId;
use godwit_proto::throttle::ThrottleService;
use godwit_proto::throttle::v1::*;
use godwit_shaping::{Query, Shaping};
use tonic::Response;

/// Gives every slot. What it does with heartbeats is the test's.
#[derive(Default)]
struct Script(Mutex<State>);

#[derive(Default)]
struct State {
    given_count: usize,
    released: Vec<String>,
    /// The call that has this slot is never answered; `None`: no call is.
    stuck: Option<Vec<String>>,
    lost: Vec<String>,
    waiters: Vec<String>,
}

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not called"))
}

#[tonic::async_trait]
impl ThrottleService for Script {
    async fn acquire_slots(
        &self,
        request: Request<AcquireSlotsRequest>,
    ) -> Result<Response<AcquireSlotsResponse>, Status> {
        let mut state = self.state();
        let give = |item: acquire_slots_request::Item| {
            state.given_count += 1;
            let slot = Slot { key: item.key, slot_id: state.given_count.to_string() };
            acquire_slots_response::Item { slots: vec![slot], ..acquire_slots_response::Item::default() }
        };
        Ok(Response::new(AcquireSlotsResponse {
            responses: request.into_inner().requests.into_iter().map(give).collect(),
        }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let slots = request.into_inner().slots;
        let is_stuck = match &self.state().stuck {
            Some(stuck) => slots.iter().any(|slot| stuck.contains(&slot.slot_id)),
            None => true,
        };
        if is_stuck {
            std::future::pending::<()>().await;
        }
        let state = self.state();
        let lost = slots.iter().filter(|slot| state.lost.contains(&slot.slot_id)).cloned().collect();
        let waiters = state.waiters.iter().map(|key| heartbeat_response::Waiters { key: key.clone(), waiter_count: 1 });
        Ok(Response::new(HeartbeatResponse { lost, waiters: waiters.collect() }))
    }

    async fn release_slots(
        &self,
        request: Request<ReleaseSlotsRequest>,
    ) -> Result<Response<ReleaseSlotsResponse>, Status> {
        self.state().released.extend(request.into_inner().slots.into_iter().map(|slot| slot.slot_id));
        Ok(Response::new(ReleaseSlotsResponse {}))
    }

    async fn acquire(&self, _: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        unused()
    }
    async fn refund(&self, _: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        unused()
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        unused()
    }
    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
        unused()
    }
    async fn reset(&self, _: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        unused()
    }
}

struct World {
    script: Arc<Script>,
    limits: Limits,
    done: CancellationToken,
}

/// With `count` slots taken, each with a word of its own.
async fn world(state: State, count: usize) -> (World, Vec<Slots>) {
    let (script, host) = (Arc::new(Script(Mutex::new(state))), Host::new(NodeId::new()));
    let limits = Limits::new(script.clone(), &host);
    let query = Query { domain: "d.example", site: "mx.d.example", mx_hosts: &[], source: "s" };
    let path = SitePath::resolve(&Shaping::default(), &query, &crate::actions::Standing::default());
    let slots = limits.slots(&path, (0..count).map(|n| n.to_string()).collect()).await.slots;
    let done = CancellationToken::new();
    tokio::spawn(limits.clone().run(done.clone()));
    (World { script, limits, done }, slots)
}

const HEALTHY: State =
    State { given_count: 0, released: Vec::new(), stuck: Some(Vec::new()), lost: Vec::new(), waiters: Vec::new() };

#[tokio::test(start_paused = true)]
async fn slots_are_kept_as_long_as_the_throttle_answers() {
    let (world, slots) = world(HEALTHY, 3).await;
    tokio::time::sleep(SLOT_TTL * 4).await;
    assert!(slots.iter().all(|slots| !slots.must_yield()));
    drop(slots);
    world.done.cancel();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut released = world.script.state().released.clone();
    released.sort();
    assert_eq!(released, ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_throttle_says_is_lost_is_lost_and_what_is_wanted_is_yielded() {
    let (world, slots) = world(HEALTHY, 2).await;
    let other = world.limits.slots(&path_of("other.example"), vec!["x".into()]).await.slots;
    world.script.state().lost = vec!["1".into()];
    world.script.state().waiters = vec!["egress:connections:other.example:s".into()];
    tokio::time::sleep(Duration::from_secs(6)).await;
    let said = |slots: &Slots| (slots.are_lost(), slots.must_yield());
    assert_eq!(slots.iter().map(said).collect::<Vec<_>>(), [(true, true), (false, false)]);
    assert_eq!(said(&other[0]), (false, true), "there is time for what is open, and for what is being opened");
}

fn path_of(site: &str) -> SitePath {
    let query = Query { domain: "d.example", site, mx_hosts: &[], source: "s" };
    SitePath::resolve(&Shaping::default(), &query, &crate::actions::Standing::default())
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_never_answers_cannot_keep_slots_beyond_their_time() {
    let asked = Instant::now();
    let (_world, slots) = world(State::default(), 1).await;
    slots[0].lost().await;
    assert!(asked.elapsed() > SLOT_TTL / 2 && asked.elapsed() < SLOT_TTL, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_slow_delays_neither_other_heartbeats_nor_releases() {
    let (world, mut slots) = world(HEALTHY, 5 * BATCH_MAX).await;
    // Four of five calls hang at each heartbeat: one after another they would take 20 s, and the fifth come too late.
    let of_one = |place: usize| slots[place].slots[0].slot_id.clone();
    let slow: Vec<String> = {
        let held = world.limits.held();
        let order: Vec<&String> = held.keys().collect();
        order.chunks(BATCH_MAX).take(4).map(|calls| calls[0].clone()).collect()
    };
    world.script.state().stuck = Some(slow.clone());
    tokio::time::sleep(SLOT_TTL * 2).await;
    let lost = slots.iter().filter(|slots| slots.are_lost()).count();
    assert_eq!(lost, 4 * BATCH_MAX, "those of the calls that were answered are kept");
    let given_back = of_one(0);
    slots.remove(0);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.script.state().released, [given_back]);
}
