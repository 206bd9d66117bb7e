//! Keys as they stand: in Redis, beside this node's own.

use super::node::{Decider, Node};
use super::scripts::{Frame, Undone, limit_of, number, numbers, pattern, said};
use super::wire::{Call, Item};
use crate::bucket::Rate;
use crate::error::Error;
use crate::store::{After, State, Store, Summary};
use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

impl Node {
    pub(super) async fn list(&self, prefix: &str, after: Option<&After>, count: usize) -> Result<Vec<Summary>, Error> {
        let mut all = self.local.list(prefix, after, count).await?;
        match self.decider() {
            Decider::Shared(frame, gate) => {
                drop(gate);
                all.extend(self.list_shared(&frame, (prefix, after), count).await?);
            }
            Decider::Own(own, _gate) => all.extend(own.memory().list(prefix, after, count).await?),
            Decider::Nobody(_) => return Err(self.away()),
        }
        all.sort_by_cached_key(place);
        all.truncate(count);
        Ok(all)
    }

    /// Looks through all keys, and remembers no more of them than the page holds: there may be a million.
    async fn list_shared(
        &self,
        frame: &Frame,
        (prefix, after): (&str, Option<&After>),
        count: usize,
    ) -> Result<Vec<Summary>, Error> {
        let mut page: BTreeSet<After> = BTreeSet::new();
        let scanned = |names: Vec<String>| {
            let limits = names.iter().filter_map(|name| limit_of(name));
            let places = limits.map(|(key, slots)| After { key: key.into(), slots });
            for place in places.filter(|place| after.is_none_or(|after| after < place)) {
                page.insert(place);
                if page.len() > count {
                    page.pop_last();
                }
            }
        };
        self.wire.scan(&pattern(prefix), scanned).await.map_err(|away| self.failed(away))?;
        let places: Vec<After> = page.into_iter().collect();
        let call = |place: &After| match place.slots {
            true => frame.look_slots(&place.key),
            false => frame.look_rate(&place.key),
        };
        let calls: Vec<Call> = places.iter().map(call).collect();
        let summaries = self.looked(&calls).await?;
        Ok(places.into_iter().zip(summaries).filter_map(|(place, items)| summary(&place, &items)).collect())
    }

    pub(super) async fn inspect(&self, key: &str) -> Result<Summary, Error> {
        if let Ok(summary) = self.local.inspect(key).await {
            return Ok(summary);
        }
        let frame = match self.decider() {
            Decider::Shared(frame, _gate) => frame,
            Decider::Own(own, _gate) => return own.memory().inspect(key).await,
            Decider::Nobody(_) => return Err(self.away()),
        };
        let places = [true, false].map(|slots| After { key: key.into(), slots });
        let said = self.looked(&[frame.look_slots(key), frame.look_rate(key)]).await?;
        let found = places.iter().zip(&said).find_map(|(place, items)| summary(place, items));
        found.ok_or_else(|| Error::Unknown { key: key.into() })
    }

    /// Where Redis does not answer nothing is forgotten: it would come back with what is put back.
    pub(super) async fn reset(&self, keys: &[String]) -> Result<u64, Error> {
        let Decider::Shared(frame, _gate) = self.decider() else { return Err(self.away()) };
        let calls: Vec<Call> = keys.iter().flat_map(|key| [frame.reset_rate(key), frame.reset_slots(key)]).collect();
        let said = self.looked(&calls).await?;
        let mut reset_count = 0;
        for (key, said) in keys.iter().zip(said.chunks(2)) {
            self.memo(|memo, _| memo.forget(key));
            let was_there = said.iter().any(|items| items.first().and_then(number).is_some_and(|gone| gone > 0));
            let was_local = self.local.reset(std::slice::from_ref(key)).await? > 0;
            reset_count += u64::from(was_there || was_local);
        }
        Ok(reset_count)
    }

    async fn looked(&self, calls: &[Call]) -> Result<Vec<Vec<Item>>, Error> {
        let answers = self.wire.run(calls).await.map_err(|away| self.failed(away))?;
        let told = |undone| Error::Away {
            reason: match undone {
                Undone::Refused(reason) => reason,
                Undone::Epoch | Undone::Lapsed | Undone::Lost => "the nodes are changing: ask again".into(),
            },
        };
        answers.into_iter().map(|answer| said(answer).map_err(told)).collect()
    }

    fn failed(&self, away: super::wire::Away) -> Error {
        self.lost(away.clone());
        Error::Away { reason: away.0 }
    }

    fn away(&self) -> Error {
        Error::Away { reason: self.reason() }
    }
}

fn place(summary: &Summary) -> After {
    let slots = matches!(summary.state, State::Slots { .. });
    After { key: summary.key.clone(), slots }
}

/// `None`: it has gone meanwhile.
fn summary(place: &After, items: &[Item]) -> Option<Summary> {
    let state = if place.slots {
        let [limit, held, waiters] = numbers(items)?;
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let name = |item: &Item| match item {
            Item::Text(name) => name.clone(),
            Item::Nil | Item::Int(_) | Item::List(_) => String::new(),
        };
        let mut holders: Vec<String> = items[3..].iter().map(name).collect();
        holders.sort_unstable();
        State::Slots {
            limit: narrow(limit),
            free_count: narrow(limit.saturating_sub(held)),
            held_count: narrow(held),
            waiter_count: narrow(waiters),
            holders,
        }
    } else {
        let [limit, period_micros, burst, free_count, empty_until] = numbers(items)?;
        let empty_until = (empty_until > 0).then(|| UNIX_EPOCH + Duration::from_micros(empty_until));
        State::Rate { rate: Rate { limit, period_micros, burst }, free_count, empty_until }
    };
    Some(Summary { key: place.key.clone(), state })
}
