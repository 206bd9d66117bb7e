//! The heartbeat: keeps the slots that are held, says which are lost, releases those that were dropped. A throttle that is
//! slow or away delays none of these for the others, nor our own clock's word on what is lost.

use super::{BATCH_MAX, CALL_TIMEOUT, Limits, SLOT_TTL};
use futures::future::join_all;
use godwit_kit::call;
use godwit_proto::throttle::v1::{HeartbeatRequest, HeartbeatResponse, ReleaseSlotsRequest, Slot};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Request;

const BEAT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);
/// How long after its last heartbeat a slot is ours for certain: its ttl, less the time until we look and the connection is
/// closed. The throttle counts from when the heartbeat reached it, which is later.
const SLOT_LIFE: Duration = SLOT_TTL.saturating_sub(Duration::from_secs(2));

impl Limits {
    /// Until `done`; then gives back the rest.
    pub async fn run(self, done: CancellationToken) {
        tokio::join!(self.keep(&done), self.watch(&done), self.give_back(&done));
    }

    async fn keep(&self, done: &CancellationToken) {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beats.tick() => self.beat().await,
                () = done.cancelled() => return,
            }
        }
    }

    async fn watch(&self, done: &CancellationToken) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => self.run_out(),
                () = done.cancelled() => return,
            }
        }
    }

    async fn give_back(&self, done: &CancellationToken) {
        loop {
            tokio::select! {
                () = self.0.release_wanted.notified() => self.release().await,
                () = done.cancelled() => return self.release().await,
            }
        }
    }

    /// All at once: a call that is slow holds up no other.
    async fn beat(&self) {
        let (slots, asked): (Vec<Slot>, _) =
            (self.held().values().map(|held| held.slot.clone()).collect(), Instant::now());
        join_all(slots.chunks(BATCH_MAX).map(|slots| self.beat_for(slots, asked))).await;
    }

    async fn beat_for(&self, slots: &[Slot], asked: Instant) {
        let (node, sent) = (Some(self.0.node.clone()), slots.to_vec());
        let request = HeartbeatRequest { node, slots: sent, ttl_ms: SLOT_TTL.as_millis() as u64 };
        let answer = call::within(CALL_TIMEOUT, self.0.throttle.heartbeat(Request::new(request))).await;
        if let Ok(answer) = self.heard(answer) {
            self.kept(slots, asked, &answer);
        }
    }

    fn kept(&self, slots: &[Slot], at: Instant, answer: &HeartbeatResponse) {
        let mut held = self.held();
        for slot in slots {
            held.get_mut(&slot.slot_id).into_iter().for_each(|held| held.kept = at);
        }
        for lost in &answer.lost {
            held.get(&lost.slot_id).into_iter().for_each(|held| held.word.lost.cancel());
        }
        for waiters in &answer.waiters {
            let ours = held.values().filter(|held| held.slot.key == waiters.key);
            ours.take(waiters.waiter_count as usize).for_each(|held| held.word.yields.cancel());
        }
    }

    /// Whatever the throttle is doing: by its clock, slots that were not kept for their ttl are another's.
    fn run_out(&self) {
        self.held().values().filter(|held| held.kept.elapsed() >= SLOT_LIFE).for_each(|held| held.word.lost.cancel());
    }

    async fn release(&self) {
        let released = std::mem::take(&mut *self.0.released.lock().unwrap_or_else(PoisonError::into_inner));
        for slots in released.chunks(BATCH_MAX) {
            let request = ReleaseSlotsRequest { node: Some(self.0.node.clone()), slots: slots.to_vec() };
            // What is not released runs out by itself.
            let answer = call::within(CALL_TIMEOUT, self.0.throttle.release_slots(Request::new(request))).await;
            let _ = self.heard(answer);
        }
    }
}
