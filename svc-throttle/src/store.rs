//! What a store of limits does, in batches. Memory is one, Redis the other. A store owns the clock that counts.

use crate::bucket::Rate;
use crate::error::Error;
use crate::lease::SlotId;
use std::time::{Duration, SystemTime};

/// So many tokens of one rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// As the store knows it: a local one has its node's name in it.
    pub key: String,
    /// How much of `key`, in bytes from its start, is what the caller knows it by.
    pub key_bytes: usize,
    /// One node's own: never shared.
    pub local: bool,
    pub count: u64,
    pub rate: Rate,
}

/// Takes all of its limits or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// In the order of their keys.
    pub limits: Vec<Limit>,
    /// The count of the limit that the caller named first, which the answer's count is a part of.
    pub count: u64,
    /// Less than asked rather than nothing.
    pub partial: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub taken: Taken,
    /// Decided on this node's share alone: the store is away.
    pub degraded: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// So much of `Ask::count`, and the same part of each limit.
    Granted { count: u64 },
    /// The limit at `refusing` has longest to wait.
    Wait { wait: Duration, refusing: usize },
}

/// Someone wants slots; see [`crate::lease::Ask`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAsk {
    pub key: String,
    /// One node's own: never shared.
    pub local: bool,
    pub holder: String,
    pub count: u32,
    pub limit: u32,
    pub ttl: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAnswer {
    pub slots: Vec<SlotId>,
    pub place: u32,
    pub wait: Duration,
    /// The queue is full: the place is not kept.
    pub turned_away: bool,
    pub degraded: bool,
}

/// A slot and where it is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub key: String,
    pub local: bool,
    pub slot: SlotId,
}

/// What a heartbeat found of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    pub kept: bool,
    pub waiter_count: u32,
}

/// A key as it stands. One key may be both a rate and slots: each is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub key: String,
    pub state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Rate { rate: Rate, free_count: u64, empty_until: Option<SystemTime> },
    Slots { limit: u32, free_count: u32, held_count: u32, waiter_count: u32, holders: Vec<String> },
}

/// Where a listing goes on: behind this key, and behind its rate or its slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct After {
    pub key: String,
    pub slots: bool,
}

/// Each call does all of its batch, or fails having taken nothing (places in a queue may stay; they lapse).
#[tonic::async_trait]
pub trait Store: Send + Sync + 'static {
    /// One answer an ask, in their order.
    async fn acquire(&self, asks: &[Ask]) -> Result<Vec<Answer>, Error>;

    /// Gives `count` of each back; unknown keys are ignored.
    async fn refund(&self, limits: &[Limit]) -> Result<(), Error>;

    /// One answer an ask, in their order.
    async fn acquire_slots(&self, asks: &[SlotAsk]) -> Result<Vec<SlotAnswer>, Error>;

    /// One answer a slot, in their order.
    async fn heartbeat(&self, slots: &[Place], ttl: Duration) -> Result<Vec<Beat>, Error>;

    /// Unknown slots are ignored.
    async fn release(&self, slots: &[Place]) -> Result<(), Error>;

    /// Up to `count` keys that begin with `prefix`, in their order, behind `after`.
    async fn list(&self, prefix: &str, after: Option<&After>, count: usize) -> Result<Vec<Summary>, Error>;

    /// The key's slots where it has some, else its rate.
    async fn inspect(&self, key: &str) -> Result<Summary, Error>;

    /// Forgets keys, rates and slots alike; says how many there were.
    async fn reset(&self, keys: &[String]) -> Result<u64, Error>;
}
