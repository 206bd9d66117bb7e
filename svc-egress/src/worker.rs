//! A connection's life: token, connect, then tokens → lease → send → settle, again and again, until there is nothing
//! more to do here. It holds no mail while it waits for anything but the peer and the queue.

use crate::attempt::{self, Around};
use crate::connect;
use crate::crew::{Counted, Crew, Pick};
use crate::delivery::{self, Attempted, Manner};
use crate::held::Ticket;
use crate::limits::{Slots, Tokens, batch_span};
use crate::node::Node;
use crate::plan::{self, Pace};
use crate::session::Session;
use crate::settle::Settling;
use crate::shared::{Event, Shared};
use godwit_kit::trace;
use godwit_proto::common::v1::{Peer, SmtpReply, TraceContext};
use godwit_proto::convert::timestamp;
use godwit_proto::id::MessageId;
use godwit_proto::queue::v1::{LeaseResponse, LeasedDelivery, Outcome, RecipientResult};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;
use tracing::{Instrument, Span};

/// How long to wait where there is mail and the queue hands none out: limits of its own, or others are quicker.
const HELD_BACK_WAIT: Duration = Duration::from_millis(250);

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// Nothing to send, enough sent, or told to stop.
    Done,
    /// The peer left, or would not go on.
    Lost,
    /// A limit of the throttle is used up for longer than an idle connection is kept.
    Throttled { wait: Duration, key: String },
    /// No host of the site could be used.
    Unreachable { result: RecipientResult, reply: SmtpReply },
    /// The source cannot send.
    SourceDown(String),
    /// It was never opened: the slot came to nothing.
    Failed,
}

/// One connection, from the slot on.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub crew: Arc<Crew>,
    pub slots: Slots,
    /// Its part of `connections_max`.
    pub permit: OwnedSemaphorePermit,
}

/// A worker that is greeted.
struct Open {
    shared: Arc<Shared>,
    crew: Arc<Crew>,
    slots: Slots,
    session: Session,
    session_id: String,
    host: String,
    connect_trace: TraceContext,
    unsettled: Arc<Semaphore>,
    sent_count: u32,
    /// How long a transaction takes here, on the average of late.
    each: Option<Duration>,
    throttle_wait: Duration,
    lease_failures: u32,
}

impl Worker {
    pub async fn run(self) -> End {
        let Self { shared, crew, slots, permit: _permit } = self;
        shared.meters.connections.inc();
        let end = Self::work(shared.clone(), crew, slots).await;
        shared.meters.connections.dec();
        end
    }

    async fn work(shared: Arc<Shared>, crew: Arc<Crew>, slots: Slots) -> End {
        let opened = tokio::select! {
            opened = Self::open(&shared, &crew) => opened,
            () = slots.lost() => return End::Done,
            () = shared.host.stop.requested() => return End::Done,
        };
        let connect::Connected { session, host, trace } = match opened {
            Ok(connected) => connected,
            Err(end) => return end,
        };
        let unsettled = Arc::new(Semaphore::new(shared.unsettled_per_connection_max));
        let mut open = Open {
            shared: shared.clone(),
            crew: crew.clone(),
            slots,
            session,
            session_id: MessageId::new().to_string().replace("msg_", "ses_"),
            host,
            connect_trace: trace,
            unsettled,
            sent_count: 0,
            each: None,
            throttle_wait: Duration::ZERO,
            lease_failures: 0,
        };
        let _connected = Counted::new(&crew.connected_count);
        shared.say(Event::Connected { crew: crew.clone() }).await;
        let end = open.serve().await;
        // A slot that is lost may be another's already: the peer would count both while we wait for its farewell.
        if !open.slots.are_lost() {
            open.session.quit().await;
        }
        end
    }

    async fn open(shared: &Shared, crew: &Crew) -> Result<connect::Connected, End> {
        match shared.limits.tokens(&crew.path().connection_rates, 1).await {
            Tokens::Granted(_) => connect::connect(shared, crew).await,
            Tokens::Wait { wait, key } => Err(End::Throttled { wait, key }),
        }
    }
}

