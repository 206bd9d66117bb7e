//! Whatever happens to Redis and to the ways to it, two nodes in sum never exceed a limit, never stop for good, and come
//! back. The law is checked over all that was given, offline.

use crate::cut::{Cut, Way};
use crate::load::{Load, Member, all_divide};
use crate::server::Server;
use crate::world::until;
use std::time::Duration;
use tokio::time::sleep;

/// Longer than a lease and the longest that a slot lasts: whoever is cut off has begun its share, and gives new slots.
const LONG: Duration = Duration::from_millis(3_500);

struct World {
    server: Server,
    ways: [Cut; 2],
    members: [Member; 2],
}

impl World {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(arguments: &[&str]) -> Self {
        let server = Server::start_with(arguments);
        let ways = [Cut::to(server.addr()).await, Cut::to(server.addr()).await];
        let members = [Member::start(&ways[0].url()), Member::start(&ways[1].url())];
        all_divide(&[&members[0], &members[1]], 2).await;
        Self { server, ways, members }
    }

    fn load(&self) -> Load {
        Load::start(&[&self.members[0], &self.members[1]])
    }

    async fn both_ready(&self) {
        for member in &self.members {
            member.ready().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_up() {
    let world = World::start().await;
    let load = world.load();
    for _ in 0..3 {
        load.ledger.goes_on(&[0, 1], Some(false)).await;
    }
    sleep(Duration::from_secs(2)).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_node_cut_off() {
    for way in [Way::Cut, Way::HeldUp] {
        let world = World::start().await;
        let load = world.load();
        load.ledger.goes_on(&[0, 1], Some(false)).await;
        world.ways[0].set(way);
        until("cut off", || !world.members[0].is_ready()).await;
        sleep(LONG).await;
        load.ledger.goes_on(&[0], Some(true)).await;
        load.ledger.goes_on(&[1], Some(false)).await;
        assert!(world.members[0].reason().contains("this node's share, one of 2"), "{}", world.members[0].reason());
        assert!(world.members[1].is_ready(), "{}", world.members[1].reason());
        world.ways[0].set(Way::Open);
        world.both_ready().await;
        load.ledger.goes_on(&[0, 1], Some(false)).await;
        sleep(Duration::from_secs(1)).await;
        load.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_way_that_comes_and_goes() {
    let world = World::start().await;
    let load = world.load();
    for number in 0..12u64 {
        let way = if number.is_multiple_of(3) { Way::HeldUp } else { Way::Cut };
        world.ways[(number % 2) as usize].set(way);
        sleep(Duration::from_millis(150 * (number % 5) + 200 * number)).await;
        world.ways[(number % 2) as usize].set(Way::Open);
        sleep(Duration::from_millis(130 * (number % 4))).await;
    }
    world.both_ready().await;
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_killed_and_restarted() {
    let mut world = World::start().await;
    let load = world.load();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.server.kill();
    until("away", || world.members.iter().all(|member| !member.is_ready())).await;
    sleep(LONG).await;
    load.ledger.goes_on(&[0, 1], Some(true)).await;
    world.server.restart();
    world.both_ready().await;
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    // At once, within the leases.
    world.server.kill();
    world.server.restart();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.both_ready().await;
    load.stop().await;
}

/// What a Redis with an old snapshot comes back with is older than what the nodes know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_back_from_an_old_snapshot() {
    let mut world = World::start_with(&["--dbfilename", "old.rdb"]).await;
    let load = world.load();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    assert_eq!(world.server.ask(&["SAVE"]), "+OK\r\n");
    sleep(Duration::from_secs(1)).await;
    world.server.kill();
    world.server.restart();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.both_ready().await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_flushed() {
    let world = World::start().await;
    let load = world.load();
    for command in [&["FLUSHALL"][..], &["FLUSHDB", "ASYNC"], &["FLUSHALL"], &["SCRIPT", "FLUSH"]] {
        load.ledger.goes_on(&[0, 1], Some(false)).await;
        assert_eq!(world.server.ask(command), "+OK\r\n");
    }
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.both_ready().await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_that_accepts_and_never_answers() {
    let world = World::start().await;
    let load = world.load();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.server.signal("-STOP");
    until("away", || world.members.iter().all(|member| !member.is_ready())).await;
    sleep(LONG).await;
    load.ledger.goes_on(&[0, 1], Some(true)).await;
    world.server.signal("-CONT");
    world.both_ready().await;
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    load.stop().await;
}

/// The node that is cut off does not know that Redis forgot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_flushed_while_one_node_is_cut_off() {
    let world = World::start().await;
    let load = world.load();
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    world.ways[0].set(Way::Cut);
    until("cut off", || !world.members[0].is_ready()).await;
    sleep(LONG).await;
    assert_eq!(world.server.ask(&["FLUSHALL"]), "+OK\r\n");
    load.ledger.goes_on(&[1], Some(false)).await;
    load.ledger.goes_on(&[0], Some(true)).await;
    world.ways[0].set(Way::Open);
    world.both_ready().await;
    load.ledger.goes_on(&[0, 1], Some(false)).await;
    load.stop().await;
}
