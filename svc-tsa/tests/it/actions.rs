//! What follows from events: actions, their ids, their end; and the same on every TSA.

use crate::world::{Folder, Road, World, answer, seconds};
use godwit_proto::common::v1::{Event, Page};
use godwit_proto::id::NodeId;
use godwit_proto::tsa::v1::*;
use std::time::Duration;
use tonic::{Code, Request};

#[tokio::test(start_paused = true)]
async fn thresholds_fire_settings_and_suspensions() {
    for road in [Road::Near, Road::Far] {
        let folder = Folder::make();
        let world = World::start(&folder, road).await;
        let node = NodeId::new();
        let slow = |at: u64| answer(at, "site", "please slow down");
        // Three within one minute of their own time, though all are told in one moment.
        world.observe(node, 1, vec![slow(0), slow(60), slow(121), slow(181)]).await;
        assert_eq!(world.list().await, []);
        world.observe(node, 5, vec![slow(122), slow(123)]).await;
        let mut actions = world.list().await;
        actions.sort_by_key(|action| action.name.clone());
        let [limit, rate] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(
            (limit.kind(), limit.name.as_str(), limit.value.as_str()),
            (ActionKind::SetConfig, "connection_limit", "1")
        );
        assert_eq!((rate.name.as_str(), rate.value.as_str()), ("max_message_rate", "\"1/minute\""));
        let scope = Scope { site: "site".into(), source: "ip-1".into(), ..Scope::default() };
        assert_eq!(rate.scope, Some(scope));
        assert_eq!((seconds(&rate.starts), seconds(&rate.expires)), (123, 181 - 1 + 601));
        let evidence = rate.evidence.clone().unwrap();
        assert_eq!((evidence.matched_count, evidence.seq, evidence.reply.as_str()), (3, 6, "421 please slow down"));
        assert!(rate.rule.ends_with("shaping.toml: \"default\" #1"), "{}", rate.rule);
        let explained = world.tsa.explain(Request::new(ExplainRequest { action_id: rate.id.clone() })).await.unwrap();
        let seqs: Vec<_> = explained.into_inner().events.iter().map(|event| event.seq).collect();
        assert_eq!(seqs, [3, 5, 6]);
        world.observe(node, 7, vec![Event { provider: "big".into(), ..answer(9, "elsewhere", "TS04") }]).await;
        assert!(world.list().await.iter().any(|action| action.kind() == ActionKind::Suspend));
    }
}

#[tokio::test(start_paused = true)]
async fn actions_end_by_the_clock() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    world.observe(NodeId::new(), 1, vec![answer(0, "a", "blocked"), answer(30, "b", "blocked")]).await;
    let sites = async || {
        let sites = world.list().await.into_iter().map(|action| action.scope.unwrap().site);
        sites.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(sites().await, ["a", "b"]);
    tokio::time::sleep(Duration::from_secs(121)).await;
    assert_eq!(sites().await, ["b"]);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(sites().await, [""; 0]);
    // An old event is taken in, and changes nothing.
    assert_eq!(world.observe(NodeId::new(), 1, vec![answer(1, "c", "blocked")]).await, 2);
    assert_eq!(sites().await, [""; 0]);
    assert!(world.host.metrics.text().contains("godwit_tsa_actions_count 0"));
}

#[tokio::test(start_paused = true)]
async fn an_action_keeps_its_id_when_an_earlier_event_comes_late() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    world.observe(NodeId::new(), 1, vec![answer(20, "a", "blocked")]).await;
    let before = world.list().await.remove(0);
    world.observe(NodeId::new(), 1, vec![answer(10, "a", "blocked")]).await;
    let [after] = world.list().await.try_into().unwrap();
    assert_eq!((seconds(&before.starts), seconds(&after.starts)), (20, 10));
    assert_eq!((&after.id, after.expires), (&before.id, before.expires));
}

#[tokio::test(start_paused = true)]
async fn two_that_saw_the_same_hold_the_same() {
    let (first, second) = (Folder::make(), Folder::make());
    let (one, other) = (World::start(&first, Road::Near).await, World::start(&second, Road::Far).await);
    let nodes = [NodeId::new(), NodeId::new(), NodeId::new()];
    let log = |node: usize| -> Vec<Event> {
        let text = |place: u64| if place.is_multiple_of(5) { "blocked" } else { "slow down" };
        (0..40).map(|place| answer(place * 7 + node as u64, ["s", "t"][place as usize % 2], text(place))).collect()
    };
    for (place, node) in nodes.iter().enumerate() {
        one.observe(*node, 1, log(place)).await;
    }
    // Node by node backwards, in small batches that overlap.
    for first_seq in (1..=36u64).step_by(5) {
        for (place, node) in nodes.iter().enumerate().rev() {
            let to = log(place).len().min(first_seq as usize + 6);
            other.observe(*node, first_seq, log(place)[first_seq as usize - 1..to].to_vec()).await;
        }
    }
    let strip = |mut action: Action| {
        action.rule = action.rule.rsplit('/').next().unwrap().to_string();
        action
    };
    let held: Vec<_> = one.list().await.into_iter().map(strip).collect();
    assert!(held.len() > 3, "{held:?}");
    assert_eq!(other.list().await.into_iter().map(strip).collect::<Vec<_>>(), held);
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pages_and_trials_change_nothing() {
    for road in [Road::Near, Road::Far] {
        let folder = Folder::make();
        let world = World::start(&folder, road).await;
        let events: Vec<_> = (0..5).map(|site| answer(1, &format!("site-{site}"), "blocked")).collect();
        let rules =
            "[[\"default\".automation]]\nregex = \"block\"\naction = \"Suspend\"\nduration = \"1m\"\n".to_string();
        let trial = TryRequest { rules, events: events.clone() };
        assert_eq!(world.tsa.r#try(Request::new(trial)).await.unwrap().into_inner().actions.len(), 5);
        assert_eq!(world.list().await, []);
        let bad = TryRequest { rules: "x = 1".into(), events: Vec::new() };
        assert_eq!(world.tsa.r#try(Request::new(bad)).await.unwrap_err().code(), Code::InvalidArgument);

        world.observe(NodeId::new(), 1, events).await;
        let (mut token, mut sizes, mut all) = (String::new(), Vec::new(), Vec::new());
        loop {
            let page = Some(Page { size: 2, token });
            let page = world.tsa.list(Request::new(ListRequest { page })).await.unwrap().into_inner();
            sizes.push(page.actions.len());
            all.extend(page.actions);
            token = page.next_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(all, world.list().await);
        let large = ListRequest { page: Some(Page { size: 1001, token: String::new() }) };
        assert_eq!(world.tsa.list(Request::new(large)).await.unwrap_err().code(), Code::InvalidArgument);
        let unknown = ExplainRequest { action_id: "act_".into() };
        assert_eq!(world.tsa.explain(Request::new(unknown)).await.unwrap_err().code(), Code::NotFound);
        let cancel = CancelRequest { action_id: all[0].id.clone(), reason: String::new() };
        assert_eq!(world.tsa.cancel(Request::new(cancel)).await.unwrap_err().code(), Code::Unimplemented);
    }
}
