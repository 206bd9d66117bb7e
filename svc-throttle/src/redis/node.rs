//! This node among those that share Redis: who decides now, and how it comes back after Redis was away or lost its state.
//!
//! The locks are std's, held for a look or a note and never over an await. The one that is tokio's is a gate: asks pass it
//! for as long as their answer is on the way, so that what is put back into Redis is all that was ever given.

use super::memo::Memo;
use super::own::Own;
use super::scripts::{self, Frame, Others, Scripts};
use super::wire::{Away, Call, Item, Refused, Script, Wire};
use crate::config::Config;
use crate::lease::SlotId;
use crate::memory::Memory;
use crate::service;
use crate::share::{Roster, Rosters};
use crate::store::Place;
use crate::tenure::{Member, Standing, Tenure, View};
use godwit_kit::Host;
use godwit_kit::metrics::Gauge;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

/// How soon to ask again while what Redis lost is put back.
const CLOSED_WAIT: Duration = Duration::from_millis(100);
/// And where Redis was never reached.
const NEVER_WAIT: Duration = Duration::from_secs(1);
const LIMBO_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// Releases that Redis has not heard of. Those beyond run out by themselves.
const UNRELEASED_MAX: usize = 10_000;

pub struct Node {
    pub(super) wire: Wire,
    pub(super) config: Config,
    host: Host,
    /// Limits that are one node's own.
    pub(super) local: Arc<Memory>,
    state: Mutex<State>,
    gate: Arc<RwLock<()>>,
    /// How many turns were taken. One at a time.
    turns: tokio::sync::Mutex<u64>,
    turns_seen: AtomicU64,
    wake: Arc<Notify>,
    began: Instant,
    process: String,
    roster: Arc<Script>,
    slot_last: AtomicU64,
    slot_epoch: u64,
    /// The time that limits count by instead of Redis'.
    given: Option<Arc<AtomicU64>>,
    gauges: Gauges,
}

struct Gauges {
    degraded: Gauge,
    keys: Gauge,
    members: Gauge,
}

struct State {
    tenure: Tenure,
    memo: Memo,
    phase: Phase,
    scripts: Arc<Scripts>,
    others: Arc<Others>,
    /// A lease was granted to this process once.
    joined: bool,
    stopping: bool,
    reason: String,
    unreleased: Vec<Place>,
}

