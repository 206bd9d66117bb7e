//! Services of which there are several: a node and a handle each, near or far.

use godwit_proto::id::NodeId;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Status};

/// The name of the one in this process; the others are called by their addresses.
const HERE: &str = "here";
/// How long one that failed is asked last.
const REST: Duration = Duration::from_secs(1);

/// Which node answers at an address, once one has. It may come to be another: on a new disk, or a machine that took the
/// address over.
#[derive(Debug, Clone, Default)]
pub struct NodeCell(Arc<RwLock<Option<NodeId>>>);

impl NodeCell {
    pub fn get(&self) -> Option<NodeId> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in whose answer came; gives the node that it was before, where that was another.
    pub fn learn(&self, node: NodeId) -> Option<NodeId> {
        // Nearly always it says nothing new.
        if self.get() == Some(node) {
            return None;
        }
        self.0.write().unwrap_or_else(PoisonError::into_inner).replace(node).filter(|before| *before != node)
    }
}

impl From<NodeId> for NodeCell {
    fn from(node: NodeId) -> Self {
        Self(Arc::new(RwLock::new(Some(node))))
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Peer<T> {
    /// Its address, or `here`.
    pub name: String,
    pub handle: T,
    pub node: NodeCell,
}

impl<T> Peer<T> {
    /// The service that runs in this process.
    pub fn here(node: NodeId, handle: T) -> Self {
        Self { name: HERE.into(), handle, node: node.into() }
    }
}

/// All of them: the one that runs here, if any, first. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    peers: Vec<Peer<T>>,
    /// Since when each has rested, in the order of `peers`; std's: never held across an await.
    failed: Vec<Mutex<Option<Instant>>>,
    turn: AtomicUsize,
}

impl<T: Clone> Peers<T> {
    pub fn new(peers: Vec<Peer<T>>) -> Self {
        let failed = peers.iter().map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner { peers, failed, turn: AtomicUsize::new(0) }))
    }

    /// Just the one in this process.
    pub fn here(node: NodeId, handle: T) -> Self {
        Self::new(vec![Peer::here(node, handle)])
    }

    pub fn is_empty(&self) -> bool {
        self.0.peers.is_empty()
    }

    /// Every address, wherever it leads: for who keeps something for each, and asks [`is_listed`](Self::is_listed) before it
    /// is used.
    pub fn all(&self) -> &[Peer<T>] {
        &self.0.peers
    }

    /// Every node once: an address that leads to a node that is listed before is left out, for as long as it does. What is
    /// not known yet is taken for a node of its own.
    pub fn each(&self) -> Vec<Peer<T>> {
        self.listed().map(|place| self.0.peers[place].clone()).collect()
    }

    /// Whether the one at this place of [`all`](Self::all) is among [`each`](Self::each) now.
    pub fn is_listed(&self, place: usize) -> bool {
        let peers = &self.0.peers;
        match peers[place].node.get() {
            Some(node) => peers[..place].iter().all(|before| before.node.get() != Some(node)),
            None => true,
        }
    }

    /// Asks one; where it is unreachable or full, the next, and so on. The one in this process comes first, the others by
    /// turns; who failed a moment ago comes last. For calls that may be made twice.
    ///
    /// # Errors
    /// The last one's, or `Unavailable` where there is none.
    pub async fn any<R, F>(&self, call: impl Fn(T) -> F) -> Result<R, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let mut last = Status::unavailable("no peer");
        for place in self.order() {
            match call(self.0.peers[place].handle.clone()).await {
                Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) => {
                    *self.0.failed[place].lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                    last = status;
                }
                answer => return answer,
            }
        }
        Err(last)
    }

    fn listed(&self) -> impl Iterator<Item = usize> {
        (0..self.0.peers.len()).filter(|place| self.is_listed(*place))
    }

    fn order(&self) -> Vec<usize> {
        let peers = &self.0.peers;
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let rests = |place: usize| {
            let failed = *self.0.failed[place].lock().unwrap_or_else(PoisonError::into_inner);
            failed.is_some_and(|failed| failed.elapsed() < REST)
        };
        let mut order: Vec<usize> = self.listed().collect();
        order.sort_by_cached_key(|place| {
            (rests(*place), peers[*place].name != HERE, place.wrapping_add(turn) % peers.len())
        });
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote<T>(name: &str, handle: T) -> Peer<T> {
        Peer { name: name.into(), handle, node: NodeCell::default() }
    }

    /// Those in `away` are.
    async fn asked(peers: &Peers<i32>, away: &[i32]) -> Result<i32, Status> {
        peers.any(|n| async move { if away.contains(&n) { Err(Status::unavailable("away")) } else { Ok(n) } }).await
    }

    #[tokio::test]
    async fn the_next_is_asked_where_the_first_is_away() {
        let peers = Peers::new(vec![Peer::here(NodeId::new(), 1), remote("a", 2), remote("b", 3)]);
        assert_eq!(asked(&peers, &[1, 2]).await.unwrap(), 3);
        assert_eq!(asked(&peers, &[1, 2, 3]).await.unwrap_err().code(), Code::Unavailable);
        let failed = peers.any(|_| async { Err::<(), _>(Status::internal("x")) }).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_here_is_first_others_take_turns_and_who_failed_rests() {
        let near = Peers::new(vec![remote("a", 2), Peer::here(NodeId::new(), 1), remote("b", 3)]);
        for _ in 0..4 {
            assert_eq!(asked(&near, &[]).await.unwrap(), 1);
        }
        let far = Peers::new(vec![remote("a", 2), remote("b", 3)]);
        let taken = [asked(&far, &[]).await.unwrap(), asked(&far, &[]).await.unwrap()];
        assert!(taken == [2, 3] || taken == [3, 2], "{taken:?}");
        // Both turns come to the one that is left; then, until it has rested, nobody tries the other.
        for _ in 0..2 {
            assert_eq!(asked(&far, &[2]).await.unwrap(), 3);
        }
        for _ in 0..2 {
            assert_eq!(asked(&far, &[]).await.unwrap(), 3, "it rests");
        }
        tokio::time::advance(REST).await;
        let taken = [asked(&far, &[]).await.unwrap(), asked(&far, &[]).await.unwrap()];
        assert!(taken.contains(&2), "{taken:?}");
    }

    #[test]
    fn a_node_is_listed_once_for_as_long_as_its_addresses_lead_there() {
        let (node, other) = (NodeId::new(), NodeId::new());
        let peers = Peers::new(vec![Peer::here(node, 1), remote("a", 2)]);
        let names = || peers.each().into_iter().map(|peer| peer.name).collect::<Vec<_>>();
        assert_eq!(names(), ["here", "a"]);
        let cell = peers.each()[1].node.clone();
        assert_eq!(cell.learn(node), None);
        assert_eq!((names(), peers.is_listed(1)), (vec!["here".to_string()], false));
        assert_eq!(cell.learn(other), Some(node), "another node answers at that address");
        assert_eq!((names(), peers.is_listed(1)), (vec!["here".to_string(), "a".into()], true));
        assert_eq!(cell.learn(other), None);
    }
}
