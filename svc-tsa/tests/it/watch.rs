//! Watching: a snapshot, then changes in order, ticks, and going on from a known version.

use crate::world::{Folder, Road, World, answer, next, told};
use godwit_proto::id::NodeId;
use godwit_proto::tsa::v1::watch_response::Item;

#[tokio::test(start_paused = true)]
async fn a_snapshot_then_each_change_and_a_tick() {
    for road in [Road::Near, Road::Far] {
        let folder = Folder::make();
        let world = World::start(&folder, road).await;
        let node = NodeId::new();
        let mut watch = world.watch("", 0).await;
        assert_eq!(told(&next(&mut watch).await.0), "snapshot of 0");
        world.observe(node, 1, vec![answer(0, "a", "blocked")]).await;
        let (added, at_added) = next(&mut watch).await;
        assert_eq!(told(&added), "added a suspend");
        world.observe(node, 2, vec![answer(1, "a", "blocked")]).await;
        let (changed, at_changed) = next(&mut watch).await;
        assert_eq!(told(&changed), "changed a suspend");
        let (Item::Added(added), Item::Changed(changed)) = (added, changed) else { panic!("told so") };
        assert_eq!(added.id, changed.id);
        assert!(at_changed == at_added + 1 && changed.expires.unwrap().seconds > added.expires.unwrap().seconds);
        // Nothing happens: ticks, until the suspension ends.
        let mut ticks = 0;
        let removed = loop {
            match next(&mut watch).await.0 {
                Item::Tick(_) => ticks += 1,
                other => break other,
            }
        };
        assert_eq!((told(&removed).as_str(), ticks), ("removed a", 12));
        let Item::Removed(removed) = removed else { panic!("told so") };
        assert_eq!((removed.id, removed.expires), (changed.id, None));

        world.stop().await;
        assert!(futures::StreamExt::next(&mut watch).await.is_none(), "the stream ends with the service");
    }
}

#[tokio::test(start_paused = true)]
async fn going_on_from_a_known_version() {
    for road in [Road::Near, Road::Far] {
        let folder = Folder::make();
        let world = World::start(&folder, road).await;
        let instance = world.status().await.instance_id;
        let known = world.status().await.version;
        let node = NodeId::new();
        world.observe(node, 1, vec![answer(0, "a", "blocked"), answer(0, "b", "blocked")]).await;
        let mut watch = world.watch(&instance, known).await;
        assert_eq!(told(&next(&mut watch).await.0), "added a suspend");
        let (second, version) = next(&mut watch).await;
        assert_eq!(told(&second), "added b suspend");
        assert_eq!(version, world.status().await.version);
        let mut up_to_date = world.watch(&instance, version).await;
        assert_eq!(told(&next(&mut up_to_date).await.0), "tick");
        let mut of_another = world.watch("tsa_another", version).await;
        assert_eq!(told(&next(&mut of_another).await.0), "snapshot of 2");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_gets_a_snapshot_and_costs_nothing() {
    let folder = Folder::make();
    let world = World::start(&folder, Road::Near).await;
    let node = NodeId::new();
    let mut watch = world.watch("", 0).await;
    next(&mut watch).await;
    for batch in 0..5u64 {
        let events = (0..1000).map(|place| answer(0, &format!("site-{batch}-{place}"), "blocked")).collect();
        world.observe(node, batch * 1000 + 1, events).await;
    }
    assert_eq!(told(&next(&mut watch).await.0), "snapshot of 5000");
}
