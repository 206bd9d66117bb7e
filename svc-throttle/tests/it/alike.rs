//! Redis' scripts decide as the pure cores do: the same random steps through both, at times that are given to both.

use crate::server::Server;
use crate::world::{host, ready, with_redis};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use svc_throttle::bucket::{Bucket, Rate, Verdict};
use svc_throttle::lease::{self, SlotId, Table};
use svc_throttle::redis::Shared;
use svc_throttle::store::{Ask, Limit, Place, SlotAsk, Store, Taken};
use svc_throttle::{Config, take};

const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;
const WAITERS_MAX: usize = 3;
const CASES: u32 = 48;

/// Redis with a store on it, at a time that is given.
struct World {
    runtime: tokio::runtime::Runtime,
    shared: Shared,
    now: Arc<AtomicU64>,
    keys: AtomicU64,
    _server: Server,
}

impl World {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (server, now) = (Server::start(), Arc::new(AtomicU64::new(START)));
        let config = Config { waiters_max: WAITERS_MAX, ..with_redis(Config::default(), &server.url()) };
        let shared = runtime.block_on(async {
            let host = host();
            let shared = Shared::open_at(config, &host, Some(now.clone())).unwrap();
            ready(&host).await;
            shared
        });
        Self { runtime, shared, now, keys: AtomicU64::new(0), _server: server }
    }

    /// A key that no case has used.
    fn key(&self) -> String {
        format!("k{}", self.keys.fetch_add(1, Ordering::Relaxed))
    }
}

/// A step of time, back a little or a lot now and then.
fn times() -> impl Strategy<Value = i64> {
    let second = SECOND as i64;
    prop_oneof![3 => Just(0), 6 => 1..2_000i64, 6 => 1..20 * second, 1 => -900_000..0i64, 1 => -5 * second..-2 * second]
}

fn rates() -> impl Strategy<Value = Rate> {
    let rate = |limit, period_micros, burst| Rate { limit, period_micros, burst };
    prop_oneof![
        Just(rate(100, SECOND, 100)),
        (1..5_000u64, 1_000..60 * SECOND, 1..500u64).prop_map(move |(limit, period, burst)| rate(limit, period, burst)),
    ]
}

/// Time passed, tokens wanted of the limit and of the whole ask, in part, tokens given back, which rate.
type RateStep = (i64, u64, u64, bool, u64, usize);

fn rate_steps() -> impl Strategy<Value = Vec<RateStep>> {
    let back = prop_oneof![3 => Just(0), 1 => 1..50u64];
    let which = prop_oneof![5 => Just(0usize), 1 => Just(1)];
    proptest::collection::vec((times(), 1..600u64, 1..40u64, any::<bool>(), back, which), 1..40)
}

/// What memory would do, by the core alone.
fn expected(bucket: &mut Bucket, (count, whole, partial): (u64, u64, bool), rate: Rate, now: u64) -> Taken {
    bucket.follow(rate, now);
    let mut took = whole;
    if partial {
        let most = u128::from(bucket.free(now)) * u128::from(whole) / u128::from(count);
        took = whole.min(u64::try_from(most).unwrap()).max(1);
    }
    match bucket.acquire(take::part(count, whole, took), rate, now) {
        Verdict::Granted => Taken::Granted { count: took },
        Verdict::Wait { micros } => Taken::Wait { wait: Duration::from_micros(micros), refusing: 0 },
    }
}

fn rates_alike(world: &World, rates: [Rate; 2], steps: Vec<RateStep>) -> Result<(), TestCaseError> {
    let key = world.key();
    let mut now = START;
    let mut bucket = None;
    for (step, count, whole, partial, back, which) in steps {
        now = now.saturating_add_signed(step);
        let bucket = bucket.get_or_insert_with(|| Bucket::new(rates[which], now));
        world.now.store(now, Ordering::Relaxed);
        let limit = Limit { key: key.clone(), key_bytes: key.len(), local: false, count, rate: rates[which] };
        let ask = Ask { limits: vec![limit.clone()], count: whole, partial };
        let answers = world.runtime.block_on(world.shared.acquire(&[ask])).unwrap();
        let expected = expected(bucket, (count, whole, partial), rates[which], now);
        prop_assert_eq!(&answers[0].taken, &expected, "{} of {:?} at {}", count, rates[which], now);
        prop_assert!(!answers[0].degraded);
        if back > 0 {
            world.runtime.block_on(world.shared.refund(&[Limit { count: back, ..limit }])).unwrap();
            bucket.refund(back, now);
        }
    }
    Ok(())
}

#[test]
fn rates_are_decided_alike() {
    let world = World::new();
    let mut runner = runner();
    let cases = (rates(), rates(), rate_steps());
    runner.run(&cases, |(one, other, steps)| rates_alike(&world, [one, other], steps)).unwrap();
}

/// Time passed, who, what (release, heartbeat, else ask), how many, limit, ttl.
type SlotStep = (i64, usize, u8, u32, u32, u64);

