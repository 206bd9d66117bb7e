//! The contract: requests in, the store asked, answers out.

use crate::ask;
use crate::store::{After, Answer, Ask, Beat, SlotAnswer, SlotAsk, State, Store, Summary, Taken};
use godwit_kit::Host;
use godwit_kit::metrics::{Counter, Metrics};
use godwit_proto::convert;
use godwit_proto::throttle::{ThrottleService, v1};
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use tracing::{Instrument, info_span};

pub(crate) const NAME: &str = "throttle";

/// Cheap to clone.
#[derive(Clone)]
pub struct Service {
    store: Arc<dyn Store>,
    counts: Counts,
}

/// Looked up once: a label's look-up costs as much as a token.
#[derive(Clone)]
struct Counts {
    granted: Counter,
    refused: Counter,
    slots_granted: Counter,
    waiters_turned_away: Counter,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let asks = metrics.counters("godwit_throttle_asks_total", "Asks for tokens by their answer", &["answer"]);
        Self {
            granted: asks.with_label_values(&["granted"]),
            refused: asks.with_label_values(&["wait"]),
            slots_granted: metrics.counter("godwit_throttle_slots_granted_total", "Slots given"),
            waiters_turned_away: metrics
                .counter("godwit_throttle_waiters_turned_away_total", "Asks for slots beyond throttle.waiters_max"),
        }
    }
}

impl Service {
    pub fn new(store: Arc<dyn Store>, host: &Host) -> Self {
        Self { store, counts: Counts::new(&host.metrics) }
    }

    fn acquired(&self, ask: &Ask, answer: &Answer) -> v1::acquire_response::Item {
        let degraded = answer.degraded;
        match answer.taken {
            Taken::Granted { count } => {
                self.counts.granted.inc();
                v1::acquire_response::Item { granted: true, count, degraded, ..Default::default() }
            }
            Taken::Wait { wait, refusing } => {
                self.counts.refused.inc();
                let limit = &ask.limits[refusing];
                v1::acquire_response::Item {
                    granted: false,
                    count: 0,
                    wait: Some(convert::duration(wait)),
                    refusing_key: limit.key[..limit.key_bytes].into(),
                    degraded,
                }
            }
        }
    }
}

#[tonic::async_trait]
impl ThrottleService for Service {
    async fn acquire(&self, request: Request<v1::AcquireRequest>) -> Result<Response<v1::AcquireResponse>, Status> {
        let span = info_span!("throttle.acquire", asks = request.get_ref().requests.len());
        let asks = ask::asks(request.into_inner())?;
        let answers = self.store.acquire(&asks).instrument(span).await?;
        let responses = asks.iter().zip(&answers).map(|(ask, answer)| self.acquired(ask, answer)).collect();
        Ok(Response::new(v1::AcquireResponse { responses }))
    }

    async fn refund(&self, request: Request<v1::RefundRequest>) -> Result<Response<v1::RefundResponse>, Status> {
        let span = info_span!("throttle.refund", limits = request.get_ref().limits.len());
        let limits = ask::refunds(request.into_inner())?;
        self.store.refund(&limits).instrument(span).await?;
        Ok(Response::new(v1::RefundResponse {}))
    }

