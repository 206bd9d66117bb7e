//! A queue between ingress and the queue that does what it is asked, but loses the answer to every third Enqueue.

use godwit_proto::Replies;
use godwit_proto::queue::{Queue, QueueService, QueueServiceServer, v1::*};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// A running one. It ends when dropped.
pub struct Lossy {
    pub address: String,
    calls: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Lossy {
    pub fn lost(&self) -> usize {
        self.calls.load(Ordering::Relaxed).div_ceil(3)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub async fn start(queue: Queue) -> Lossy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let calls = Arc::new(AtomicUsize::new(0));
    let between = Between { queue, calls: calls.clone() };
    let task = tokio::spawn(async move {
        let server = tonic::transport::Server::builder().add_service(QueueServiceServer::new(between));
        let _ = server.serve_with_incoming(TcpListenerStream::new(listener)).await;
    });
    Lossy { address, calls, task }
}

struct Between {
    queue: Queue,
    calls: Arc<AtomicUsize>,
}

/// Everything else goes through unchanged.
macro_rules! through {
    ($($method:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl QueueService for Between {
            async fn enqueue(&self, request: Request<EnqueueRequest>) -> Result<Response<EnqueueResponse>, Status> {
                let answer = self.queue.enqueue(request).await;
                if self.calls.fetch_add(1, Ordering::Relaxed) % 3 == 0 {
                    return Err(Status::unavailable("the answer was lost"));
                }
                answer
            }
            $(async fn $method(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.queue.$method(request).await
            })*
            type ReadBodyStream = Replies<ReadBodyResponse>;
            async fn read_body(&self, request: Request<ReadBodyRequest>) -> Result<Response<Self::ReadBodyStream>, Status> {
                self.queue.read_body(request).await
            }
            type WatchDueStream = Replies<WatchDueResponse>;
            async fn watch_due(&self, request: Request<WatchDueRequest>) -> Result<Response<Self::WatchDueStream>, Status> {
                self.queue.watch_due(request).await
            }
            type WatchEventsStream = Replies<WatchEventsResponse>;
            async fn watch_events(&self, request: Request<WatchEventsRequest>) -> Result<Response<Self::WatchEventsStream>, Status> {
                self.queue.watch_events(request).await
            }
        }
    };
}

through! {
    put_body(PutBodyRequest) -> PutBodyResponse;
    withdraw(WithdrawRequest) -> WithdrawResponse;
    route(RouteRequest) -> RouteResponse;
    lease(LeaseRequest) -> LeaseResponse;
    renew(RenewRequest) -> RenewResponse;
    release(ReleaseRequest) -> ReleaseResponse;
    settle(SettleRequest) -> SettleResponse;
    settle_lane(SettleLaneRequest) -> SettleLaneResponse;
    report_lane(ReportLaneRequest) -> ReportLaneResponse;
    record(RecordRequest) -> RecordResponse;
}