impl Open {
    async fn serve(&mut self) -> End {
        let (crew, shared) = (self.crew.clone(), self.shared.clone());
        let mut idle_since = Instant::now();
        loop {
            if self.must_end() {
                return End::Done;
            }
            let path = crew.path();
            let Some(pick) = crew.site.pick(crew.source_index, &shared.nodes) else {
                match self.idle(idle_since + path.path.timeouts.idle).await {
                    Some(end) => return end,
                    None => continue,
                }
            };
            match self.serve_one_lease(pick, &path).await {
                Served::Nothing if idle_since.elapsed() > path.path.timeouts.idle => return End::Done,
                Served::Sent => idle_since = Instant::now(),
                Served::Nothing => {}
                Served::Over(end) => return end,
            }
        }
    }

    /// Waits until there may be something to do; gives the end where there is nothing more.
    async fn idle(&mut self, until: Instant) -> Option<End> {
        let (crew, shared) = (self.crew.clone(), self.shared.clone());
        // Only who has nothing in hand is among those who are woken, and is so before it looks again: what comes
        // between the look and the wait is not missed.
        let mut woken = std::pin::pin!(crew.wake.notified());
        woken.as_mut().enable();
        let _idle = Counted::new(&crew.idle_count);
        if self.must_end() || crew.site.has_pick(crew.source_index, &shared.nodes) {
            return None;
        }
        // A source that is ahead of its share is not woken by the others: it looks again itself.
        let again = Duration::from_millis(if crew.site.due(&shared.nodes).is_empty() { 60_000 } else { 100 });
        tokio::select! {
            () = woken => None,
            () = tokio::time::sleep(again) => None,
            () = self.slots.yielded() => Some(End::Done),
            () = self.session.unasked() => Some(End::Lost),
            () = tokio::time::sleep_until(until) => Some(End::Done),
            () = shared.host.stop.requested() => Some(End::Done),
        }
    }

    /// Whether no more mail may be taken on this connection.
    fn must_end(&self) -> bool {
        let path = self.crew.path();
        self.shared.host.stop.is_requested()
            || self.crew.is_closed()
            || self.slots.must_yield()
            || self.sent_count >= path.path.connections.max_deliveries_per_connection
            || self.crew.live_count.load(Ordering::Relaxed) > path.connection_limit()
    }

    async fn serve_one_lease(&mut self, pick: Pick, path: &crate::path::SitePath) -> Served {
        let connected = self.crew.connected_count.load(Ordering::Relaxed);
        let wanted = plan::lease_messages(Pace {
            backlog: pick.backlog,
            connections: plan::connections(path.connection_limit(), pick.backlog).max(connected),
            left: path.path.connections.max_deliveries_per_connection.saturating_sub(self.sent_count).max(1),
            each: self.each,
            is_rated: !path.message_rates.is_empty(),
        });
        let acquire =
            if path.message_rates.is_empty() { Span::none() } else { batch_span("acquire", &self.crew.site.name) };
        let tokens = self.shared.limits.tokens(&path.message_rates, wanted).instrument(acquire.clone()).await;
        let granted = match tokens {
            Tokens::Granted(granted) => granted,
            Tokens::Wait { wait, key } => return self.wait_for_tokens(wait, key, path).await,
        };
        let shared = self.shared.clone();
        let node = &shared.nodes[pick.node];
        let asked = Instant::now();
        let lease = tracing::info_span!("lease", godwit.site = self.crew.site.name, messages_max = granted);
        let pool = &shared.pools[pick.pool].name;
        let leased = node.lease(&self.crew.site.name, pool, granted).instrument(lease.clone()).await;
        let LeaseResponse { deliveries, remaining_due, .. } = match leased {
            Ok(answer) => answer,
            Err(status) => {
                self.shared.limits.refund(&path.message_rates, granted);
                return self.lease_failed(node, &status).await;
            }
        };
        self.lease_failures = 0;
        self.crew.site.remains(pick, remaining_due);
        self.crew.site.charge(pick.pool, self.crew.source_index, deliveries.len() as u64);
        if deliveries.is_empty() {
            self.shared.limits.refund(&path.message_rates, granted);
            return if remaining_due == 0 { Served::Nothing } else { self.pause(HELD_BACK_WAIT).await };
        }
        self.shared.meters.leased.observe(deliveries.len() as f64);
        let throttle_wait = std::mem::take(&mut self.throttle_wait);
        let around = Around { lease, acquire, connect: self.connect_trace.clone(), throttle_wait };
        let (sent, over) = self.send_all(node, deliveries, asked, &around).await;
        self.shared.limits.refund(&path.message_rates, granted.saturating_sub(sent));
        over.map_or(Served::Sent, Served::Over)
    }

