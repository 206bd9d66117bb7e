//! The store in this process's memory: keys by hash over a few locks, a bounded number of them, those at rest forgotten.
//!
//! The locks are std's: each is held for one key's arithmetic and never over an await.

use crate::bucket::{Bucket, Verdict};
use crate::config::Config;
use crate::error::Error;
use crate::lease::{self, Held, SlotId, Slots, Table};
use crate::store::{After, Answer, Ask, Beat, Limit, Place, SlotAnswer, SlotAsk, State, Store, Summary, Taken};
use crate::take::{self, GiveBack, Offer, Step, Taking};
use godwit_kit::clock::Clock;
use godwit_proto::id::NodeId;
use std::collections::{BTreeMap, HashMap, hash_map::RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SHARDS: usize = 16;
/// How long a full store waits until it looks again for keys at rest.
const CROWDED_MICROS: u64 = 1_000_000;

pub struct Memory {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    clock: Clock,
    keys_max: usize,
    waiters_max: usize,
    key_count: AtomicUsize,
    pruned_at_micros: AtomicU64,
    /// The upper half of every slot's id: slots from before a restart are not mistaken for new ones.
    epoch: u64,
    slot_last: AtomicU64,
    /// Of rates that are new nothing is known before this: they begin with a debt of their whole burst.
    unknown_before_micros: Option<u64>,
}

#[derive(Default)]
struct Shard {
    rates: HashMap<Box<str>, Bucket>,
    slots: HashMap<Box<str>, Table>,
}

impl Memory {
    pub fn new(config: &Config, clock: Clock) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            clock,
            keys_max: config.keys_max,
            waiters_max: config.waiters_max,
            key_count: AtomicUsize::new(0),
            pruned_at_micros: AtomicU64::new(0),
            // The lower half of a UUIDv7 is random. 0 is no epoch, so that `SlotId(0)` is never a slot.
            epoch: (NodeId::new().0 as u64).max(1),
            slot_last: AtomicU64::new(0),
            unknown_before_micros: None,
        }
    }

    /// One whose rates have been in use elsewhere until now.
    pub fn taking_over(config: &Config, clock: Clock) -> Self {
        let memory = Self::new(config, clock);
        Self { unknown_before_micros: Some(memory.now()), ..memory }
    }

    /// Forgets keys without debt, holders and waiters.
    pub fn prune(&self) {
        let now = self.now();
        self.pruned_at_micros.store(now, Ordering::Relaxed);
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.rates.len() + shard.slots.len();
            shard.rates.retain(|_, bucket| !bucket.is_idle(now));
            shard.slots.retain(|_, table| {
                table.settle(now);
                !table.is_idle()
            });
            let gone = before - shard.rates.len() - shard.slots.len();
            self.key_count.fetch_sub(gone, Ordering::Relaxed);
        }
    }

    /// Rates and slots together.
    pub fn key_count(&self) -> usize {
        self.key_count.load(Ordering::Relaxed)
    }

    /// By the clock that counts here.
    pub fn now(&self) -> u64 {
        let since = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(key) as usize % SHARDS])
    }

    /// Counts one key more, where there is room or room can be made.
    fn admit(&self, now: u64) -> Result<(), Error> {
        let below = |count: usize| (count < self.keys_max).then_some(count + 1);
        let admit = || self.key_count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok();
        if admit() {
            return Ok(());
        }
        let pruned_at = self.pruned_at_micros.load(Ordering::Relaxed);
        if now.abs_diff(pruned_at) >= CROWDED_MICROS {
            self.prune();
        }
        if admit() { Ok(()) } else { Err(Error::Full { keys_max: self.keys_max }) }
    }

    /// Does `act` with the bucket of `limit`, made where it is new.
    fn with_bucket<T>(&self, limit: &Limit, now: u64, act: impl FnOnce(&mut Bucket) -> T) -> Result<T, Error> {
        if let Some(bucket) = self.shard(&limit.key).rates.get_mut(&*limit.key) {
            return Ok(act(bucket));
        }
        self.admit(now)?;
        let mut shard = self.shard(&limit.key);
        let before = shard.rates.len();
        let new = || match self.unknown_before_micros {
            None => Bucket::new(limit.rate, now),
            Some(began) => Bucket::full(limit.rate, began),
        };
        let answer = act(shard.rates.entry(limit.key.as_str().into()).or_insert_with(new));
        if shard.rates.len() == before {
            // Another call made it in between.
            self.key_count.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// As `with_bucket`, for slots.
    fn with_table<T>(&self, key: &str, now: u64, act: impl FnOnce(&mut Table) -> T) -> Result<T, Error> {
        if let Some(table) = self.shard(key).slots.get_mut(key) {
            return Ok(act(table));
        }
        self.admit(now)?;
        let mut shard = self.shard(key);
        let before = shard.slots.len();
        let answer = act(shard.slots.entry(key.into()).or_default());
        if shard.slots.len() == before {
            self.key_count.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// All limits of one ask or none, one after the other: not atomic over keys.
    fn take(&self, ask: &Ask, now: u64) -> Result<Taken, Error> {
        let mut taking = Taking::new(ask);
        while let Some(offer) = taking.offer() {
            match self.step(offer, now) {
                Ok(step) => self.give_back(ask, taking.answered(step), now),
                Err(error) => {
                    self.give_back(ask, taking.failed(), now);
                    return Err(error);
                }
            }
        }
        Ok(taking.taken())
    }

    /// What one limit gives.
    pub fn step(&self, offer: Offer<'_>, now: u64) -> Result<Step, Error> {
        self.with_bucket(offer.limit, now, |bucket| take_one(bucket, offer, now))
    }

    fn give_back(&self, ask: &Ask, backs: Vec<GiveBack>, now: u64) {
        for (place, count) in backs {
            self.refund_one(&ask.limits[place].key, count, now);
        }
    }

    pub fn refund_one(&self, key: &str, count: u64, now: u64) {
        if let Some(bucket) = self.shard(key).rates.get_mut(key) {
            bucket.refund(count, now);
        }
    }

    /// A slot that was given elsewhere.
    pub fn restore(&self, key: &str, slot: SlotId, held: Held) {
        let before = self.shard(key).slots.len();
        self.shard(key).slots.entry(key.into()).or_default().restore(slot, held);
        self.key_count.fetch_add(self.shard(key).slots.len() - before, Ordering::Relaxed);
    }

    /// Every rate with what it owes.
    pub fn buckets(&self) -> Vec<(Box<str>, Bucket)> {
        let of = |shard| lock(shard).rates.iter().map(|(key, bucket)| (key.clone(), *bucket)).collect::<Vec<_>>();
        self.shards.iter().flat_map(of).collect()
    }

    /// Every key's slots that are held now.
    pub fn held(&self) -> Vec<(Box<str>, Slots)> {
        let now = self.now();
        let mut all = Vec::new();
        for shard in &self.shards {
            for (key, table) in &mut lock(shard).slots {
                table.settle(now);
                all.push((key.clone(), table.held().map(|(slot, held)| (slot, held.clone())).collect()));
            }
        }
        all
    }

    fn slot_id(&self) -> SlotId {
        let number = self.slot_last.fetch_add(1, Ordering::Relaxed) + 1;
        SlotId(u128::from(self.epoch) << 64 | u128::from(number))
    }

    fn take_slots(&self, ask: &SlotAsk, now: u64) -> Result<SlotAnswer, Error> {
        let wanted = lease::Ask {
            holder: &ask.holder,
            count: ask.count,
            limit: ask.limit,
            ttl_micros: u64::try_from(ask.ttl.as_micros()).unwrap_or(u64::MAX),
        };
        let given =
            self.with_table(&ask.key, now, |table| table.acquire(wanted, self.waiters_max, now, || self.slot_id()))?;
        Ok(SlotAnswer {
            slots: given.slots,
            place: given.place,
            wait: Duration::from_micros(given.wait_micros),
            turned_away: given.turned_away,
            degraded: false,
        })
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the limit's part of what is offered; when another limit has refused already, only looks how long it would.
fn take_one(bucket: &mut Bucket, offer: Offer<'_>, now: u64) -> Step {
    let Offer { limit, whole, granted, partial, look } = offer;
    bucket.follow(limit.rate, now);
    let mut count = granted;
    if partial {
        let most = u128::from(bucket.free(now)) * u128::from(whole) / u128::from(limit.count);
        count = granted.min(u64::try_from(most).unwrap_or(u64::MAX)).max(1);
    }
    let tokens = take::part(limit.count, whole, count);
    let mut looked_at = *bucket;
    let bucket = if look { &mut looked_at } else { bucket };
    match bucket.acquire(tokens, limit.rate, now) {
        Verdict::Granted => Step::Took { count },
        Verdict::Wait { micros } => Step::Wait { micros },
    }
}

#[tonic::async_trait]
impl Store for Memory {
    async fn acquire(&self, asks: &[Ask]) -> Result<Vec<Answer>, Error> {
        let now = self.now();
        let mut answers: Vec<Answer> = Vec::with_capacity(asks.len());
        for ask in asks {
            match self.take(ask, now) {
                Ok(taken) => answers.push(Answer { taken, degraded: false }),
                Err(error) => {
                    for (ask, answer) in asks.iter().zip(&answers) {
                        if let Taken::Granted { count } = answer.taken {
                            self.give_back(ask, take::give_backs(ask, ask.limits.len(), (count, 0)), now);
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    async fn refund(&self, limits: &[Limit]) -> Result<(), Error> {
        let now = self.now();
        limits.iter().for_each(|limit| self.refund_one(&limit.key, limit.count, now));
        Ok(())
    }

    async fn acquire_slots(&self, asks: &[SlotAsk]) -> Result<Vec<SlotAnswer>, Error> {
        let now = self.now();
        let mut answers: Vec<SlotAnswer> = Vec::with_capacity(asks.len());
        for ask in asks {
            match self.take_slots(ask, now) {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    for (ask, answer) in asks.iter().zip(&answers) {
                        if let Some(table) = self.shard(&ask.key).slots.get_mut(&*ask.key) {
                            answer.slots.iter().for_each(|slot| table.release(*slot));
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(answers)
    }

    async fn heartbeat(&self, slots: &[Place], ttl: Duration) -> Result<Vec<Beat>, Error> {
        let now = self.now();
        let ttl_micros = u64::try_from(ttl.as_micros()).unwrap_or(u64::MAX);
        let beat = |place: &Place| match self.shard(&place.key).slots.get_mut(&*place.key) {
            Some(table) => {
                let kept = table.heartbeat(place.slot, ttl_micros, now);
                Beat { kept, waiter_count: table.waiter_count() }
            }
            None => Beat { kept: false, waiter_count: 0 },
        };
        Ok(slots.iter().map(beat).collect())
    }

    async fn release(&self, slots: &[Place]) -> Result<(), Error> {
        for place in slots {
            if let Some(table) = self.shard(&place.key).slots.get_mut(&*place.key) {
                table.release(place.slot);
            }
        }
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&After>, count: usize) -> Result<Vec<Summary>, Error> {
        let now = self.now();
        // Never more of them than the page holds: there may be a million keys.
        let mut page: BTreeMap<After, Summary> = BTreeMap::new();
        let mut add = |key: &str, slots: bool, state: &mut dyn FnMut() -> State| {
            let place = After { key: key.into(), slots };
            let full = page.len() >= count && page.last_key_value().is_none_or(|(last, _)| *last < place);
            if full || after.is_some_and(|after| *after >= place) {
                return;
            }
            page.insert(place, Summary { key: key.into(), state: state() });
            if page.len() > count {
                page.pop_last();
            }
        };
        for shard in &self.shards {
            let mut shard = lock(shard);
            for (key, bucket) in shard.rates.iter().filter(|(key, _)| key.starts_with(prefix)) {
                add(key, false, &mut || rate_state(bucket, now));
            }
            for (key, table) in shard.slots.iter_mut().filter(|(key, _)| key.starts_with(prefix)) {
                add(key, true, &mut || slots_state(table, now));
            }
        }
        Ok(page.into_values().collect())
    }

    async fn inspect(&self, key: &str) -> Result<Summary, Error> {
        let now = self.now();
        let mut shard = self.shard(key);
        let state = match shard.slots.get_mut(key) {
            Some(table) => slots_state(table, now),
            None => match shard.rates.get(key) {
                Some(bucket) => rate_state(bucket, now),
                None => return Err(Error::Unknown { key: key.into() }),
            },
        };
        Ok(Summary { key: key.into(), state })
    }

    async fn reset(&self, keys: &[String]) -> Result<u64, Error> {
        let mut reset_count = 0;
        for key in keys {
            let mut shard = self.shard(key);
            let gone = [shard.rates.remove(&**key).is_some(), shard.slots.remove(&**key).is_some()];
            let gone = gone.into_iter().filter(|gone| *gone).count();
            self.key_count.fetch_sub(gone, Ordering::Relaxed);
            reset_count += u64::from(gone > 0);
        }
        Ok(reset_count)
    }
}

fn rate_state(bucket: &Bucket, now: u64) -> State {
    let empty_until = bucket.empty_until(now).and_then(time);
    State::Rate { rate: bucket.rate(), free_count: bucket.free(now), empty_until }
}

fn slots_state(table: &mut Table, now: u64) -> State {
    table.settle(now);
    let mut holders: Vec<String> = table.holders().map(String::from).collect();
    holders.sort_unstable();
    State::Slots {
        limit: table.limit(),
        free_count: table.free_count(),
        held_count: table.held_count(),
        waiter_count: table.waiter_count(),
        holders,
    }
}

fn time(micros: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_micros(micros))
}
