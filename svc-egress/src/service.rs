//! The contract: for those who watch and steer the way out.

use crate::actions::{Actions, Place};
use crate::crew::lock;
use crate::error::Error;
use crate::path::SitePath;
use crate::route::Found;
use crate::shared::{Event, Shared};
use crate::source::Source;
use godwit_kit::config::Rate;
use godwit_proto::Replies;
use godwit_proto::common::v1::Peer;
use godwit_proto::convert::duration;
use godwit_proto::egress::EgressService;
use godwit_proto::egress::v1::{
    AbortConnectionRequest, AbortConnectionResponse, EgressPath, ListConnectionsRequest, ListConnectionsResponse,
    ListSitesRequest, ListSitesResponse, Origin, PathValue, ResolvePathRequest, ResolvePathResponse, ResumeRequest,
    ResumeResponse, SuspendSiteRequest, SuspendSiteResponse, SuspendSourceRequest, SuspendSourceResponse,
    TraceSessionsRequest, TraceSessionsResponse, egress_path,
};
use godwit_shaping::{Limit, Path, Query, Shaping};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use tracing::Instrument;

const PAGE_SIZE_MAX: u32 = 1_000;
const PAGE_SIZE_DEFAULT: u32 = 100;

/// The egress service. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) actions: Arc<Mutex<Actions>>,
    pub(crate) shaping: Arc<Mutex<Shaping>>,
}

impl Service {
    async fn resolve(&self, asked: &ResolvePathRequest) -> Result<ResolvePathResponse, Error> {
        let invalid = |field, what: String| Error::Invalid { field, what };
        if asked.domain.is_empty() {
            return Err(invalid("domain", "must be given".into()));
        }
        let source =
            self.source(&asked.source).ok_or_else(|| invalid("source", format!("no source {:?}", asked.source)))?;
        let route = match self.shared.router.find(&asked.domain.to_lowercase()).await {
            Found::Route(route) => route,
            Found::Refused(refusal) => {
                return Ok(ResolvePathResponse { refusal: Some(refusal.reply), ..ResolvePathResponse::default() });
            }
        };
        let mx_hosts: Vec<String> = route.hosts.iter().map(|host| host.name.clone()).collect();
        let query = Query { domain: &asked.domain, site: &route.site, mx_hosts: &mx_hosts, source: &source.name };
        let shaping = lock(&self.shaping).clone();
        let provider = shaping.provider_of(&asked.domain, &mx_hosts).unwrap_or_default().to_string();
        let place = Place { site: &route.site, source: &source.name, provider: &provider };
        let standing = lock(&self.actions).standing(place, self.shared.host.clock.now());
        let path = SitePath::resolve(&shaping, &query, &standing);
        let mut hosts = Vec::new();
        for host in &route.hosts {
            let targets = self.shared.dialer.targets(host, &path.path, &source).await.unwrap_or_default();
            let peer = |target: crate::dial::Target| Peer {
                name: target.name,
                address: target.at.ip().to_string(),
                port: target.at.port().into(),
            };
            hosts.extend(targets.into_iter().map(peer));
        }
        let values = path.values.iter().map(wire_value).collect();
        let (site, wire) = (route.site.clone(), wire_path(&path.path));
        Ok(ResolvePathResponse { site, provider, hosts, values, refusal: None, path: Some(wire) })
    }

    fn source(&self, name: &str) -> Option<Arc<Source>> {
        let sources = &self.shared.sources;
        if name.is_empty() {
            sources.last().cloned()
        } else {
            sources.iter().find(|source| source.name == name).cloned()
        }
    }

    async fn sites(&self, asked: ListSitesRequest) -> Result<ListSitesResponse, Error> {
        let page = asked.page.unwrap_or_default();
        if page.size > PAGE_SIZE_MAX {
            let what = format!("must be at most {PAGE_SIZE_MAX}");
            return Err(Error::Invalid { field: "page.size", what });
        }
        let size = if page.size == 0 { PAGE_SIZE_DEFAULT } else { page.size } as usize;
        let (answer, listed) = oneshot::channel();
        self.shared.say(Event::List { after: page.token, size, answer }).await;
        let (sites, more) = listed.await.map_err(|_| Error::Stopping)?;
        let last = sites.last().map(|site| site.site.clone()).filter(|_| more).unwrap_or_default();
        Ok(ListSitesResponse { sites, next_token: last })
    }
}

#[tonic::async_trait]
impl EgressService for Service {
    type TraceSessionsStream = Replies<TraceSessionsResponse>;

