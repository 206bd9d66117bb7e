//! The contracts: what any Godwit service may know of another, and a handle to call it by.
//!
//! - `common`, `queue`, `ingress`, `egress`, `tsa`, `throttle`, `proxy`, `policy`: one module a package; `v1` is generated.
//! - each service module names its handle (`queue::Queue` …): an `Arc` of the contract's trait. It is the service itself
//!   when it runs in this process, and [`Remote`] of the generated client when it runs elsewhere. Nothing else differs.
//! - [`id`]: the ids as types, with their text forms.
//! - [`convert`]: times, names and replies between the wire's shape and Rust's.
//!
//! **Invariants**: depends on no other crate of ours; unary and server-streaming calls only.

pub mod convert;
pub mod id;
mod remote;

pub use remote::{Remote, Replies, Wire, wire};

/// The encoded `FileDescriptorSet` of all contracts, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.binpb"));

/// The largest message that a call may carry, both ways, in bytes: a batch of inline bodies.
pub const CALL_BYTES_MAX: usize = 64 << 20;

/// Bodies up to this size should ride inside `Enqueue`, and do inside `Lease`; larger ones by `PutBody` and `ReadBody`. In bytes.
pub const INLINE_BYTES_MAX: usize = 1 << 20;

#[allow(clippy::all, clippy::unwrap_used)]
pub mod common {
    pub mod v1 {
        tonic::include_proto!("godwit.common.v1");
    }
}

/// Generated code of one package, its handle and its [`Remote`].
macro_rules! package {
    ($package:ident, $proto:literal) => {
        #[allow(clippy::all, clippy::unwrap_used)]
        pub mod v1 {
            tonic::include_proto!($proto);
        }
    };
}

pub mod queue {
    //! The queue manager: [`Queue`] and [`QueueAdmin`].
    use crate::remote::remote;
    use crate::{Remote, Replies, Wire};
    use std::sync::Arc;

    package!(queue, "godwit.queue.v1");
    pub use v1::queue_admin_service_client::QueueAdminServiceClient;
    pub use v1::queue_admin_service_server::{QueueAdminService, QueueAdminServiceServer};
    pub use v1::queue_service_client::QueueServiceClient;
    pub use v1::queue_service_server::{QueueService, QueueServiceServer};

    /// A queue to call.
    pub type Queue = Arc<
        dyn QueueService<
                ReadBodyStream = Replies<v1::ReadBodyResponse>,
                WatchDueStream = Replies<v1::WatchDueResponse>,
                WatchEventsStream = Replies<v1::WatchEventsResponse>,
            >,
    >;
    /// A queue's administration to call.
    pub type QueueAdmin = Arc<dyn QueueAdminService>;

    /// The queue at the far end of `wire`.
    pub fn at(wire: Wire) -> Queue {
        Arc::new(Remote(sized(QueueServiceClient::new(wire))))
    }

    /// The administration of the queue at the far end of `wire`.
    pub fn admin_at(wire: Wire) -> QueueAdmin {
        Arc::new(Remote(
            QueueAdminServiceClient::new(wire)
                .max_decoding_message_size(crate::CALL_BYTES_MAX)
                .max_encoding_message_size(crate::CALL_BYTES_MAX),
        ))
    }

    fn sized(client: QueueServiceClient<Wire>) -> QueueServiceClient<Wire> {
        client.max_decoding_message_size(crate::CALL_BYTES_MAX).max_encoding_message_size(crate::CALL_BYTES_MAX)
    }

    remote!(QueueService for QueueServiceClient<Wire> {
        rpc enqueue(v1::EnqueueRequest) -> v1::EnqueueResponse;
        rpc put_body(v1::PutBodyRequest) -> v1::PutBodyResponse;
        rpc withdraw(v1::WithdrawRequest) -> v1::WithdrawResponse;
        rpc route(v1::RouteRequest) -> v1::RouteResponse;
        rpc lease(v1::LeaseRequest) -> v1::LeaseResponse;
        rpc renew(v1::RenewRequest) -> v1::RenewResponse;
        rpc release(v1::ReleaseRequest) -> v1::ReleaseResponse;
        rpc settle(v1::SettleRequest) -> v1::SettleResponse;
        rpc settle_lane(v1::SettleLaneRequest) -> v1::SettleLaneResponse;
        rpc report_lane(v1::ReportLaneRequest) -> v1::ReportLaneResponse;
        rpc record(v1::RecordRequest) -> v1::RecordResponse;
        stream ReadBodyStream = read_body(v1::ReadBodyRequest) -> v1::ReadBodyResponse;
        stream WatchDueStream = watch_due(v1::WatchDueRequest) -> v1::WatchDueResponse;
        stream WatchEventsStream = watch_events(v1::WatchEventsRequest) -> v1::WatchEventsResponse;
    });

