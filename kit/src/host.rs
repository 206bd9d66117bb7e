//! What a process gives to each service that runs in it.

use crate::{clock::Clock, health::Board, metrics::Metrics, net::Net, stop::Stop};
use godwit_proto::id::NodeId;

/// The seams and the shared parts, as one value. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    pub node: NodeId,
    pub clock: Clock,
    pub net: Net,
    pub metrics: Metrics,
    pub health: Board,
    pub stop: Stop,
}

impl Host {
    /// The machine's clock and network, and registries of its own.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            clock: Clock::wall(),
            net: Net::Tcp,
            metrics: Metrics::new(),
            health: Board::default(),
            stop: Stop::new(),
        }
    }
}
