//! A TSA that is a script: it streams what it is told to.

use godwit_proto::Replies;
use godwit_proto::tsa::TsaService;
use godwit_proto::tsa::v1::watch_response::{Item, Snapshot};
use godwit_proto::tsa::v1::*;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// The actions in force; each change is streamed as a snapshot.
#[derive(Clone)]
pub struct FakeTsa(pub Arc<watch::Sender<Vec<Action>>>);

impl FakeTsa {
    pub fn new(actions: Vec<Action>) -> Self {
        Self(Arc::new(watch::Sender::new(actions)))
    }
}

fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("egress does not call this"))
}

#[tonic::async_trait]
impl TsaService for FakeTsa {
    type WatchStream = Replies<WatchResponse>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let answers = futures::stream::unfold((self.0.subscribe(), 1), |(mut actions, version)| async move {
            if version > 1 {
                actions.changed().await.ok()?;
            }
            let snapshot = Snapshot { actions: actions.borrow_and_update().clone() };
            let answer = WatchResponse { item: Some(Item::Snapshot(snapshot)), version, instance_id: "i".into() };
            Some((Ok(answer), (actions, version + 1)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn observe(&self, _: Request<ObserveRequest>) -> Result<Response<ObserveResponse>, Status> {
        unused()
    }
    async fn list(&self, _: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        unused()
    }
    async fn explain(&self, _: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        unused()
    }
    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        unused()
    }
    async fn add(&self, _: Request<AddRequest>) -> Result<Response<AddResponse>, Status> {
        unused()
    }
    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        unused()
    }
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        unused()
    }
}
