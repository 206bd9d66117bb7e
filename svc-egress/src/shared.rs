//! What every part of a running egress holds.

use crate::crew::Crew;
use crate::dial::Dialer;
use crate::limits::Limits;
use crate::meters::Meters;
use crate::node::Node;
use crate::route::{Found, Router};
use crate::source::{Pool, Source};
use crate::tls::Connector;
use crate::worker::End;
use godwit_kit::Host;
use godwit_kit::peers::Peers;
use godwit_proto::egress::v1::SiteSummary;
use godwit_proto::queue::Queue;
use godwit_proto::queue::v1::watch_due_response::LaneDue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub struct Shared {
    pub host: Host,
    /// One for each of `queues`.
    pub nodes: Vec<Arc<Node>>,
    pub queues: Peers<Queue>,
    pub sources: Vec<Arc<Source>>,
    pub pools: Vec<Pool>,
    pub router: Router,
    pub dialer: Dialer,
    pub tls: Connector,
    pub limits: Limits,
    pub meters: Meters,
    pub ehlo_domain: String,
    pub unsettled_per_connection_max: usize,
    pub stop_grace: Duration,
    pub lookups_max: usize,
    /// One permit a connection.
    pub connections: Arc<Semaphore>,
    pub workers: TaskTracker,
    /// The TSA's orders are known, or cannot be had for now: dispatch may begin.
    pub orders_known: CancellationToken,
    /// To the dispatcher.
    pub events: mpsc::Sender<Event>,
}

/// What the dispatcher hears.
pub enum Event {
    /// A queue node told what is due.
    Due { node: usize, lanes: Vec<LaneDue>, snapshot_done: bool },
    /// A queue node's stream began anew: a snapshot follows.
    Anew { node: usize },
    /// A lookup has ended.
    Found { domain: String, found: Found },
    /// A queue node knows these (domain, site).
    Announced { node: usize, entries: Vec<(String, String)> },
    /// Slots were asked for; `wait` where not all were given.
    Hired { crew: Arc<Crew>, wait: Option<Duration> },
    /// A connection was greeted.
    Connected { crew: Arc<Crew> },
    /// A connection is over.
    Ended { crew: Arc<Crew>, end: End },
    /// A lane without a connection was settled, as far as possible.
    LaneSettled { domain: String, pool: String },
    /// The TSA changed something.
    Actions { touched: crate::actions::Touched },
    /// Somebody wants to see the sites after a name, at most so many; the answer says whether there are more.
    List { after: String, size: usize, answer: oneshot::Sender<(Vec<SiteSummary>, bool)> },
    /// A shaping block's domain leads to this site.
    Sited { domain: String, site: String },
}

impl Shared {
    /// To the dispatcher; nothing where it has ended.
    pub async fn say(&self, event: Event) {
        let _ = self.events.send(event).await;
    }
}
