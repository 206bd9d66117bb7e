//! The road to the queues: which node is asked, when the next one may be, and what an unknown outcome comes to.
//!
//! A message goes to a second node only where the first surely did not take it. Otherwise the same node is asked again
//! with the same id until the deadline; then the message is withdrawn and the client told to come again.

mod batch;
mod node;
mod withdraw;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use godwit_kit::{
    peers::{Peer, Peers},
    stop::Stop,
};
use godwit_proto::{
    id::MessageId,
    queue::{Queue, v1::EnqueueMessage},
};
use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use crate::meters::Meters;
use node::{Asked, Node};

/// What a queue said of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queued {
    /// On disk.
    Accepted(MessageId),
    /// It, or its twin by idempotency key, is on disk already under this id.
    Duplicate(MessageId),
    Refused {
        reason: String,
        transient: bool,
    },
}

/// All queue nodes.
pub struct Road {
    /// One for each of `queues`.
    nodes: Vec<Arc<Node>>,
    queues: Peers<Queue>,
    next: AtomicUsize,
    timeout: Duration,
}

impl Road {
    pub fn new(queues: &Peers<Queue>, timeout: Duration, meters: Arc<Meters>, stop: &Stop) -> Self {
        let node = |peer: &Peer<Queue>| Arc::new(Node::start(peer.clone(), timeout, meters.clone(), stop.clone()));
        let nodes = queues.all().iter().map(node).collect();
        Self { nodes, queues: queues.clone(), next: AtomicUsize::new(0), timeout }
    }

    /// # Errors
    /// `ResourceExhausted` or `Unavailable` where every node surely did not take it; `DeadlineExceeded` where one may
    /// have, and it was withdrawn there.
    pub async fn enqueue(&self, message: EnqueueMessage, span: &Span) -> Result<Queued, Status> {
        let deadline = Instant::now() + self.timeout;
        let mut refusal = Status::unavailable("no queue node");
        for node in self.order(&message.idempotency_key) {
            match node.ask(&message, span, deadline).await {
                Asked::Answered(queued) => return Ok(queued),
                Asked::TurnedAway(status) => refusal = status,
                Asked::Unknown => return node.withdraw(&message).await,
            }
        }
        Err(refusal)
    }

    /// Each node once, round and round, those that failed a moment ago last. The same idempotency key begins at the same node, since
    /// only that one can know it again.
    fn order(&self, key: &str) -> impl Iterator<Item = &Arc<Node>> {
        let listed = self.nodes.iter().enumerate().filter(|(place, _)| self.queues.is_listed(*place));
        let mut nodes: Vec<&Arc<Node>> = listed.map(|(_, node)| node).collect();
        if key.is_empty() {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % nodes.len().max(1);
            nodes.rotate_left(turn);
            nodes.sort_by_key(|node| node.is_resting());
        } else {
            nodes.sort_by_cached_key(|node| weight(key, &node.name()));
        }
        nodes.into_iter()
    }
}

/// Rendezvous hashing: each key has an order of nodes of its own, which changes little as nodes come and go.
fn weight(key: &str, node: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, node).hash(&mut hasher);
    hasher.finish()
}