fn slot_steps() -> impl Strategy<Value = Vec<SlotStep>> {
    let time = prop_oneof![4 => 0..8 * SECOND as i64, 1 => Just(-5 * SECOND as i64)];
    let ttl = prop_oneof![5 => Just(15 * SECOND), 1 => SECOND..20 * SECOND];
    let limit = prop_oneof![6 => Just(4u32), 1 => 1..7u32];
    proptest::collection::vec((time, 0..6usize, 0..6u8, 0..4u32, limit, ttl), 1..60)
}

fn slots_alike(world: &World, steps: Vec<SlotStep>) -> Result<(), TestCaseError> {
    let key = world.key();
    let (mut now, mut table, mut last) = (START, Table::default(), 0u128);
    // The core's slots by the store's.
    let mut held: Vec<(SlotId, SlotId)> = Vec::new();
    let place = |slot: SlotId| Place { key: key.clone(), local: false, slot };
    for (step, who, what, count, limit, ttl_micros) in steps {
        now = now.saturating_add_signed(step);
        world.now.store(now, Ordering::Relaxed);
        let ttl = Duration::from_micros(ttl_micros);
        // Redis lets go at every call, the core when it is asked: that makes a difference where a clock is set back.
        table.settle(now);
        match what {
            0 if !held.is_empty() => {
                let (real, model) = held.remove(who % held.len());
                world.runtime.block_on(world.shared.release(&[place(real)])).unwrap();
                table.release(model);
            }
            1 => {
                let places: Vec<Place> = held.iter().map(|(real, _)| place(*real)).collect();
                let beats = world.runtime.block_on(world.shared.heartbeat(&places, ttl)).unwrap();
                let kept: Vec<bool> = held.iter().map(|(_, slot)| table.heartbeat(*slot, ttl_micros, now)).collect();
                prop_assert_eq!(beats.iter().map(|beat| beat.kept).collect::<Vec<_>>(), kept);
                let waiters = table.waiter_count();
                prop_assert!(beats.iter().all(|beat| beat.waiter_count == waiters), "{:?} {}", beats, waiters);
            }
            _ => {
                let holder = ["a", "b", "c", "d", "e", "f"][who];
                let (key, holder_name) = (key.clone(), holder.to_string());
                let ask = SlotAsk { key, local: false, holder: holder_name, count, limit, ttl };
                let answer = world.runtime.block_on(world.shared.acquire_slots(&[ask])).unwrap().remove(0);
                let ask = lease::Ask { holder, count, limit, ttl_micros };
                let given = table.acquire(ask, WAITERS_MAX, now, || {
                    last += 1;
                    SlotId(last)
                });
                let told = (answer.slots.len(), answer.place, answer.wait.as_micros() as u64, answer.turned_away);
                prop_assert_eq!(told, (given.slots.len(), given.place, given.wait_micros, given.turned_away));
                held.extend(answer.slots.into_iter().zip(given.slots));
            }
        }
    }
    let state = world.runtime.block_on(world.shared.inspect(&key));
    table.settle(now);
    let holders: HashMap<&str, usize> = table.holders().fold(HashMap::new(), |mut count, holder| {
        *count.entry(holder).or_default() += 1;
        count
    });
    if let Ok(svc_throttle::store::Summary { state: svc_throttle::store::State::Slots { holders: told, .. }, .. }) =
        state
    {
        for (holder, count) in holders {
            prop_assert_eq!(told.iter().filter(|name| *name == holder).count(), count);
        }
    } else {
        prop_assert!(holders.is_empty());
    }
    Ok(())
}

#[test]
fn slots_are_decided_alike() {
    let world = World::new();
    runner().run(&slot_steps(), |steps| slots_alike(&world, steps)).unwrap();
}

fn runner() -> proptest::test_runner::TestRunner {
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
}

/// What doubles cannot hold is rounded to the safe side.
#[test]
fn absurd_rates_are_never_exceeded() {
    let world = World::new();
    let mut runner = runner();
    let month = 31 * 86_400 * SECOND;
    let wide = (1..u64::MAX, 1_000..month, 1..u64::MAX, (0..50u32, 0..50u32)).prop_map(|(limit, period, burst, by)| {
        Rate { limit: (limit >> by.0).max(1), period_micros: period, burst: (burst >> by.1).max(1) }
    });
    let steps = proptest::collection::vec((0..20 * SECOND as i64, 1..u64::MAX, 0..60u32), 1..20);
    runner
        .run(&(wide, steps), |(rate, steps)| {
            let (key, mut now) = (world.key(), START);
            let mut bucket = Bucket::new(rate, now);
            for (step, count, by) in steps {
                now = now.saturating_add_signed(step);
                world.now.store(now, Ordering::Relaxed);
                let count = (count >> by).clamp(1, rate.burst);
                let limit = Limit { key: key.clone(), key_bytes: key.len(), local: false, count, rate };
                let ask = Ask { limits: vec![limit], count, partial: false };
                let answer = world.runtime.block_on(world.shared.acquire(&[ask])).unwrap().remove(0);
                if let Taken::Granted { count: granted } = answer.taken {
                    prop_assert_eq!(granted, count);
                    prop_assert_eq!(bucket.acquire(count, rate, now), Verdict::Granted);
                }
            }
            Ok(())
        })
        .unwrap();
}
