//! This node on its own share: what decides while Redis is away and the node's lease has ended.
//!
//! A rate's share begins with a debt of its whole burst, since of what others took before nothing is known. Of slots the
//! node goes on with those that it holds, as far as its share goes; what it holds beyond ends when Redis would let it go. It
//! gives new ones up to what it held at first, and up to its share once every slot that others may have kept while they had
//! the whole has run out.

use super::memo::Memo;
use crate::bucket::{Bucket, Rate};
use crate::config::Config;
use crate::error::Error;
use crate::lease::{Held, Slots};
use crate::memory::Memory;
use crate::share::{Part, Rosters};
use crate::store::{Beat, Limit, Place, SlotAnswer, SlotAsk, Store};
use crate::take::{Offer, Step};
use godwit_kit::clock::Clock;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// How soon to ask again where the node has no share at all.
const NO_SHARE_MICROS: u64 = 1_000_000;

pub struct Own {
    name: String,
    rosters: Rosters,
    memory: Memory,
    began_micros: u64,
    /// By key.
    held_at_first: HashMap<String, u32>,
    given: Mutex<Given>,
}

/// Limits as the callers give them, which are what Redis counts by.
#[derive(Default)]
struct Given {
    rates: HashMap<Box<str>, Rate>,
    slots: HashMap<Box<str>, u32>,
}

/// What a rate owes when the node comes back.
pub struct Owed {
    pub key: Box<str>,
    /// The whole rate.
    pub rate: Rate,
    bucket: Bucket,
    now: u64,
}

impl Owed {
    /// This node's part of the rate.
    pub fn own(&self) -> Part {
        Part { limit: self.bucket.rate().limit, burst: self.bucket.rate().burst }
    }

    /// In units of which a token has `weight`.
    pub fn units(&self, weight: u64) -> u64 {
        self.bucket.debt(weight, self.now)
    }
}

/// What is held of a key when the node comes back: the slots with how long they last, still.
pub struct Holds {
    pub key: Box<str>,
    pub limit: u32,
    pub held: Slots,
}

impl Own {
    /// Begins now: by this node's clock, and at the latest by Redis'. The lease has surely `ended` by then.
    pub fn begin(
        config: &Config,
        (name, rosters): (&str, Rosters),
        memo: &Memo,
        (now, ended, latest): (u64, u64, u64),
    ) -> Self {
        // Only differences count, and never go back.
        let memory = Memory::taking_over(config, Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_000_000)));
        let began_micros = memory.now();
        let mut held_at_first = HashMap::new();
        let mut given = Given::default();
        for (key, holding) in memo.holdings() {
            let share = rosters.own_slots(name, key, holding.limit) as usize;
            // Those that were held when the lease ended, whatever has run out since.
            let slots = holding.ordered(ended);
            held_at_first.insert(key.to_string(), u32::try_from(slots.len()).unwrap_or(u32::MAX));
            given.slots.insert(key.into(), holding.limit);
            for (place, (slot, held)) in slots.into_iter().enumerate() {
                let lasts = held.until_micros().saturating_sub(latest);
                let until = began_micros + lasts.max(memo.promised(key, slot).saturating_sub(now));
                let ending = held.ending || place >= share;
                memory.restore(key, slot, Held::new(&held.holder, (until, held.ttl_micros()), ending));
            }
        }
        Self { name: name.into(), rosters, memory, began_micros, held_at_first, given: Mutex::new(given) }
    }

    /// Of how many nodes.
    pub fn node_count(&self) -> usize {
        self.rosters.agreed.names.len()
    }

    pub fn step(&self, offer: Offer<'_>) -> Result<Step, Error> {
        let limit = offer.limit;
        let Some(rate) = self.rosters.own_rate(&self.name, &limit.key, limit.rate) else {
            return Ok(Step::Wait { micros: NO_SHARE_MICROS });
        };
        let share = Limit { rate, ..limit.clone() };
        let step = self.memory.step(Offer { limit: &share, ..offer }, self.memory.now())?;
        self.given().rates.insert(limit.key.as_str().into(), limit.rate);
        Ok(step)
    }

    pub fn refund(&self, key: &str, count: u64) {
        self.memory.refund_one(key, count, self.memory.now());
    }

    pub async fn acquire_slots(&self, asks: &[&SlotAsk]) -> Result<Vec<SlotAnswer>, Error> {
        let asks: Vec<SlotAsk> =
            asks.iter().map(|ask| SlotAsk { limit: self.slots_now(ask), ..(*ask).clone() }).collect();
        let answers = self.memory.acquire_slots(&asks).await?;
        Ok(answers.into_iter().map(|answer| SlotAnswer { degraded: true, ..answer }).collect())
    }

    /// How many slots of the ask's key this node may hold.
    fn slots_now(&self, ask: &SlotAsk) -> u32 {
        self.given().slots.insert(ask.key.as_str().into(), ask.limit);
        let share = self.rosters.own_slots(&self.name, &ask.key, ask.limit);
        let others_last = u64::try_from(ask.ttl.as_micros()).unwrap_or(u64::MAX);
        if self.memory.now() >= self.began_micros.saturating_add(others_last) {
            return share;
        }
        share.min(self.held_at_first.get(&ask.key).copied().unwrap_or(0))
    }

    pub async fn heartbeat(&self, slots: &[Place], ttl: Duration) -> Result<Vec<Beat>, Error> {
        self.memory.heartbeat(slots, ttl).await
    }

    pub async fn release(&self, slots: &[Place]) -> Result<(), Error> {
        self.memory.release(slots).await
    }

    /// To list and to inspect.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn owed(&self) -> Vec<Owed> {
        let (now, given) = (self.memory.now(), self.given());
        let owed = |(key, bucket): (Box<str>, Bucket)| Some(Owed { rate: *given.rates.get(&key)?, key, bucket, now });
        self.memory.buckets().into_iter().filter(|(_, bucket)| !bucket.is_idle(now)).filter_map(owed).collect()
    }

    /// `now` is by Redis' clock.
    pub fn holds(&self, now: u64) -> Vec<Holds> {
        let own_now = self.memory.now();
        let given = self.given();
        let holds = |(key, held): (Box<str>, Slots)| {
            let limit = given.slots.get(&key).copied().unwrap_or(0);
            let held = held.into_iter().map(|(slot, held)| {
                let until = now + held.until_micros().saturating_sub(own_now);
                (slot, Held::new(&held.holder, (until, held.ttl_micros()), held.ending))
            });
            Holds { key, limit, held: held.collect() }
        };
        self.memory.held().into_iter().map(holds).collect()
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
