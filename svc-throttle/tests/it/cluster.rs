//! Limits in a Redis Cluster of six nodes: three with keys, each with a replica.

use crate::load::Member;
use crate::server::{Server, free_port};
use crate::world::{PATIENCE, SECOND, acquire, limit, node, until, wait_of, with_redis};
use godwit_kit::config::OneOrMany;
use godwit_proto::common::v1::Page;
use godwit_proto::convert;
use godwit_proto::throttle::v1;
use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::Duration;
use svc_throttle::Config;
use svc_throttle::config::Addresses;
use tokio::time::Instant;
use tonic::Request;

struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    fn start() -> Self {
        let start = || {
            let bus = free_port().to_string();
            let settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", &bus];
            Server::start_with(&[&settings[..], &["--repl-diskless-sync-delay", "0"]].concat())
        };
        let servers: Vec<Server> = (0..6).map(|_| start()).collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(servers.iter().map(|server| format!("127.0.0.1:{}", server.port())))
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .stdin(Stdio::null())
            .output()
            .expect("redis-cli comes with redis-server");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { servers };
        for server in &cluster.servers {
            let deadline = std::time::Instant::now() + PATIENCE;
            let is_whole = || {
                let replication = server.ask(&["INFO", "replication"]);
                let follows = replication.contains("role:master") || replication.contains("master_link_status:up");
                follows && server.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
            };
            while !is_whole() {
                assert!(std::time::Instant::now() < deadline, "the cluster is not whole");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        cluster
    }

    fn config(&self) -> Config {
        let seeds = self.servers[..2].iter().map(Server::url).collect();
        Config {
            redis: Addresses(OneOrMany::Many(seeds)),
            cluster: true,
            ..with_redis(Config::default(), &self.servers[0].url())
        }
    }

    fn join(&self) -> Member {
        let host = crate::world::host();
        let throttle = std::sync::Arc::new(svc_throttle::build(self.config(), &host).unwrap());
        Member { host, throttle }
    }

    fn slot(&self, key: &str) -> String {
        self.servers[0].ask(&["CLUSTER", "KEYSLOT", key])
    }

    /// The place of the one that holds a key, as this one says.
    fn master_of(&self, key: &str, asked: usize) -> Option<usize> {
        let slot = self.servers[asked].ask(&["CLUSTER", "KEYSLOT", key]);
        let slot: u32 = slot.trim().trim_start_matches(':').parse().unwrap();
        let nodes = self.servers[asked].ask(&["CLUSTER", "NODES"]);
        let holds = |line: &&str| {
            let ranges = line.split_ascii_whitespace().skip(8);
            let mut ranges = ranges.filter_map(|range| range.split_once('-'));
            ranges.any(|(from, to)| {
                from.parse().is_ok_and(|from: u32| from <= slot) && to.parse().is_ok_and(|to: u32| slot <= to)
            })
        };
        let line = nodes.lines().find(holds)?;
        let address = line.split_ascii_whitespace().nth(1).unwrap().split('@').next().unwrap().to_string();
        let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
        self.servers.iter().position(|server| server.port() == port)
    }
}

fn slow(key: &str, count: u64) -> v1::RateLimit {
    v1::RateLimit { period: Some(convert::duration(3_600 * SECOND)), ..limit(key, count, 10) }
}

async fn take_shared(member: &Member, limits: Vec<v1::RateLimit>) -> v1::acquire_response::Item {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = acquire(&member.throttle, limits.clone(), false).await;
        if !answer.degraded {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?} {}", member.reason());
        tokio::time::sleep(wait_of(answer.wait).min(Duration::from_millis(20))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_holds_limits_and_its_failover_forgets_none() {
    let mut cluster = Cluster::start();
    let (a, b) = (cluster.join(), cluster.join());
    crate::load::all_divide(&[&a, &b], 2).await;

    let keys: Vec<String> = (0..64).map(|number| format!("k{number:02}")).collect();
    for key in &keys {
        let names = [format!("godwit:{{{key}}}:r"), format!("godwit:{{{key}}}:s")];
        assert_eq!(cluster.slot(&names[0]), cluster.slot(&names[1]));
        assert_eq!(cluster.slot(&names[0]), cluster.slot(key), "its own hash tag");
    }
    let slots: HashSet<String> = keys.iter().map(|key| cluster.slot(key)).collect();
    assert!(slots.len() > 60, "each limit where it falls: {}", slots.len());

    // A batch over all nodes, a key twice, several limits each.
    let item = |key: &String, count| v1::acquire_request::Item { limits: vec![slow(key, count)], partial: false };
    let mut requests: Vec<_> = keys.iter().map(|key| item(key, 8)).collect();
    requests.push(item(&keys[0], 8));
    let request = v1::AcquireRequest { node: node("n"), requests };
    let answers = a.throttle.acquire(Request::new(request)).await.unwrap().into_inner().responses;
    let granted = answers.iter().map(|answer| answer.granted && !answer.degraded);
    assert_eq!(granted.collect::<Vec<_>>(), [vec![true; 64], vec![false]].concat());
    assert!(!take_shared(&b, vec![slow(&keys[1], 1), slow(&keys[2], 3)]).await.granted);
    assert_eq!(take_shared(&b, vec![slow(&keys[1], 2), slow(&keys[2], 2)]).await.count, 2);

    let hold = |holder: &str, count| v1::acquire_slots_request::Item {
        key: keys[3].clone(),
        limit: 3,
        count,
        holder: holder.into(),
        ..Default::default()
    };
    let ask = async |member: &Member, item| {
        let request = v1::AcquireSlotsRequest { node: node("n"), requests: vec![item] };
        member.throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner().responses.remove(0)
    };
    let held = ask(&a, hold("a", 2)).await.slots;
    assert_eq!((held.len(), ask(&b, hold("b", 2)).await.slots.len()), (2, 1));

    let page = Some(Page { size: 1_000, token: String::new() });
    let list = v1::ListRequest { prefix: "k".into(), page };
    let listed = b.throttle.list(Request::new(list)).await.unwrap().into_inner().keys;
    assert_eq!(listed.len(), 65, "64 rates, one of them slots, too");
    let reset = v1::ResetRequest { keys: vec![keys[4].clone()] };
    assert_eq!(b.throttle.reset(Request::new(reset)).await.unwrap().into_inner().reset_count, 1);
    assert!(take_shared(&a, vec![slow(&keys[4], 10)]).await.granted);

    // A node that forgets is noticed by who remembers.
    let key = &keys[5];
    let master = cluster.master_of(key, 0).unwrap();
    assert!(cluster.servers[master].ask(&["FLUSHALL"]).starts_with("+OK"));
    assert!(!take_shared(&a, vec![slow(key, 3)]).await.granted);

    // One that fails is followed by its replica, and nothing that was taken comes back.
    let key = &keys[3];
    let master = cluster.master_of(key, 0).unwrap();
    cluster.servers[master].kill();
    let other = (master + 1) % 6;
    until("failed over", || cluster.servers[other].ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")).await;
    until("another's", || cluster.master_of(key, other).is_some_and(|place| place != master)).await;
    assert!(!take_shared(&a, vec![slow(key, 3)]).await.granted);
    assert!(!take_shared(&b, vec![slow(key, 3)]).await.granted);
    assert_eq!(take_shared(&b, vec![slow(key, 2)]).await.count, 2);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = ask(&b, hold("c", 1)).await;
        assert_eq!(answer.slots, [], "both hold what they held");
        if !answer.degraded {
            break;
        }
        assert!(Instant::now() < deadline, "{}", b.reason());
    }
}
