//! Counted slots: the asks of one key in one call, all keys in one trip to Redis; or on this node's share, or nobody's.

use super::node::{Decider, Node, UNRELEASED_MAX, micros};
use super::rates::{TRIES, worse};
use super::scripts::{Frame, Undone, numbers, said};
use super::wire::{Call, Item};
use crate::error::Error;
use crate::lease::{Held, SlotId};
use crate::store::{Beat, Place, SlotAnswer, SlotAsk, Store};
use std::collections::BTreeMap;
use std::time::Duration;

/// The asks, or the slots, of one key, by their places in the batch.
struct Group {
    key: String,
    places: Vec<usize>,
}

fn by_key<'a>(keys: impl Iterator<Item = (usize, &'a str)>) -> Vec<Group> {
    let mut by_key: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, key) in keys {
        by_key.entry(key).or_default().push(place);
    }
    by_key.into_iter().map(|(key, places)| Group { key: key.into(), places }).collect()
}

impl Node {
    pub(super) async fn acquire_slots(&self, asks: &[SlotAsk]) -> Result<Vec<SlotAnswer>, Error> {
        let groups = by_key(asks.iter().enumerate().filter(|(_, ask)| !ask.local).map(|(at, ask)| (at, &*ask.key)));
        self.memo(|memo, now| memo.admit(groups.iter().map(|group| &*group.key), true, now))?;
        let mut answers: Vec<Option<SlotAnswer>> = vec![None; asks.len()];
        let local: Vec<SlotAsk> = asks.iter().filter(|ask| ask.local).cloned().collect();
        let given = self.local.acquire_slots(&local).await?;
        let places = asks.iter().enumerate().filter(|(_, ask)| ask.local).map(|(place, _)| place);
        places.zip(given).for_each(|(place, answer)| answers[place] = Some(answer));

        let mut wait = Duration::from_millis(50);
        for _ in 0..TRIES {
            if groups.is_empty() {
                break;
            }
            match self.decider() {
                Decider::Shared(frame, gate) => {
                    let undone = self.hold(&frame, asks, &groups, &mut answers).await;
                    drop(gate);
                    match undone {
                        None => break,
                        Some(undone) => self.again(undone, frame.scripts.epoch).await,
                    }
                }
                Decider::Own(own, _gate) => {
                    let open: Vec<usize> = (0..asks.len()).filter(|place| answers[*place].is_none()).collect();
                    let wanted: Vec<&SlotAsk> = open.iter().map(|place| &asks[*place]).collect();
                    let given = own.acquire_slots(&wanted).await?;
                    open.into_iter().zip(given).for_each(|(place, answer)| answers[place] = Some(answer));
                    break;
                }
                Decider::Nobody(again) => {
                    wait = again;
                    break;
                }
            }
        }
        let undecided = |ask: &SlotAsk| SlotAnswer {
            slots: Vec::new(),
            place: u32::from(ask.count > 0),
            wait,
            turned_away: false,
            degraded: true,
        };
        Ok(asks.iter().zip(answers).map(|(ask, answer)| answer.unwrap_or_else(|| undecided(ask))).collect())
    }

    /// Asks Redis for those that have no answer yet; the worst of what it did not do.
    async fn hold(
        &self,
        frame: &Frame,
        asks: &[SlotAsk],
        groups: &[Group],
        answers: &mut [Option<SlotAnswer>],
    ) -> Option<Undone> {
        let name = self.name();
        let open: Vec<&Group> = groups.iter().filter(|group| answers[group.places[0]].is_none()).collect();
        let call = |Group { key, places }: &&Group| {
            let asks: Vec<&SlotAsk> = places.iter().map(|place| &asks[*place]).collect();
            let first = self.slot_ids(asks.iter().map(|ask| u64::from(ask.count)).sum());
            let known = self.memo(|memo, now| memo.holds_still(key, now));
            (first, frame.hold(&asks, first, self.config.waiters_max, (&name, known)))
        };
        let (firsts, calls): (Vec<SlotId>, Vec<Call>) = open.iter().map(call).unzip();
        let said_all = match self.wire.run(&calls).await {
            Ok(answers) => answers,
            Err(away) => {
                // They may have been given all the same, and nobody would ever let them go.
                open.iter().zip(firsts).for_each(|(group, first)| self.release_unknown(asks, group, first));
                self.lost(away);
                return Some(Undone::Lapsed);
            }
        };
        let mut worst = None;
        for ((group, first), answer) in open.into_iter().zip(firsts).zip(said_all) {
            match said(answer) {
                Ok(items) => self.note_held(asks, group, first, &items, answers),
                Err(undone) => worst = worse(worst, undone),
            }
        }
        worst
    }

    fn release_unknown(&self, asks: &[SlotAsk], Group { key, places }: &Group, first: SlotId) {
        let count: u128 = places.iter().map(|place| u128::from(asks[*place].count)).sum();
        let slot = |number| Place { key: key.clone(), local: false, slot: SlotId(first.0 + number) };
        self.release_later((0..count).map(slot), UNRELEASED_MAX / 2);
    }

