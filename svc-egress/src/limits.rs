//! Asks the throttle: slots for connections, held by one shared heartbeat, and tokens for what a path's rates limit.

mod beat;
#[cfg(test)]
mod tests;

use crate::path::{SitePath, for_count};
use godwit_kit::{Host, call};
use godwit_proto::common::v1::NodeId;
use godwit_proto::convert::std_duration;
use godwit_proto::throttle::Throttle;
use godwit_proto::throttle::v1::{
    AcquireRequest, AcquireSlotsRequest, RateLimit, RefundRequest, Slot, acquire_request, acquire_slots_request,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tracing::Span;

const SLOT_TTL: Duration = Duration::from_secs(15);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait where the throttle does not answer: its limits hold, so nothing is sent meanwhile.
const AWAY_WAIT: Duration = Duration::from_secs(1);
/// Slots of one call.
const BATCH_MAX: usize = 1_000;

/// The throttle and what we hold of it. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    throttle: Throttle,
    node: NodeId,
    host: Host,
    held: Mutex<HashMap<String, Held>>,
    released: Mutex<Vec<Slot>>,
    release_wanted: Notify,
}

struct Held {
    slot: Slot,
    /// When the throttle last said that it is ours.
    kept: Instant,
    word: Word,
}

/// What one connection is told of its slots.
#[derive(Clone)]
struct Word {
    /// One of them may be another's by now: a transaction that runs is ended, and nothing else is.
    lost: CancellationToken,
    /// Also where others wait for such a slot: end after this transaction.
    yields: CancellationToken,
}

/// The slots of one connection, given back when dropped.
pub struct Slots {
    limits: Limits,
    slots: Vec<Slot>,
    word: Word,
}

impl Slots {
    pub fn must_yield(&self) -> bool {
        self.word.yields.is_cancelled()
    }

    /// Returns once they must be yielded.
    pub async fn yielded(&self) {
        self.word.yields.cancelled().await;
    }

    pub fn are_lost(&self) -> bool {
        self.word.lost.is_cancelled()
    }

    /// Returns once they are lost.
    pub async fn lost(&self) {
        self.word.lost.cancelled().await;
    }
}

/// The throttle's word on tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    /// That many, at most as many as asked for.
    Granted(u32),
    Wait {
        wait: Duration,
        key: String,
    },
}

/// What became of a call for slots.
pub struct Acquired {
    /// Each for one connection, with the holder it was asked for.
    pub slots: Vec<Slots>,
    /// Holders that keep their place in the queue by asking again.
    pub waiting: Vec<String>,
    /// How soon to ask again for what was not given.
    pub wait: Duration,
}

impl Limits {
    pub fn new(throttle: Throttle, host: &Host) -> Self {
        Self(Arc::new(Inner {
            throttle,
            node: host.node.into(),
            host: host.clone(),
            held: Mutex::default(),
            released: Mutex::default(),
            release_wanted: Notify::new(),
        }))
    }

    /// One slot of each of the path's limits for each holder, the tightest limit first, in one call a limit.
    pub async fn slots(&self, path: &SitePath, holders: Vec<String>) -> Acquired {
        let mut granted: Vec<(String, Slots)> = holders.into_iter().map(|holder| (holder, self.none())).collect();
        let mut acquired = Acquired { slots: Vec::new(), waiting: Vec::new(), wait: Duration::ZERO };
        for limit in &path.slots {
            let item = |(holder, _): &(String, Slots)| acquire_slots_request::Item {
                key: limit.key.clone(),
                limit: limit.limit.count,
                count: 1,
                holder: holder.clone(),
                ttl_ms: SLOT_TTL.as_millis() as u64,
                local: limit.limit.local,
            };
            let requests = granted.iter().map(item).collect();
            let request = AcquireSlotsRequest { node: Some(self.0.node.clone()), requests };
            // Their time begins, at the latest, when they are asked for.
            let asked = Instant::now();
            let answer = call::within(CALL_TIMEOUT, self.0.throttle.acquire_slots(Request::new(request))).await;
            let mut answers = match self.heard(answer) {
                Ok(answer) => answer.responses.into_iter(),
                Err(_) => Vec::new().into_iter(),
            };
            let mut kept = Vec::new();
            for (holder, mut slots) in granted {
                let answer = answers.next();
                let wait = answer.as_ref().and_then(|item| item.wait.as_ref()).and_then(std_duration);
                let given = answer.map(|item| item.slots).unwrap_or_default();
                if given.is_empty() {
                    acquired.wait = acquired.wait.max(wait.unwrap_or(AWAY_WAIT));
                    acquired.waiting.push(holder);
                } else {
                    slots.add(given, asked);
                    kept.push((holder, slots));
                }
            }
            granted = kept;
            if granted.is_empty() {
                break;
            }
        }
        acquired.slots = granted.into_iter().map(|(_, slots)| slots).collect();
        acquired
    }

