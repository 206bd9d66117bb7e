//! Limits that several nodes share through Redis, and what holds when it is away.
//!
//! **Redis decides** while it answers: a script a limit, on a key of its own with its own hash tag, by Redis' clock. A debt
//! runs off there as in [`crate::bucket`], slots are counted there as in [`crate::lease`].
//!
//! **Nodes are members** by a lease that each renews ([`crate::tenure`]). A node whose lease has ended may be cut off, and a
//! node that is cut off begins to use its share of each limit ([`crate::share`]) when its lease has surely ended. So:
//! - the scripts keep the share of every member whose lease has ended, until it comes back, leaves, or is forgotten;
//! - between the loss of Redis and the end of its lease a node grants nothing;
//! - a script does nothing once the caller's view of the members has ended: nobody goes by an old one.
//!
//! **Rates.** Let the true debt be what all nodes took, run off by the whole limit. It is never above the debt in Redis plus
//! the debts of the nodes that are on their share, and these never above what is kept for them. Hence: a node begins its
//! share with a debt of its whole burst; as much comes off the debt in Redis when the share begins to be kept, and comes on
//! again when it is not kept any more; what a node owes on its share is put into Redis before its lease is renewed.
//!
//! **Slots.** A node on its share goes on with what it holds as far as its share goes; what is beyond ends when Redis would
//! let it go. The scripts count for a member whose lease has ended the greater of its share and what it holds; of the
//! others' slots they keep no more than the rest. It gives new ones beyond what it held only after the longest that another
//! slot can last. This leans on all holders of a key using one ttl, and on holders that end when told, or when a ttl passed.
//!
//! **When Redis loses its state** (restarted, flushed, failed over) the epoch is gone or the scripts are unknown: nobody is
//! served until all members that live have put back the debts and slots that they remember ([`memo`]). A debt is put back as
//! it was at the last answer anybody has of it.
//!
//! **What remains.** In a Cluster a script sees its limit's key alone, so that a node which loses its data but not its
//! scripts is noticed by the limits that a caller remembers: others may give one extra burst, or as many slots again, until
//! then. A limit that only a node remembers which is cut off at the same time as Redis forgets comes back with that node. A
//! node that starts while Redis is away has no share; one that is cut off for longer than `forget_after` keeps using its
//! share although the others divide it. Redis' clock, and those of its replicas, must not be set by more than a tenth of a
//! lease.

mod listing;
mod memo;
mod node;
mod own;
mod rates;
mod restore;
mod scripts;
mod slots;
mod turns;
mod wire;

pub use wire::check_address;

use crate::config::Config;
use crate::error::Error;
use crate::store::{After, Answer, Ask, Beat, Limit, Place, SlotAnswer, SlotAsk, Store, Summary};
use godwit_kit::Host;
use node::Node;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// The store on Redis.
pub struct Shared(Arc<Node>);

impl Shared {
    /// Redis may be away: it is reached when it can be.
    ///
    /// # Errors
    /// An address or a certificate that cannot be read.
    pub fn open(config: Config, host: &Host) -> Result<Self, Error> {
        Self::open_at(config, host, None)
    }

    /// The same, where limits count by a time that is given, in microseconds, instead of Redis'.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_at(config: Config, host: &Host, given: Option<Arc<AtomicU64>>) -> Result<Self, Error> {
        Ok(Self(Node::open(config, host, given).map_err(|what| Error::invalid("throttle.redis", what))?))
    }
}

/// Work goes on in a task of its own: a caller that goes away leaves nothing half taken.
async fn whole<T, F>(work: F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
    T: Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        Err(error) => Err(Error::Away { reason: error.to_string() }),
    }
}

#[tonic::async_trait]
impl Store for Shared {
    async fn acquire(&self, asks: &[Ask]) -> Result<Vec<Answer>, Error> {
        let (node, asks) = (self.0.clone(), asks.to_vec());
        whole(async move { node.acquire(&asks).await }).await
    }

    async fn refund(&self, limits: &[Limit]) -> Result<(), Error> {
        let (node, limits) = (self.0.clone(), limits.to_vec());
        whole(async move {
            node.refund(&limits).await;
            Ok(())
        })
        .await
    }

    async fn acquire_slots(&self, asks: &[SlotAsk]) -> Result<Vec<SlotAnswer>, Error> {
        let (node, asks) = (self.0.clone(), asks.to_vec());
        whole(async move { node.acquire_slots(&asks).await }).await
    }

    async fn heartbeat(&self, slots: &[Place], ttl: Duration) -> Result<Vec<Beat>, Error> {
        let (node, slots) = (self.0.clone(), slots.to_vec());
        whole(async move { node.heartbeat(&slots, ttl).await }).await
    }

    async fn release(&self, slots: &[Place]) -> Result<(), Error> {
        let (node, slots) = (self.0.clone(), slots.to_vec());
        whole(async move { node.release(&slots).await }).await
    }

    async fn list(&self, prefix: &str, after: Option<&After>, count: usize) -> Result<Vec<Summary>, Error> {
        self.0.list(prefix, after, count).await
    }

    async fn inspect(&self, key: &str) -> Result<Summary, Error> {
        self.0.inspect(key).await
    }

    async fn reset(&self, keys: &[String]) -> Result<u64, Error> {
        self.0.reset(keys).await
    }
}
