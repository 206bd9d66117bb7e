//! Nodes with one configuration, the way teams run a handful of them: everything on each, and each names all, itself included.

use crate::front::http;
use crate::world::{Client, Settings, World, count, law, of_kind, until};
use bench::sink::{Action, Behaviour};
use godwit_proto::common::v1::EventKind;
use godwit_proto::egress;
use godwit_proto::egress::v1::{ListSitesRequest, SiteSummary};
use godwit_proto::queue::v1::SinksRequest;
use serde_json::json;
use std::collections::BTreeSet;
use tonic::Request;

const NODES: [&str; 2] = ["node-1", "node-2"];

/// Has had enough of one of them.
struct Busy;

impl Behaviour for Busy {
    fn rcpt(&self, argument: &str) -> Action {
        if argument.contains("busy@") { Action::Reply("451 4.7.28 Too much mail".into()) } else { Action::Usual }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_name_themselves_among_their_peers_are_each_one_node() {
    let rule = "[[\"default\".automation]]\nregex = \"4\\\\.7\\\\.28\"\naction = \"Suspend\"\nduration = \"1h\"\n";
    let settings = Settings { shaping: rule.into(), ..Settings::default() };
    let world = World::start_nodes(&NODES, Busy, settings).await;
    // Until all know who is who; mail does not wait for it.
    let mut number = 0;
    for node in NODES {
        let mut client = Client::connect(world.listener(node, "smtp")).await.unwrap();
        for _ in 0..20 {
            number += 1;
            client.send(&["a@one.test"], &format!("X-Bench-Id: {number}\r\n\r\nx")).await.unwrap();
        }
        let request = json!({"envelope_sender": "s@client.test", "recipients": [{"email": "b@two.test"}], "content": "Subject: x\n\ny\n"});
        let (status, answer) = http(world.listener(node, "http"), "POST /api/inject/v1", &request.to_string()).await;
        assert_eq!(status, 200, "{answer}");
    }
    let mut delivered = 0;
    for node in NODES {
        let events = world.drained(node).await;
        law(&events);
        assert!(!of_kind(&events, EventKind::Reception).is_empty(), "{node} was given nothing");
        delivered += count(&events, EventKind::Delivery);
    }
    assert_eq!((delivered, world.sink.count()), (42, 42));

    // Each queue feeds its own TSA and the other's, once each.
    for node in NODES {
        let fed = async || {
            let answer = world.admin_of(node).sinks(Request::new(SinksRequest {})).await.ok()?.into_inner();
            let well = answer.sinks.iter().all(|sink| sink.lag_events == 0 && sink.last_error.is_empty());
            let names: BTreeSet<_> = answer.sinks.into_iter().map(|sink| sink.name).collect();
            let other = world.url(NODES.into_iter().find(|other| *other != node).unwrap());
            (well && names == ["tsa:here".to_string(), format!("tsa:{other}")].into()).then_some(())
        };
        until(&format!("one sink a TSA at {node}"), fed).await;
    }

    // And each egress counts a queue's backlog once: three messages that a suspension holds back are three.
    let mut client = Client::connect(world.listener("node-1", "smtp")).await.unwrap();
    client.send(&["busy@one.test"], "Subject: x\r\n\r\ny").await.unwrap();
    for node in NODES {
        let held =
            async || sites(&world, node).await.iter().any(|site| site.waiting_for.contains("4.7.28")).then_some(());
        until(&format!("suspension at {node}"), held).await;
    }
    for _ in 0..2 {
        client.send(&["a@one.test"], "Subject: x\r\n\r\ny").await.unwrap();
    }
    for node in NODES {
        let due = async || {
            let due: u64 = sites(&world, node).await.iter().map(|site| site.due_count).sum();
            assert!(due <= 3, "{due} of 3 messages are due");
            (due == 3).then_some(())
        };
        until(&format!("backlog at {node}"), due).await;
    }
    world.stop().await;
}

async fn sites(world: &World, node: &str) -> Vec<SiteSummary> {
    let egress = egress::at(world.wire(node));
    egress.list_sites(Request::new(ListSitesRequest::default())).await.unwrap().into_inner().sites
}
