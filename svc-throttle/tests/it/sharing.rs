//! What only limits do that several nodes share: turns and debts across nodes, shares, what Redis is told and when.

use crate::cut::{Cut, Way};
use crate::load::{Member, all_divide};
use crate::server::Server;
use crate::world::{PATIENCE, SECOND, acquire, limit, node, until, wait_of};
use godwit_proto::convert;
use godwit_proto::throttle::v1;
use std::time::Duration;
use svc_throttle::Config;
use tokio::time::Instant;
use tonic::{Code, Request};

const ROUND_TRIPS: &str = "godwit_throttle_redis_round_trips_total";

/// `count` of 10 in an hour: what is taken is not had again in a test.
fn slow(key: &str, count: u64) -> v1::RateLimit {
    v1::RateLimit { period: Some(convert::duration(3_600 * SECOND)), ..limit(key, count, 10) }
}

async fn take(member: &Member, limits: Vec<v1::RateLimit>, partial: bool) -> v1::acquire_response::Item {
    acquire(&member.throttle, limits, partial).await
}

/// What Redis itself gives in the end, where it is away or forgets for a moment.
async fn take_shared(member: &Member, limits: Vec<v1::RateLimit>) -> v1::acquire_response::Item {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = take(member, limits.clone(), false).await;
        if !answer.degraded {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(wait_of(answer.wait).min(Duration::from_millis(20))).await;
    }
}

async fn ask_slots(
    member: &Member,
    key: &str,
    (holder, count): (&str, u32),
    limit: u32,
) -> v1::acquire_slots_response::Item {
    let item = v1::acquire_slots_request::Item {
        key: key.into(),
        limit,
        count,
        holder: holder.into(),
        ttl_ms: 3_000,
        local: false,
    };
    let request = v1::AcquireSlotsRequest { node: node("n"), requests: vec![item] };
    member.throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner().responses.remove(0)
}

async fn beat(member: &Member, slots: &mut Vec<v1::Slot>) -> v1::HeartbeatResponse {
    let request = v1::HeartbeatRequest { node: node("n"), slots: slots.clone(), ttl_ms: 3_000 };
    let answer = member.throttle.heartbeat(Request::new(request)).await.unwrap().into_inner();
    slots.retain(|slot| !answer.lost.contains(slot));
    answer
}

async fn two() -> (Server, [Cut; 2], Member, Member) {
    let server = Server::start();
    let ways = [Cut::to(server.addr()).await, Cut::to(server.addr()).await];
    let (a, b) = (Member::start(&ways[0].url()), Member::start(&ways[1].url()));
    all_divide(&[&a, &b], 2).await;
    (server, ways, a, b)
}

#[tokio::test]
async fn two_nodes_share_a_rate() {
    let (_server, _ways, a, b) = two().await;
    assert_eq!(take_shared(&a, vec![slow("k", 7)]).await.count, 7);
    let rest = take(&b, vec![slow("k", 7)], true).await;
    assert_eq!((rest.granted, rest.count), (true, 3));
    assert!(!take(&a, vec![slow("k", 1)], false).await.granted);
    let refund = v1::RefundRequest { node: node("n"), limits: vec![slow("k", 2)] };
    b.throttle.refund(Request::new(refund)).await.unwrap();
    assert_eq!(take(&a, vec![slow("k", 5)], true).await.count, 2);
}

#[tokio::test]
async fn waiters_are_served_in_turn_across_nodes() {
    let (_server, _ways, a, b) = two().await;
    let mut held = ask_slots(&a, "k", ("a", 2), 2).await.slots;
    assert_eq!(held.len(), 2);
    assert_eq!(ask_slots(&b, "k", ("b", 1), 2).await.place_in_queue, 1);
    assert_eq!(ask_slots(&a, "k", ("c", 1), 2).await.place_in_queue, 2);
    assert_eq!(beat(&a, &mut held).await.waiters[0].waiter_count, 2);
    let release = v1::ReleaseSlotsRequest { node: node("n"), slots: held.split_off(1) };
    a.throttle.release_slots(Request::new(release)).await.unwrap();
    assert_eq!(ask_slots(&a, "k", ("c", 1), 2).await.slots, []);
    let theirs = ask_slots(&b, "k", ("b", 1), 2).await.slots;
    assert_eq!(theirs.len(), 1);
    assert_ne!(theirs[0].slot_id, held[0].slot_id);
}

