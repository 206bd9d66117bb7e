//! A queue that does what the test has written down.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::pending,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use godwit_proto::{
    Replies,
    common::v1::{Event, body},
    id::MessageId,
    queue::{
        QueueService,
        v1::{self, EnqueueMessage, enqueue_response, withdraw_response},
    },
};
use tokio::sync::Notify;
use tonic::{Request, Response, Status};

/// What one call to Enqueue comes to; without one, messages are kept.
#[derive(Debug, Clone)]
pub enum Answer {
    Keep,
    Fail(Status),
    /// Kept, but nobody hears of it.
    KeepAndFail(Status),
    /// Kept, and no answer ever.
    KeepAndHang,
    Hang,
    Refuse {
        transient: bool,
    },
}

#[derive(Default)]
pub struct FakeQueue {
    script: Mutex<VecDeque<Answer>>,
    /// After the script.
    otherwise: Mutex<Option<Answer>>,
    pub calls: Mutex<Vec<Vec<MessageId>>>,
    kept: Mutex<Vec<EnqueueMessage>>,
    ids: Mutex<HashSet<MessageId>>,
    keys: Mutex<HashMap<String, MessageId>>,
    pub withdrawn: Mutex<Vec<MessageId>>,
    pub too_late: Mutex<bool>,
    pub events: Mutex<Vec<Event>>,
    pub changed: Notify,
}

fn id(message: &EnqueueMessage) -> MessageId {
    MessageId::try_from(&message.message_id).unwrap()
}

impl FakeQueue {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn scripted(answers: impl IntoIterator<Item = Answer>) -> Arc<Self> {
        let queue = Self::default();
        queue.script.lock().unwrap().extend(answers);
        Arc::new(queue)
    }

    pub fn always(answer: Answer) -> Arc<Self> {
        let queue = Self::default();
        *queue.otherwise.lock().unwrap() = Some(answer);
        Arc::new(queue)
    }

    pub fn kept(&self) -> Vec<EnqueueMessage> {
        self.kept.lock().unwrap().clone()
    }

    pub fn contents(&self) -> Vec<Bytes> {
        let content = |message: EnqueueMessage| match message.body.unwrap().content.unwrap() {
            body::Content::Inline(content) => content,
            other => panic!("{other:?}"),
        };
        self.kept().into_iter().map(content).collect()
    }

    /// What follows our Received field, of each message.
    pub fn bodies(&self) -> Vec<Bytes> {
        let after = |content: Bytes| {
            let text = std::str::from_utf8(&content[..content.iter().position(|b| *b == b';').unwrap()]).unwrap();
            assert!(text.starts_with("Received: from "), "{text}");
            let date =
                content[text.len()..].windows(2).enumerate().filter(|(_, pair)| *pair == b"\r\n").nth(1).unwrap().0;
            content.slice(text.len() + date + 2..)
        };
        self.contents().into_iter().map(after).collect()
    }

    pub fn call_count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    pub async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(self) {
                return;
            }
            changed.await;
        }
    }

    fn keep(&self, messages: Vec<EnqueueMessage>) -> v1::EnqueueResponse {
        let mut kept = self.kept.lock().unwrap();
        let mut keys = self.keys.lock().unwrap();
        let mut ids = self.ids.lock().unwrap();
        let withdrawn = self.withdrawn.lock().unwrap();
        let mut results = Vec::new();
        for message in messages {
            let own = id(&message);
            let key = message.idempotency_key.clone();
            let known = keys.get(&key).copied().or_else(|| ids.get(&own).copied());
            let (outcome, id) = match known {
                _ if withdrawn.contains(&own) => (enqueue_response::Outcome::Refused, own),
                Some(id) => (enqueue_response::Outcome::Duplicate, id),
                None => (enqueue_response::Outcome::Accepted, own),
            };
            if outcome == enqueue_response::Outcome::Accepted {
                if !key.is_empty() {
                    keys.insert(key, own);
                }
                ids.insert(own);
                kept.push(message);
            }
            results.push(enqueue_response::Result {
                message_id: Some(id.into()),
                outcome: outcome.into(),
                ..Default::default()
            });
        }
        v1::EnqueueResponse { results }
    }
}

