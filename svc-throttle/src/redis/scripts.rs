//! The scripts that decide in Redis, how they are called, and what they say. Every text begins with the epoch: what one
//! epoch's scripts are called by is unknown to a Redis that has come up in another.

use super::memo::Debt;
use super::own::Owed;
use super::wire::{Call, Item, Refused, Script};
use crate::bucket::Rate;
use crate::grain::Grain;
use crate::lease::{Held, SlotId};
use crate::share::{Part, Rosters};
use crate::store::SlotAsk;
use crate::take::Offer;
use std::sync::Arc;

const PRELUDE: &str = include_str!("prelude.lua");
const RATE: &str = include_str!("rate.lua");
const SLOTS: &str = include_str!("slots.lua");
/// After any time of Redis.
pub const FOREVER: u64 = (1 << 53) - 1;

/// One epoch's scripts on limits.
#[derive(Debug)]
pub struct Scripts {
    pub epoch: u64,
    ask: Arc<Script>,
    refund: Arc<Script>,
    restore_rate: Arc<Script>,
    look_rate: Arc<Script>,
    reset_rate: Arc<Script>,
    hold: Arc<Script>,
    beat: Arc<Script>,
    release: Arc<Script>,
    restore_slots: Arc<Script>,
    look_slots: Arc<Script>,
    reset_slots: Arc<Script>,
}

impl Scripts {
    pub fn new(epoch: u64) -> Self {
        let rate = |body: &str| Arc::new(Script::new(format!("-- {epoch}\n{PRELUDE}{RATE}{body}")));
        let slots = |body: &str| Arc::new(Script::new(format!("-- {epoch}\n{PRELUDE}{SLOTS}{body}")));
        Self {
            epoch,
            ask: rate(include_str!("ask.lua")),
            refund: rate(include_str!("refund.lua")),
            restore_rate: rate(include_str!("restore_rate.lua")),
            look_rate: rate(include_str!("look_rate.lua")),
            reset_rate: rate(include_str!("reset_rate.lua")),
            hold: slots(include_str!("hold.lua")),
            beat: slots(include_str!("beat.lua")),
            release: slots(include_str!("release.lua")),
            restore_slots: slots(include_str!("restore_slots.lua")),
            look_slots: slots(include_str!("look_slots.lua")),
            reset_slots: slots(include_str!("reset_slots.lua")),
        }
    }

    pub fn all(&self) -> [Arc<Script>; 11] {
        [
            &self.ask,
            &self.refund,
            &self.restore_rate,
            &self.look_rate,
            &self.reset_rate,
            &self.hold,
            &self.beat,
            &self.release,
            &self.restore_slots,
            &self.look_slots,
            &self.reset_slots,
        ]
        .map(Arc::clone)
    }
}

/// The script on the nodes themselves. It is no epoch's.
pub fn roster() -> Script {
    Script::new(include_str!("roster.lua").into())
}

pub fn roster_keys() -> Vec<String> {
    vec!["godwit:{throttle}:roster".into(), EPOCH_KEY.into()]
}

const EPOCH_KEY: &str = "godwit:{throttle}:epoch";
const PREFIX: &str = "godwit:{";
const RATE_SUFFIX: &str = "}:r";
const SLOTS_SUFFIX: &str = "}:s";

pub fn rate_key(key: &str) -> String {
    format!("{PREFIX}{key}{RATE_SUFFIX}")
}

pub fn slots_key(key: &str) -> String {
    format!("{PREFIX}{key}{SLOTS_SUFFIX}")
}

/// What stands for all keys that begin so, rates and slots.
pub fn pattern(prefix: &str) -> String {
    let mut pattern = String::from(PREFIX);
    for letter in prefix.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern + "*}:[rs]"
}

/// A limit's key, and whether it is slots.
pub fn limit_of(name: &str) -> Option<(&str, bool)> {
    let rest = name.strip_prefix(PREFIX)?;
    let rate = rest.strip_suffix(RATE_SUFFIX).map(|key| (key, false));
    rate.or_else(|| rest.strip_suffix(SLOTS_SUFFIX).map(|key| (key, true)))
}