#[tokio::test]
async fn a_batch_is_one_round_trip_and_each_further_limit_another() {
    let server = Server::start();
    let member = Member::start(&server.url());
    member.ready().await;
    let trips = async |requests: Vec<v1::acquire_request::Item>| {
        let before = member.metric(ROUND_TRIPS);
        let request = v1::AcquireRequest { node: node("n"), requests };
        let answer = member.throttle.acquire(Request::new(request)).await.unwrap().into_inner();
        (member.metric(ROUND_TRIPS) - before, answer.responses)
    };
    let item = |keys: &[&str], number: usize| v1::acquire_request::Item {
        limits: keys.iter().map(|key| slow(&format!("{key}{number}"), 1)).collect(),
        partial: false,
    };
    // A turn in between is one more: then it is tried again.
    let mut counts = Vec::new();
    for round in 0..5 {
        let (one, answers) = trips((0..64).map(|number| item(&["one"], 64 * round + number)).collect()).await;
        assert!(answers.iter().all(|answer| answer.granted && !answer.degraded));
        let (three, _) = trips((0..64).map(|number| item(&["a", "b", "c"], 64 * round + number)).collect()).await;
        counts.push((one, three));
    }
    assert!(counts.contains(&(1, 3)), "{counts:?}");
    take(&member, vec![slow("z", 10)], false).await;
    let refused = vec![v1::acquire_request::Item { limits: vec![slow("y", 4), slow("z", 1)], partial: false }];
    assert!(!trips(refused).await.1[0].granted);
    assert_eq!(take(&member, vec![slow("y", 10)], true).await.count, 10, "what was taken before the refusal went back");
}

#[tokio::test]
async fn limits_of_one_node_never_reach_redis() {
    let server = Server::start();
    let member = Member::start(&server.url());
    member.ready().await;
    let local = |limit: v1::RateLimit| v1::RateLimit { local: true, ..limit };
    let both = vec![local(slow("k", 4)), slow("k", 4)];
    assert_eq!(take(&member, both.clone(), false).await.count, 4);
    assert_eq!(take(&member, both, true).await.count, 4);
    // The shared one has less left: what this node's own gave over it went back.
    assert_eq!(take(&member, vec![local(slow("k", 4)), slow("k", 4)], true).await.count, 2);
    assert!(!take(&member, vec![local(slow("k", 1))], false).await.granted);
    let keys = server.ask(&["KEYS", "*"]);
    assert!(keys.contains("godwit:{k}:r") && !keys.contains("@"), "{keys}");
}

#[tokio::test]
async fn keys_go_away_by_themselves() {
    let server = Server::start();
    let member = Member::start(&server.url());
    member.ready().await;
    take(&member, vec![limit("k", 1, 10)], false).await;
    let item = ask_slots(&member, "k", ("a", 1), 2).await;
    assert_eq!(item.slots.len(), 1);
    assert_eq!(server.ask(&["DBSIZE"]), ":4\r\n");
    let only_the_nodes = || server.ask(&["KEYS", "*}:[rs]"]) == "*0\r\n";
    until("gone", only_the_nodes).await;
}

#[tokio::test]
async fn what_redis_forgets_is_put_back() {
    for forget in
        [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["DEL", "godwit:{k}:r"], &["DEL", "godwit:{throttle}:epoch"]]
    {
        let (server, _ways, a, b) = two().await;
        assert_eq!(take_shared(&a, vec![slow("k", 10)]).await.count, 10);
        let mut held = ask_slots(&a, "k", ("a", 2), 2).await.slots;
        assert_eq!(held.len(), 2);
        server.ask(forget);
        // Who does not know of it asks first; of one key that is gone only who knows of it can tell.
        let order = if forget == ["DEL", "godwit:{k}:r"] { [&a, &b] } else { [&b, &a] };
        for member in order {
            assert!(!take_shared(member, vec![slow("k", 1)]).await.granted, "{forget:?}");
        }
        let answer = ask_slots(&b, "k", ("b", 1), 2).await;
        assert_eq!((answer.slots.len(), answer.place_in_queue), (0, 1), "{forget:?}");
        assert_eq!(beat(&a, &mut held).await.lost, []);
        all_divide(&[&a, &b], 2).await;
    }
}