    async fn acquire_slots(
        &self,
        request: Request<v1::AcquireSlotsRequest>,
    ) -> Result<Response<v1::AcquireSlotsResponse>, Status> {
        let span = info_span!("throttle.acquire_slots", asks = request.get_ref().requests.len());
        let (named, asks): (Vec<_>, Vec<_>) = ask::slots(request.into_inner())?.into_iter().unzip();
        let answers = self.store.acquire_slots(&asks).instrument(span).await?;
        let tell = |((name, ask), answer): ((&ask::SlotName, &SlotAsk), SlotAnswer)| {
            self.counts.slots_granted.inc_by(answer.slots.len() as u64);
            self.counts.waiters_turned_away.inc_by(answer.turned_away.into());
            v1::acquire_slots_response::Item {
                slots: answer.slots.into_iter().map(|slot| name.slot(ask, slot)).collect(),
                place_in_queue: answer.place,
                degraded: answer.degraded,
                wait: (answer.place > 0).then(|| convert::duration(answer.wait)),
            }
        };
        let responses = named.iter().zip(&asks).zip(answers).map(tell).collect();
        Ok(Response::new(v1::AcquireSlotsResponse { responses }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let v1::HeartbeatRequest { node, slots, ttl_ms } = request.into_inner();
        let span = info_span!("throttle.heartbeat", slots = slots.len());
        let ttl = ask::ttl(ttl_ms, || "ttl_ms".into())?;
        let places = ask::places(&slots, node)?;
        let beats = self.store.heartbeat(&places, ttl).instrument(span).await?;
        Ok(Response::new(heartbeat_answer(slots, &beats)))
    }

    async fn release_slots(
        &self,
        request: Request<v1::ReleaseSlotsRequest>,
    ) -> Result<Response<v1::ReleaseSlotsResponse>, Status> {
        let v1::ReleaseSlotsRequest { node, slots } = request.into_inner();
        let span = info_span!("throttle.release_slots", slots = slots.len());
        let places = ask::places(&slots, node)?;
        self.store.release(&places).instrument(span).await?;
        Ok(Response::new(v1::ReleaseSlotsResponse {}))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let v1::ListRequest { prefix, page } = request.into_inner();
        ask::prefix(&prefix)?;
        let (size, after) = ask::page(page)?;
        let listed = self.store.list(&prefix, after.as_ref(), size).instrument(info_span!("throttle.list")).await?;
        let last = listed.last().filter(|_| listed.len() == size);
        let next_token = last.map(|last| ask::token(&place(last))).unwrap_or_default();
        let keys = listed.into_iter().map(|summary| summarise(summary).0).collect();
        Ok(Response::new(v1::ListResponse { keys, next_token }))
    }

    async fn inspect(&self, request: Request<v1::InspectRequest>) -> Result<Response<v1::InspectResponse>, Status> {
        let key = request.into_inner().key;
        let found = self.store.inspect(&key).instrument(info_span!("throttle.inspect", key)).await?;
        let (summary, holders) = summarise(found);
        Ok(Response::new(v1::InspectResponse { summary: Some(summary), holders }))
    }

    async fn reset(&self, request: Request<v1::ResetRequest>) -> Result<Response<v1::ResetResponse>, Status> {
        let keys = request.into_inner().keys;
        ask::keys(&keys)?;
        let reset_count = self.store.reset(&keys).instrument(info_span!("throttle.reset", keys = keys.len())).await?;
        tracing::info!(reset_count, ?keys, "limits reset");
        Ok(Response::new(v1::ResetResponse { reset_count }))
    }
}

/// What is lost, and each key that others wait for once.
fn heartbeat_answer(slots: Vec<v1::Slot>, beats: &[Beat]) -> v1::HeartbeatResponse {
    let mut answer = v1::HeartbeatResponse::default();
    let mut told = std::collections::HashSet::new();
    for (slot, beat) in slots.into_iter().zip(beats) {
        if !beat.kept {
            answer.lost.push(slot);
        } else if beat.waiter_count > 0 && told.insert(slot.key.clone()) {
            let waiter_count = beat.waiter_count;
            answer.waiters.push(v1::heartbeat_response::Waiters { key: slot.key, waiter_count });
        }
    }
    answer
}

fn place(summary: &Summary) -> After {
    let slots = match summary.state {
        State::Rate { .. } => false,
        State::Slots { .. } => true,
    };
    After { key: summary.key.clone(), slots }
}

/// A key as the contract tells it, and its holders.
fn summarise(summary: Summary) -> (v1::KeySummary, Vec<String>) {
    let key = summary.key;
    match summary.state {
        State::Rate { rate, free_count, empty_until } => {
            let summary = v1::KeySummary {
                key,
                free_count,
                limit: rate.limit,
                period: Some(convert::duration(Duration::from_micros(rate.period_micros))),
                empty_until: empty_until.map(convert::timestamp),
                ..Default::default()
            };
            (summary, Vec::new())
        }
        State::Slots { limit, free_count, held_count, waiter_count, holders } => {
            let summary = v1::KeySummary {
                key,
                free_count: free_count.into(),
                held_count: held_count.into(),
                limit: limit.into(),
                waiter_count,
                ..Default::default()
            };
            (summary, holders)
        }
    }
}
