//! What the queue's contract promises, each case near and through the codec. Time is paused and passes only when a case says
//! so; the spool is on a disk in memory.

#![allow(clippy::unwrap_used)]

mod admin;
mod admission;
mod due;
mod hostile;
mod law;
mod leases;
mod outcomes;
mod restart;
mod trouble;

use bytes::Bytes;
use futures::StreamExt;
use godwit_kit::{Host, clock::Clock, peers::Peers};
use godwit_proto::common::v1::{Body, Cursor, Envelope, Event, EventKind, Recipient, SmtpReply, body};
use godwit_proto::id::{MessageId, NodeId};
use godwit_proto::queue::v1::enqueue_response::{Outcome as Accepted, Result as Reply};
use godwit_proto::queue::v1::settle_response::Result as Verdict;
use godwit_proto::queue::v1::watch_events_response::Item;
use godwit_proto::queue::v1::{
    EnqueueMessage, EnqueueRequest, LeaseRequest, LeaseResponse, LeasedDelivery, Outcome, RecipientOutcome,
    RecipientResult, RouteRequest, SettleRequest, WatchEventsRequest, route_request,
};
use godwit_proto::queue::{Queue, QueueServiceServer, at};
use godwit_proto::throttle::Throttle;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use svc_queue::spool::{self, Spool, sim::SimDisk};
use svc_queue::{Config, Deps, Service, build_on};
use tonic::Request;

pub const MINUTE: Duration = Duration::from_secs(60);

/// One queue, and how it is called.
pub struct World {
    pub queue: Queue,
    pub service: Arc<Service>,
    pub host: Host,
    pub disk: SimDisk,
    pub egress: NodeId,
    far: bool,
    config: Config,
    throttle: Option<Throttle>,
    dir: Dir,
    /// While it lives, tokio does not pass time by itself.
    _still: mpsc::Sender<()>,
}

struct Dir(PathBuf);

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The same case near and far.
pub async fn both<F: Future<Output = ()>>(case: impl Fn(World) -> F) {
    both_with(Config::default(), case).await;
}

pub async fn both_with<F: Future<Output = ()>>(config: Config, case: impl Fn(World) -> F) {
    for far in [false, true] {
        case(World::new(config.clone(), None, far).await).await;
    }
}

fn handle(service: &Arc<Service>, far: bool) -> Queue {
    if !far {
        return service.clone();
    }
    let server = QueueServiceServer::from_arc(service.clone())
        .max_decoding_message_size(godwit_proto::CALL_BYTES_MAX)
        .max_encoding_message_size(godwit_proto::CALL_BYTES_MAX);
    at(godwit_proto::wire(server))
}

async fn start(
    disk: &SimDisk,
    (config, throttle): (&Config, Option<Throttle>),
    dir: &Dir,
    now: SystemTime,
) -> (Arc<Service>, Host) {
    let host = Host { clock: Clock::tokio(now), ..Host::new(NodeId(1)) };
    let small = spool::Config { segment_bytes: 1 << 20, ..config.spool() };
    let (spool, _) = Spool::open_on(small, Arc::new(disk.clone())).unwrap();
    let deps = Deps { tsa: Peers::new(Vec::new()), throttle };
    (Arc::new(build_on(spool, config.clone(), &dir.0, deps, &host).await.unwrap()), host)
}