#[tokio::test]
async fn a_reset_is_not_put_back() {
    let (server, _ways, a, b) = two().await;
    assert_eq!(take_shared(&a, vec![slow("k", 10)]).await.count, 10);
    let mut held = ask_slots(&a, "k", ("a", 2), 2).await.slots;
    let reset = v1::ResetRequest { keys: vec!["k".into()] };
    assert_eq!(b.throttle.reset(Request::new(reset)).await.unwrap().into_inner().reset_count, 1);
    assert!(take_shared(&a, vec![slow("k", 4)]).await.granted);
    assert_eq!(beat(&a, &mut held).await.lost.len(), 2);
    assert_eq!(ask_slots(&b, "k", ("b", 2), 2).await.slots.len(), 2);
    assert_eq!(server.ask(&["EXISTS", "godwit:{k}:r"]), ":1\r\n");
    assert!(a.is_ready() && b.is_ready(), "{}{}", a.reason(), b.reason());
}

/// Of 20 slots a node that is cut off goes on with 10, and the others come to have 10, whoever held how many.
#[tokio::test]
async fn a_cut_divides_the_slots_in_equal_parts() {
    for first in [15, 5] {
        let (_server, ways, a, b) = two().await;
        let mut ours = ask_slots(&a, "k", ("a", first), 20).await.slots;
        let mut theirs = ask_slots(&b, "k", ("b", 20 - first), 20).await.slots;
        assert_eq!((ours.len(), theirs.len()), (first as usize, 20 - first as usize));
        ways[0].set(Way::Cut);
        let deadline = Instant::now() + PATIENCE;
        while (ours.len(), theirs.len()) != (10, 10) {
            assert!(Instant::now() < deadline, "{} and {}", ours.len(), theirs.len());
            beat(&a, &mut ours).await;
            beat(&b, &mut theirs).await;
            ours.extend(ask_slots(&a, "k", ("a", 1), 20).await.slots);
            theirs.extend(ask_slots(&b, "k", ("b", 1), 20).await.slots);
            assert!(ours.len() + theirs.len() <= 20, "{} and {}", ours.len(), theirs.len());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (more, theirs_more) = (ask_slots(&a, "k", ("a", 1), 20).await, ask_slots(&b, "k", ("b", 1), 20).await);
        assert_eq!((more.slots.len(), more.degraded), (0, true));
        assert_eq!((theirs_more.slots.len(), theirs_more.degraded), (0, false));
        ways[0].set(Way::Open);
        all_divide(&[&a, &b], 2).await;
        assert_eq!((beat(&a, &mut ours).await.lost, beat(&b, &mut theirs).await.lost), (vec![], vec![]));
        assert_eq!(ask_slots(&a, "k", ("a", 1), 20).await.slots, []);
    }
}

/// What a node held when it was cut off counts until it has run out, whatever its share is.
#[tokio::test]
async fn slots_of_who_is_cut_off_are_not_given_again_before_their_ttl() {
    let (_server, ways, a, b) = two().await;
    let asked = Instant::now();
    assert_eq!(ask_slots(&a, "k", ("a", 15), 20).await.slots.len(), 15);
    let mut theirs = ask_slots(&b, "k", ("b", 5), 20).await.slots;
    ways[0].set(Way::Cut);
    let deadline = Instant::now() + PATIENCE;
    while theirs.len() == 5 {
        assert!(Instant::now() < deadline, "{}", b.reason());
        beat(&b, &mut theirs).await;
        theirs.extend(ask_slots(&b, "k", ("b", 1), 20).await.slots);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
}

/// The others may have kept their slots until its lease ended, and those last: so long a node gives no more than it held.
#[tokio::test]
async fn who_is_cut_off_comes_to_its_share_when_the_others_slots_have_run_out() {
    let (_server, ways, a, b) = two().await;
    let asked = Instant::now();
    assert_eq!(ask_slots(&b, "k", ("b", 15), 20).await.slots.len(), 15);
    let mut ours = ask_slots(&a, "k", ("a", 5), 20).await.slots;
    ways[0].set(Way::Cut);
    let deadline = Instant::now() + PATIENCE;
    while ours.len() == 5 {
        assert!(Instant::now() < deadline, "{}", a.reason());
        beat(&a, &mut ours).await;
        ours.extend(ask_slots(&a, "k", ("a", 1), 20).await.slots);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
}

/// What a node that lives remembers is waited for, as long as its lease lasts.
#[tokio::test]
async fn nobody_is_served_before_all_that_live_have_put_back_what_they_remember() {
    let (server, ways, a, b) = two().await;
    assert_eq!(take_shared(&a, vec![slow("k", 10)]).await.count, 10);
    ways[0].set(Way::HeldUp);
    assert_eq!(server.ask(&["FLUSHALL"]), "+OK\r\n");
    // Then it may be cut off: the other has its share, and no more.
    assert!(!take_shared(&b, vec![slow("k", 6)]).await.granted);
}

/// Of a key that Redis does not know any more a node takes its share while it is cut off, and the other the whole burst as
/// soon as it is back.
#[tokio::test]
async fn what_a_share_gave_counts_when_it_is_over() {
    let (_server, ways, a, b) = two().await;
    let site = |count| v1::RateLimit { burst: 100, ..limit("k", count, 20) };
    ways[0].set(Way::Cut);
    let deadline = Instant::now() + PATIENCE;
    // Until the debt that its share begins with has run off.
    while !take(&a, vec![site(50)], false).await.granted {
        assert!(Instant::now() < deadline, "{}", a.reason());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let began = Instant::now();
    ways[0].set(Way::Open);
    all_divide(&[&a, &b], 2).await;
    // The other sees, too, that it is back: from then on nothing of the limit is kept for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while !take_shared(&b, vec![site(100)]).await.granted {
        assert!(Instant::now() < deadline);
    }
    // The debt of 50 runs off in 2.5 s.
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_limit_smaller_than_the_nodes_has_one_owner_when_redis_is_away() {
    let (mut server, _ways, a, b) = two().await;
    server.kill();
    let all_own = || [&a, &b].iter().all(|member| member.reason().contains("this node's share"));
    let deadline = Instant::now() + PATIENCE;
    let (mut given, mut slots) = ([0, 0], [0, 0]);
    // One token a minute, one slot.
    let rate =
        |count| v1::RateLimit { period: Some(convert::duration(Duration::from_secs(1))), ..limit("k", count, 1) };
    while !all_own() || given == [0, 0] || slots == [0, 0] {
        assert!(Instant::now() < deadline, "{given:?} {slots:?} {} {}", a.reason(), b.reason());
        for (place, member) in [&a, &b].into_iter().enumerate() {
            given[place] += u64::from(take(member, vec![rate(1)], false).await.granted);
            slots[place] += ask_slots(member, "k", ("w", 1), 1).await.slots.len();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(given.contains(&0) && slots.contains(&0), "{given:?} {slots:?}");
}

#[tokio::test]
async fn who_stops_leaves_its_share_at_once_and_who_dies_after_a_while() {
    let server = Server::start();
    let timeout = Duration::from_millis(200);
    let quick = Config {
        redis_timeout: timeout,
        member_lease: Duration::from_millis(500),
        forget_after: Duration::from_secs(6),
        ..Config::default()
    };
    let members: Vec<Member> = (0..3).map(|_| Member::start_with(quick.clone(), &server.url())).collect();
    let [a, b, c] = members.try_into().ok().unwrap();
    all_divide(&[&a, &b, &c], 3).await;
    assert!(a.host.stop.finish(SECOND).await);
    all_divide(&[&b, &c], 2).await;
    assert!(!take(&a, vec![slow("k", 1)], false).await.degraded, "it still serves who stops with it");
    // As if it were killed: nothing of it is left, and nobody was told.
    drop(c);
    let reduced = async || {
        let answer = take_shared(&b, vec![slow(&format!("k{:?}", Instant::now()), 10)]).await;
        !answer.granted
    };
    let deadline = Instant::now() + PATIENCE;
    while !reduced().await {
        assert!(Instant::now() < deadline, "its share is not kept for it");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while reduced().await {
        assert!(Instant::now() < deadline, "it is not forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all_divide(&[&b], 1).await;
}

#[tokio::test]
async fn two_processes_under_one_name_are_told() {
    let server = Server::start();
    let first = Member::start(&server.url());
    first.ready().await;
    let mut host = crate::world::host();
    host.node = first.host.node;
    let config = crate::world::with_redis(Config::default(), &server.url());
    let _second = svc_throttle::build(config, &host).unwrap();
    crate::world::ready(&host).await;
    until("told", || first.reason().contains("another process runs as node_")).await;
}

#[tokio::test]
async fn redis_that_cannot_be_used_is_told_and_nothing_is_granted() {
    let guarded = Server::start_with(&["--requirepass", "right"]);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = crate::server::free_port();
    for (url, reason) in [
        (guarded.url(), "NOAUTH"),
        (format!("redis://:wrong@127.0.0.1:{}", guarded.port()), "Password authentication failed"),
        (format!("redis://127.0.0.1:{nobody}"), "refused"),
        (format!("redis://{}", silent.local_addr().unwrap()), "timed out"),
    ] {
        let member = Member::start(&url);
        until(reason, || member.reason().contains(reason)).await;
        assert!(!member.reason().contains("wrong"), "{}", member.reason());
        let answer = take(&member, vec![slow("k", 1)], false).await;
        assert_eq!((answer.granted, answer.degraded, answer.refusing_key.as_str()), (false, true, "k"));
        assert!(wait_of(answer.wait) > Duration::ZERO);
        let answer = ask_slots(&member, "k", ("a", 1), 1).await;
        assert_eq!((answer.slots.len(), answer.degraded, answer.place_in_queue), (0, true, 1));
        let local = v1::RateLimit { local: true, ..slow("k", 1) };
        assert!(take(&member, vec![local], false).await.granted, "what is this node's own needs no Redis");
        let answer = member.throttle.inspect(Request::new(v1::InspectRequest { key: "other".into() })).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
    let member = Member::start(&format!("redis://default:right@127.0.0.1:{}/3", guarded.port()));
    assert!(take_shared(&member, vec![slow("k", 1)]).await.granted);
}

#[tokio::test]
async fn redis_that_takes_no_writes_is_as_good_as_away() {
    let (server, _ways, a, b) = two().await;
    assert!(take_shared(&a, vec![limit("k", 1, 100)]).await.granted);
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    until("told", || a.reason().contains("OOM") && b.reason().contains("OOM")).await;
    let deadline = Instant::now() + PATIENCE;
    while !take(&a, vec![limit("k", 1, 100)], false).await.granted {
        assert!(Instant::now() < deadline, "{}", a.reason());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(a.reason().contains("this node's share, one of 2"), "{}", a.reason());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    all_divide(&[&a, &b], 2).await;
    // Its share's debt came with it.
    while !take_shared(&a, vec![limit("k", 1, 100)]).await.granted {
        assert!(Instant::now() < deadline);
    }
}

#[tokio::test]
async fn redis_over_tls_by_an_authority_of_its_own() {
    let authority = rcgen::CertifiedIssuer::self_signed(ca("ours"), rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let other = rcgen::CertifiedIssuer::self_signed(ca("other"), rcgen::KeyPair::generate().unwrap()).unwrap();
    let folder = Folder::new();
    let files = ["cert", "key", "ca", "other"].map(|name| folder.0.join(name).to_str().unwrap().to_string());
    let texts = [certificate.pem(), key.serialize_pem(), authority.pem(), other.pem()];
    files.iter().zip(texts).for_each(|(file, text)| std::fs::write(file, text).unwrap());
    let port = crate::server::free_port().to_string();
    let [cert, key, ca, other] = files;
    let tls = ["--tls-port", &port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let _server = Server::start_with(&[&tls[..], &["--tls-auth-clients", "no"]].concat());
    let member = |ca: &str| {
        let config = Config { redis_ca: Some(ca.into()), ..Config::default() };
        Member::start_with(config, &format!("rediss://127.0.0.1:{port}"))
    };
    assert!(take_shared(&member(&ca), vec![slow("k", 1)]).await.granted);
    let stranger = member(&other);
    until("refused", || stranger.reason().contains("certificate")).await;
}

fn ca(name: &str) -> rcgen::CertificateParams {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        let name = godwit_proto::id::MessageId::new().to_string();
        let path = std::env::temp_dir().join(format!("godwit-tls-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