/// Who decides where Redis does not.
enum Phase {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Join,
    Renew,
    Leave,
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
        };
        let node = Arc::new(Self {
            wire: Wire::open(&config, &host.metrics)?,
            local: Arc::new(Memory::new(&config, host.clock.clone())),
            config,
            host: host.clone(),
            state: Mutex::new(state),
            gate: Arc::default(),
            turns: tokio::sync::Mutex::new(0),
            turns_seen: AtomicU64::new(0),
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
        tokio::spawn(keep(Arc::downgrade(&node), node.wake.clone()));
        host.stop.spawn(leave_at_stop(Arc::downgrade(&node), host.clone()));
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
        let latest = state.tenure.latest(now).unwrap_or(u64::MAX);
        Own::begin(&self.config, (state.tenure.name(), rosters), &state.memo, latest)
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

    /// Whether a slot stays with this node, whether Redis comes back before the lease has ended or not: those that last
    /// longest do, as many as its share.
    pub(super) fn keeps(&self, key: &str, slot: SlotId) -> bool {
        let own_now = self.now();
        let state = self.state();
        let tenure = &state.tenure;
        let (Some(view), Some(latest)) = (tenure.view(), tenure.latest(own_now)) else { return false };
        let Some(holding) = state.memo.holding(key) else { return false };
        let ordered = holding.ordered(self.given().unwrap_or(latest));
        let Some(place) = ordered.iter().position(|(other, held)| *other == slot && !held.ending) else { return false };
        match tenure.standing(own_now) {
            Standing::Closed => true,
            Standing::Never | Standing::Own => false,
            Standing::Shared | Standing::Limbo => {
                let share = view.rosters.own_slots(tenure.name(), key, holding.limit);
                place < share as usize && tenure.outlasts_lease(ordered[place].1.until_micros())
            }
        }
    }

    pub(super) fn own(&self) -> Option<Arc<Own>> {
        match &self.state().phase {
            Phase::Following => None,
            Phase::Own(own) | Phase::Returning(own) => Some(own.clone()),
        }
    }

    /// Redis is told later of what it could not be told now.
    pub(super) fn release_later(&self, places: &[Place]) {
        let mut state = self.state();
        let room = UNRELEASED_MAX.saturating_sub(state.unreleased.len());
        state.unreleased.extend(places.iter().take(room).cloned());
    }

    /// Redis did not answer: another turn is taken at once.
    pub(super) fn lost(&self, away: Away) {
        self.note_lost(away);
        self.wake.notify_one();
    }

    fn note_lost(&self, Away(reason): Away) {
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

    /// Renews the lease and the view, and puts back what is to be put back. `lost_in` is the epoch in which Redis was found
    /// to have lost something.
    pub(super) async fn turn(&self, lost_in: Option<u64>) {
        let before = self.turns_seen.load(Ordering::Acquire);
        let mut turns = self.turns.lock().await;
        let is_news = lost_in.is_some_and(|epoch| self.state().tenure.view().is_some_and(|view| view.epoch == epoch));
        if self.turns_seen.load(Ordering::Acquire) != before && !is_news {
            return;
        }
        let taken = self.take_turn(lost_in.filter(|_| is_news)).await;
        *turns += 1;
        self.turns_seen.store(*turns, Ordering::Release);
        match taken {
            Ok(()) => self.tell(),
            Err(away) => self.note_lost(away),
        }
    }

    async fn take_turn(&self, mut lost_in: Option<u64>) -> Result<(), Away> {
        if self.state().tenure.view().is_none() {
            self.ask_roster(Mode::Look, lost_in.take()).await?;
        }
        let (mode, own) = {
            let state = self.state();
            match &state.phase {
                Phase::Own(own) | Phase::Returning(own) => (Mode::Look, Some(own.clone())),
                Phase::Following => (state.mode(), None),
            }
        };
        self.ask_roster(mode, lost_in).await?;
        let restored = {
            let state = self.state();
            let epoch = state.tenure.view().map_or(0, |view| view.epoch);
            own.is_none() && state.tenure.restored_epoch() == epoch
        };
        if !restored {
            self.restore(own).await?;
            let mode = self.state().mode();
            self.ask_roster(mode, None).await?;
        }
        self.release_unreleased().await
    }

    async fn release_unreleased(&self) -> Result<(), Away> {
        let places = std::mem::take(&mut self.state().unreleased);
        if places.is_empty() {
            return Ok(());
        }
        let frame = self.frame_to_restore();
        let calls: Vec<Call> = places.iter().map(|place| frame.release(&place.key, &[place.slot])).collect();
        self.wire.run(&calls).await.map(drop)
    }

    /// Asks the script on the nodes, and notes what it says.
    async fn ask_roster(&self, mode: Mode, lost_in: Option<u64>) -> Result<(), Away> {
        let sent = self.now();
        let (mut call, known) = {
            let mut state = self.state();
            let lease_end = match mode {
                Mode::Look | Mode::Leave => 0,
                Mode::Join | Mode::Renew => state.tenure.lease_to_ask(sent),
            };
            let view = state.tenure.view().cloned().unwrap_or_default();
            let asked = (mode, lease_end, lost_in.unwrap_or(0));
            (self.roster_call(&state, &view, asked), view.epoch)
        };
        let answer = match self.wire.run(std::slice::from_ref(&call)).await?.remove(0) {
            Err(Refused::NoScript) => {
                call.args[8] = known.to_string();
                self.wire.run_text(&call).await?
            }
            answer => answer,
        };
        let items = match answer {
            Ok(Item::List(items)) => items,
            Ok(other) => return Err(Away(format!("{}: {other:?}", self.wire.address()))),
            Err(refused) => return Err(Away(format!("{}: {refused:?}", self.wire.address()))),
        };
        let (mine, view) = read_view(&items).ok_or_else(|| Away(format!("{}: not a roster", self.wire.address())))?;
        if !mine {
            self.state().tenure.leave();
            return Err(Away(format!("another process runs as {}", self.name())));
        }
        let mut state = self.state();
        if !state.stopping {
            state.tenure.stay();
        }
        state.joined |= mode == Mode::Join;
        let name = state.tenure.name().to_string();
        let stale = view.stale(&name).map(String::from).collect();
        state.others = Arc::new(Others { rosters: view.rosters.clone(), stale, count: view.members.len() });
        self.gauges.members.set(i64::try_from(view.members.len()).unwrap_or(i64::MAX));
        state.tenure.heard(view, (sent, self.now()));
        Ok(())
    }

    fn roster_call(&self, state: &State, view: &View, (mode, lease_end, lost_in): (Mode, u64, u64)) -> Call {
        let mode = match mode {
            Mode::Look => "look",
            Mode::Join => "join",
            Mode::Renew => "renew",
            Mode::Leave => "leave",
        };
        let mut args = vec![mode.to_string(), state.tenure.name().into(), self.process.clone()];
        let numbers = [
            lease_end,
            micros(self.config.member_lease),
            micros(self.config.forget_after),
            view.rosters.seen(),
            state.tenure.restored_epoch(),
            lost_in,
            view.epoch,
        ];
        args.extend(numbers.map(|number| number.to_string()));
        let none = Roster::default();
        for roster in [&view.rosters.agreed, view.rosters.next.as_ref().unwrap_or(&none)] {
            args.extend([roster.version.to_string(), roster.names.len().to_string()]);
            args.extend(roster.names.iter().cloned());
        }
        args.push(view.members.len().to_string());
        args.extend(view.members.iter().flat_map(|member| [member.name.clone(), member.lease_end.to_string()]));
        Call { script: self.roster.clone(), keys: scripts::roster_keys(), args }
    }

    /// Says on the board and in the gauges where the node stands.
    fn tell(&self) {
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

    /// Redis' clock, at the earliest.
    pub(super) fn earliest(&self) -> u64 {
        let now = self.now();
        self.state().tenure.earliest(now).unwrap_or(0)
    }

    /// Renews the lease while much is put back.
    pub(super) async fn renew(&self) -> Result<(), Away> {
        let mode = self.state().mode();
        self.ask_roster(mode, None).await
    }

    pub(super) fn tick(&self) -> Duration {
        self.config.member_lease / 5
    }

    /// Until the next turn is due.
    fn pause(&self) -> Duration {
        let now = self.now();
        match self.state().tenure.standing(now) {
            Standing::Shared => self.tick(),
            Standing::Closed => self.tick() / 10,
            Standing::Never | Standing::Limbo | Standing::Own => self.tick() / 2,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mode(&self) -> Mode {
        match (self.stopping, self.joined) {
            (true, _) => Mode::Look,
            (false, false) => Mode::Join,
            (false, true) => Mode::Renew,
        }
    }
}

/// Takes turns until the store is dropped.
async fn keep(node: Weak<Node>, wake: Arc<Notify>) {
    let mut pruned = Instant::now();
    while let Some(node) = node.upgrade() {
        node.turn(None).await;
        if pruned.elapsed() >= node.config.prune_interval {
            pruned = Instant::now();
            node.memo(|memo, now| memo.prune(now));
            node.local.prune();
        }
        let pause = node.pause();
        drop(node);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wake.notified() => {}
        }
    }
}

/// A node that stops leaves its share to the others at once; Redis goes on deciding for what it still asks.
async fn leave_at_stop(node: Weak<Node>, host: Host) {
    host.stop.requested().await;
    let Some(node) = node.upgrade() else { return };
    let _turn = node.turns.lock().await;
    {
        let mut state = node.state();
        state.stopping = true;
        state.tenure.leave();
    }
    if let Err(Away(reason)) = node.ask_roster(Mode::Leave, None).await {
        tracing::warn!(reason, "the other nodes are not told that this one stops: they keep its share for a while");
    }
}

fn read_view(items: &[Item]) -> Option<(bool, View)> {
    let [mine, now, epoch, open] = scripts::numbers(items)?;
    let roster = |place: usize| -> Option<Roster> {
        let Item::List(names) = items.get(place + 1)? else { return None };
        let names = names.iter().map(text).collect::<Option<Vec<_>>>()?;
        Some(Roster { version: scripts::number(items.get(place)?)?, names })
    };
    let (agreed, next) = (roster(4)?, roster(6)?);
    let rosters = Rosters { agreed, next: Some(next).filter(|next| next.version > 0) };
    let member = |pair: &[Item]| Some(Member { name: text(&pair[0])?, lease_end: scripts::number(&pair[1])? });
    let members = items.get(8..)?.chunks_exact(2).map(member).collect::<Option<Vec<_>>>()?;
    Some((mine == 1, View { epoch, open: open == 1, rosters, members, now }))
}

fn text(item: &Item) -> Option<String> {
    match item {
        Item::Text(text) => Some(text.clone()),
        Item::Nil | Item::Int(_) | Item::List(_) => None,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
