//! Where mail leaves from: sources, pools of them, and whose turn it is by weight. Pure: chance comes in as a number.

use std::net::IpAddr;

/// Who the SOCKS5 proxy thinks we are (RFC 1929).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

/// The way from a source to the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    Direct,
    /// Any of these SOCKS5 proxies, `host:port`.
    Socks5(Vec<std::net::SocketAddr>),
    /// Whichever proxy says that it owns the source's address.
    Socks5Auto,
}

/// One identity that mail leaves by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub name: String,
    pub address: Option<IpAddr>,
    pub ehlo_domain: Option<String>,
    pub via: Via,
    pub credentials: Option<Credentials>,
}

impl Source {
    /// The system chooses the address.
    pub fn unspecified() -> Self {
        Self { name: "unspecified".into(), address: None, ehlo_domain: None, via: Via::Direct, credentials: None }
    }
}

/// Sources with weights above 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    /// Index into the list of all sources, and weight.
    pub members: Vec<(usize, u32)>,
}

/// How far a source may be ahead of its share before it waits for the others, in deliveries by weight 1.
const LEAD_MAX: f64 = 64.0;
/// Draws that are tried out to split a backlog; a larger one is split in proportion.
const SPLIT_DRAWS: u64 = 64;

/// Shares a pool's mail at one site by weight: who has done least for its weight goes first. The first turn is drawn
/// by weight, so that a thousand sites with one message each come out right too.
#[derive(Debug, Clone)]
pub struct Shares {
    entries: Vec<Share>,
}

#[derive(Debug, Clone)]
struct Share {
    source: usize,
    weight: f64,
    /// Deliveries over weight.
    pass: f64,
    available: bool,
    /// It has a connection: the others wait for it where they are ahead.
    present: bool,
}

impl Shares {
    /// `chance` gives numbers from 0 up to and without 1.
    pub fn new(pool: &Pool, mut chance: impl FnMut() -> f64) -> Self {
        let share = |(source, weight): &(usize, u32)| {
            let weight = f64::from(*weight);
            // Exponential draws: the least of them belongs to each source with the odds of its weight.
            Share { source: *source, weight, pass: -(1.0 - chance()).ln() / weight, available: true, present: false }
        };
        Self { entries: pool.members.iter().map(share).collect() }
    }

    /// Whose turn it is among those that are available.
    pub fn next(&self) -> Option<usize> {
        self.available().min_by(|a, b| a.pass.total_cmp(&b.pass)).map(|share| share.source)
    }

    /// How `backlog` would be shared out, by source.
    pub fn split(&self, backlog: u64) -> Vec<(usize, u64)> {
        let draws = backlog.min(SPLIT_DRAWS);
        let (mut shares, mut split) = (self.clone(), vec![0; self.entries.len()]);
        for _ in 0..draws {
            let Some(source) = shares.next() else { break };
            shares.charge(source, 1);
            let place = self.entries.iter().position(|share| share.source == source);
            place.into_iter().for_each(|place| split[place] += 1);
        }
        let sources = self.entries.iter().map(|share| share.source);
        sources.zip(split).map(|(source, drawn)| (source, drawn * backlog / draws.max(1))).collect()
    }

    /// Whether `source` may take mail now, or is too far ahead of another that has a connection. Who is still trying to
    /// get one holds up nobody: that may take very long, and come to nothing.
    pub fn may_take(&self, source: usize) -> bool {
        let Some(own) = self.entries.iter().find(|share| share.source == source) else { return false };
        let least =
            self.entries.iter().filter(|share| share.present).map(|share| share.pass).fold(f64::INFINITY, f64::min);
        own.pass <= least + LEAD_MAX / own.weight.max(1.0)
    }

    /// `source` took so many deliveries.
    pub fn charge(&mut self, source: usize, deliveries: u64) {
        if let Some(share) = self.entries.iter_mut().find(|share| share.source == source) {
            share.pass += deliveries as f64 / share.weight;
        }
    }

    /// A source that was away starts level with the others: what it missed is not made up.
    pub fn set_available(&mut self, source: usize, available: bool) {
        let least = self.available().map(|share| share.pass).fold(f64::INFINITY, f64::min);
        if let Some(share) = self.entries.iter_mut().find(|share| share.source == source) {
            if available && !share.available && least.is_finite() {
                share.pass = share.pass.max(least);
            }
            share.available = available;
        }
    }

    /// A source that gets its first connection makes up for no more than a lead of what the others did meanwhile.
    pub fn set_present(&mut self, source: usize, present: bool) {
        let others = self.entries.iter().filter(|share| share.present && share.source != source);
        let least = others.map(|share| share.pass).fold(f64::INFINITY, f64::min);
        if let Some(share) = self.entries.iter_mut().find(|share| share.source == source) {
            if present && !share.present && least.is_finite() {
                share.pass = share.pass.max(least - LEAD_MAX / share.weight);
            }
            share.present = present;
        }
    }

    fn available(&self) -> impl Iterator<Item = &Share> {
        self.entries.iter().filter(|share| share.available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(weights: &[u32], seed: u64) -> Shares {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let pool = Pool { name: "p".into(), members: weights.iter().copied().enumerate().collect() };
        Shares::new(&pool, || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        })
    }

    #[test]
    fn turns_follow_the_weights() {
        let mut shares = shares(&[1, 3], 7);
        let mut taken = [0; 2];
        for _ in 0..4000 {
            let source = shares.next().unwrap();
            taken[source] += 1;
            shares.charge(source, 1);
        }
        assert!((990..=1010).contains(&taken[0]), "{taken:?}");
    }

    #[test]
    fn the_first_turn_is_drawn_by_weight() {
        let first = (0..4000).filter(|seed| shares(&[1, 3], *seed).next() == Some(0)).count();
        assert!((900..=1100).contains(&first), "{first}");
    }

    #[test]
    fn a_backlog_is_split_by_turns() {
        let split = |backlog| shares(&[1, 3], 7).split(backlog).iter().map(|(_, count)| *count).collect::<Vec<_>>();
        assert_eq!(split(1).iter().sum::<u64>(), 1);
        assert!((2300..=2700).contains(&split(10_000)[0]), "{:?}", split(10_000));
        assert_eq!(shares(&[], 1).split(5), []);
    }

    #[test]
    fn who_is_ahead_waits_only_for_those_who_can() {
        let mut shares = shares(&[1, 1], 1);
        shares.set_present(0, true);
        shares.charge(0, 1000);
        assert!(shares.may_take(0), "the other has no connection");
        shares.set_present(1, true);
        assert!(shares.may_take(0), "what was missed is made up only in part");
        shares.charge(0, 100);
        assert!(!shares.may_take(0));
        shares.charge(1, 100);
        assert!(shares.may_take(0));
        shares.charge(0, 1000);
        shares.set_present(1, false);
        assert!(shares.may_take(0));
        assert!(!shares.may_take(7), "not a member");
    }
}
