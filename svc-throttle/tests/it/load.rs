//! Load on one rate and on one key's slots through several nodes, and the law: never more in sum than the limit, whatever
//! happens to the nodes and to Redis meanwhile.

use crate::world::{acquire, host, node, until, with_redis};
use godwit_kit::Host;
use godwit_proto::throttle::{Throttle, v1};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use svc_throttle::Config;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;

/// The rate: so many a second, so many at once.
pub const RATE: u64 = 200;
pub const BURST: u64 = 50;
pub const SLOTS: u32 = 20;
/// Short, so that a test can wait for what is lost to run out; egress' is ten times as long.
const TTL: Duration = Duration::from_millis(1_500);
const HOLDERS: usize = 16;
const TAKERS: usize = 3;

/// One throttle service that shares Redis with others.
pub struct Member {
    pub host: Host,
    pub throttle: Throttle,
}

impl Member {
    /// Not waited for until it is ready.
    pub fn start(url: &str) -> Self {
        Self::start_with(Config::default(), url)
    }

    pub fn start_with(config: Config, url: &str) -> Self {
        let host = host();
        let throttle = Arc::new(svc_throttle::build(with_redis(config, url), &host).unwrap());
        Self { host, throttle }
    }

    pub fn is_ready(&self) -> bool {
        self.host.health.causes().is_empty()
    }

    pub async fn ready(&self) {
        until("ready", || self.is_ready()).await;
    }

    /// Why not.
    pub fn reason(&self) -> String {
        self.host.health.causes().into_iter().map(|cause| cause.reason).collect()
    }

    pub fn metric(&self, name: &str) -> u64 {
        let text = self.host.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }
}

/// Returns once every member divides limits into so many shares, as Redis says.
pub async fn all_divide(members: &[&Member], count: u64) {
    let divides = |member: &&Member| member.is_ready() && member.metric("godwit_throttle_shares_count") == count;
    until("divided", || members.iter().all(divides)).await;
}

/// Tokens that were given, at some time between asking and answering.
#[derive(Debug, Clone, Copy)]
pub struct Grant {
    pub asked: Instant,
    pub answered: Instant,
    pub count: u64,
    pub member: usize,
    pub degraded: bool,
}

/// What the load has come to. Cheap to clone.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Entries>);

#[derive(Default)]
struct Entries {
    done: AtomicBool,
    grants: Mutex<Vec<Grant>>,
    /// Slots in use now, and at the most.
    used: AtomicI64,
    used_max: AtomicI64,
    slots_given: Mutex<Vec<Grant>>,
    slots_lost: AtomicU64,
}

impl Ledger {
    pub fn grants(&self) -> Vec<Grant> {
        self.0.grants.lock().unwrap().clone()
    }

    pub fn slots_given(&self) -> Vec<Grant> {
        self.0.slots_given.lock().unwrap().clone()
    }

    pub fn slots_used_max(&self) -> i64 {
        self.0.used_max.load(Ordering::SeqCst)
    }

    pub fn slots_lost(&self) -> u64 {
        self.0.slots_lost.load(Ordering::SeqCst)
    }

    fn use_slot(&self) {
        let used = self.0.used.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.used_max.fetch_max(used, Ordering::SeqCst);
    }

    fn end_slot(&self) {
        self.0.used.fetch_sub(1, Ordering::SeqCst);
    }

    fn is_done(&self) -> bool {
        self.0.done.load(Ordering::SeqCst)
    }

    /// Returns once so many more tokens and slots were given by each of these members.
    pub async fn goes_on(&self, members: &[usize], degraded: Option<bool>) {
        let count = |grants: &[Grant], member| {
            let fits =
                |grant: &&Grant| grant.member == member && degraded.is_none_or(|degraded| grant.degraded == degraded);
            grants.iter().filter(fits).count()
        };
        let counts = || -> Vec<(usize, usize)> {
            let (grants, slots) = (self.grants(), self.slots_given());
            members.iter().map(|member| (count(&grants, *member), count(&slots, *member))).collect()
        };
        let before = counts();
        until("going on", || {
            let more =
                |(now, before): ((usize, usize), &(usize, usize))| now.0 >= before.0 + 5 && now.1 >= before.1 + 3;
            counts().into_iter().zip(&before).all(more)
        })
        .await;
    }
}

/// Load through all members until it is stopped.
pub struct Load {
    pub ledger: Ledger,
    tasks: JoinSet<()>,
}

impl Load {
    pub fn start(members: &[&Member]) -> Self {
        let (ledger, mut tasks) = (Ledger::default(), JoinSet::new());
        for (number, member) in members.iter().enumerate() {
            for taker in 0..TAKERS {
                tasks.spawn(take(member.throttle.clone(), ledger.clone(), (number, taker as u64 + 1)));
            }
            for holder in 0..HOLDERS {
                tasks.spawn(hold(member.throttle.clone(), ledger.clone(), (number, holder)));
            }
        }
        Self { ledger, tasks }
    }