/// What is kept for nodes that may be cut off.
#[derive(Debug, Clone, Default)]
pub struct Others {
    pub rosters: Rosters,
    pub stale: Vec<String>,
    /// Nodes in all, this one among them.
    pub count: usize,
}

impl Others {
    pub fn kept(&self, key: &str, rate: Rate) -> Part {
        let parts = self.stale.iter().map(|name| self.rosters.kept_rate(name, key, rate));
        parts.fold(Part::default(), |sum, part| Part {
            limit: sum.limit.saturating_add(part.limit).min(rate.limit),
            burst: sum.burst.saturating_add(part.burst).min(rate.burst),
        })
    }

    fn grain(&self, key: &str, rate: Rate) -> Grain {
        Grain::new(rate, self.kept(key, rate))
    }

    /// A debt runs off no more slowly than so, in units a microsecond.
    fn slowest(&self, grain: &Grain) -> String {
        (grain.run_off as f64 / (2 * self.count.max(1)) as f64).to_string()
    }

    fn ranks(&self, key: &str) -> impl Iterator<Item = String> {
        let ranks = self.stale.iter().flat_map(move |name| {
            let ranks = self.rosters.ranks(name, key).map(|rank| rank.map_or([0, 0], |rank| [rank.of, rank.place]));
            std::iter::once(name.clone()).chain(ranks.into_iter().flatten().map(|number| number.to_string()))
        });
        std::iter::once(self.stale.len().to_string()).chain(ranks.collect::<Vec<_>>())
    }
}

/// What every call on a limit carries.
#[derive(Debug, Clone)]
pub struct Frame {
    pub scripts: Arc<Scripts>,
    /// The view of the others ends then, by Redis' clock.
    pub until: u64,
    /// The time that counts, where it is not Redis' own.
    pub given: Option<u64>,
    /// In a Cluster a script sees one limit's key alone.
    pub cluster: bool,
    pub others: Arc<Others>,
}

impl Frame {
    fn call(&self, script: &Arc<Script>, key: String, args: impl IntoIterator<Item = String>) -> Call {
        let keys = if self.cluster { vec![key] } else { vec![key, EPOCH_KEY.into()] };
        let given = self.given.map(|given| given.to_string()).unwrap_or_default();
        let head = [self.scripts.epoch.to_string(), self.until.to_string(), given];
        Call { script: script.clone(), keys, args: head.into_iter().chain(args).collect() }
    }

    /// `known`: a debt of it is remembered.
    pub fn ask(&self, offer: &Offer<'_>, known: bool) -> Call {
        let Offer { limit, whole, granted, partial, look } = *offer;
        let grain = self.others.grain(&limit.key, limit.rate);
        let numbers = [limit.count, whole, granted, partial.into(), look.into()];
        let grains = [grain.weight, grain.run_off_left, grain.burst_left, grain.burst_kept, grain.burst];
        let args = numbers.into_iter().chain(grains).map(|number| number.to_string());
        let args = args.chain([self.others.slowest(&grain), u8::from(known).to_string()]).chain(as_given(limit.rate));
        self.call(&self.scripts.ask, rate_key(&limit.key), args)
    }

    /// What `ask` answers: how much of the ask was taken, how long to wait where it is 0, and what is owed.
    pub fn asked(&self, offer: &Offer<'_>, said: &[Item]) -> Option<(u64, u64, Debt)> {
        let [took, wait, units, at] = numbers(said)?;
        let grain = self.others.grain(&offer.limit.key, offer.limit.rate);
        let debt = Debt {
            rate: offer.limit.rate,
            weight: grain.weight,
            run_off: grain.run_off_left,
            kept: grain.burst_kept,
            units,
            at,
        };
        Some((took, wait, debt))
    }

