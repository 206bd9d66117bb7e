//! What all doors share: the road to the queues, the limits, the numbers.

use std::{sync::Arc, time::Duration};

use godwit_kit::{Host, clock::Clock, peers::Peers, stop::Stop, trace};
use godwit_proto::{
    common::v1::TraceContext,
    id::NodeId,
    queue::{Queue, v1::EnqueueMessage},
};
use tonic::Status;
use tracing::{Instrument, Span};

use crate::{
    config::{self, Config},
    door::Budget,
    enqueue::{Queued, Road},
    meters::Meters,
    rejections::Rejections,
    sessions::Sessions,
};

pub struct Ingress {
    pub node: NodeId,
    pub hostname: String,
    pub injected_bytes_max: usize,
    pub stop_grace: Duration,
    pub clock: Clock,
    pub stop: Stop,
    pub meters: Arc<Meters>,
    pub budget: Arc<Budget>,
    pub sessions: Sessions,
    pub rejections: Rejections,
    road: Road,
}

impl Ingress {
    pub fn new(config: &Config, queues: Peers<Queue>, host: &Host) -> Self {
        let meters = Arc::new(Meters::new(&host.metrics));
        let sessions = Sessions::default();
        let rejections = Rejections::start(queues.clone(), sessions.clone(), meters.clone(), host);
        Self {
            node: host.node,
            hostname: config::hostname(&[&config.hostname]),
            injected_bytes_max: usize::try_from(config.max_message_size.0).unwrap_or(usize::MAX),
            stop_grace: config.stop_grace,
            clock: host.clock.clone(),
            stop: host.stop.clone(),
            road: Road::new(&queues, config.enqueue_timeout, meters.clone(), &host.stop),
            budget: Arc::new(Budget::new(usize::try_from(config.max_data_in_flight.0).unwrap_or(usize::MAX))),
            meters,
            sessions,
            rejections,
        }
    }

    /// Brings one message to a queue, as a child of `receiving`, or of `parent` where that is given.
    ///
    /// # Errors
    /// Where no queue took it, or none said so in time.
    pub async fn enqueue(
        &self,
        mut message: EnqueueMessage,
        receiving: &Span,
        parent: &TraceContext,
    ) -> Result<Queued, Status> {
        let first = message.envelope.as_ref().and_then(|envelope| envelope.recipients.first());
        let span = tracing::info_span!(
            parent: receiving,
            "enqueue",
            otel.kind = "producer",
            godwit.message.id = message.message_id.as_ref().map_or("", |id| id.value.as_str()),
            godwit.tenant = message.tenant,
            godwit.campaign = message.campaign,
            godwit.domain = first.map_or("", |recipient| domain(&recipient.address)),
        );
        trace::set_parent(&span, parent);
        message.trace = Some(trace::of(&span));
        let answer = self.road.enqueue(message, &span).instrument(span.clone()).await;
        answer.inspect_err(|status| trace::set_failed(&span, status.code().description()))
    }
}

/// Of a canonical address: the local part may hold an `@` in quotes, the domain none.
fn domain(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}
