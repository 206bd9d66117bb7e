//! This node among those that share Redis: who decides now, and how it comes back after Redis was away or lost its state.
//!
//! The locks are std's, held for a look or a note and never over an await. The one that is tokio's is a gate: asks pass it
//! for as long as their answer is on the way, so that what is put back into Redis is all that was ever given.

use super::memo::Memo;
use super::own::Own;
use super::scripts::{self, Frame, Others, Scripts};
use super::turns;
use super::wire::{Away, Script, Wire};
use crate::config::Config;
use crate::lease::SlotId;
use crate::memory::Memory;
use crate::service;
use crate::store::Place;
use crate::tenure::{Standing, Tenure};
use godwit_kit::Host;
use godwit_kit::metrics::Gauge;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

/// How soon to ask again while what Redis lost is put back.
const CLOSED_WAIT: Duration = Duration::from_millis(100);
/// And where Redis was never reached.
const NEVER_WAIT: Duration = Duration::from_secs(1);
const LIMBO_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Releases that Redis has not heard of. Those beyond run out by themselves.
pub(super) const UNRELEASED_MAX: usize = 10_000;

pub struct Node {
    pub(super) wire: Wire,
    pub(super) config: Config,
    host: Host,
    /// Limits that are one node's own.
    pub(super) local: Memory,
    state: Mutex<State>,
    gate: Arc<RwLock<()>>,
    /// Held for a turn.
    pub(super) turning: tokio::sync::Mutex<()>,
    pub(super) turns_taken: AtomicU64,
    /// Asks for a turn at once.
    pub(super) wake: Arc<Notify>,
    began: Instant,
    /// Tells this process from another that runs as the same node.
    pub(super) process: String,
    pub(super) roster: Arc<Script>,
    slot_last: AtomicU64,
    slot_epoch: u64,
    /// The time that limits count by instead of Redis'.
    given: Option<Arc<AtomicU64>>,
    pub(super) gauges: Gauges,
}

pub(super) struct Gauges {
    degraded: Gauge,
    keys: Gauge,
    pub members: Gauge,
    pub shares: Gauge,
}

pub(super) struct State {
    pub tenure: Tenure,
    pub memo: Memo,
    pub phase: Phase,
    scripts: Arc<Scripts>,
    pub others: Arc<Others>,
    /// A lease was granted to this process once.
    pub joined: bool,
    pub stopping: bool,
    /// Why Redis does not decide.
    reason: String,
    pub unreleased: Vec<Place>,
}

/// Who decides where Redis does not.
pub(super) enum Phase {
    /// As the tenure says.
    Following,
    Own(Arc<Own>),
    /// Nobody: what was given meanwhile is being put into Redis.
    Returning(Arc<Own>),
}

/// Who decides now.
pub(super) enum Decider {
    /// Redis. The gate is held until the answer is noted.
    Shared(Frame, OwnedRwLockReadGuard<()>),
    Own(Arc<Own>, OwnedRwLockReadGuard<()>),
    /// Ask again.
    Nobody(Duration),
}

impl Node {
    /// # Errors
    /// An address or a certificate that cannot be read. Redis itself may be away.
    pub fn open(config: Config, host: &Host, given: Option<Arc<AtomicU64>>) -> Result<Arc<Self>, String> {
        let name = host.node.to_string();
        let process = godwit_proto::id::NodeId::new();
        let state = State {
            tenure: Tenure::new(name, micros(config.member_lease)),
            memo: Memo::new(config.keys_max),
            phase: Phase::Following,
            scripts: Arc::new(Scripts::new(0)),
            others: Arc::default(),
            joined: false,
            stopping: false,
            reason: "not reached yet".into(),
            unreleased: Vec::new(),
        };
        let gauges = Gauges {
            degraded: host.metrics.gauge("godwit_throttle_degraded", "1 while Redis does not decide"),
            keys: host.metrics.gauge("godwit_throttle_keys_count", "Keys remembered of what Redis answered"),
            members: host.metrics.gauge("godwit_throttle_members_count", "Nodes that share Redis, as it says"),
            shares: host
                .metrics
                .gauge("godwit_throttle_shares_count", "Shares that limits fall into; 0: none is this node's"),
        };
        let node = Arc::new(Self {
            wire: Wire::open(&config, &host.metrics)?,
            local: Memory::new(&config, host.clock.clone()),
            config,
            host: host.clone(),
            state: Mutex::new(state),
            gate: Arc::default(),
            turning: tokio::sync::Mutex::default(),
            turns_taken: AtomicU64::new(0),
            wake: Arc::default(),
            began: Instant::now(),
            process: process.to_string(),
            roster: Arc::new(scripts::roster()),
            slot_last: AtomicU64::new(0),
            // The lower half of a UUIDv7 is random. 0 is no epoch, so that `SlotId(0)` is never a slot.
            slot_epoch: (process.0 as u64).max(1),
            given,
            gauges,
        });
        node.tell();
        // Others may go on asking while the process stops: the membership ends with the store, not with the stop.
        tokio::spawn(turns::keep(Arc::downgrade(&node), node.wake.clone()));
        host.stop.spawn(turns::leave_at_stop(Arc::downgrade(&node), host.clone()));
        Ok(node)
    }

