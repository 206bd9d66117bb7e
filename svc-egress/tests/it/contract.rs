//! The contract, near and through the codec.

use crate::sink::{Script, Sink};
use crate::world::Setup;
use godwit_proto::egress::v1::{ListConnectionsRequest, ListSitesRequest, ResolvePathRequest};
use godwit_proto::egress::{Egress, EgressServiceServer};
use std::sync::Arc;
use tonic::{Code, Request};

async fn near_and_far(case: impl AsyncFn(Egress)) {
    let setup = Setup::to("127.0.0.1:2526".parse().unwrap()).shaping("[\"default\"]\nconnection_limit = 7\n");
    let world = setup.start().await;
    let near = Arc::new(world.service.clone());
    case(near.clone()).await;
    case(godwit_proto::egress::at(godwit_kit::connect::pipe(EgressServiceServer::from_arc(near)))).await;
    world.finish().await;
}

#[tokio::test]
async fn a_path_is_resolved_with_origins() {
    near_and_far(async |egress| {
        let asked = ResolvePathRequest { domain: "d.example".into(), source: String::new() };
        let answer = egress.resolve_path(Request::new(asked)).await.unwrap().into_inner();
        assert_eq!(answer.site, "127.0.0.1:2526");
        assert_eq!((answer.hosts[0].address.as_str(), answer.hosts[0].port), ("127.0.0.1", 2526));
        let value = answer.values.iter().find(|value| value.name == "connection_limit").unwrap();
        assert_eq!(value.value, "7");
        assert!(value.origin.as_ref().unwrap().file.ends_with(".toml"));
        assert_eq!(answer.path.unwrap().connections.unwrap().connection_limit, 7);
    })
    .await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    near_and_far(async |egress| {
        let asked = |domain: &str, source: &str| ResolvePathRequest { domain: domain.into(), source: source.into() };
        let status = egress.resolve_path(Request::new(asked("", ""))).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "domain: must be given"));
        let status = egress.resolve_path(Request::new(asked("d.example", "x"))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let sites = egress.list_sites(Request::new(ListSitesRequest::default())).await.unwrap().into_inner();
        assert!(sites.sites.is_empty() && sites.next_token.is_empty());
        let status = egress.list_connections(Request::new(ListConnectionsRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    })
    .await;
}

#[tokio::test]
async fn a_site_is_listed_with_its_lanes() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put(&["a@d.example"], "Subject: x\r\n\r\nhello\r\n");
    world.queue.outcomes(1).await;
    let near: Egress = Arc::new(world.service.clone());
    let answer = near.list_sites(Request::new(ListSitesRequest::default())).await.unwrap().into_inner();
    assert_eq!(answer.sites.len(), 1);
    let site = &answer.sites[0];
    assert_eq!((site.site.as_str(), site.connection_count), (sink.at.to_string().as_str(), 1));
    assert_eq!(site.lanes[0].routing_domain, "d.example");
    world.finish().await;
}