    /// Keeps the connection while the wait is short; nothing is leased meanwhile.
    async fn wait_for_tokens(&mut self, wait: Duration, key: String, path: &crate::path::SitePath) -> Served {
        if wait > path.path.timeouts.idle {
            return Served::Over(End::Throttled { wait, key });
        }
        self.throttle_wait += wait;
        self.pause(wait).await
    }

    /// Waits with the connection open and nothing in hand.
    async fn pause(&mut self, wait: Duration) -> Served {
        tokio::select! {
            () = self.shared.host.clock.sleep(wait) => Served::Nothing,
            () = self.slots.yielded() => Served::Over(End::Done),
            () = self.session.unasked() => Served::Over(End::Lost),
            () = self.shared.host.stop.requested() => Served::Over(End::Done),
        }
    }

    async fn lease_failed(&mut self, node: &Node, status: &Status) -> Served {
        self.lease_failures += 1;
        tracing::warn!(%status, queue = %node.name, site = %self.crew.site.name, "nothing leased");
        self.pause(plan::call_backoff(self.lease_failures + 3)).await
    }

    /// Sends what was leased by a call at `asked`, in order. Gives how many were attempted, and why the connection is
    /// over, if it is: then what was not attempted has been given back.
    async fn send_all(
        &mut self,
        node: &Node,
        deliveries: Vec<LeasedDelivery>,
        asked: Instant,
        around: &Around,
    ) -> (u32, Option<End>) {
        let ids = |delivery: &LeasedDelivery| {
            (delivery.lease_id.clone().unwrap_or_default(), delivery.delivery_id.clone().unwrap_or_default())
        };
        let tickets = node.held.take(deliveries.iter().map(ids).collect(), asked);
        let mut in_hand = InHand::new(&self.crew, tickets.len() as u64);
        let mut pairs = deliveries.into_iter().zip(tickets);
        let mut sent = 0;
        let mut over = None;
        while over.is_none() {
            let Some((delivery, ticket)) = pairs.next() else { break };
            let stops = self.shared.host.stop.is_requested() || self.slots.must_yield();
            if stops || (self.sent_count > 0 && self.session.is_stale().await) {
                over = Some(if stops { End::Done } else { End::Lost });
                node.release(vec![ticket], "connection is over").await;
                break;
            }
            match self.send_one(node, delivery, ticket, around).await {
                OneSent::Reusable => sent += 1,
                OneSent::Broken => {
                    sent += 1;
                    over = Some(End::Lost);
                }
                OneSent::Unheard => over = Some(End::Lost),
                OneSent::Dropped => {}
            }
            in_hand.one_less();
        }
        let left: Vec<Ticket> = pairs.map(|(_, ticket)| ticket).collect();
        node.release(left, "connection is over").await;
        (sent, over)
    }

    async fn send_one(
        &mut self,
        node: &Node,
        mut delivery: LeasedDelivery,
        ticket: Ticket,
        around: &Around,
    ) -> OneSent {
        // A queue that does not settle holds up the connection, not more and more memory.
        let permit = self.unsettled.clone().acquire_owned().await.expect("the semaphore is never closed");
        if ticket.is_lost() {
            return self.drop_lost(&delivery);
        }
        let content = match delivery::content(&node.queue, &mut delivery).await {
            Ok(content) => content,
            Err(status) => {
                tracing::error!(%status, delivery_id = ?delivery.delivery_id, "body not read; its lease runs out");
                return OneSent::Reusable;
            }
        };
        // Both waits may have been long: nothing is begun that another may be doing, on a connection that may be too many.
        if ticket.is_lost() {
            return self.drop_lost(&delivery);
        }
        if self.slots.are_lost() {
            node.release(vec![ticket], "connection's slot was lost").await;
            return OneSent::Unheard;
        }
        let (started, began) = (self.shared.host.clock.now(), Instant::now());
        let size_bytes = content.len() as u64;
        let span = attempt::span(&delivery, &self.crew.site.name, around);
        let attempted = self.attempt(&delivery, content).instrument(span.clone()).await;
        if attempted.unheard && self.sent_count > 0 {
            node.release(vec![ticket], "connection was closed while idle").await;
            return OneSent::Unheard;
        }
        attempt::finish(&span, &self.host, attempted.worst());
        self.note_pace(began.elapsed());
        self.sent_count += 1;
        self.crew.delivered_count.fetch_add(1, Ordering::Relaxed);
        let reusable = attempted.reusable;
        let outcome = self.outcome(delivery, attempted, &span, Facts { started, size_bytes });
        // The receiver outlives every connection.
        let _ = node.settling.send(Settling { outcome, span, ticket, permit }).await;
        if reusable { OneSent::Reusable } else { OneSent::Broken }
    }