    /// Tokens of all of `rates`, fewer than `count` rather than none. Without rates nobody is asked.
    pub async fn tokens(&self, rates: &[RateLimit], count: u32) -> Tokens {
        if rates.is_empty() {
            return Tokens::Granted(count);
        }
        let request = acquire_request::Item { limits: for_count(rates, count), partial: true };
        let request = AcquireRequest { node: Some(self.0.node.clone()), requests: vec![request] };
        let answer = call::within(CALL_TIMEOUT, self.0.throttle.acquire(Request::new(request))).await;
        match self.heard(answer).map(|answer| answer.responses.into_iter().next()) {
            Ok(Some(item)) if item.granted && item.count > 0 => {
                Tokens::Granted(u32::try_from(item.count).unwrap_or(count).min(count))
            }
            Ok(Some(item)) => {
                let wait = item.wait.as_ref().and_then(std_duration).unwrap_or(AWAY_WAIT);
                Tokens::Wait { wait: wait.max(Duration::from_millis(1)), key: item.refusing_key }
            }
            Ok(None) | Err(_) => Tokens::Wait { wait: AWAY_WAIT, key: "the throttle does not answer".into() },
        }
    }

    /// Gives back what was not used; not waited for, and lost where the throttle is away.
    pub fn refund(&self, rates: &[RateLimit], count: u32) {
        if rates.is_empty() || count == 0 {
            return;
        }
        let request = RefundRequest { node: Some(self.0.node.clone()), limits: for_count(rates, count) };
        let limits = self.clone();
        self.0.host.stop.spawn(async move {
            let answer = call::within(CALL_TIMEOUT, limits.0.throttle.refund(Request::new(request))).await;
            if let Err(status) = answer {
                tracing::debug!(%status, "tokens not refunded");
            }
        });
    }

    /// Says on the board whether the throttle answers.
    fn heard<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, Status> {
        let state = answer.as_ref().map(|_| ()).map_err(Status::to_string);
        self.0.host.health.set("egress", "throttle", state);
        answer.map(tonic::Response::into_inner)
    }

    fn none(&self) -> Slots {
        let lost = CancellationToken::new();
        let yields = lost.child_token();
        Slots { limits: self.clone(), slots: Vec::new(), word: Word { lost, yields } }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn add(&mut self, slots: Vec<Slot>, kept: Instant) {
        let mut held = self.limits.held();
        for slot in slots {
            held.insert(slot.slot_id.clone(), Held { slot: slot.clone(), kept, word: self.word.clone() });
            self.slots.push(slot);
        }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if self.slots.is_empty() {
            return;
        }
        let mut held = self.limits.held();
        self.slots.iter().for_each(|slot| drop(held.remove(&slot.slot_id)));
        drop(held);
        let mut released = self.limits.0.released.lock().unwrap_or_else(PoisonError::into_inner);
        released.append(&mut self.slots);
        self.limits.0.release_wanted.notify_one();
    }
}

/// A span for a call that serves a batch.
pub fn batch_span(what: &'static str, site: &str) -> Span {
    tracing::info_span!("throttle", otel.name = what, godwit.site = site)
}
