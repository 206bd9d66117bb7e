//! How much of a limit each node falls back to when it cannot reach the others: equal parts, the odd ones by rendezvous
//! hash, so that all nodes reckon alike and the parts sum up to the limit exactly. Pure.
//!
//! Who the nodes are is a roster. A new one first stands beside the old, until each node of both has seen it: meanwhile a
//! node uses the lesser of its parts, and the others keep the greater one for it.

use crate::bucket::Rate;
use sha2::{Digest, Sha256};

/// The nodes that divide limits among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roster {
    /// A later one is greater; 0: there was none yet.
    pub version: u64,
    pub names: Vec<String>,
}

/// The roster that holds, and the one that is to follow when all have seen it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rosters {
    pub agreed: Roster,
    pub next: Option<Roster>,
}

/// A node's place among those that divide one key, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    pub place: u32,
    pub of: u32,
}

/// A part of a rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Part {
    pub limit: u64,
    pub burst: u64,
}

impl Roster {
    /// Where `name` stands for `key`; `None`: it is not of the roster.
    pub fn rank(&self, name: &str, key: &str) -> Option<Rank> {
        if !self.names.iter().any(|other| other == name) {
            return None;
        }
        let own = (weight(name, key), name);
        let before = self.names.iter().filter(|other| (weight(other, key), other.as_str()) > own);
        Some(Rank { place: count(before.count()), of: count(self.names.len()) })
    }
}

impl Rank {
    /// Equal parts; of fewer than there are nodes, one for each of the first.
    pub fn part(self, total: u64) -> u64 {
        let of = u64::from(self.of.max(1));
        total / of + u64::from(u64::from(self.place) < total % of)
    }

    /// Divided among no more nodes than there are tokens for: a part of the burst is of no use without one of the limit.
    pub fn rate(self, rate: Rate) -> Part {
        let of = u64::from(self.of).min(rate.limit).min(rate.burst);
        if u64::from(self.place) >= of {
            return Part::default();
        }
        let among = Self { place: self.place, of: u32::try_from(of).unwrap_or(u32::MAX) };
        Part { limit: among.part(rate.limit), burst: among.part(rate.burst) }
    }
}

impl Rosters {
    /// What `name` may use of a rate by itself; `None`: nothing.
    pub fn own_rate(&self, name: &str, key: &str, rate: Rate) -> Option<Rate> {
        let part = |roster: &Roster| roster.rank(name, key).map(|rank| rank.rate(rate)).unwrap_or_default();
        let (agreed, next) = (part(&self.agreed), self.next.as_ref().map(part));
        let next = next.unwrap_or(agreed);
        let (limit, burst) = (agreed.limit.min(next.limit), agreed.burst.min(next.burst));
        (limit > 0 && burst > 0).then_some(Rate { limit, burst, ..rate })
    }

    /// What `name` may use of so many slots by itself.
    pub fn own_slots(&self, name: &str, key: &str, limit: u32) -> u32 {
        let part = |roster: &Roster| roster.rank(name, key).map_or(0, |rank| rank.part(limit.into()));
        let agreed = part(&self.agreed);
        let part = agreed.min(self.next.as_ref().map_or(agreed, part));
        u32::try_from(part).expect("at most the limit")
    }

    /// What others keep of a rate for `name`: no less than it may use, whatever it has seen of the rosters.
    pub fn kept_rate(&self, name: &str, key: &str, rate: Rate) -> Part {
        let parts = self.ranks(name, key).map(|rank| rank.map(|rank| rank.rate(rate)).unwrap_or_default());
        Part { limit: parts[0].limit.max(parts[1].limit), burst: parts[0].burst.max(parts[1].burst) }
    }

    /// Of which others keep the greater part of slots.
    pub fn ranks(&self, name: &str, key: &str) -> [Option<Rank>; 2] {
        let next = self.next.as_ref().and_then(|roster| roster.rank(name, key));
        [self.agreed.rank(name, key), next]
    }

    /// Into how many shares limits fall at least, one of them `name`'s; 0: it has none.
    pub fn share_count(&self, name: &str) -> usize {
        let rosters = [Some(&self.agreed), self.next.as_ref()].into_iter().flatten();
        let counts = rosters.map(|roster| roster.rank(name, "").map_or(0, |rank| rank.of as usize));
        let counts: Vec<usize> = counts.collect();
        if counts.contains(&0) { 0 } else { counts.into_iter().max().unwrap_or(0) }
    }

    /// The latest version that is here.
    pub fn seen(&self) -> u64 {
        self.next.as_ref().map_or(self.agreed.version, |next| next.version)
    }
}