    remote!(QueueAdminService for QueueAdminServiceClient<Wire> {
        rpc summarise(v1::SummariseRequest) -> v1::SummariseResponse;
        rpc list_messages(v1::ListMessagesRequest) -> v1::ListMessagesResponse;
        rpc inspect(v1::InspectRequest) -> v1::InspectResponse;
        rpc search(v1::SearchRequest) -> v1::SearchResponse;
        rpc suspend(v1::SuspendRequest) -> v1::SuspendResponse;
        rpc resume(v1::ResumeRequest) -> v1::ResumeResponse;
        rpc list_suspensions(v1::ListSuspensionsRequest) -> v1::ListSuspensionsResponse;
        rpc bounce(v1::BounceRequest) -> v1::BounceResponse;
        rpc cancel_bounce(v1::CancelBounceRequest) -> v1::CancelBounceResponse;
        rpc list_bounces(v1::ListBouncesRequest) -> v1::ListBouncesResponse;
        rpc expire(v1::ExpireRequest) -> v1::ExpireResponse;
        rpc flush(v1::FlushRequest) -> v1::FlushResponse;
        rpc rebind(v1::RebindRequest) -> v1::RebindResponse;
        rpc transfer(v1::TransferRequest) -> v1::TransferResponse;
        rpc adopt(v1::AdoptRequest) -> v1::AdoptResponse;
        rpc drain(v1::DrainRequest) -> v1::DrainResponse;
        rpc sinks(v1::SinksRequest) -> v1::SinksResponse;
        rpc list_suppressions(v1::ListSuppressionsRequest) -> v1::ListSuppressionsResponse;
        rpc put_suppressions(v1::PutSuppressionsRequest) -> v1::PutSuppressionsResponse;
        rpc delete_suppressions(v1::DeleteSuppressionsRequest) -> v1::DeleteSuppressionsResponse;
        rpc check_spool(v1::CheckSpoolRequest) -> v1::CheckSpoolResponse;
    });
}

/// A module of a package with one service: its handle, `at`, and its [`Remote`].
macro_rules! service {
    ($module:ident, $doc:literal, $proto:literal, $handle:ident, $contract:ident, $client:ident, $server:ident,
     $client_module:ident, $server_module:ident, [$($associated:ident = $item:ident),*], { $($calls:tt)* }) => {
        #[doc = $doc]
        pub mod $module {
            use crate::remote::remote;
            use crate::{Remote, Wire};
            #[allow(unused_imports)]
            use crate::Replies;
            use std::sync::Arc;

            package!($module, $proto);
            pub use v1::$client_module::$client;
            pub use v1::$server_module::{$contract, $server};

            /// One to call.
            pub type $handle = Arc<dyn $contract<$($associated = Replies<v1::$item>),*>>;

            /// The one at the far end of `wire`.
            pub fn at(wire: Wire) -> $handle {
                Arc::new(Remote(
                    $client::new(wire)
                        .max_decoding_message_size(crate::CALL_BYTES_MAX)
                        .max_encoding_message_size(crate::CALL_BYTES_MAX),
                ))
            }

            remote!($contract for $client<Wire> { $($calls)* });
        }
    };
}

service!(ingress, "The way in: [`Ingress`](ingress::Ingress).", "godwit.ingress.v1", Ingress, IngressService,
    IngressServiceClient, IngressServiceServer, ingress_service_client, ingress_service_server,
    [TraceSessionsStream = TraceSessionsResponse], {
    rpc inject(v1::InjectRequest) -> v1::InjectResponse;
    rpc list_sessions(v1::ListSessionsRequest) -> v1::ListSessionsResponse;
    rpc kill_session(v1::KillSessionRequest) -> v1::KillSessionResponse;
    stream TraceSessionsStream = trace_sessions(v1::TraceSessionsRequest) -> v1::TraceSessionsResponse;
});