    fn note_held(
        &self,
        asks: &[SlotAsk],
        Group { key, places }: &Group,
        first: SlotId,
        items: &[Item],
        answers: &mut [Option<SlotAnswer>],
    ) {
        let Some([now]) = numbers(items) else { return };
        let mut next = first.0;
        for (place, told) in places.iter().zip(items[1..].chunks(4)) {
            let (ask, Some([given, in_queue, wait, turned_away])) = (&asks[*place], numbers(told)) else { return };
            let slots: Vec<SlotId> = (0..given).map(|number| SlotId(next + u128::from(number))).collect();
            next += u128::from(given);
            let ttl = micros(ask.ttl);
            let held = || Held::new(&ask.holder, (now + ttl, ttl), false);
            self.memo(|memo, _| memo.holds(key, ask.limit, slots.iter().map(|slot| (*slot, held()))));
            answers[*place] = Some(SlotAnswer {
                slots,
                place: u32::try_from(in_queue).unwrap_or(u32::MAX),
                wait: Duration::from_micros(wait),
                turned_away: turned_away > 0,
                degraded: false,
            });
        }
    }

    pub(super) async fn heartbeat(&self, slots: &[Place], ttl: Duration) -> Result<Vec<Beat>, Error> {
        let mut beats: Vec<Option<Beat>> = vec![None; slots.len()];
        let local: Vec<Place> = slots.iter().filter(|slot| slot.local).cloned().collect();
        let kept = self.local.heartbeat(&local, ttl).await?;
        let locals = beats.iter_mut().zip(slots).filter(|(_, slot)| slot.local);
        locals.zip(kept).for_each(|((beat, _), kept)| *beat = Some(kept));

        let groups =
            by_key(slots.iter().enumerate().filter(|(_, slot)| !slot.local).map(|(at, slot)| (at, &*slot.key)));
        for _ in 0..TRIES {
            let Decider::Shared(frame, gate) = self.decider() else { break };
            let undone = self.beat(&frame, slots, (&groups, micros(ttl)), &mut beats).await;
            drop(gate);
            match undone {
                None => break,
                Some(undone) => self.again(undone, frame.scripts.epoch).await,
            }
        }
        if let Some(own) = self.own() {
            let open: Vec<usize> = (0..slots.len()).filter(|place| beats[*place].is_none()).collect();
            let asked: Vec<Place> = open.iter().map(|place| slots[*place].clone()).collect();
            let kept = own.heartbeat(&asked, ttl).await?;
            open.into_iter().zip(kept).for_each(|(place, beat)| beats[place] = Some(beat));
        }
        let undecided = |slot: &Place| Beat { kept: self.keeps(&slot.key, slot.slot, micros(ttl)), waiter_count: 0 };
        Ok(slots.iter().zip(beats).map(|(slot, beat)| beat.unwrap_or_else(|| undecided(slot))).collect())
    }

    async fn beat(
        &self,
        frame: &Frame,
        slots: &[Place],
        (groups, ttl): (&[Group], u64),
        beats: &mut [Option<Beat>],
    ) -> Option<Undone> {
        let open: Vec<&Group> = groups.iter().filter(|group| beats[group.places[0]].is_none()).collect();
        let call = |Group { key, places }: &&Group| {
            let ids: Vec<SlotId> = places.iter().map(|place| slots[*place].slot).collect();
            let known = self.memo(|memo, now| memo.holds_still(key, now));
            frame.beat(key, &ids, ttl, known)
        };
        let calls: Vec<Call> = open.iter().map(call).collect();
        let said_all = match self.wire.run(&calls).await {
            Ok(answers) => answers,
            Err(away) => {
                self.lost(away);
                return Some(Undone::Lapsed);
            }
        };
        let mut worst = None;
        for (Group { key, places }, answer) in open.into_iter().zip(said_all) {
            let items = match said(answer) {
                Ok(items) => items,
                Err(undone) => {
                    worst = worse(worst, undone);
                    continue;
                }
            };
            let Some([now, waiters]) = numbers(&items) else { continue };
            let waiter_count = u32::try_from(waiters).unwrap_or(u32::MAX);
            for (place, state) in places.iter().zip(&items[2..]) {
                let slot = slots[*place].slot;
                self.memo(|memo, _| match state {
                    Item::Int(1) => memo.keeps(key, slot, (now + ttl, ttl)),
                    Item::Int(2) => memo.ends(key, slot),
                    Item::Int(_) | Item::Nil | Item::Text(_) | Item::List(_) => memo.lets_go(key, slot),
                });
                beats[*place] = Some(Beat { kept: *state == Item::Int(1), waiter_count });
            }
        }
        worst
    }

    pub(super) async fn release(&self, slots: &[Place]) -> Result<(), Error> {
        let (local, shared): (Vec<Place>, Vec<Place>) = slots.iter().cloned().partition(|slot| slot.local);
        self.local.release(&local).await?;
        if shared.is_empty() {
            return Ok(());
        }
        if let Decider::Shared(frame, _gate) = self.decider() {
            let groups = by_key(shared.iter().enumerate().map(|(at, slot)| (at, &*slot.key)));
            let call = |Group { key, places }: &Group| {
                frame.release(key, &places.iter().map(|place| shared[*place].slot).collect::<Vec<_>>())
            };
            let calls: Vec<Call> = groups.iter().map(call).collect();
            self.let_go(&shared);
            match self.wire.run(&calls).await {
                Ok(answers) if answers.iter().all(|answer| said(answer.clone()).is_ok()) => return Ok(()),
                Ok(_) => {}
                Err(away) => self.lost(away),
            }
        }
        self.let_go(&shared);
        if let Some(own) = self.own() {
            own.release(&shared).await?;
        }
        self.release_later(shared.into_iter(), UNRELEASED_MAX);
        Ok(())
    }

    fn let_go(&self, slots: &[Place]) {
        self.memo(|memo, _| slots.iter().for_each(|slot| memo.lets_go(&slot.key, slot.slot)));
    }
}