/// The same everywhere and for ever.
fn weight(name: &str, key: &str) -> [u8; 32] {
    Sha256::new().chain_update(name.len().to_be_bytes()).chain_update(name).chain_update(key).finalize().into()
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn roster(version: u64, names: &[&str]) -> Roster {
        Roster { version, names: names.iter().map(ToString::to_string).collect() }
    }

    fn rate(limit: u64, burst: u64) -> Rate {
        Rate { limit, burst, period_micros: 1_000_000 }
    }

    #[test]
    fn parts_are_equal_and_the_odd_ones_go_by_key() {
        let all = roster(1, &["a", "b", "c"]);
        let parts = |key: &str, total| {
            let mut parts: Vec<u64> = all.names.iter().map(|name| all.rank(name, key).unwrap().part(total)).collect();
            parts.sort_unstable();
            parts
        };
        assert_eq!(parts("k", 20), [6, 7, 7]);
        assert_eq!(parts("k", 2), [0, 1, 1]);
        assert_eq!(all.rank("stranger", "k"), None);
        let owner = |key: &str| all.names.iter().find(|name| all.rank(name, key).unwrap().place == 0).unwrap().clone();
        let mut owners: Vec<String> = (0..60).map(|number| owner(&format!("k{number}"))).collect();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), 3, "each owns some");
    }

    #[test]
    fn a_limit_or_burst_smaller_than_the_nodes_is_for_as_many_of_them() {
        let two = Rosters { agreed: roster(1, &["a", "b"]), next: None };
        let parts: Vec<_> = ["a", "b"].iter().filter_map(|name| two.own_rate(name, "k", rate(100, 1))).collect();
        assert_eq!(parts, [rate(100, 1)], "one owner of all");
        let parts: Vec<_> = ["a", "b"].iter().filter_map(|name| two.own_rate(name, "k", rate(1, 100))).collect();
        assert_eq!(parts, [rate(1, 100)]);
        assert_eq!(two.own_slots("a", "k", 1) + two.own_slots("b", "k", 1), 1);
    }

    #[test]
    fn who_comes_has_nothing_before_all_have_seen_it() {
        let both = Rosters { agreed: roster(1, &["a"]), next: Some(roster(2, &["a", "b"])) };
        assert_eq!((both.own_slots("a", "k", 20), both.own_slots("b", "k", 20)), (10, 0));
        assert_eq!(both.own_rate("b", "k", rate(100, 100)), None);
        assert_eq!(both.kept_rate("a", "k", rate(100, 100)), Part { limit: 100, burst: 100 });
        assert_eq!(both.kept_rate("b", "k", rate(100, 100)), Part { limit: 50, burst: 50 });
        assert_eq!((both.seen(), both.share_count("a"), both.share_count("b")), (2, 2, 0));
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::sample::subsequence((0..8u8).map(|n| format!("node_{n}")).collect::<Vec<_>>(), 1..8)
    }

    proptest! {
        /// Whatever each node has seen of a change, before it is agreed on or after, the parts in use fit into the limit.
        #[test]
        fn parts_in_use_never_exceed_the_limit(
            old in names(), new in names(), limit in 0..60u32, burst in 1..60u64, key in "[a-z]{1,8}", agreed: bool,
            seen in proptest::collection::vec(any::<bool>(), 8),
        ) {
            let (old, new) = (Roster { version: 1, names: old }, Roster { version: 2, names: new });
            let before = Rosters { agreed: old.clone(), next: None };
            let both = Rosters { agreed: old, next: Some(new.clone()) };
            let after = Rosters { agreed: new, next: None };
            let (mut slots, mut rates) = (0, Part::default());
            for (number, seen) in seen.into_iter().enumerate() {
                let view = match (agreed, seen) {
                    (false, false) => &before,
                    (false, true) | (true, false) => &both,
                    (true, true) => &after,
                };
                let name = format!("node_{number}");
                let own = view.own_slots(&name, &key, limit);
                slots += own;
                let kept = both.ranks(&name, &key).into_iter().flatten().map(|rank| rank.part(limit.into())).max();
                prop_assert!(kept.unwrap_or(0) >= own.into());
                if limit == 0 {
                    continue;
                }
                let rate = rate(limit.into(), burst);
                if let Some(own) = view.own_rate(&name, &key, rate) {
                    rates = Part { limit: rates.limit + own.limit, burst: rates.burst + own.burst };
                    let kept = both.kept_rate(&name, &key, rate);
                    prop_assert!(kept.limit >= own.limit && kept.burst >= own.burst);
                }
            }
            prop_assert!(slots <= limit);
            prop_assert!(rates.limit <= limit.into() && rates.burst <= burst);
        }

        #[test]
        fn the_parts_sum_up(names in names(), limit in 1..1_000u64, burst in 1..1_000u64, key in "[a-z]{1,8}") {
            let all = Roster { version: 1, names };
            let ranks: Vec<Rank> = all.names.iter().map(|name| all.rank(name, &key).unwrap()).collect();
            prop_assert_eq!(ranks.iter().map(|rank| rank.part(limit)).sum::<u64>(), limit);
            let parts: Vec<Part> = ranks.iter().map(|rank| rank.rate(rate(limit, burst))).collect();
            prop_assert_eq!(parts.iter().map(|part| part.limit).sum::<u64>(), limit);
            prop_assert_eq!(parts.iter().map(|part| part.burst).sum::<u64>(), burst);
        }
    }
}
