//! Services of which there are several: a node and a handle each, near or far.

use godwit_proto::id::NodeId;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use tonic::Status;

/// A node's id, once it is known; a remote one is learned from its first answer.
pub type NodeCell = Arc<OnceLock<NodeId>>;

/// One of them.
#[derive(Debug, Clone)]
pub struct Peer<T> {
    /// Its address, or `here`.
    pub name: String,
    pub handle: T,
    pub node: NodeCell,
}

/// All of them: the one that runs here, if any, first. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peers<T>(Arc<Vec<Peer<T>>>);

impl<T> Peer<T> {
    /// The service that runs in this process.
    pub fn here(node: NodeId, handle: T) -> Self {
        Self { name: "here".into(), handle, node: Arc::new(OnceLock::from(node)) }
    }
}

impl<T: Clone> Peers<T> {
    pub fn new(peers: Vec<Peer<T>>) -> Self {
        Self(Arc::new(peers))
    }

    /// Just the one in this process.
    pub fn here(node: NodeId, handle: T) -> Self {
        Self::new(vec![Peer::here(node, handle)])
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every node once: an address that turned out to be a node that is listed before is left out.
    pub fn each(&self) -> Vec<Peer<T>> {
        let mut seen: Vec<NodeId> = Vec::new();
        let mut each = Vec::new();
        for peer in self.0.iter() {
            match peer.node.get() {
                Some(node) if seen.contains(node) => continue,
                Some(node) => seen.push(*node),
                None => {}
            }
            each.push(peer.clone());
        }
        each
    }

    /// Asks the first; where it is unreachable or full, the next, and so on. For calls that may be made twice.
    ///
    /// # Errors
    /// The last one's, or `Unavailable` where there is none.
    pub async fn any<R, F>(&self, call: impl Fn(T) -> F) -> Result<R, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let mut last = Status::unavailable("no peer");
        for peer in self.each() {
            match call(peer.handle.clone()).await {
                Err(status) if matches!(status.code(), tonic::Code::Unavailable | tonic::Code::ResourceExhausted) => {
                    last = status;
                }
                answer => return answer,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_is_asked_where_the_first_is_away() {
        let node = NodeId::new();
        let remote = |name: &str, handle| Peer { name: name.into(), handle, node: NodeCell::default() };
        let peers = Peers::new(vec![Peer::here(node, 1), remote("a", 2), remote("b", 3)]);
        let asked =
            |limit: i32| move |n: i32| async move { if n < limit { Err(Status::unavailable("away")) } else { Ok(n) } };
        assert_eq!(peers.any(asked(3)).await.unwrap(), 3);
        assert_eq!(peers.any(asked(9)).await.unwrap_err().code(), tonic::Code::Unavailable);
        assert_eq!(
            peers.any(|_| async { Err::<(), _>(Status::internal("x")) }).await.unwrap_err().code(),
            tonic::Code::Internal
        );
    }

    #[test]
    fn a_node_is_listed_once() {
        let node = NodeId::new();
        let peers =
            Peers::new(vec![Peer::here(node, 1), Peer { name: "a".into(), handle: 2, node: NodeCell::default() }]);
        assert_eq!(peers.each().len(), 2);
        peers.0[1].node.set(node).unwrap();
        assert_eq!(peers.each().len(), 1);
    }
}
