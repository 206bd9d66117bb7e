//! Taking in events: cursors, holes, repeats, and what is refused.

use crate::world::{Folder, Road, World, answer, batch};
use godwit_proto::common::v1::{Event, Gap};
use godwit_proto::id::NodeId;
use godwit_proto::tsa::v1::{ObserveRequest, status_response::Node};
use tonic::{Code, Request};

async fn each_way(case: impl AsyncFn(World)) {
    for road in [Road::Near, Road::Far] {
        let folder = Folder::make();
        case(World::start(&folder, road).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn next_seq_moves_without_holes() {
    each_way(async |world| {
        let node = NodeId::new();
        let fine = |count: usize| vec![answer(0, "site", "fine"); count];
        assert_eq!(world.observe(node, 5, fine(1)).await, 1, "a hole from the start");
        assert_eq!(world.observe(node, 1, fine(3)).await, 4);
        assert_eq!(world.observe(node, 2, fine(2)).await, 4, "a repeat");
        assert_eq!(world.observe(node, 3, fine(3)).await, 6, "half a repeat");
        assert_eq!(world.observe(node, 7, fine(3)).await, 6, "a hole");
        let mut with_gap = batch(node, 10, fine(2));
        with_gap.gap = Some(Gap { from: 6, to: 9 });
        let sent = world.tsa.observe(Request::new(with_gap)).await.unwrap();
        assert_eq!(sent.into_inner().next_seq, 12, "a gap");
        let mut sparse = batch(node, 15, fine(1));
        (sparse.first_seq, sparse.next_seq) = (12, 30);
        assert_eq!(world.tsa.observe(Request::new(sparse)).await.unwrap().into_inner().next_seq, 30, "some left out");
        assert_eq!(world.observe(NodeId::new(), 1, fine(1)).await, 2, "another node");
        let status = world.status().await;
        let held = Node { node: Some(node.into()), log_id: "log".into(), next_seq: 30 };
        assert!(status.nodes.contains(&held) && status.nodes.len() == 2, "{status:?}");
        assert_eq!(status.rule_count, 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_named() {
    each_way(async |world| {
        let node = NodeId::new();
        let check = async |change: fn(&mut ObserveRequest), field: &str| {
            let mut request = batch(node, 1, vec![answer(0, "site", "x"); 2]);
            change(&mut request);
            let status = world.tsa.observe(Request::new(request)).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{field}");
            assert!(status.message().starts_with(field), "{field}: {}", status.message());
        };
        check(|request| request.node = None, "node").await;
        check(|request| request.log_id.clear(), "log_id").await;
        check(|request| request.first_seq = 0, "first_seq").await;
        check(|request| request.next_seq = 0, "next_seq").await;
        check(|request| request.next_seq = 2, "events[1].seq").await;
        check(|request| request.events.swap(0, 1), "events[1].seq").await;
        check(|request| request.events = vec![Event::default(); 1001], "events").await;
        check(|request| request.gap = Some(Gap { from: 3, to: 2 }), "gap").await;
        assert!(world.status().await.nodes.is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    each_way(async |world| {
        let node = NodeId::new();
        let events = vec![answer(0, "site", "blocked")];
        {
            let call = world.observe(node, 1, events.clone());
            tokio::pin!(call);
            // Polled once, then dropped, wherever it is by then.
            assert!(futures::poll!(&mut call).is_pending());
        }
        assert_eq!(world.observe(node, 1, events).await, 2);
        assert_eq!(world.list().await.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reaction_does_not_wait_for_the_disk_but_the_answer_does() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    let call = world.observe(NodeId::new(), 1, vec![answer(0, "site", "blocked")]);
    tokio::pin!(call);
    assert!(futures::poll!(&mut call).is_pending());
    assert_eq!(world.list().await.len(), 1, "in force at once");
    assert_eq!(world.status().await.nodes[0].next_seq, 1, "not yet held");
    assert_eq!(call.await, 2);
    assert_eq!(world.status().await.nodes[0].next_seq, 2);
}
