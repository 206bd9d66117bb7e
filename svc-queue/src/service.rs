//! The contract of the queue: each call is checked, carried out by its module, and answered.

use crate::error::Error;
use crate::events::codec;
use crate::lane::Report;
use crate::node::Node;
use crate::outcome::instant;
use crate::spool::Record;
use crate::watch::Seat;
use crate::{bodies, enqueue, leasing, settle, watch, withdraw};
use futures::StreamExt;
use godwit_proto::Replies;
use godwit_proto::common::v1::EventKind;
use godwit_proto::convert::system_time;
use godwit_proto::queue::QueueService;
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::route_request::Entry;
use godwit_proto::queue::v1::{
    EnqueueRequest, EnqueueResponse, LeaseRequest, LeaseResponse, PutBodyRequest, PutBodyResponse, ReadBodyRequest,
    ReadBodyResponse, RecordRequest, RecordResponse, ReleaseRequest, ReleaseResponse, RenewRequest, RenewResponse,
    ReportLaneRequest, ReportLaneResponse, RouteRequest, RouteResponse, SettleLaneRequest, SettleLaneResponse,
    SettleRequest, SettleResponse, WatchDueRequest, WatchDueResponse, WatchEventsRequest, WatchEventsResponse,
    WithdrawRequest, WithdrawResponse,
};
use prost::Message;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use tracing::{Instrument, info_span};

/// A queue node. Cheap to clone; all clones are one queue.
#[derive(Clone)]
pub struct Service {
    pub(crate) node: Arc<Node>,
}

const EVENTS_MAX: usize = 1_000;
const EVENTS_BYTES_MAX: usize = 8 << 20;
/// Of a site's name, and of the reason in a report.
const TEXT_BYTES_MAX: usize = 1_024;
const ROUTES_MAX: usize = 10_000;
/// However long a route is said to hold.
const ROUTE_TTL_MS_MAX: u64 = 86_400_000;

impl Service {
    /// After the stop, when nobody will settle any more: commits what waits and seals the log. Without it nothing is lost.
    pub async fn close(&self) {
        self.node.spool.close().await;
    }

    fn put(&self, request: &PutBodyRequest) -> Result<PutBodyResponse, Error> {
        if self.node.host.stop.is_requested() {
            return Err(Error::Stopping);
        }
        let size_bytes = self.node.uploads.put(request, self.node.now_ms())?;
        Ok(PutBodyResponse { size_bytes })
    }

    fn route_lanes(&self, request: &RouteRequest) -> Result<RouteResponse, Error> {
        if request.entries.len() > ROUTES_MAX {
            return Err(Error::invalid("entries", format!("more than {ROUTES_MAX}")));
        }
        for (place, entry) in request.entries.iter().enumerate() {
            let field = match entry {
                entry if entry.routing_domain.is_empty() => "routing_domain",
                entry if entry.site.is_empty() => "site",
                entry if entry.routing_domain.len() > TEXT_BYTES_MAX => "routing_domain",
                entry if entry.site.len() > TEXT_BYTES_MAX => "site",
                _ => continue,
            };
            let what = format!("not 1 to {TEXT_BYTES_MAX} bytes");
            return Err(Error::invalid(format!("entries[{place}].{field}"), what));
        }
        let routes_max = self.node.config.routes_max;
        self.node.with(|core, now_ms| {
            let fresh = |entry: &&Entry| !core.lanes.is_routed(&entry.routing_domain.to_lowercase());
            let room = routes_max.saturating_sub(core.lanes.route_count());
            // Counted only where it matters: what is known already takes no room.
            if request.entries.len() > room && request.entries.iter().filter(fresh).count() > room {
                return Err(Error::Full { limit: "queue.routes_max", value: routes_max as u64 });
            }
            for entry in &request.entries {
                let ends_ms = now_ms + entry.ttl_ms.clamp(1, ROUTE_TTL_MS_MAX);
                core.lanes.route(&entry.routing_domain.to_lowercase(), &entry.site, ends_ms);
            }
            Ok(RouteResponse {})
        })
    }

    fn report(&self, mut request: ReportLaneRequest) -> Result<ReportLaneResponse, Error> {
        let Some(lane) = &request.lane else { return Err(Error::invalid("lane", "missing")) };
        if request.state() == State::Unspecified {
            return Err(Error::invalid("state", "no state"));
        }
        let until_ms = match &request.until {
            None => None,
            Some(until) => match system_time(until) {
                Some(until) => Some(crate::intake::since_epoch_ms(until)),
                None => return Err(Error::invalid("until", "not an instant since 1970")),
            },
        };
        request.reason.truncate(request.reason.floor_char_boundary(TEXT_BYTES_MAX));
        let report = Report { state: request.state, reason: request.reason, until_ms };
        self.node.with(|core, _| core.lanes.report(&lane.routing_domain.to_lowercase(), &lane.egress_pool, report));
        Ok(ReportLaneResponse {})
    }

