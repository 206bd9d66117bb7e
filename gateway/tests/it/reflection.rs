//! Anyone can call: `buf curl` lists and calls every service by reflection, and health answers for each.

use crate::world::{Placement, Settings, World};
use bench::sink::Obliging;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const SERVICES: [&str; 7] = [
    "godwit.queue.v1.QueueService",
    "godwit.queue.v1.QueueAdminService",
    "godwit.ingress.v1.IngressService",
    "godwit.egress.v1.EgressService",
    "godwit.tsa.v1.TsaService",
    "godwit.throttle.v1.ThrottleService",
    "godwit.proxy.v1.ProxyService",
];

/// One call of each, with a request that changes nothing.
const CALLS: [(&str, &str); 7] = [
    ("godwit.queue.v1.QueueService/Renew", r#"{"egress_node":{"value":"node_00000000000000000000000000"}}"#),
    ("godwit.queue.v1.QueueAdminService/Summarise", r#"{"selector":{"all":true}}"#),
    ("godwit.ingress.v1.IngressService/Inject", r#"{"messages":[{"envelope":{"reverse_path":"no address"}}]}"#),
    ("godwit.egress.v1.EgressService/ResolvePath", r#"{"domain":"one.test"}"#),
    ("godwit.tsa.v1.TsaService/Status", "{}"),
    ("godwit.throttle.v1.ThrottleService/List", "{}"),
    ("godwit.proxy.v1.ProxyService/ListSources", "{}"),
];

async fn buf(arguments: &[&str]) -> (bool, String) {
    let mut command = tokio::process::Command::new("buf");
    let output = command.args(["curl", "--http2-prior-knowledge", "--protocol", "grpc"]).args(arguments).output().await;
    let output = output.expect("buf is needed: pip install buf-bin");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn buf_curl_lists_and_calls_every_service() {
    let world = World::start(Placement::Near, Obliging, Settings::default()).await;
    for protocol in ["grpc-v1", "grpc-v1alpha"] {
        let (fine, listed) = buf(&["--reflect-protocol", protocol, "--list-services", &world.queue_address]).await;
        assert!(fine, "{listed}");
        for service in SERVICES {
            assert!(listed.lines().any(|line| line == service), "{service} is not in\n{listed}");
        }
    }
    for (call, request) in CALLS {
        let address = format!("{}/{call}", world.queue_address);
        let (fine, answer) = buf(&["-d", request, &address]).await;
        assert!(fine, "{call}: {answer}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_for_each_service() {
    let world = World::start(Placement::Spread, Obliging, Settings::default()).await;
    for service in ["queue", "throttle", "tsa"] {
        let mut client = HealthClient::new(world.wire(service));
        for name in godwit_kit::health::contract_names(service) {
            let asked = client.check(HealthCheckRequest { service: (*name).into() }).await.unwrap();
            assert_eq!(asked.into_inner().status(), ServingStatus::Serving, "{name}");
        }
        let unknown = client.check(HealthCheckRequest { service: "godwit.proxy.v1.ProxyService".into() }).await;
        assert_eq!(unknown.unwrap_err().code(), tonic::Code::NotFound, "{service} answers for a service it has not");
    }
    world.stop().await;
}
