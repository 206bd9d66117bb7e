//! The contract: a call in, every message judged and queued on its own, one answer out.

use std::{net::SocketAddr, sync::Arc};

use futures::future::join_all;
use godwit_proto::{
    CALL_BYTES_MAX, Replies,
    common::v1::{Received, TraceContext},
    ingress::{
        IngressService,
        v1::{
            InjectMessage, InjectRequest, InjectResponse, KillSessionRequest, KillSessionResponse, ListSessionsRequest,
            ListSessionsResponse, TraceSessionsRequest, TraceSessionsResponse, inject_response,
        },
    },
    queue::v1::EnqueueMessage,
};
use prost::Message;
use tonic::{Request, Response, Status};
use tracing::{Instrument, Span};

use crate::{
    Error,
    enqueue::Queued,
    ingress::Ingress,
    inject::{self, KEY_BYTES_MAX, Refused, Terms},
    meters::{Door, Outcome},
    reply,
};

/// `InjectRequest.messages`.
const MESSAGES_MAX: usize = 1_000;
/// What `/999` takes of a message's key.
const PLACE_BYTES_MAX: usize = 4;
/// `Page.size`.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;

/// Ingress as it runs in this process. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    ingress: Arc<Ingress>,
    listen_addrs: Arc<[SocketAddr]>,
}

impl Service {
    pub(crate) fn new(ingress: Arc<Ingress>, listen_addrs: Vec<SocketAddr>) -> Self {
        Self { ingress, listen_addrs: listen_addrs.into() }
    }

    /// Where the listeners listen, in the configuration's order.
    pub fn listen_addrs(&self) -> &[SocketAddr] {
        &self.listen_addrs
    }

    async fn take(&self, mut request: InjectRequest) -> Result<InjectResponse, Error> {
        let ingress = &self.ingress;
        check(&request)?;
        if ingress.stop.is_requested() {
            return Err(Error::Stopping);
        }
        let mut charge = ingress.budget.charge();
        if !charge.grow(request.encoded_len()) {
            return Err(Error::DataInFlight { limit_bytes: ingress.budget.limit_bytes() });
        }
        give_keys(&mut request);
        let received = request.received.unwrap_or_else(|| Received { protocol: "GRPC".into(), ..Received::default() });
        let terms = Terms {
            hostname: &ingress.hostname,
            size_bytes_max: ingress.injected_bytes_max,
            now: ingress.clock.now(),
            received,
        };
        let span = Span::current();
        let results = request.messages.into_iter().enumerate().map(|(place, message)| {
            let parent = message.trace.clone().unwrap_or_default();
            let parsed = inject::parse(message, &terms);
            let span = span.clone();
            async move {
                match parsed {
                    Ok(message) => self.queue(message, &span, &parent).await,
                    Err(refused) => self.refuse(place, &refused),
                }
            }
        });
        Ok(InjectResponse { results: join_all(results).await })
    }

    async fn queue(&self, message: EnqueueMessage, span: &Span, parent: &TraceContext) -> inject_response::Result {
        let bytes = message.body.as_ref().map_or(0, |body| body.size_bytes as usize);
        let id = message.message_id.clone();
        let answer = self.ingress.enqueue(message, span, parent).await;
        let (outcome, result) = match answer {
            Ok(queued) => (Outcome::from(&queued), queued_result(&queued)),
            Err(status) => {
                tracing::warn!(message_id = id.unwrap_or_default().value, %status, "message not queued");
                (Outcome::Deferred, refusal(&reply::of(&status), String::new()))
            }
        };
        self.ingress.meters.message(Door::Inject, outcome, bytes);
        result
    }

    fn refuse(&self, place: usize, refused: &Refused) -> inject_response::Result {
        self.ingress.meters.message(Door::Inject, Outcome::Refused, 0);
        refusal(&refused.reply, format!("messages[{place}].{}", refused.field))
    }
}

/// What makes the whole call worthless.
fn check(request: &InjectRequest) -> Result<(), Error> {
    if !(1..=MESSAGES_MAX).contains(&request.messages.len()) {
        return Err(Error::invalid("messages", format!("must be 1 to {MESSAGES_MAX}, not {}", request.messages.len())));
    }
    if request.encoded_len() > CALL_BYTES_MAX {
        return Err(Error::invalid("messages", format!("must be at most {CALL_BYTES_MAX} bytes in sum")));
    }
    let key_bytes_max = KEY_BYTES_MAX - PLACE_BYTES_MAX;
    if request.idempotency_key.len() > key_bytes_max {
        return Err(Error::invalid("idempotency_key", format!("must be at most {key_bytes_max} bytes")));
    }
    Ok(())
}

/// Where no message has a key of its own, the call's key and the message's place stand in for it.
fn give_keys(request: &mut InjectRequest) {
    if request.idempotency_key.is_empty() || request.messages.iter().any(has_key) {
        return;
    }
    for (place, message) in request.messages.iter_mut().enumerate() {
        message.idempotency_key = format!("{}/{place}", request.idempotency_key);
    }
}

fn has_key(message: &InjectMessage) -> bool {
    !message.idempotency_key.is_empty()
}

fn queued_result(queued: &Queued) -> inject_response::Result {
    let (outcome, id) = match queued {
        Queued::Accepted(id) => (inject_response::Outcome::Accepted, *id),
        Queued::Duplicate(id) => (inject_response::Outcome::Duplicate, *id),
        Queued::Refused { .. } => return refusal(&reply::queued(queued), String::new()),
    };
    inject_response::Result { outcome: outcome.into(), message_id: Some(id.into()), reply: None, field: String::new() }
}

fn refusal(reply: &godwit_smtp::Reply, field: String) -> inject_response::Result {
    inject_response::Result {
        outcome: inject_response::Outcome::Refused.into(),
        message_id: None,
        reply: Some(reply::wire(reply, "")),
        field,
    }
}

#[tonic::async_trait]
impl IngressService for Service {
    type TraceSessionsStream = Replies<TraceSessionsResponse>;

    async fn inject(&self, request: Request<InjectRequest>) -> Result<Response<InjectResponse>, Status> {
        let request = request.into_inner();
        let span = tracing::info_span!("inject", otel.kind = "server", messages = request.messages.len());
        let answer = self.take(request).instrument(span).await?;
        Ok(Response::new(answer))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let page = request.into_inner().page.unwrap_or_default();
        let size = if page.size == 0 { PAGE_DEFAULT } else { page.size };
        if size > PAGE_MAX {
            return Err(Error::invalid("page.size", format!("must be at most {PAGE_MAX}")).into());
        }
        let (sessions, next_token) = self.ingress.sessions.page(size as usize, &page.token);
        Ok(Response::new(ListSessionsResponse { sessions, next_token }))
    }

    async fn kill_session(
        &self,
        request: Request<KillSessionRequest>,
    ) -> Result<Response<KillSessionResponse>, Status> {
        let KillSessionRequest { session_id, reason } = request.into_inner();
        let reason = if reason.is_empty() { "Closed by the operator" } else { &reason };
        match self.ingress.sessions.kill(&session_id, reason) {
            true => Ok(Response::new(KillSessionResponse {})),
            false => Err(Error::SessionUnknown(session_id).into()),
        }
    }

    async fn trace_sessions(
        &self,
        _request: Request<TraceSessionsRequest>,
    ) -> Result<Response<Self::TraceSessionsStream>, Status> {
        Err(Status::unimplemented("TraceSessions is not part of this version"))
    }
}