    async fn resolve_path(
        &self,
        request: Request<ResolvePathRequest>,
    ) -> Result<Response<ResolvePathResponse>, Status> {
        let asked = request.into_inner();
        let span = tracing::info_span!("resolve_path", godwit.domain = asked.domain);
        Ok(Response::new(self.resolve(&asked).instrument(span).await?))
    }

    async fn list_sites(&self, request: Request<ListSitesRequest>) -> Result<Response<ListSitesResponse>, Status> {
        let span = tracing::info_span!("list_sites");
        Ok(Response::new(self.sites(request.into_inner()).instrument(span).await?))
    }

    async fn list_connections(
        &self,
        _request: Request<ListConnectionsRequest>,
    ) -> Result<Response<ListConnectionsResponse>, Status> {
        Err(Error::NotYet("ListConnections").into())
    }

    async fn abort_connection(
        &self,
        _request: Request<AbortConnectionRequest>,
    ) -> Result<Response<AbortConnectionResponse>, Status> {
        Err(Error::NotYet("AbortConnection").into())
    }

    async fn trace_sessions(
        &self,
        _request: Request<TraceSessionsRequest>,
    ) -> Result<Response<Self::TraceSessionsStream>, Status> {
        Err(Error::NotYet("TraceSessions").into())
    }

    async fn suspend_site(
        &self,
        _request: Request<SuspendSiteRequest>,
    ) -> Result<Response<SuspendSiteResponse>, Status> {
        Err(Error::NotYet("SuspendSite").into())
    }

    async fn suspend_source(
        &self,
        _request: Request<SuspendSourceRequest>,
    ) -> Result<Response<SuspendSourceResponse>, Status> {
        Err(Error::NotYet("SuspendSource").into())
    }

    async fn resume(&self, _request: Request<ResumeRequest>) -> Result<Response<ResumeResponse>, Status> {
        Err(Error::NotYet("Resume").into())
    }
}

fn wire_value(value: &godwit_shaping::PathValue) -> PathValue {
    let godwit_shaping::Origin { file, block, rule } = value.origin.clone();
    PathValue { name: value.name.clone(), value: value.value.clone(), origin: Some(Origin { file, block, rule }) }
}

fn wire_path(path: &Path) -> EgressPath {
    let Path { connections, messages, tls, timeouts, retry, protocol: _ } = path;
    let rate = |rate: &Option<Rate>| rate.as_ref().map(Rate::to_string).unwrap_or_default();
    let limits = |limits: &BTreeMap<String, Limit>| -> HashMap<_, _> {
        limits.iter().map(|(name, limit)| (name.clone(), limit.to_string())).collect()
    };
    let rates = messages.additional_message_rate_throttles.iter().map(|(name, rate)| (name.clone(), rate.to_string()));
    let time = |time| Some(duration(time));
    EgressPath {
        connections: Some(egress_path::Connections {
            connection_limit: connections.connection_limit.count,
            max_connection_rate: rate(&connections.max_connection_rate),
            max_deliveries_per_connection: connections.max_deliveries_per_connection,
            consecutive_connection_failures_before_delay: connections.consecutive_connection_failures_before_delay,
            additional_connection_limits: limits(&connections.additional_connection_limits),
        }),
        messages: Some(egress_path::Messages {
            max_message_rate: rate(&messages.max_message_rate),
            max_recipients_per_batch: messages.max_recipients_per_batch,
            additional_message_rate_throttles: rates.collect(),
            source_selection_rate: rate(&messages.source_selection_rate),
        }),
        tls: Some(egress_path::TlsPolicy {
            enable_tls: tls.enable_tls.as_str().into(),
            enable_mta_sts: tls.enable_mta_sts,
            enable_dane: tls.enable_dane,
        }),
        timeouts: Some(egress_path::Timeouts {
            connect: time(timeouts.connect),
            banner: time(timeouts.banner),
            ehlo: time(timeouts.ehlo),
            mail_from: time(timeouts.mail_from),
            rcpt_to: time(timeouts.rcpt_to),
            data: time(timeouts.data),
            data_dot: time(timeouts.data_dot),
            idle: time(timeouts.idle),
            rset: time(timeouts.rset),
            starttls: time(timeouts.starttls),
        }),
        retry: Some(egress_path::Retry {
            try_next_host_on_transport_error: retry.try_next_host_on_transport_error,
            reconnect_strategy: retry.reconnect_strategy.as_str().into(),
        }),
    }
}