    /// Ends the load, and holds it to the law.
    pub async fn stop(self) -> Ledger {
        self.ledger.0.done.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        assert!(self.ledger.slots_used_max() <= SLOTS.into(), "{} slots in use", self.ledger.slots_used_max());
        let grants = self.ledger.grants();
        assert!(!grants.is_empty());
        if let Some(excess) = excess(&grants) {
            panic!("{excess}");
        }
        println!(
            "slots in use at most: {} of {SLOTS}; given {}, lost {}; tokens in a second at most: {} of {} and a burst of {BURST}",
            self.ledger.slots_used_max(),
            self.ledger.slots_given().len(),
            self.ledger.slots_lost(),
            most_in(&grants, Duration::from_secs(1)),
            RATE,
        );
        self.ledger
    }
}

/// The first window in which more was given than the burst and the rate allow: of what was asked for and answered in it.
pub fn excess(grants: &[Grant]) -> Option<String> {
    let mut by_answer = grants.to_vec();
    by_answer.sort_by_key(|grant| grant.answered);
    for first in grants {
        let mut sum = 0;
        for last in by_answer.iter().filter(|grant| grant.asked >= first.asked) {
            sum += last.count;
            let window = last.answered - first.asked;
            // Redis' clock and ours are read to the microsecond, and may be corrected against each other.
            let most = BURST as f64 + RATE as f64 * (window.as_secs_f64() * 1.001) + 0.5;
            if sum as f64 > most {
                return Some(format!("{sum} tokens within {window:?}, which allow {most:.1}"));
            }
        }
    }
    None
}

fn most_in(grants: &[Grant], window: Duration) -> u64 {
    let within = |first: &Grant| {
        let inside = |grant: &&Grant| grant.asked >= first.asked && grant.answered <= first.asked + window;
        grants.iter().filter(inside).map(|grant| grant.count).sum::<u64>()
    };
    grants.iter().map(within).max().unwrap_or(0)
}

fn site_rate(count: u64) -> v1::RateLimit {
    let period = Some(godwit_proto::convert::duration(Duration::from_secs(1)));
    v1::RateLimit { key: "site".into(), count, limit: RATE, period, burst: BURST, local: false }
}

async fn take(throttle: Throttle, ledger: Ledger, (member, count): (usize, u64)) {
    while !ledger.is_done() {
        let asked = Instant::now();
        let answer = acquire(&throttle, vec![site_rate(count)], true).await;
        let answered = Instant::now();
        if answer.granted {
            let (count, degraded) = (answer.count, answer.degraded);
            ledger.0.grants.lock().unwrap().push(Grant { asked, answered, count, member, degraded });
        } else {
            wait(&ledger, crate::world::wait_of(answer.wait)).await;
        }
    }
}

/// Does as egress does: uses a slot only while it was kept within its ttl, and ends as soon as it is told.
async fn hold(throttle: Throttle, ledger: Ledger, (member, number): (usize, usize)) {
    let holder = format!("{member}/{number}");
    while !ledger.is_done() {
        let item = v1::acquire_slots_request::Item {
            key: "site".into(),
            limit: SLOTS,
            count: 1,
            holder: holder.clone(),
            ttl_ms: TTL.as_millis() as u64,
            local: false,
        };
        let asked = Instant::now();
        let request = v1::AcquireSlotsRequest { node: node("n"), requests: vec![item] };
        let answer = throttle.acquire_slots(Request::new(request)).await.unwrap().into_inner().responses.remove(0);
        let Some(slot) = answer.slots.into_iter().next() else {
            wait(&ledger, crate::world::wait_of(answer.wait)).await;
            continue;
        };
        let answered = Instant::now();
        ledger.use_slot();
        ledger.0.slots_given.lock().unwrap().push(Grant {
            asked,
            answered,
            count: 1,
            member,
            degraded: answer.degraded,
        });
        // Long and short ones, so that some are held whenever something happens.
        let beats = if number.is_multiple_of(2) { 40 } else { number };
        let kept = keep(&throttle, &ledger, &slot, (asked, beats)).await;
        ledger.end_slot();
        if !kept {
            ledger.0.slots_lost.fetch_add(1, Ordering::SeqCst);
        }
        let request = v1::ReleaseSlotsRequest { node: node("n"), slots: vec![slot] };
        throttle.release_slots(Request::new(request)).await.unwrap();
    }
}

/// Holds a slot for so many heartbeats; false: it was lost.
async fn keep(throttle: &Throttle, ledger: &Ledger, slot: &v1::Slot, (mut kept, beats): (Instant, usize)) -> bool {
    for _ in 0..beats {
        if ledger.is_done() {
            return true;
        }
        tokio::time::sleep_until((Instant::now() + TTL / 3).min(kept + TTL)).await;
        let asked = Instant::now();
        let request =
            v1::HeartbeatRequest { node: node("n"), slots: vec![slot.clone()], ttl_ms: TTL.as_millis() as u64 };
        match tokio::time::timeout_at(kept + TTL, throttle.heartbeat(Request::new(request))).await {
            Ok(answer) if answer.as_ref().unwrap().get_ref().lost.is_empty() => kept = asked,
            Ok(_) | Err(_) => return false,
        }
    }
    true
}

async fn wait(ledger: &Ledger, wait: Duration) {
    let deadline = Instant::now() + wait;
    while !ledger.is_done() && Instant::now() < deadline {
        tokio::time::sleep_until(deadline.min(Instant::now() + Duration::from_millis(50))).await;
    }
}
