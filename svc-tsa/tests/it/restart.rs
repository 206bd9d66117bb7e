//! What is on disk: a restart forgets nothing that was answered, and damage only costs a replay.

use crate::world::{Folder, Road, World, answer};
use godwit_kit::Host;
use godwit_kit::clock::Clock;
use godwit_proto::id::NodeId;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was() {
    let folder = Folder::make();
    let node = NodeId::new();
    let slow = |at: u64| answer(at, "site", "slow down");
    let world = World::start(&folder, Road::Near).await;
    world.observe(node, 1, vec![answer(0, "a", "blocked"), slow(1), slow(2)]).await;
    let (before, instance) = (world.list().await, world.status().await.instance_id);
    assert_eq!(before.len(), 1);
    world.stop().await;

    let world = World::start(&folder, Road::Near).await;
    assert_eq!(world.list().await, before);
    assert_ne!(world.status().await.instance_id, instance);
    assert_eq!(world.observe(node, 5, vec![]).await, 4, "the cursor is where it was");
    // Two of three were seen before the restart.
    world.observe(node, 4, vec![slow(3)]).await;
    assert_eq!(world.list().await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_has_passed_leaves_the_disk() {
    let folder = Folder::make();
    let node = NodeId::new();
    let world = World::start(&folder, Road::Near).await;
    world.observe(node, 1, vec![answer(0, "a", "blocked")]).await;
    world.stop().await;
    // Started long after: nothing is in force, and what it held is erased with the next write.
    let mut host = Host::new(NodeId::new());
    host.clock = Clock::tokio(crate::world::origin() + Duration::from_secs(86_400));
    let world = World::start_on(&folder, Road::Near, host).await;
    assert_eq!(world.list().await, []);
    assert_eq!(world.observe(node, 2, vec![answer(86_400, "b", "fine")]).await, 3);
    world.stop().await;
    // Back at the old time, it would be in force if it were still there.
    let world = World::start(&folder, Road::Near).await;
    assert_eq!(world.list().await, []);
}

#[tokio::test(start_paused = true)]
async fn rules_that_are_no_more_are_forgotten() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    world.observe(NodeId::new(), 1, vec![answer(0, "a", "blocked")]).await;
    world.stop().await;
    std::fs::write(folder.0.join("shaping.toml"), "").unwrap();
    let world = World::start(&folder, Road::Near).await;
    assert_eq!(world.list().await, []);
    assert_eq!(world.status().await.rule_count, 0);
}

#[tokio::test(start_paused = true)]
async fn damage_is_set_aside_and_events_are_asked_for_again() {
    let folder = Folder::make();
    let node = NodeId::new();
    let world = World::start(&folder, Road::Near).await;
    let events: Vec<_> = (0..200).map(|place| answer(0, &format!("site-{place}"), "blocked")).collect();
    assert_eq!(world.observe(node, 1, events.clone()).await, 201);
    let before = world.list().await;
    world.stop().await;
    drop_garbage(&folder.0.join("tsa"));

    let world = World::start(&folder, Road::Near).await;
    assert!(folder.0.join("tsa.damaged").exists());
    assert_eq!(world.observe(node, 201, vec![answer(1, "a", "fine")]).await, 1, "from the beginning");
    assert_eq!(world.observe(node, 1, events).await, 201);
    assert_eq!(world.list().await, before);
}

/// Overwrites every file in the folder.
fn drop_garbage(folder: &std::path::Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let length = std::fs::metadata(&path).unwrap().len() as usize;
            std::fs::write(&path, vec![0xA5; length.max(64)]).unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_in_use_is_refused_and_left_alone() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    let config = svc_tsa::Config::default();
    let second = svc_tsa::build(config, &folder.0, &Host::new(NodeId::new())).await;
    assert!(matches!(second, Err(svc_tsa::Error::State { .. })), "{second:?}");
    assert!(!folder.0.join("tsa.damaged").exists());
    world.observe(NodeId::new(), 1, vec![answer(0, "a", "blocked")]).await;
}

#[tokio::test(start_paused = true)]
async fn faulty_rules_are_refused_with_all_their_faults() {
    let folder = Folder::make();
    std::fs::write(folder.0.join("shaping.toml"), "x = 1\n[\"default\"]\ny = 2\n").unwrap();
    let config = svc_tsa::Config { shaping_files: vec![folder.0.join("shaping.toml")], ..svc_tsa::Config::default() };
    match svc_tsa::build(config, &folder.0, &Host::new(NodeId::new())).await {
        Err(svc_tsa::Error::Shaping(faults)) => assert_eq!(faults.0.len(), 2),
        other => panic!("{other:?}"),
    }
}