impl World {
    async fn new(config: Config, throttle: Option<Throttle>, far: bool) -> Self {
        let (still, until) = mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || until.recv());
        let disk = SimDisk::new(7);
        let dir = Dir(std::env::temp_dir().join(format!("godwit-{}", MessageId::new())));
        let (service, host) =
            start(&disk, (&config, throttle.clone()), &dir, UNIX_EPOCH + Duration::from_secs(1_800_000_000)).await;
        let queue = handle(&service, far);
        Self { queue, service, host, disk, egress: NodeId(9), far, config, throttle, dir, _still: still }
    }

    /// Power is cut, and the queue comes up again on what the disk kept.
    pub async fn crash(mut self) -> Self {
        let now = self.host.clock.now();
        self.host.stop.request();
        let disk = self.disk.crash();
        self.service.close().await;
        // The keys' folder is locked until the last user has gone.
        self.queue = at(godwit_proto::wire(tonic::service::Routes::default().prepare()));
        assert!(self.host.stop.finish(MINUTE).await);
        let Self { egress, far, config, throttle, dir, _still, service, .. } = self;
        drop(service);
        let (service, host) = start(&disk, (&config, throttle.clone()), &dir, now).await;
        Self { queue: handle(&service, far), service, host, disk, egress, far, config, throttle, dir, _still }
    }

    /// Time passes, and whoever has waited for it runs.
    pub async fn pass(&self, time: Duration) {
        tokio::time::advance(time).await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    pub async fn enqueue(&self, messages: Vec<EnqueueMessage>) -> Vec<Reply> {
        let request = Request::new(EnqueueRequest { messages });
        self.queue.enqueue(request).await.unwrap().into_inner().results
    }

    /// Enqueues one to a recipient, which must be accepted.
    pub async fn accept(&self, recipients: &[&str]) -> MessageId {
        let id = MessageId::new();
        assert_eq!(self.enqueue(vec![message(id, recipients)]).await, [reply(id, Accepted::Accepted)]);
        id
    }

    /// `a.example` and `b.example` lead to `mx`, for a long time.
    pub async fn route(&self) {
        let entry = |domain: &str| route_request::Entry {
            routing_domain: domain.into(),
            site: "mx".into(),
            ttl_ms: 86_400_000,
        };
        let entries = ["a.example", "b.example"].map(entry).to_vec();
        self.queue.route(Request::new(RouteRequest { entries })).await.unwrap();
    }

    pub fn ask(&self, messages_max: u32) -> LeaseRequest {
        LeaseRequest {
            egress_node: Some(self.egress.into()),
            site: "mx".into(),
            messages_max,
            ..LeaseRequest::default()
        }
    }

    pub async fn lease_as(&self, request: LeaseRequest) -> LeaseResponse {
        self.queue.lease(Request::new(request)).await.unwrap().into_inner()
    }

    pub async fn lease(&self) -> Vec<LeasedDelivery> {
        self.lease_as(self.ask(100)).await.deliveries
    }

    /// The one delivery that is due, or that falls due without time passing.
    pub async fn lease_one(&self) -> LeasedDelivery {
        let request = LeaseRequest { wait_ms: 30_000, ..self.ask(100) };
        let mut deliveries = self.lease_as(request).await.deliveries;
        assert_eq!(deliveries.len(), 1);
        deliveries.remove(0)
    }

    pub async fn settle_all(&self, outcomes: Vec<Outcome>) -> Vec<Verdict> {
        let request = SettleRequest { egress_node: Some(self.egress.into()), outcomes };
        self.queue.settle(Request::new(request)).await.unwrap().into_inner().results().collect()
    }

    pub async fn settle(&self, delivery: &LeasedDelivery, result: RecipientResult) -> Verdict {
        self.settle_all(vec![outcome(delivery, result)]).await[0]
    }

    /// All events so far.
    pub async fn events(&self) -> Vec<Event> {
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut answers = self.queue.watch_events(Request::new(request)).await.unwrap().into_inner();
        let mut events = Vec::new();
        loop {
            match answers.next().await.unwrap().unwrap().item.unwrap() {
                Item::Events(batch) => events.extend(batch.events),
                Item::Gap(gap) => panic!("{gap:?}"),
                Item::CaughtUp(_) => return events,
            }
        }
    }

    /// The next event of that kind that is recorded, or the first that was.
    pub async fn event(&self, kind: EventKind) -> Event {
        let request = WatchEventsRequest { cursor: Some(Cursor::default()), filter: None };
        let mut answers = self.queue.watch_events(Request::new(request)).await.unwrap().into_inner();
        loop {
            if let Some(Item::Events(batch)) = answers.next().await.unwrap().unwrap().item
                && let Some(event) = batch.events.into_iter().find(|event| event.kind() == kind)
            {
                return event;
            }
        }
    }

    pub async fn kinds(&self) -> Vec<EventKind> {
        self.events().await.iter().map(Event::kind).collect()
    }
}

pub fn message(id: MessageId, recipients: &[&str]) -> EnqueueMessage {
    let recipient = |address: &&str| Recipient { address: (*address).into(), ..Recipient::default() };
    let content = Bytes::from(format!("Subject: {id}\r\n\r\nhello\r\n"));
    EnqueueMessage {
        message_id: Some(id.into()),
        envelope: Some(Envelope {
            reverse_path: "sender@s.example".into(),
            recipients: recipients.iter().map(recipient).collect(),
            ..Envelope::default()
        }),
        body: Some(Body { content: Some(body::Content::Inline(content)), size_bytes: 0 }),
        tenant: "t".into(),
        metadata: [("k".to_string(), "v".to_string())].into(),
        ..EnqueueMessage::default()
    }
}

pub fn reply(id: MessageId, outcome: Accepted) -> Reply {
    Reply { message_id: Some(id.into()), outcome: outcome.into(), ..Reply::default() }
}

/// All open recipients fare alike.
pub fn outcome(delivery: &LeasedDelivery, result: RecipientResult) -> Outcome {
    let code = match result {
        RecipientResult::Delivered => 250,
        RecipientResult::Deferred => 451,
        RecipientResult::Bounced => 550,
        RecipientResult::Unspecified => 0,
    };
    let named = |recipient: &godwit_proto::queue::v1::leased_delivery::OpenRecipient| RecipientOutcome {
        index: recipient.index,
        result: result.into(),
        reply: Some(SmtpReply { code, text: "as it is".into(), ..SmtpReply::default() }),
        ..RecipientOutcome::default()
    };
    Outcome {
        delivery_id: delivery.delivery_id.clone(),
        lease_id: delivery.lease_id.clone(),
        recipients: delivery.recipients.iter().map(named).collect(),
        site: "mx".into(),
        source: "ip-1".into(),
        ..Outcome::default()
    }
}

pub fn addresses(delivery: &LeasedDelivery) -> Vec<&str> {
    delivery.recipients.iter().map(|open| open.recipient.as_ref().unwrap().address.as_str()).collect()
}

pub fn inline(delivery: &LeasedDelivery) -> &Bytes {
    match delivery.body.as_ref().unwrap().content.as_ref().unwrap() {
        body::Content::Inline(body) => body,
        other => panic!("{other:?}"),
    }
}
