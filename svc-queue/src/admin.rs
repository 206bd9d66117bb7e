//! Administration: what an operator sees of the queue and of its events' sinks, and Flush. The other calls are not part of
//! this version.

mod flush;
mod see;

use crate::error::Error;
use crate::service::Service;
use godwit_proto::queue::QueueAdminService;
use godwit_proto::queue::v1::{
    AdoptRequest, AdoptResponse, BounceRequest, BounceResponse, CancelBounceRequest, CancelBounceResponse,
    CheckSpoolRequest, CheckSpoolResponse, DeleteSuppressionsRequest, DeleteSuppressionsResponse, DrainRequest,
    DrainResponse, ExpireRequest, ExpireResponse, FlushRequest, FlushResponse, InspectRequest, InspectResponse,
    ListBouncesRequest, ListBouncesResponse, ListMessagesRequest, ListMessagesResponse, ListSuppressionsRequest,
    ListSuppressionsResponse, ListSuspensionsRequest, ListSuspensionsResponse, PutSuppressionsRequest,
    PutSuppressionsResponse, RebindRequest, RebindResponse, ResumeRequest, ResumeResponse, SearchRequest,
    SearchResponse, SinksRequest, SinksResponse, SummariseRequest, SummariseResponse, SuspendRequest, SuspendResponse,
    TransferRequest, TransferResponse,
};
use tonic::{Request, Response, Status};
use tracing::{Instrument, info_span};

/// The contract: what is there, and the calls that answer `Unimplemented`. All in one, since the attribute does not see through
/// a macro inside.
macro_rules! administration {
    ([$($there:tt)*] $($call:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl QueueAdminService for Service {
            $($there)*
            $(async fn $call(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                Err(Error::NotYet(stringify!($call)).into())
            })*
        }
    };
}

administration! {
    [
        async fn summarise(&self, request: Request<SummariseRequest>) -> Result<Response<SummariseResponse>, Status> {
            let answer = info_span!("queue.summarise").in_scope(|| see::summarise(&self.node, request.into_inner()));
            Ok(Response::new(answer?))
        }

        async fn list_messages(
            &self,
            request: Request<ListMessagesRequest>,
        ) -> Result<Response<ListMessagesResponse>, Status> {
            let span = info_span!("queue.list_messages");
            Ok(Response::new(see::list(&self.node, request.into_inner()).instrument(span).await?))
        }

        async fn inspect(&self, request: Request<InspectRequest>) -> Result<Response<InspectResponse>, Status> {
            let span = info_span!("queue.inspect");
            Ok(Response::new(see::inspect(&self.node, request.into_inner()).instrument(span).await?))
        }

        async fn flush(&self, request: Request<FlushRequest>) -> Result<Response<FlushResponse>, Status> {
            let span = info_span!("queue.flush");
            Ok(Response::new(flush::flush(&self.node, request.into_inner()).instrument(span).await?))
        }

        async fn sinks(&self, _: Request<SinksRequest>) -> Result<Response<SinksResponse>, Status> {
            let sinks = info_span!("queue.sinks").in_scope(|| self.node.log.sinks());
            Ok(Response::new(SinksResponse { sinks }))
        }
    ]
    search(SearchRequest) -> SearchResponse;
    suspend(SuspendRequest) -> SuspendResponse;
    resume(ResumeRequest) -> ResumeResponse;
    list_suspensions(ListSuspensionsRequest) -> ListSuspensionsResponse;
    bounce(BounceRequest) -> BounceResponse;
    cancel_bounce(CancelBounceRequest) -> CancelBounceResponse;
    list_bounces(ListBouncesRequest) -> ListBouncesResponse;
    expire(ExpireRequest) -> ExpireResponse;
    rebind(RebindRequest) -> RebindResponse;
    transfer(TransferRequest) -> TransferResponse;
    adopt(AdoptRequest) -> AdoptResponse;
    drain(DrainRequest) -> DrainResponse;
    list_suppressions(ListSuppressionsRequest) -> ListSuppressionsResponse;
    put_suppressions(PutSuppressionsRequest) -> PutSuppressionsResponse;
    delete_suppressions(DeleteSuppressionsRequest) -> DeleteSuppressionsResponse;
    check_spool(CheckSpoolRequest) -> CheckSpoolResponse;
}