    pub(super) fn decider(&self) -> Decider {
        let Ok(guard) = self.gate.clone().try_read_owned() else { return Decider::Nobody(CLOSED_WAIT) };
        let now = self.now();
        let mut state = self.state();
        let standing = state.tenure.standing(now);
        match (&state.phase, standing) {
            (Phase::Own(own), _) => return Decider::Own(own.clone(), guard),
            (Phase::Returning(own), Standing::Own) => {
                // It did not get through, and has not asked for a lease yet: on it goes.
                let own = own.clone();
                state.phase = Phase::Own(own.clone());
                return Decider::Own(own, guard);
            }
            (Phase::Returning(_), _) => return Decider::Nobody(CLOSED_WAIT),
            (Phase::Following, _) => {}
        }
        match standing {
            Standing::Never => Decider::Nobody(NEVER_WAIT),
            Standing::Closed => Decider::Nobody(CLOSED_WAIT),
            Standing::Limbo => {
                let left = Duration::from_micros(state.tenure.left_micros(now));
                Decider::Nobody(left.clamp(LIMBO_WAIT.0, LIMBO_WAIT.1))
            }
            Standing::Shared => Decider::Shared(self.frame(&state), guard),
            Standing::Own => {
                let own = Arc::new(self.begin_own(&state, now));
                state.phase = Phase::Own(own.clone());
                drop(state);
                self.tell();
                Decider::Own(own, guard)
            }
        }
    }

    fn begin_own(&self, state: &State, now: u64) -> Own {
        let rosters = state.tenure.view().map(|view| view.rosters.clone()).unwrap_or_default();
        let ended = state.tenure.ended();
        let latest = state.tenure.latest(now).unwrap_or(u64::MAX);
        Own::begin(&self.config, (state.tenure.name(), rosters), &state.memo, (now, ended, latest))
    }

    /// Without the gate.
    fn frame(&self, state: &State) -> Frame {
        let until =
            state.tenure.view().map_or(0, |view| view.until(state.tenure.name(), micros(self.config.member_lease)));
        Frame {
            scripts: state.scripts.clone(),
            until,
            given: self.given(),
            cluster: self.config.cluster,
            others: state.others.clone(),
        }
    }

    /// To put things back: the view of the others is not asked for.
    pub(super) fn frame_to_restore(&self) -> Frame {
        Frame { until: scripts::FOREVER, ..self.frame(&self.state()) }
    }

    fn given(&self) -> Option<u64> {
        self.given.as_ref().map(|given| given.load(Ordering::Relaxed))
    }

    pub(super) fn name(&self) -> String {
        self.state().tenure.name().into()
    }

    /// So many slots' ids in a row; the first.
    pub(super) fn slot_ids(&self, count: u64) -> SlotId {
        let number = self.slot_last.fetch_add(count, Ordering::Relaxed) + 1;
        SlotId(u128::from(self.slot_epoch) << 64 | u128::from(number))
    }

    /// Looks at, or notes in, what is remembered. `now` is Redis' clock, at the latest.
    pub(super) fn memo<T>(&self, act: impl FnOnce(&mut Memo, u64) -> T) -> T {
        let own_now = self.now();
        let mut state = self.state();
        let now = self.given().or_else(|| state.tenure.latest(own_now)).unwrap_or(0);
        act(&mut state.memo, now)
    }