service!(egress, "The way out: [`Egress`](egress::Egress).", "godwit.egress.v1", Egress, EgressService,
    EgressServiceClient, EgressServiceServer, egress_service_client, egress_service_server,
    [TraceSessionsStream = TraceSessionsResponse], {
    rpc list_sites(v1::ListSitesRequest) -> v1::ListSitesResponse;
    rpc list_connections(v1::ListConnectionsRequest) -> v1::ListConnectionsResponse;
    rpc abort_connection(v1::AbortConnectionRequest) -> v1::AbortConnectionResponse;
    rpc resolve_path(v1::ResolvePathRequest) -> v1::ResolvePathResponse;
    rpc suspend_site(v1::SuspendSiteRequest) -> v1::SuspendSiteResponse;
    rpc suspend_source(v1::SuspendSourceRequest) -> v1::SuspendSourceResponse;
    rpc resume(v1::ResumeRequest) -> v1::ResumeResponse;
    stream TraceSessionsStream = trace_sessions(v1::TraceSessionsRequest) -> v1::TraceSessionsResponse;
});

service!(tsa, "Traffic shaping automation: [`Tsa`](tsa::Tsa).", "godwit.tsa.v1", Tsa, TsaService,
    TsaServiceClient, TsaServiceServer, tsa_service_client, tsa_service_server,
    [WatchStream = WatchResponse], {
    rpc observe(v1::ObserveRequest) -> v1::ObserveResponse;
    rpc list(v1::ListRequest) -> v1::ListResponse;
    rpc explain(v1::ExplainRequest) -> v1::ExplainResponse;
    rpc cancel(v1::CancelRequest) -> v1::CancelResponse;
    rpc add(v1::AddRequest) -> v1::AddResponse;
    rpc r#try(v1::TryRequest) -> v1::TryResponse;
    rpc status(v1::StatusRequest) -> v1::StatusResponse;
    stream WatchStream = watch(v1::WatchRequest) -> v1::WatchResponse;
});

service!(throttle, "Limits across nodes: [`Throttle`](throttle::Throttle).", "godwit.throttle.v1", Throttle, ThrottleService,
    ThrottleServiceClient, ThrottleServiceServer, throttle_service_client, throttle_service_server, [], {
    rpc acquire(v1::AcquireRequest) -> v1::AcquireResponse;
    rpc refund(v1::RefundRequest) -> v1::RefundResponse;
    rpc acquire_slots(v1::AcquireSlotsRequest) -> v1::AcquireSlotsResponse;
    rpc heartbeat(v1::HeartbeatRequest) -> v1::HeartbeatResponse;
    rpc release_slots(v1::ReleaseSlotsRequest) -> v1::ReleaseSlotsResponse;
    rpc list(v1::ListRequest) -> v1::ListResponse;
    rpc inspect(v1::InspectRequest) -> v1::InspectResponse;
    rpc reset(v1::ResetRequest) -> v1::ResetResponse;
});

service!(proxy, "The egress proxy: [`Proxy`](proxy::Proxy).", "godwit.proxy.v1", Proxy, ProxyService,
    ProxyServiceClient, ProxyServiceServer, proxy_service_client, proxy_service_server,
    [WatchSourcesStream = WatchSourcesResponse], {
    rpc list_sources(v1::ListSourcesRequest) -> v1::ListSourcesResponse;
    rpc status(v1::StatusRequest) -> v1::StatusResponse;
    rpc list_sessions(v1::ListSessionsRequest) -> v1::ListSessionsResponse;
    rpc drain(v1::DrainRequest) -> v1::DrainResponse;
    stream WatchSourcesStream = watch_sources(v1::WatchSourcesRequest) -> v1::WatchSourcesResponse;
});

service!(policy, "What users decide: [`Policy`](policy::Policy).", "godwit.policy.v1", Policy, PolicyService,
    PolicyServiceClient, PolicyServiceServer, policy_service_client, policy_service_server, [], {
    rpc connect(v1::ConnectRequest) -> v1::ConnectResponse;
    rpc ehlo(v1::EhloRequest) -> v1::EhloResponse;
    rpc auth(v1::AuthRequest) -> v1::AuthResponse;
    rpc mail(v1::MailRequest) -> v1::MailResponse;
    rpc rcpt(v1::RcptRequest) -> v1::RcptResponse;
    rpc message(v1::MessageRequest) -> v1::MessageResponse;
    rpc route(v1::RouteRequest) -> v1::RouteResponse;
});
