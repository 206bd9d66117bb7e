//! Turns: the node renews its lease and its view of the others, and puts back what is to be put back. One at a time: every
//! so often, and whenever a script shows that something has changed.

use super::node::{Node, Phase, State, micros};
use super::restore::PIECE;
use super::scripts::{self, Others};
use super::wire::{Away, Call, Item, Refused};
use crate::lease::SlotId;
use crate::share::{Roster, Rosters};
use crate::store::Place;
use crate::tenure::{Member, Standing, View};
use godwit_kit::Host;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the script on the nodes is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Look,
    Join,
    Renew,
    Leave,
}

impl Node {
    /// Renews the lease and the view, and puts back what is to be put back. `lost_in` is the epoch in which Redis was found
    /// to have lost something.
    pub(super) async fn turn(&self, lost_in: Option<u64>) {
        let before = self.turns_taken.load(Ordering::Acquire);
        let _turning = self.turning.lock().await;
        let is_news = lost_in.is_some_and(|epoch| self.state().tenure.view().is_some_and(|view| view.epoch == epoch));
        if self.turns_taken.load(Ordering::Acquire) != before && !is_news {
            return;
        }
        let taken = self.take_turn(lost_in.filter(|_| is_news)).await;
        self.turns_taken.fetch_add(1, Ordering::Release);
        match taken {
            Ok(()) => self.tell(),
            Err(away) => self.note_lost(away),
        }
    }

    async fn take_turn(&self, mut lost_in: Option<u64>) -> Result<(), Away> {
        if self.state().tenure.view().is_none() {
            self.ask_roster(Mode::Look, lost_in.take()).await?;
        }
        let (mode, own, promised) = {
            let state = self.state();
            match &state.phase {
                Phase::Own(own) | Phase::Returning(own) => (Mode::Look, Some(own.clone()), false),
                // What was promised is made known before others may take it.
                Phase::Following if state.memo.has_promises() => (Mode::Look, None, true),
                Phase::Following => (state.mode(), None, false),
            }
        };
        self.ask_roster(mode, lost_in).await?;
        let (epoch, restored) = self.epochs();
        if own.is_some() || promised || epoch != restored {
            self.restore(own).await?;
            let mode = self.state().mode();
            self.ask_roster(mode, None).await?;
        }
        self.release_unreleased().await
    }

    /// In pieces. The piece that fails is not tried again: its slots run out by themselves.
    async fn release_unreleased(&self) -> Result<(), Away> {
        loop {
            let piece: Vec<Place> = {
                let unreleased = &mut self.state().unreleased;
                let count = unreleased.len().min(PIECE);
                unreleased.drain(..count).collect()
            };
            if piece.is_empty() {
                return Ok(());
            }
            let mut by_key: BTreeMap<&str, Vec<SlotId>> = BTreeMap::new();
            piece.iter().for_each(|place| by_key.entry(&place.key).or_default().push(place.slot));
            let frame = self.frame_to_restore();
            let calls: Vec<Call> = by_key.iter().map(|(key, slots)| frame.release(key, slots)).collect();
            self.wire.run(&calls).await?;
        }
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
            Ok(other) => return Err(self.wire.away(&format!("a script said {other:?}"))),
            Err(refused) => return Err(self.wire.away(&refused.to_string())),
        };
        let (mine, view) = read_view(&items).ok_or_else(|| self.wire.away("not a roster"))?;
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
        self.gauges.shares.set(i64::try_from(view.rosters.share_count(&name)).unwrap_or(i64::MAX));
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

    /// Renews the lease while much is put back.
    pub(super) async fn renew(&self) -> Result<(), Away> {
        let mode = self.state().mode();
        self.ask_roster(mode, None).await
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
pub(super) async fn keep(node: Weak<Node>, wake: Arc<Notify>) {
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

/// A node that stops leaves its share to the others at once; Redis goes on deciding for what it still asks. One that is on
/// its share goes on with it to the end, and the others keep it.
pub(super) async fn leave_at_stop(node: Weak<Node>, host: Host) {
    host.stop.requested().await;
    let Some(node) = node.upgrade() else { return };
    node.turn(None).await;
    let _turning = node.turning.lock().await;
    if !node.stop_sharing() {
        return;
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