    pub fn refund(&self, key: &str, count: u64) -> Call {
        self.call(&self.scripts.refund, rate_key(key), [count.to_string()])
    }

    pub fn restore_debt(&self, key: &str, debt: &Debt) -> Call {
        let grain = self.others.grain(key, debt.rate);
        let state = [debt.units, debt.at, debt.weight, debt.run_off, debt.kept, grain.burst];
        self.restore_rate(key, "remembered", (state, &grain), debt.rate)
    }

    /// Beside what is kept for others, this node's own part was not to be had either.
    pub fn restore_own(&self, owed: &Owed) -> Call {
        let kept = self.others.kept(&owed.key, owed.rate);
        let limit = kept.limit.saturating_add(owed.own().limit).min(owed.rate.limit);
        let grain = Grain::new(owed.rate, Part { limit, ..kept });
        let debt = owed.units(grain.weight).min(FOREVER);
        let state = [debt, 0, grain.weight, grain.run_off_left, grain.burst_kept, grain.burst];
        self.restore_rate(&owed.key, "own", (state, &grain), owed.rate)
    }

    fn restore_rate(&self, key: &str, kind: &str, (state, grain): ([u64; 6], &Grain), rate: Rate) -> Call {
        let args = std::iter::once(kind.to_string()).chain(state.map(|number| number.to_string()));
        let args = args.chain([self.others.slowest(grain)]).chain(as_given(rate));
        self.call(&self.scripts.restore_rate, rate_key(key), args)
    }

    pub fn restored_debt(rate: Rate, said: &[Item]) -> Option<Debt> {
        let [units, at, weight, run_off, kept] = numbers(said)?;
        Some(Debt { rate, weight, run_off, kept, units, at })
    }

    pub fn look_rate(&self, key: &str) -> Call {
        self.call(&self.scripts.look_rate, rate_key(key), [])
    }

    pub fn reset_rate(&self, key: &str) -> Call {
        self.call(&self.scripts.reset_rate, rate_key(key), [])
    }

    fn slots(&self, script: &Arc<Script>, key: &str, args: impl IntoIterator<Item = String>) -> Call {
        self.call(script, slots_key(key), self.others.ranks(key).chain(args))
    }

    /// Asks of one key. `first` is the first slot's id; as many follow as are asked for.
    pub fn hold(&self, asks: &[&SlotAsk], first: SlotId, waiters_max: usize, (node, known): (&str, bool)) -> Call {
        let key = asks.first().map_or("", |ask| &ask.key);
        let (prefix, number) = (format!("{:016x}", (first.0 >> 64) as u64), first.0 as u64);
        let head = [prefix, number.to_string(), waiters_max.to_string(), node.into(), u8::from(known).to_string()];
        let asks = asks.iter().flat_map(|ask| {
            [ask.holder.clone(), ask.count.to_string(), ask.limit.to_string(), ask.ttl.as_micros().to_string()]
        });
        self.slots(&self.scripts.hold, key, head.into_iter().chain(asks))
    }

    pub fn beat(&self, key: &str, slots: &[SlotId], ttl_micros: u64, known: bool) -> Call {
        let head = [ttl_micros.to_string(), u8::from(known).to_string()];
        self.slots(&self.scripts.beat, key, head.into_iter().chain(slots.iter().map(slot_text)))
    }

    pub fn release(&self, key: &str, slots: &[SlotId]) -> Call {
        self.slots(&self.scripts.release, key, slots.iter().map(slot_text))
    }

    /// `all`: the node holds no others.
    pub fn restore_slots(&self, key: &str, (node, limit, all): (&str, u32, bool), held: &[(SlotId, Held)]) -> Call {
        let head = [node.into(), limit.to_string(), u8::from(all).to_string()];
        let held = held.iter().flat_map(|(slot, held)| {
            let (until, ttl) = (held.until_micros().to_string(), held.ttl_micros().to_string());
            [slot_text(slot), held.holder.to_string(), until, ttl, u8::from(held.ending).to_string()]
        });
        self.slots(&self.scripts.restore_slots, key, head.into_iter().chain(held))
    }

