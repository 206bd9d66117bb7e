//! A throttle that is a script: it grants, unless it is told how often to refuse and with what wait.

use godwit_proto::convert::duration;
use godwit_proto::throttle::ThrottleService;
use godwit_proto::throttle::v1::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub struct FakeThrottle(pub Arc<Mutex<Script>>);

#[derive(Default)]
pub struct Script {
    /// Calls of Acquire that are granted before any is told to wait.
    pub granted_first: usize,
    /// Waits to answer Acquire with before it grants.
    pub waits: Vec<Duration>,
    pub acquired: Vec<AcquireRequest>,
    pub refunded_count: u64,
    pub slots_given: usize,
    pub slots_released: usize,
    /// Somebody waits for each slot.
    pub crowded: bool,
    /// All slots are lost.
    pub lost: bool,
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("egress does not call this"))
}

#[tonic::async_trait]
impl ThrottleService for FakeThrottle {
    async fn acquire(&self, request: Request<AcquireRequest>) -> Result<Response<AcquireResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        let asked = request.into_inner();
        let is_granted = script.granted_first > 0 || script.waits.is_empty();
        script.granted_first = script.granted_first.saturating_sub(1);
        let refusal = (!is_granted).then(|| script.waits.remove(0));
        let item = |item: &acquire_request::Item| match refusal {
            Some(wait) => acquire_response::Item {
                wait: Some(duration(wait)),
                refusing_key: item.limits[0].key.clone(),
                ..acquire_response::Item::default()
            },
            None => acquire_response::Item {
                granted: true,
                count: item.limits[0].count,
                ..acquire_response::Item::default()
            },
        };
        let responses = asked.requests.iter().map(item).collect();
        script.acquired.push(asked);
        Ok(Response::new(AcquireResponse { responses }))
    }

    async fn refund(&self, request: Request<RefundRequest>) -> Result<Response<RefundResponse>, Status> {
        self.0.lock().unwrap().refunded_count += request.into_inner().limits.first().map_or(0, |limit| limit.count);
        Ok(Response::new(RefundResponse {}))
    }

    async fn acquire_slots(
        &self,
        request: Request<AcquireSlotsRequest>,
    ) -> Result<Response<AcquireSlotsResponse>, Status> {
        let mut script = self.0.lock().unwrap();
        let mut item = |item: AcquireSlotsRequestItem| {
            script.slots_given += 1;
            let slot = Slot { key: item.key, slot_id: format!("slot{}", script.slots_given) };
            acquire_slots_response::Item { slots: vec![slot], ..acquire_slots_response::Item::default() }
        };
        let responses = request.into_inner().requests.into_iter().map(&mut item).collect();
        Ok(Response::new(AcquireSlotsResponse { responses }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let script = self.0.lock().unwrap();
        let slots = request.into_inner().slots;
        let lost = slots.iter().filter(|_| script.lost).cloned().collect();
        let slots = slots.into_iter().filter(|_| script.crowded);
        let waiters = slots.map(|slot| heartbeat_response::Waiters { key: slot.key, waiter_count: 1 }).collect();
        Ok(Response::new(HeartbeatResponse { lost, waiters }))
    }

    async fn release_slots(
        &self,
        request: Request<ReleaseSlotsRequest>,
    ) -> Result<Response<ReleaseSlotsResponse>, Status> {
        self.0.lock().unwrap().slots_released += request.into_inner().slots.len();
        Ok(Response::new(ReleaseSlotsResponse {}))
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

type AcquireSlotsRequestItem = acquire_slots_request::Item;
