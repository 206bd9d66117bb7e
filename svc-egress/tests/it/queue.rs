//! A queue that is a script: what it has due, what it heard.

use godwit_proto::Replies;
use godwit_proto::common::v1::{Body, DeliveryId, Envelope, Lane, LeaseId, MessageId, QueueName, Recipient, body};
use godwit_proto::queue::QueueService;
use godwit_proto::queue::v1::watch_due_response::LaneDue;
use godwit_proto::queue::v1::*;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

#[derive(Clone)]
pub struct FakeQueue(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
pub struct State {
    next: usize,
    due: Vec<(Lane, LeasedDelivery)>,
    leased: HashMap<String, (Lane, LeasedDelivery)>,
    lanes: BTreeMap<(String, String), ()>,
    pub routes: HashMap<String, String>,
    pub lease_calls: usize,
    pub outcomes: Vec<Outcome>,
    pub settled_lanes: Vec<SettleLaneRequest>,
    pub reports: Vec<ReportLaneRequest>,
    pub renewed: usize,
    /// Renewals fail; how many have.
    pub renew_fails: bool,
    pub renew_failures: usize,
    pub released: usize,
    pub settle_failures: usize,
    /// Whose outcome is refused, and with it the whole call.
    pub settle_refused: Option<String>,
    /// Bodies that are not in the lease.
    pub stored: HashMap<String, bytes::Bytes>,
    /// Streams of what is due that break at the next change.
    pub streams_broken: usize,
    /// There is no stream at all.
    pub streams_refused: bool,
    pub watched: Vec<WatchDueRequest>,
}

impl FakeQueue {
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), version: watch::Sender::new(0) }))
    }

    pub fn put(&self, to: &[&str], content: &str) {
        self.put_in("default", to, content);
    }

    /// One message, to recipients of one domain.
    pub fn put_in(&self, pool: &str, to: &[&str], content: &str) {
        self.put_in_with(pool, to, content, |_| {});
    }

    fn put_in_with(&self, pool: &str, to: &[&str], content: &str, change: impl FnOnce(&mut LeasedDelivery)) {
        self.change(|state| {
            state.next += 1;
            let number = state.next;
            let domain = to[0].rsplit('@').next().unwrap().to_string();
            let open = |(index, address): (usize, &&str)| leased_delivery::OpenRecipient {
                index: index as u32,
                recipient: Some(Recipient { address: (*address).into(), ..Recipient::default() }),
            };
            let content: Vec<u8> = content.chars().map(|c| c as u8).collect();
            let mut delivery = LeasedDelivery {
                delivery_id: Some(DeliveryId { value: format!("dlv_{number}") }),
                message_id: Some(MessageId { value: format!("msg_{number}") }),
                attempt: 1,
                recipients: to.iter().enumerate().map(open).collect(),
                envelope: Some(Envelope { reverse_path: "from@sender.example".into(), ..Envelope::default() }),
                body: Some(Body {
                    size_bytes: content.len() as u64,
                    content: Some(body::Content::Inline(content.into())),
                }),
                queue_name: Some(QueueName { domain: domain.clone(), ..QueueName::default() }),
                egress_pool: pool.into(),
                ..LeasedDelivery::default()
            };
            change(&mut delivery);
            state.lanes.insert((domain.clone(), pool.into()), ());
            state.due.push((Lane { routing_domain: domain, egress_pool: pool.into() }, delivery));
        });
    }

    /// One message, changed before it is there.
    pub fn put_with(&self, to: &[&str], content: &str, change: impl FnOnce(&mut LeasedDelivery)) {
        self.put_in_with("default", to, content, change);
    }

    /// One message whose body is read apart.
    pub fn put_stored(&self, to: &str, content: bytes::Bytes) {
        self.put(&[to], "");
        self.change(|state| {
            let (_, delivery) = state.due.last_mut().unwrap();
            let message_id = delivery.message_id.clone().unwrap();
            state.stored.insert(message_id.value.clone(), content.clone());
            let size_bytes = content.len() as u64;
            delivery.body = Some(Body { size_bytes, content: Some(body::Content::Stored(message_id)) });
        });
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.0.state.lock().unwrap());
        self.0.version.send_modify(|version| *version += 1);
        result
    }

    /// Waits for a condition, looking again at each change.
    pub async fn until<R>(&self, what: &str, look: impl Fn(&State) -> Option<R>) -> R {
        let mut version = self.0.version.subscribe();
        let waiting = async {
            loop {
                version.borrow_and_update();
                if let Some(result) = look(&self.0.state.lock().unwrap()) {
                    return result;
                }
                version.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .unwrap_or_else(|_| panic!("never happened: {what}"))
    }

    /// The outcomes, once there are `count`.
    pub async fn outcomes(&self, count: usize) -> Vec<Outcome> {
        self.until("outcomes", |state| (state.outcomes.len() >= count).then(|| state.outcomes.clone())).await
    }

    pub async fn settled_lane(&self) -> SettleLaneRequest {
        self.until("SettleLane", |state| state.settled_lanes.first().cloned()).await
    }

    pub async fn reported(&self, wanted: report_lane_request::State) -> ReportLaneRequest {
        self.until("report", |state| state.reports.iter().find(|report| report.state() == wanted).cloned()).await
    }

    fn breaks_stream(&self) -> bool {
        let mut state = self.0.state.lock().unwrap();
        let breaks = state.streams_broken > 0;
        state.streams_broken -= usize::from(breaks);
        breaks
    }

    fn lanes(&self) -> Vec<LaneDue> {
        let state = self.0.state.lock().unwrap();
        let lane = |(domain, pool): &(String, String)| {
            let lane = Lane { routing_domain: domain.clone(), egress_pool: pool.clone() };
            LaneDue {
                due_count: state.due.iter().filter(|(of, _)| *of == lane).count() as u64,
                site: state.routes.get(domain).cloned().unwrap_or_default(),
                lane: Some(lane),
                oldest_due: None,
                next_due: None,
            }
        };
        state.lanes.keys().map(lane).collect()
    }
}

impl State {
    fn close(&mut self, lease_id: &Option<LeaseId>) -> bool {
        lease_id.as_ref().is_some_and(|id| self.leased.remove(&id.value).is_some())
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("egress does not call this"))
}

#[tonic::async_trait]
impl QueueService for FakeQueue {
    type ReadBodyStream = Replies<ReadBodyResponse>;
    type WatchDueStream = Replies<WatchDueResponse>;
    type WatchEventsStream = Replies<WatchEventsResponse>;

    async fn watch_due(&self, request: Request<WatchDueRequest>) -> Result<Response<Self::WatchDueStream>, Status> {
        if self.change(|state| state.streams_refused) {
            return Err(Status::unavailable("away"));
        }
        self.change(|state| state.watched.push(request.into_inner()));
        let (queue, version) = (self.clone(), self.0.version.subscribe());
        // Only what has changed is told again: else each report would wake whoever forgot to set a timer.
        let answers = futures::stream::unfold((queue, version, None), |(queue, mut version, told)| async move {
            loop {
                if told.is_some() {
                    version.changed().await.ok()?;
                }
                version.borrow_and_update();
                if queue.breaks_stream() {
                    return None;
                }
                let lanes = queue.lanes();
                if told.as_ref() != Some(&lanes) {
                    let answer = WatchDueResponse { lanes: lanes.clone(), snapshot_done: told.is_none() };
                    return Some((Ok(answer), (queue, version, Some(lanes))));
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        self.change(|state| {
            let entries = request.into_inner().entries.into_iter();
            state.routes.extend(entries.map(|entry| (entry.routing_domain, entry.site)));
        });
        Ok(Response::new(RouteResponse {}))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        let asked = request.into_inner();
        let answer = self.change(|state| {
            state.lease_calls += 1;
            let mut deliveries = Vec::new();
            let mut rest = Vec::new();
            let mut remaining_due = 0;
            for (lane, mut delivery) in std::mem::take(&mut state.due) {
                let fits = state.routes.get(&lane.routing_domain) == Some(&asked.site)
                    && (asked.egress_pools.is_empty() || asked.egress_pools.contains(&lane.egress_pool));
                if fits && deliveries.len() < asked.messages_max as usize {
                    state.next += 1;
                    let lease_id = LeaseId { value: format!("lease_{}", state.next) };
                    delivery.lease_id = Some(lease_id.clone());
                    state.leased.insert(lease_id.value, (lane, delivery.clone()));
                    deliveries.push(delivery);
                } else {
                    remaining_due += u64::from(fits);
                    rest.push((lane, delivery));
                }
            }
            state.due = rest;
            LeaseResponse { deliveries, remaining_due, next_due: None }
        });
        Ok(Response::new(answer))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        self.change(|state| {
            if state.renew_fails {
                state.renew_failures += 1;
                return Err(Status::unavailable("cut off"));
            }
            state.renewed += request.into_inner().lease_ids.len();
            Ok(Response::new(RenewResponse::default()))
        })
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        self.change(|state| {
            for lease in request.into_inner().lease_ids {
                if let Some(back) = state.leased.remove(&lease.value) {
                    state.due.push(back);
                    state.released += 1;
                }
            }
        });
        Ok(Response::new(ReleaseResponse::default()))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        self.change(|state| {
            if state.settle_failures > 0 {
                state.settle_failures -= 1;
                return Err(Status::unavailable("sick"));
            }
            let outcomes = request.into_inner().outcomes;
            let id = |outcome: &Outcome| outcome.delivery_id.as_ref().map(|id| id.value.clone());
            if outcomes.iter().any(|outcome| state.settle_refused.is_some() && id(outcome) == state.settle_refused) {
                return Err(Status::invalid_argument("outcomes: one of them"));
            }
            let results = outcomes.iter().map(|outcome| match state.close(&outcome.lease_id) {
                true => settle_response::Result::Applied.into(),
                false => settle_response::Result::Stale.into(),
            });
            let results = results.collect();
            state.outcomes.extend(outcomes);
            Ok(Response::new(SettleResponse { results }))
        })
    }

    async fn settle_lane(&self, request: Request<SettleLaneRequest>) -> Result<Response<SettleLaneResponse>, Status> {
        let asked = request.into_inner();
        let settled_count = self.change(|state| {
            let lane = asked.lane.clone().unwrap();
            let before = state.due.len();
            state.due.retain(|(of, _)| *of != lane);
            state.settled_lanes.push(asked);
            (before - state.due.len()) as u64
        });
        Ok(Response::new(SettleLaneResponse { settled_count, remaining_due: 0 }))
    }

    async fn report_lane(&self, request: Request<ReportLaneRequest>) -> Result<Response<ReportLaneResponse>, Status> {
        self.change(|state| state.reports.push(request.into_inner()));
        Ok(Response::new(ReportLaneResponse {}))
    }

    async fn enqueue(&self, _: Request<EnqueueRequest>) -> Result<Response<EnqueueResponse>, Status> {
        unused()
    }
    async fn put_body(&self, _: Request<PutBodyRequest>) -> Result<Response<PutBodyResponse>, Status> {
        unused()
    }
    async fn withdraw(&self, _: Request<WithdrawRequest>) -> Result<Response<WithdrawResponse>, Status> {
        unused()
    }
    async fn record(&self, _: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        unused()
    }
    async fn read_body(&self, request: Request<ReadBodyRequest>) -> Result<Response<Self::ReadBodyStream>, Status> {
        let ReadBodyRequest { message_id, offset } = request.into_inner();
        let id = message_id.unwrap().value;
        let content = self.change(|state| state.stored.get(&id).cloned()).ok_or_else(|| Status::not_found("body"))?;
        let content = content.slice(offset as usize..);
        let pieces = (0..content.len()).step_by(1 << 20);
        let pieces = pieces.map(move |at| content.slice(at..content.len().min(at + (1 << 20))));
        let answers = pieces.map(|content| Ok(ReadBodyResponse { content }));
        Ok(Response::new(Box::pin(futures::stream::iter(answers.collect::<Vec<_>>()))))
    }
    async fn watch_events(&self, _: Request<WatchEventsRequest>) -> Result<Response<Self::WatchEventsStream>, Status> {
        unused()
    }
}