fn refused(count: usize, transient: bool) -> v1::EnqueueResponse {
    let result = enqueue_response::Result {
        message_id: None,
        outcome: enqueue_response::Outcome::Refused.into(),
        reason: "no".into(),
        transient,
    };
    v1::EnqueueResponse { results: vec![result; count] }
}

#[tonic::async_trait]
impl QueueService for FakeQueue {
    type ReadBodyStream = Replies<v1::ReadBodyResponse>;
    type WatchDueStream = Replies<v1::WatchDueResponse>;
    type WatchEventsStream = Replies<v1::WatchEventsResponse>;

    async fn enqueue(&self, request: Request<v1::EnqueueRequest>) -> Result<Response<v1::EnqueueResponse>, Status> {
        let messages = request.into_inner().messages;
        self.calls.lock().unwrap().push(messages.iter().map(id).collect());
        let scripted = self.script.lock().unwrap().pop_front();
        let answer = scripted.or_else(|| self.otherwise.lock().unwrap().clone()).unwrap_or(Answer::Keep);
        let response = match answer {
            Answer::Keep => Ok(self.keep(messages)),
            Answer::Fail(status) => Err(status),
            Answer::KeepAndFail(status) => {
                self.keep(messages);
                Err(status)
            }
            Answer::Refuse { transient } => Ok(refused(messages.len(), transient)),
            Answer::KeepAndHang => {
                self.keep(messages);
                self.changed.notify_waiters();
                pending().await
            }
            Answer::Hang => {
                self.changed.notify_waiters();
                pending().await
            }
        };
        self.changed.notify_waiters();
        response.map(Response::new)
    }

    async fn withdraw(&self, request: Request<v1::WithdrawRequest>) -> Result<Response<v1::WithdrawResponse>, Status> {
        let ids: Vec<MessageId> =
            request.into_inner().message_ids.into_iter().map(|id| MessageId::try_from(&Some(id)).unwrap()).collect();
        let outcome = match *self.too_late.lock().unwrap() {
            true => withdraw_response::Outcome::TooLate,
            false => withdraw_response::Outcome::Withdrawn,
        };
        let outcomes = vec![outcome.into(); ids.len()];
        if outcome == withdraw_response::Outcome::Withdrawn {
            self.ids.lock().unwrap().retain(|kept| !ids.contains(kept));
            self.kept.lock().unwrap().retain(|message| !ids.contains(&id(message)));
        }
        self.withdrawn.lock().unwrap().extend(ids);
        self.changed.notify_waiters();
        Ok(Response::new(v1::WithdrawResponse { outcomes }))
    }

    async fn record(&self, request: Request<v1::RecordRequest>) -> Result<Response<v1::RecordResponse>, Status> {
        self.events.lock().unwrap().extend(request.into_inner().events);
        self.changed.notify_waiters();
        Ok(Response::new(v1::RecordResponse { first_seq: 1 }))
    }

    async fn put_body(&self, _: Request<v1::PutBodyRequest>) -> Result<Response<v1::PutBodyResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn read_body(&self, _: Request<v1::ReadBodyRequest>) -> Result<Response<Self::ReadBodyStream>, Status> {
        Err(not_for_ingress())
    }
    async fn watch_due(&self, _: Request<v1::WatchDueRequest>) -> Result<Response<Self::WatchDueStream>, Status> {
        Err(not_for_ingress())
    }
    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(not_for_ingress())
    }
    async fn route(&self, _: Request<v1::RouteRequest>) -> Result<Response<v1::RouteResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn lease(&self, _: Request<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn renew(&self, _: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn release(&self, _: Request<v1::ReleaseRequest>) -> Result<Response<v1::ReleaseResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn settle_lane(&self, _: Request<v1::SettleLaneRequest>) -> Result<Response<v1::SettleLaneResponse>, Status> {
        Err(not_for_ingress())
    }
    async fn report_lane(&self, _: Request<v1::ReportLaneRequest>) -> Result<Response<v1::ReportLaneResponse>, Status> {
        Err(not_for_ingress())
    }
}

fn not_for_ingress() -> Status {
    Status::internal("ingress has no business here")
}
