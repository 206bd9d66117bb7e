//! Several queue nodes are served side by side.

use crate::queue::FakeQueue;
use crate::sink::{Script, Sink};
use crate::world::Setup;
use godwit_proto::id::NodeId;
use std::time::Duration;

const MESSAGE: &str = "Subject: x\r\n\r\nhello\r\n";

#[tokio::test]
async fn a_small_backlog_does_not_wait_for_a_large_one() {
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at).shaping("[\"default\"]\nconnection_limit = 1\n");
    let other = FakeQueue::new();
    setup.other_queue = Some(other.clone());
    for _ in 0..2_000 {
        setup.queue.put(&["a@d.example"], MESSAGE);
    }
    let world = setup.start().await;
    world.queue.outcomes(1).await;
    for _ in 0..20 {
        other.put(&["b@d.example"], MESSAGE);
    }
    other.outcomes(20).await;
    let left = world.queue.change(|state| 2_000 - state.outcomes.len());
    assert!(left > 0, "the large backlog went first");
    world.finish().await;
    assert_eq!(sink.heard().connection_count, 1);
}

#[tokio::test]
async fn a_node_that_is_away_holds_up_no_other() {
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at);
    let other = FakeQueue::new();
    setup.other_queue = Some(other.clone());
    // Its outcomes are not taken and its streams break; it comes back in the end.
    other.change(|state| (state.streams_broken, state.settle_failures) = (3, 3));
    other.put(&["b@d.example"], MESSAGE);
    let world = setup.start().await;
    for count in 1..=20 {
        world.queue.put(&["a@d.example"], MESSAGE);
        world.queue.outcomes(count).await;
    }
    assert_eq!(other.outcomes(1).await.len(), 1);
    world.finish().await;
    assert_eq!(sink.heard().messages.len(), 21, "each once");
}

#[tokio::test]
async fn a_node_that_two_addresses_lead_to_is_watched_once_until_one_leads_elsewhere() {
    let sink = Sink::start(Script::default()).await;
    let mut setup = Setup::to(sink.at);
    let (other, second) = (FakeQueue::new(), setup.queue_nodes[1].clone());
    second.learn(setup.queue_nodes[0].get().unwrap());
    setup.other_queue = Some(other.clone());
    other.put(&["b@d.example"], MESSAGE);
    setup.queue.put(&["a@d.example"], MESSAGE);
    let world = setup.start().await;
    world.queue.outcomes(1).await;
    assert_eq!(other.change(|state| state.watched.len()), 0);
    assert!(world.host.health.causes().is_empty(), "{:?}", world.host.health.causes());
    second.learn(NodeId::new());
    assert_eq!(other.outcomes(1).await.len(), 1);
    world.finish().await;
    assert_eq!(sink.heard().messages.len(), 2);
}

#[tokio::test]
async fn readiness_is_lost_where_no_queue_node_is_left() {
    let sink = Sink::start(Script::default()).await;
    let (mut setup, other) = (Setup::to(sink.at), FakeQueue::new());
    setup.other_queue = Some(other.clone());
    let first = setup.queue.clone();
    let world = setup.start().await;
    let lacks = async |expected: bool| {
        let until = async {
            while world.host.health.causes().iter().any(|cause| cause.part == "queue streams") != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), until).await.unwrap_or_else(|_| panic!("not {expected}"));
    };
    let refuse = |queue: &FakeQueue, refused| {
        queue.change(|state| (state.streams_refused, state.streams_broken) = (refused, usize::from(refused)));
    };
    refuse(&other, true);
    for count in 1..=3 {
        first.put(&["a@d.example"], MESSAGE);
        first.outcomes(count).await;
        assert!(world.host.health.causes().is_empty(), "{:?}", world.host.health.causes());
    }
    refuse(&first, true);
    lacks(true).await;
    refuse(&first, false);
    lacks(false).await;
    world.finish().await;
}