    pub fn look_slots(&self, key: &str) -> Call {
        self.slots(&self.scripts.look_slots, key, [])
    }

    pub fn reset_slots(&self, key: &str) -> Call {
        self.slots(&self.scripts.reset_slots, key, [])
    }
}

fn as_given(rate: Rate) -> [String; 3] {
    [rate.limit, rate.period_micros, rate.burst].map(|number| number.to_string())
}

fn slot_text(slot: &SlotId) -> String {
    format!("{:032x}", slot.0)
}

/// Why a script did nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// Redis has another epoch, or none.
    Epoch,
    /// The caller's view of the nodes has ended.
    Lapsed,
    /// What Redis must know of is not there, or it does not know the script: it has lost something.
    Lost,
    Refused(String),
}

/// What a script on limits said.
pub fn said(answer: Result<Item, Refused>) -> Result<Vec<Item>, Undone> {
    match answer {
        Ok(Item::List(mut items)) if !items.is_empty() => match items.remove(0) {
            Item::Int(0) => Ok(items),
            Item::Int(1) => Err(Undone::Epoch),
            Item::Int(2) => Err(Undone::Lapsed),
            Item::Int(3) => Err(Undone::Lost),
            other => Err(Undone::Refused(format!("a script said {other:?}"))),
        },
        Ok(other) => Err(Undone::Refused(format!("a script said {other:?}"))),
        Err(Refused::NoScript) => Err(Undone::Lost),
        Err(Refused::Other(what)) => Err(Undone::Refused(what)),
    }
}

/// The first so many numbers.
pub fn numbers<const COUNT: usize>(items: &[Item]) -> Option<[u64; COUNT]> {
    let mut numbers = [0; COUNT];
    for (place, number) in numbers.iter_mut().enumerate() {
        *number = self::number(items.get(place)?)?;
    }
    Some(numbers)
}

pub fn number(item: &Item) -> Option<u64> {
    match item {
        Item::Int(number) => u64::try_from(*number).ok(),
        Item::Text(text) => text.parse().ok(),
        Item::Nil | Item::List(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_own_hash_tag_and_are_found_again() {
        assert_eq!((rate_key("site"), slots_key("site")), ("godwit:{site}:r".into(), "godwit:{site}:s".into()));
        assert_eq!(limit_of("godwit:{a}:b}:s"), Some(("a}:b", true)));
        assert_eq!(limit_of("godwit:{site}:r"), Some(("site", false)));
        assert_eq!(limit_of("godwit:{throttle}:epoch"), None);
        assert_eq!(pattern("a*[b"), "godwit:{a\\*\\[b*}:[rs]");
    }

    #[test]
    fn what_is_kept_for_all_others_is_at_most_all() {
        let rosters = |names: &[&str]| {
            let names = names.iter().map(ToString::to_string).collect();
            Rosters { agreed: crate::share::Roster { version: 1, names }, next: None }
        };
        let stale = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let rate = Rate { limit: 100, period_micros: 1_000_000, burst: 10 };
        let others = Others { rosters: rosters(&["a", "b"]), stale: stale(&["b"]), count: 2 };
        assert_eq!(others.kept("k", rate), Part { limit: 50, burst: 5 });
        let both = Others { rosters: rosters(&["b"]), stale: stale(&["b", "b"]), count: 2 };
        assert_eq!(both.kept("k", rate), Part { limit: 100, burst: 10 });
        assert_eq!(others.ranks("k").count(), 6);
    }

    #[test]
    fn scripts_of_two_epochs_differ_by_name() {
        let (one, other) = (Scripts::new(1), Scripts::new(2));
        assert_ne!(format!("{:?}", one.ask), format!("{:?}", other.ask));
        assert_eq!(one.all().len(), 11);
    }
}
