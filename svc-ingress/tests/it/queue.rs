//! What clients are told when queues fail, and that no message is kept twice.

use std::{sync::Arc, time::Duration};

use godwit_kit::net::{Memory, Net};
use godwit_kit::peers::{NodeCell, Peer, Peers};
use godwit_proto::id::NodeId;
use tonic::{Code, Status};

use crate::support::{Answer, FakeQueue, Road, World, config, handle, listener};

/// Unreachable: nothing was sent.
fn not_sent() -> Status {
    let mut status = Status::unavailable("connection refused");
    status.metadata_mut().insert(godwit_kit::connect::NOT_SENT, "1".parse().unwrap());
    status
}

async fn reply_with(queues: &[&Arc<FakeQueue>]) -> String {
    let world = World::new(config(listener()), queues).await;
    world.greeted().await.message().await
}

#[tokio::test(start_paused = true)]
async fn failures_become_replies() {
    let full = || Status::resource_exhausted("spool is full");
    for (answer, expected) in [
        (Answer::Fail(full()), "452 4.3.1"),
        (Answer::Fail(not_sent()), "451 4.3.0"),
        (Answer::Fail(Status::invalid_argument("messages[0].envelope")), "451 4.3.0"),
        (Answer::Fail(Status::internal("x")), "451 4.4.5"),
        (Answer::Fail(Status::unavailable("stopping")), "451 4.4.5"),
        (Answer::Hang, "451 4.4.5"),
        (Answer::Refuse { transient: true }, "451 4.3.0"),
        (Answer::Refuse { transient: false }, "554 5.3.0"),
        (Answer::Keep, "250 2.0.0"),
    ] {
        let queue = FakeQueue::always(answer.clone());
        assert_eq!(reply_with(&[&queue]).await, expected, "{answer:?}");
        let withdrawn = queue.withdrawn.lock().unwrap().len();
        assert_eq!(withdrawn, usize::from(expected == "451 4.4.5"), "{answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_message() {
    for status in [Status::unavailable("connection lost"), Status::unknown("h2"), Status::internal("x")] {
        for second in [Answer::Keep, Answer::Fail(not_sent()), Answer::Fail(Status::resource_exhausted("full"))] {
            let queue = FakeQueue::scripted([Answer::KeepAndFail(status.clone()), second]);
            let other = FakeQueue::new();
            assert_eq!(reply_with(&[&queue, &other]).await, "250 2.0.0");
            assert_eq!((queue.kept().len(), other.call_count()), (1, 0), "{status}");
            let calls = queue.calls.lock().unwrap();
            assert!(calls.len() >= 2 && calls.iter().all(|ids| *ids == calls[0]), "the same id: {calls:?}");
        }
    }
    let queue = FakeQueue::scripted([Answer::KeepAndHang]);
    assert_eq!(reply_with(&[&queue]).await, "250 2.0.0");
    assert_eq!((queue.kept().len(), queue.call_count()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_far_makes_no_second_message() {
    let queue = FakeQueue::scripted([Answer::KeepAndFail(Status::unavailable("connection lost"))]);
    let net = Net::Memory(Default::default());
    let world = World::on(net, config(listener()), &[&queue], Road::Far).await;
    assert_eq!(world.greeted().await.message().await, "250 2.0.0");
    assert_eq!((queue.kept().len(), queue.call_count()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_withdrawn_before_451() {
    let queue = FakeQueue::always(Answer::KeepAndFail(Status::internal("lost")));
    assert_eq!(reply_with(&[&queue]).await, "451 4.4.5");
    assert_eq!((queue.kept().len(), queue.withdrawn.lock().unwrap().len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_too_late_to_withdraw_is_accepted() {
    let queue = FakeQueue::always(Answer::KeepAndFail(Status::internal("lost")));
    *queue.too_late.lock().unwrap() = true;
    assert_eq!(reply_with(&[&queue]).await, "250 2.0.0");
    assert_eq!(queue.kept().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_next_node_is_asked_only_where_the_first_surely_did_nothing() {
    for (status, fails_over) in [
        (not_sent(), true),
        (Status::resource_exhausted("full"), true),
        (Status::unavailable("stopping"), false),
        (Status::internal("x"), false),
        (Status::deadline_exceeded("x"), false),
    ] {
        let sick = FakeQueue::always(Answer::Fail(status.clone()));
        let well = FakeQueue::new();
        let world = World::new(config(listener()), &[&sick, &well]).await;
        let expected = if fails_over { "250 2.0.0" } else { "451 4.4.5" };
        assert_eq!(world.greeted().await.message().await, expected, "{status}");
        assert_eq!(well.kept().len(), usize::from(fails_over), "{status}");
        // The sick one is asked last now, and not waited for.
        assert_eq!(world.greeted().await.message().await, "250 2.0.0", "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_share_the_load() {
    let queues = [FakeQueue::new(), FakeQueue::new()];
    let world = World::new(config(listener()), &[&queues[0], &queues[1]]).await;
    let mut client = world.greeted().await;
    for _ in 0..10 {
        assert_eq!(client.message().await, "250 2.0.0");
    }
    assert_eq!(queues.map(|queue| queue.kept().len()), [5, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_two_addresses_lead_to_is_one_node() {
    let queues = [FakeQueue::new(), FakeQueue::new(), FakeQueue::new()];
    let node = NodeId::new();
    let peer = |place: usize, node: NodeCell| Peer {
        name: format!("queue-{place}"),
        handle: handle(&queues[place], Road::Near),
        node,
    };
    let second = NodeCell::from(node);
    let peers = Peers::new(vec![peer(0, node.into()), peer(1, second.clone()), peer(2, NodeCell::default())]);
    let world = World::over(Net::Memory(Memory::default()), config(listener()), peers).await;
    let mut client = world.greeted().await;
    for _ in 0..10 {
        assert_eq!(client.message().await, "250 2.0.0");
    }
    let kept = || queues.each_ref().map(|queue| queue.kept().len());
    assert_eq!(kept(), [5, 0, 5]);
    // The address was given to another machine.
    second.learn(NodeId::new());
    for _ in 0..9 {
        assert_eq!(client.message().await, "250 2.0.0");
    }
    assert_eq!(kept(), [8, 3, 8]);
}

#[tokio::test(start_paused = true)]
async fn sessions_share_calls() {
    let queue = FakeQueue::new();
    let world = World::new(config(listener()), &[&queue]).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = world.greeted().await;
        client.open().await;
        clients.push(client);
    }
    futures::future::join_all(clients.iter_mut().map(|client| client.send("x\r\n.\r\n"))).await;
    for client in &mut clients {
        assert_eq!(client.replies(1).await, ["250 2.0.0"]);
    }
    assert_eq!(queue.kept().len(), 100);
    assert!(queue.call_count() <= 20, "{} calls for 100 messages", queue.call_count());
}

#[tokio::test(start_paused = true)]
async fn one_bad_message_spoils_no_other() {
    // The first call holds three messages and is refused as a whole; alone, the second of them is.
    let invalid = || Answer::Fail(Status::new(Code::InvalidArgument, "messages[1].metadata"));
    let queue = FakeQueue::scripted([invalid(), Answer::Keep, invalid(), Answer::Keep]);
    let world = World::new(config(listener()), &[&queue]).await;
    let messages = vec![crate::inject::message(); 3];
    let response =
        crate::inject::near(&world).inject(tonic::Request::new(crate::inject::request(messages))).await.unwrap();
    let outcomes: Vec<_> = response.into_inner().results.iter().map(|result| result.outcome).collect();
    assert_eq!(outcomes, [1, 3, 1]);
    assert_eq!(queue.calls.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn batches_stay_below_the_size_of_a_call() {
    let queue = FakeQueue::new();
    let net = Net::Memory(Default::default());
    let world = World::on(net, config(listener()), &[&queue], Road::Far).await;
    let large = "0123456789abcd\r\n".repeat(3 << 16);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = world.greeted().await;
        client.open().await;
        client.send(&large).await;
        clients.push(client);
    }
    for client in &mut clients {
        client.send(".\r\n").await;
    }
    for client in &mut clients {
        assert_eq!(client.replies(1).await, ["250 2.0.0"]);
    }
    assert_eq!(queue.bodies().iter().map(|body| body.len()).sum::<usize>(), 6 * (3 << 20));
    let calls = queue.calls.lock().unwrap();
    assert!(calls.iter().all(|ids| ids.len() <= 2), "at most 8 MiB a call: {calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_does_not_outlast_the_deadline() {
    let queue = FakeQueue::always(Answer::Hang);
    let world = World::new(config(listener()), &[&queue]).await;
    let start = tokio::time::Instant::now();
    assert_eq!(world.greeted().await.message().await, "451 4.4.5");
    assert!(start.elapsed() < Duration::from_secs(40), "{:?} of the test's own clock", start.elapsed());
}