    async fn record_events(&self, mut request: RecordRequest) -> Result<RecordResponse, Error> {
        if request.events.is_empty() || request.events.len() > EVENTS_MAX {
            return Err(Error::invalid("events", format!("{}, not 1 to {EVENTS_MAX}", request.events.len())));
        }
        let mut bytes = 0;
        for (place, event) in request.events.iter().enumerate() {
            if event.kind() == EventKind::Unspecified {
                return Err(Error::invalid(format!("events[{place}].kind"), "no kind of event"));
            }
            if event.time.as_ref().is_some_and(|time| system_time(time).is_none()) {
                return Err(Error::invalid(format!("events[{place}].time"), "not an instant since 1970"));
            }
            bytes += event.encoded_len();
        }
        if bytes > EVENTS_BYTES_MAX {
            return Err(Error::invalid("events", format!("{bytes} bytes, more than {EVENTS_BYTES_MAX}")));
        }
        let now = instant(self.node.now_ms());
        for event in &mut request.events {
            event.time.get_or_insert(now);
        }
        let record = |event| Record::Event { of: None, payload: codec::encode(event) };
        let records: Vec<Record> = request.events.iter().map(record).collect();
        let node = self.node.clone();
        let appended = self.node.run(async move { Ok(node.spool.append(records).await?) }).await?;
        Ok(RecordResponse { first_seq: appended.first_event_seq.unwrap_or(0) })
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| {
        if matches!(error, Error::Spool(_) | Error::Lost) {
            tracing::warn!(%error, "call failed");
        }
        error.into()
    })
}

#[tonic::async_trait]
impl QueueService for Service {
    type ReadBodyStream = Replies<ReadBodyResponse>;
    type WatchDueStream = Replies<WatchDueResponse>;
    type WatchEventsStream = Replies<WatchEventsResponse>;

    async fn enqueue(&self, request: Request<EnqueueRequest>) -> Result<Response<EnqueueResponse>, Status> {
        let messages = request.into_inner().messages;
        let span = info_span!("queue.enqueue", messaging.batch.message_count = messages.len());
        answer(enqueue::enqueue(&self.node, messages).instrument(span).await)
    }

    async fn put_body(&self, request: Request<PutBodyRequest>) -> Result<Response<PutBodyResponse>, Status> {
        answer(info_span!("queue.put_body").in_scope(|| self.put(request.get_ref())))
    }

    async fn read_body(&self, request: Request<ReadBodyRequest>) -> Result<Response<Self::ReadBodyStream>, Status> {
        answer(bodies::read(&self.node, request.get_ref()).instrument(info_span!("queue.read_body")).await)
    }

    async fn withdraw(&self, request: Request<WithdrawRequest>) -> Result<Response<WithdrawResponse>, Status> {
        answer(withdraw::withdraw(&self.node, request.into_inner()).instrument(info_span!("queue.withdraw")).await)
    }

    async fn watch_due(&self, request: Request<WatchDueRequest>) -> Result<Response<Self::WatchDueStream>, Status> {
        answer(info_span!("queue.watch_due").in_scope(|| watch::watch(&self.node, request.into_inner())))
    }

    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        answer(info_span!("queue.route").in_scope(|| self.route_lanes(request.get_ref())))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseResponse>, Status> {
        // Its span begins when something is due, not while it waits.
        answer(leasing::lease(&self.node, request.into_inner()).await)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        answer(info_span!("queue.renew").in_scope(|| leasing::renew(&self.node, request.get_ref())))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        answer(info_span!("queue.release").in_scope(|| leasing::release(&self.node, request.get_ref())))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        answer(settle::settle(&self.node, request.into_inner()).await)
    }

    async fn settle_lane(&self, request: Request<SettleLaneRequest>) -> Result<Response<SettleLaneResponse>, Status> {
        answer(settle::settle_lane(&self.node, request.into_inner()).instrument(info_span!("queue.settle_lane")).await)
    }

    async fn report_lane(&self, request: Request<ReportLaneRequest>) -> Result<Response<ReportLaneResponse>, Status> {
        answer(info_span!("queue.report_lane").in_scope(|| self.report(request.into_inner())))
    }

    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        answer(self.record_events(request.into_inner()).instrument(info_span!("queue.record")).await)
    }

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let seat = Seat::take(&self.node)?;
        let events = self.node.log.watch(request.into_inner())?;
        // The seat is taken for as long as the stream lives.
        let seated = events.inspect(move |_| {
            let _ = &seat;
        });
        Ok(Response::new(Box::pin(seated)))
    }
}
