//! Where mail goes, and what it is told where there is no way.

use crate::dns::{Answer, Dns};
use crate::sink::{Script, Sink};
use crate::world::{Setup, World};
use godwit_proto::queue::v1::report_lane_request::State;
use godwit_proto::queue::v1::{RecipientResult, SettleLaneRequest};
use std::net::Ipv4Addr;

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

async fn with_dns(dns: &Dns, setup: Setup) -> World {
    let mut setup = setup;
    setup.config.dns_servers = vec![dns.at.to_string()];
    setup.start().await
}

/// What mail to `d.example` is told without a connection.
async fn refusal(table: &[(&'static str, Answer)]) -> SettleLaneRequest {
    let dns = Dns::start(table).await;
    let world = with_dns(&dns, Setup::new()).await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let settled = world.queue.settled_lane().await;
    world.finish().await;
    settled
}

fn told(settled: &SettleLaneRequest) -> (RecipientResult, u32, String) {
    let reply = settled.reply.as_ref().unwrap();
    (settled.result(), reply.code, reply.enhanced.as_ref().unwrap().to_string())
}

#[tokio::test]
async fn a_domain_without_a_way_is_settled_as_a_lane() {
    let null_mx = refusal(&[("d.example", Answer::Mx(vec![(0, ".")]))]).await;
    assert_eq!(told(&null_mx), (RecipientResult::Bounced, 556, "5.1.10".into()));
    assert_eq!(null_mx.lane.unwrap().routing_domain, "d.example");
    let unknown = refusal(&[("d.example", Answer::NxDomain)]).await;
    assert_eq!(told(&unknown), (RecipientResult::Bounced, 550, "5.1.2".into()));
    let nothing = refusal(&[]).await;
    assert_eq!(told(&nothing), (RecipientResult::Bounced, 550, "5.4.4".into()));
    let failing = refusal(&[("d.example", Answer::ServFail)]).await;
    assert_eq!(told(&failing), (RecipientResult::Deferred, 451, "4.4.3".into()));
}

#[tokio::test]
async fn a_private_mx_is_refused() {
    let mx = Answer::Mx(vec![(10, "mx.d.example")]);
    let private = refusal(&[("d.example", mx), ("mx.d.example", Answer::A(Ipv4Addr::LOCALHOST))]).await;
    assert_eq!(told(&private), (RecipientResult::Bounced, 550, "5.4.4".into()));
    assert_eq!(private.site, "mx.d.example");
    let mx = Answer::Mx(vec![(10, "mx.d.example")]);
    let disguised = Answer::Aaaa(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    let private = refusal(&[("d.example", mx), ("mx.d.example", disguised)]).await;
    assert_eq!(told(&private), (RecipientResult::Bounced, 550, "5.4.4".into()));
}

#[tokio::test]
async fn an_alias_without_mx_is_not_a_null_mx() {
    let table = [("d.example", Answer::Cname("host.example")), ("host.example", Answer::A(Ipv4Addr::LOCALHOST))];
    assert_eq!(delivered_by(&table).await, "d.example");
}

/// The sink stands at the addresses that DNS gives, at a port that shaping says.
async fn delivered_by(table: &[(&'static str, Answer)]) -> String {
    let (dns, sink) = (Dns::start(table).await, Sink::start(Script::default()).await);
    let mut setup = Setup::new().shaping(&format!("[\"default\"]\nsmtp_port = {}\n", sink.at.port()));
    setup.config.allow_networks = vec!["127.0.0.0/8".parse().unwrap()];
    let world = with_dns(&dns, setup).await;
    world.queue.put(&["a@d.example"], MESSAGE);
    let outcome = world.queue.outcomes(1).await.remove(0);
    assert_eq!(outcome.recipients[0].result(), RecipientResult::Delivered);
    world.finish().await;
    outcome.site
}

#[tokio::test]
async fn mx_hosts_are_tried_in_turn_and_name_the_site() {
    let hosts = Answer::Mx(vec![(20, "b.d.example"), (10, "a.d.example")]);
    let bad = Answer::A(Ipv4Addr::new(10, 255, 255, 1));
    let good = Answer::A(Ipv4Addr::LOCALHOST);
    let site = delivered_by(&[("d.example", hosts), ("a.d.example", bad), ("b.d.example", good)]).await;
    assert_eq!(site, "(a|b).d.example");
}

#[tokio::test]
async fn without_mx_the_domain_itself_is_the_host() {
    assert_eq!(delivered_by(&[("d.example", Answer::A(Ipv4Addr::LOCALHOST))]).await, "d.example");
}

#[tokio::test]
async fn a_refused_connection_settles_the_lanes_and_holds_up_no_other_site() {
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at);
    setup.config.routes.insert("down.example".into(), svc_egress::Route { hosts: vec![closed.to_string()] });
    let world = setup.start().await;
    world.queue.put(&["a@down.example"], MESSAGE);
    world.queue.put(&["a@up.example"], MESSAGE);
    let settled = world.queue.settled_lane().await;
    assert_eq!(told(&settled), (RecipientResult::Deferred, 451, "4.4.1".into()));
    assert_eq!(settled.site, closed.to_string());
    world.queue.outcomes(1).await;
    world.finish().await;
}

#[tokio::test]
async fn an_unknown_pool_is_reported() {
    let sink = Sink::start(Script::default()).await;
    let world = Setup::to(sink.at).start().await;
    world.queue.put_in("no-such-pool", &["a@d.example"], MESSAGE);
    let report = world.queue.reported(State::NoSource).await;
    assert!(report.reason.contains("no-such-pool"), "{}", report.reason);
    world.finish().await;
}
