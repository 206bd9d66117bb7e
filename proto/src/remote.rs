//! Makes a generated client stand wherever the service itself could.

use std::pin::Pin;
use tonic::{Status, body::Body};

/// What a server-streaming call answers with.
pub type Replies<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

/// The road to a remote service: a channel under the tower layers it was given. Its error is a [`Status`], so that an
/// unreachable peer answers `Unavailable` like any other failed call.
pub type Wire = tower::util::BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Turns a channel, or a generated server (then no socket is between), into a [`Wire`].
pub fn wire<S>(service: S) -> Wire
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + Sync + 'static,
    S::Error: Into<tower::BoxError>,
    S::Future: Send + 'static,
{
    use tower::ServiceExt;
    Wire::new(service.map_err(|error| Status::from_error(error.into())))
}

/// A generated client that answers its own contract by forwarding every call.
#[derive(Clone, Debug)]
pub struct Remote<C>(pub C);

/// Implements a contract for [`Remote`]: one line a call.
macro_rules! remote {
    ($contract:ident for $client:ty {
        $(rpc $method:ident($request:ty) -> $response:ty;)*
        $(stream $stream:ident = $streaming:ident($asked:ty) -> $reply:ty;)*
    }) => {
        #[tonic::async_trait]
        impl $contract for Remote<$client> {
            $(async fn $method(&self, request: tonic::Request<$request>) -> Result<tonic::Response<$response>, tonic::Status> {
                self.0.clone().$method(request).await
            })*
            $(type $stream = Replies<$reply>;
            async fn $streaming(&self, request: tonic::Request<$asked>) -> Result<tonic::Response<Self::$stream>, tonic::Status> {
                Ok(self.0.clone().$streaming(request).await?.map(|replies| Box::pin(replies) as Self::$stream))
            })*
        }
    };
}
pub(crate) use remote;