    /// Where Redis does not answer for a slot: whether it stays with this node for another ttl, whether Redis comes back
    /// before the lease has ended or not. Those that last longest do, as many as the node's share; that is promised, and
    /// held to when the share begins, or made known to Redis before the lease is renewed.
    pub(super) fn keeps(&self, key: &str, slot: SlotId, ttl_micros: u64) -> bool {
        let own_now = self.now();
        let mut state = self.state();
        let State { tenure, memo, .. } = &mut *state;
        let (Some(view), Some(latest)) = (tenure.view(), tenure.latest(own_now)) else { return false };
        let Some(holding) = memo.holding(key) else { return false };
        let ordered = holding.ordered(latest);
        let Some(place) = ordered.iter().position(|(other, held)| *other == slot && !held.ending) else { return false };
        let until = ordered[place].1.until_micros();
        match tenure.standing(own_now) {
            // What lasts until then is put back.
            Standing::Closed => until > latest + ttl_micros / 2,
            Standing::Never | Standing::Own => false,
            Standing::Shared | Standing::Limbo => {
                let share = view.rosters.own_slots(tenure.name(), key, holding.limit);
                let keeps = place < share as usize && tenure.outlasts_lease(until);
                if keeps {
                    memo.promise(key, slot, own_now + ttl_micros);
                }
                keeps
            }
        }
    }

    pub(super) fn own(&self) -> Option<Arc<Own>> {
        match &self.state().phase {
            Phase::Following => None,
            Phase::Own(own) | Phase::Returning(own) => Some(own.clone()),
        }
    }

    /// Redis is told later of what it could not be told now, as long as that is no more than `most` in all.
    pub(super) fn release_later(&self, places: impl Iterator<Item = Place>, most: usize) {
        let mut state = self.state();
        let room = most.saturating_sub(state.unreleased.len());
        state.unreleased.extend(places.take(room));
    }

    /// Redis did not answer: another turn is taken at once.
    pub(super) fn lost(&self, away: Away) {
        self.note_lost(away);
        self.wake.notify_one();
    }

    pub(super) fn note_lost(&self, Away(reason): Away) {
        let mut state = self.state();
        state.tenure.lost();
        state.reason = reason;
        drop(state);
        self.tell();
    }

    /// Why Redis does not decide.
    pub(super) fn reason(&self) -> String {
        self.state().reason.clone()
    }

    /// Says on the board and in the gauges where the node stands.
    pub(super) fn tell(&self) {
        let now = self.now();
        let state = self.state();
        let standing = state.tenure.standing(now);
        let told = match (&state.phase, standing) {
            (Phase::Own(own) | Phase::Returning(own), _) => {
                Err(format!("{}; limits hold by this node's share, one of {}", state.reason, own.node_count()))
            }
            (Phase::Following, Standing::Shared) => Ok(()),
            (Phase::Following, Standing::Never) => {
                Err(format!("{}; nothing that is limited is granted until Redis was reached once", state.reason))
            }
            (Phase::Following, Standing::Closed) => Err("what Redis does not know is put back".to_string()),
            (Phase::Following, Standing::Limbo | Standing::Own) => {
                Err(format!("{}; nothing is granted until this node's lease has ended", state.reason))
            }
        };
        self.gauges.degraded.set(told.is_err().into());
        self.gauges.keys.set(i64::try_from(state.memo.key_count()).unwrap_or(i64::MAX));
        drop(state);
        self.host.health.set(service::NAME, "store", told);
    }

    /// This node's own clock.
    pub(super) fn now(&self) -> u64 {
        // From 1: there is no answer from before.
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Returns once all that passed the gate have their answers; nobody passes it meanwhile.
    pub(super) async fn quiet<T>(&self, act: impl FnOnce() -> T) -> T {
        let _gate = self.gate.write().await;
        act()
    }

    pub(super) fn begin_return(&self, own: &Arc<Own>) {
        self.state().phase = Phase::Returning(own.clone());
    }

    /// From now on this node begins no share; false: it is on its share already.
    pub(super) fn stop_sharing(&self) -> bool {
        let mut state = self.state();
        let follows = matches!(state.phase, Phase::Following);
        if follows {
            state.stopping = true;
            state.tenure.leave();
        }
        follows
    }

    /// All is put back: Redis decides as soon as the lease is renewed.
    pub(super) fn end_return(&self, epoch: u64) {
        let mut state = self.state();
        state.phase = Phase::Following;
        state.tenure.restored(epoch);
    }

    pub(super) fn epochs(&self) -> (u64, u64) {
        let state = self.state();
        (state.tenure.view().map_or(0, |view| view.epoch), state.tenure.restored_epoch())
    }

    pub(super) fn set_scripts(&self, scripts: Arc<Scripts>) {
        self.state().scripts = scripts;
    }

    /// Redis' clock, at the latest, and this node's.
    pub(super) fn latest(&self) -> (u64, u64) {
        let now = self.now();
        (self.state().tenure.latest(now).unwrap_or(0), now)
    }

    pub(super) fn tick(&self) -> Duration {
        self.config.member_lease / 5
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