    /// The queue may have leased it to another by now: it is neither sent nor told of.
    fn drop_lost(&self, delivery: &LeasedDelivery) -> OneSent {
        self.shared.meters.dropped.inc();
        tracing::warn!(delivery_id = ?delivery.delivery_id, "lease ended before its delivery was begun");
        OneSent::Dropped
    }

    /// The attempt; once a stop is asked for it must end within the grace.
    async fn attempt(&mut self, delivery: &LeasedDelivery, content: bytes::Bytes) -> Attempted {
        let path = self.crew.path();
        let manner = Manner {
            recipients_max: path.path.messages.max_recipients_per_batch as usize,
            ignore_8bit: path.path.protocol.ignore_8bit_checks,
        };
        let (stop, grace) = (self.shared.host.stop.token(), self.shared.stop_grace);
        let grace_is_over = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            biased;
            attempted = delivery::attempt(&mut self.session, delivery, content, manner) => return attempted,
            () = grace_is_over => {}
        }
        Attempted::cut_short(delivery, &self.session.abandon())
    }

    fn outcome(&self, delivery: LeasedDelivery, attempted: Attempted, span: &Span, facts: Facts) -> Outcome {
        attempted.recipients.iter().for_each(|recipient| self.shared.meters.count(recipient.result()));
        let peer = Peer {
            name: self.host.clone(),
            address: self.session.peer.ip().to_string(),
            port: self.session.peer.port().into(),
        };
        Outcome {
            delivery_id: delivery.delivery_id,
            lease_id: delivery.lease_id,
            recipients: attempted.recipients,
            source: self.crew.source.name.clone(),
            site: self.crew.site.name.clone(),
            provider: self.crew.path().provider.clone(),
            egress_pool: delivery.egress_pool,
            peer: Some(peer),
            tls: self.session.tls.clone(),
            size_bytes: facts.size_bytes,
            started: Some(timestamp(facts.started)),
            attempt_trace: Some(trace::of(span)).filter(|trace| !trace.traceparent.is_empty()),
            session_id: self.session_id.clone(),
            protocol: self.session.protocol.into(),
            source_address: self.session.local.ip().to_string(),
            not_before: None,
        }
    }

    fn note_pace(&mut self, took: Duration) {
        self.each = Some(self.each.map_or(took, |each| (each * 7 + took) / 8));
    }
}

enum Served {
    Sent,
    Nothing,
    Over(End),
}

enum OneSent {
    Reusable,
    Broken,
    /// Given back: the peer had left before, or the connection's slot was lost.
    Unheard,
    /// Not begun: it may not be ours any more.
    Dropped,
}

struct Facts {
    started: SystemTime,
    size_bytes: u64,
}

/// The crew's count of leased and unsent mail, right again whatever happens to the worker.
struct InHand {
    crew: Arc<Crew>,
    left: u64,
}

impl InHand {
    fn new(crew: &Arc<Crew>, count: u64) -> Self {
        crew.in_hand_count.fetch_add(count, Ordering::Relaxed);
        Self { crew: crew.clone(), left: count }
    }

    fn one_less(&mut self) {
        self.left -= 1;
        self.crew.in_hand_count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.crew.in_hand_count.fetch_sub(self.left, Ordering::Relaxed);
    }
}
