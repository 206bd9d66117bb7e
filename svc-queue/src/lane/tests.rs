//! Turns, routes and watching, and a model that every count must agree with.

use super::*;
use proptest::prelude::*;

fn name<'a>(tenant: &'a str, domain: &'a str) -> Name<'a> {
    Name { campaign: "", tenant, domain, routing_domain: "", egress_pool: "default" }
}

/// Queues `count` due deliveries; keys from `first`.
fn fill(lanes: &mut Lanes, name: &Name<'_>, first: Key, count: u32) {
    for key in first..first + count {
        let queue = lanes.join(name, 1);
        lanes.ready(queue, key, 0, u64::from(key));
    }
}

fn pick_all(lanes: &mut Lanes, site: u32, count: usize) -> Vec<Key> {
    std::iter::from_fn(|| lanes.pick(site, &[], |_| 1)).take(count).map(|picked| picked.key).collect()
}

#[test]
fn tenants_share_a_site_whatever_their_backlog() {
    let mut lanes = Lanes::default();
    fill(&mut lanes, &name("big", "a.example"), 0, 1_000);
    fill(&mut lanes, &name("small", "b.example"), 1_000, 10);
    lanes.route("a.example", "mx", u64::MAX);
    lanes.route("b.example", "mx", u64::MAX);
    let site = lanes.hold_site("mx");
    let picked = pick_all(&mut lanes, site, 20);
    assert_eq!(picked.iter().filter(|key| **key >= 1_000).count(), 10);
    assert_eq!(lanes.outlook(site, &[]), (990, None));
}

#[test]
fn a_lane_that_runs_empty_often_is_remembered_once() {
    let mut lanes = Lanes::default();
    for now_ms in 0..1_000 {
        let queue = lanes.join(&name("t", "a.example"), 1);
        lanes.leave(queue, 1, now_ms);
    }
    assert_eq!(lanes.idle.len(), 1);
    lanes.sweep(IDLE_MS + 500);
    assert_eq!(lanes.lane_count(), 1);
    lanes.sweep(IDLE_MS + 999);
    assert_eq!((lanes.lane_count(), lanes.idle.len()), (0, 0));
}

#[test]
fn campaigns_share_their_tenants_turn() {
    let mut lanes = Lanes::default();
    let campaign = |campaign| Name { campaign, ..name("t", "a.example") };
    fill(&mut lanes, &campaign("news"), 0, 100);
    fill(&mut lanes, &campaign("reset"), 100, 5);
    fill(&mut lanes, &name("other", "a.example"), 200, 100);
    lanes.route("a.example", "mx", u64::MAX);
    let site = lanes.hold_site("mx");
    let picked = pick_all(&mut lanes, site, 20);
    let of = |range: std::ops::Range<u32>| picked.iter().filter(|key| range.contains(key)).count();
    assert_eq!((of(0..100), of(100..105), of(200..300)), (5, 5, 10));
}

#[test]
fn higher_priority_goes_first_within_its_tenant_alone() {
    let mut lanes = Lanes::default();
    for (key, tenant, priority) in [(1, "t", 0), (2, "t", 9), (3, "t", -9), (4, "u", 0), (5, "u", 0)] {
        let queue = lanes.join(&name(tenant, "a.example"), 1);
        lanes.ready(queue, key, priority, 0);
    }
    lanes.route("a.example", "mx", u64::MAX);
    let site = lanes.hold_site("mx");
    let picked = pick_all(&mut lanes, site, 5);
    let of_t: Vec<_> = picked.iter().filter(|key| **key < 4).collect();
    assert_eq!(of_t, [&2, &1, &3]);
    assert!(picked[..4].contains(&4) && picked[..4].contains(&5), "{picked:?}");
}

#[test]
fn pools_are_kept_apart() {
    let mut lanes = Lanes::default();
    fill(&mut lanes, &name("t", "a.example"), 0, 3);
    fill(&mut lanes, &Name { egress_pool: "vip", ..name("t", "a.example") }, 10, 3);
    lanes.route("a.example", "mx", u64::MAX);
    let site = lanes.hold_site("mx");
    let vip = ["vip".to_string()];
    assert_eq!(lanes.outlook(site, &vip).0, 3);
    let picked: Vec<_> = std::iter::from_fn(|| lanes.pick(site, &vip, |_| 1)).map(|picked| picked.key).collect();
    assert_eq!(picked, [10, 11, 12]);
    assert_eq!(pick_all(&mut lanes, site, 9).len(), 3);
}

#[test]
fn a_route_moves_what_is_due_and_ends() {
    let mut lanes = Lanes::default();
    fill(&mut lanes, &name("t", "a.example"), 0, 3);
    let (one, two) = (lanes.hold_site("one"), lanes.hold_site("two"));
    lanes.route("a.example", "one", 100);
    assert_eq!(lanes.take_fed().len(), 1);
    lanes.route("a.example", "two", 200);
    assert_eq!((lanes.outlook(one, &[]).0, lanes.outlook(two, &[]).0), (0, 3));
    assert_eq!(pick_all(&mut lanes, two, 1), [0]);
    assert_eq!((lanes.end_routes(199, 9), lanes.end_routes(200, 9)), (0, 1));
    assert_eq!((pick_all(&mut lanes, two, 1), lanes.outlook(two, &[]).0), (vec![], 0));
    assert_eq!(lanes.lane_due_count("a.example", "default"), 2);
    // What comes later belongs to the domain's newest route.
    lanes.route("a.example", "two", 300);
    fill(&mut lanes, &Name { egress_pool: "vip", ..name("t", "a.example") }, 10, 1);
    assert_eq!(lanes.outlook(two, &[]).0, 3);
}

#[test]
fn what_does_not_fit_is_next_again() {
    let mut lanes = Lanes::default();
    fill(&mut lanes, &name("t", "a.example"), 0, 2);
    fill(&mut lanes, &name("u", "a.example"), 10, 2);
    lanes.route("a.example", "mx", u64::MAX);
    let site = lanes.hold_site("mx");
    let picked = lanes.pick(site, &[], |_| 1).unwrap();
    lanes.put_back(&picked);
    assert_eq!(lanes.pick(site, &[], |_| 1), Some(picked));
}

#[test]
fn watchers_see_each_change_once_and_busy_lanes_coalesce() {
    let mut lanes = Lanes::default();
    fill(&mut lanes, &name("t", "a.example"), 0, 2);
    fill(&mut lanes, &name("t", "b.example"), 10, 1);
    let (snapshot, seen) = lanes.changes(0, 100);
    assert_eq!(snapshot.iter().map(|lane| lane.due_count).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(lanes.changes(seen, 100).0, []);
    fill(&mut lanes, &name("t", "b.example"), 20, 50);
    let (changes, _) = lanes.changes(seen, 100);
    assert_eq!((changes.len(), changes[0].due_count, changes[0].oldest_due_ms), (1, 51, Some(10)));
    assert_eq!(lanes.changes(0, 1).0.len(), 1);
}

#[test]
fn an_empty_lane_is_forgotten_after_a_while() {
    let mut lanes = Lanes::default();
    let queue = lanes.join(&name("t", "a.example"), 1);
    lanes.route("a.example", "mx", 5);
    lanes.leave(queue, 1, 1_000);
    lanes.end_routes(5, 9);
    lanes.sweep(1_000 + IDLE_MS - 1);
    assert_eq!(lanes.lane_count(), 1);
    lanes.sweep(1_000 + IDLE_MS);
    assert_eq!((lanes.lane_count(), lanes.domains.len(), lanes.sites.len(), lanes.queues.len()), (0, 0, 0, 0));
    assert!(lanes.versions.is_empty() && lanes.lane_by_name.is_empty() && lanes.queue_by_name.is_empty());
}

#[derive(Debug, Clone)]
enum Step {
    /// To a queue: waits until then, or is due; with a priority.
    Add(usize, Option<u64>, i8),
    Remove(usize),
    Wake(u64),
    Pick(bool),
    Route(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..8usize, proptest::option::of(0..50u64), -1..=1i8)
            .prop_map(|(queue, at, priority)| Step::Add(queue, at, priority)),
        (0..200usize).prop_map(Step::Remove),
        (0..50u64).prop_map(Step::Wake),
        any::<bool>().prop_map(Step::Pick),
        (0..2usize, any::<bool>()).prop_map(|(domain, other)| Step::Route(domain, other)),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Against a plain list: the same counts, and every delivery comes out once.
    #[test]
    fn counts_agree_with_a_plain_list(steps in steps()) {
        let mut lanes = Lanes::default();
        let domains = ["a.example", "b.example"];
        // (key, queue, waits until, priority, domain)
        let mut model: Vec<(Key, u32, Option<u64>, i8, usize)> = Vec::new();
        let mut routes = [None, None];
        let sites = [lanes.hold_site("one"), lanes.hold_site("two")];
        let mut next = 0;
        for step in steps {
            match step {
                Step::Add(n, at, priority) => {
                    let tenant = ["t", "u"][n / 2 % 2];
                    let pool = ["p", "q"][n / 4 % 2];
                    let queue = lanes.join(&Name { egress_pool: pool, ..name(tenant, domains[n % 2]) }, 1);
                    match at {
                        Some(at) => lanes.wait(queue, next, at),
                        None => lanes.ready(queue, next, priority, 7),
                    }
                    model.push((next, queue, at, priority, n % 2));
                    next += 1;
                }
                Step::Remove(place) => if !model.is_empty() {
                    let (key, queue, at, priority, _) = model.remove(place % model.len());
                    match at {
                        Some(at) => lanes.unwait(queue, key, at),
                        None => lanes.unready(queue, key, priority, 7),
                    }
                    lanes.leave(queue, 1, 0);
                },
                Step::Wake(now) => {
                    let mut woken = lanes.wake(now, usize::MAX);
                    woken.sort_unstable();
                    let mut expected = Vec::new();
                    for (key, queue, at, priority, _) in &mut model {
                        if at.is_some_and(|at| at <= now) {
                            *at = None;
                            expected.push(*key);
                            lanes.ready(*queue, *key, *priority, 7);
                        }
                    }
                    prop_assert_eq!(woken, expected);
                }
                Step::Pick(second) => {
                    let site = usize::from(second);
                    let at_site = |(_, _, at, _, domain): &(_, _, Option<u64>, _, usize)| at.is_none() && routes[*domain] == Some(site);
                    match lanes.pick(sites[site], &[], |_| 1) {
                        None => prop_assert!(!model.iter().any(at_site)),
                        Some(picked) => {
                            let place = model.iter().position(|entry| entry.0 == picked.key).unwrap();
                            prop_assert!(at_site(&model[place]));
                            let (_, queue, ..) = model.remove(place);
                            lanes.leave(queue, 1, 0);
                        }
                    }
                }
                Step::Route(domain, second) => {
                    lanes.route(domains[domain], ["one", "two"][usize::from(second)], u64::MAX);
                    routes[domain] = Some(usize::from(second));
                }
            }
            for (place, site) in sites.iter().enumerate() {
                let here = || model.iter().filter(|entry| routes[entry.4] == Some(place));
                let due = here().filter(|entry| entry.2.is_none()).count() as u64;
                prop_assert_eq!(lanes.outlook(*site, &[]), (due, here().filter_map(|entry| entry.2).min()));
            }
            prop_assert_eq!(lanes.due_count(), model.iter().filter(|entry| entry.2.is_none()).count() as u64);
            let waits = model.iter().filter_map(|entry| entry.2).min();
            let routed = routes.iter().any(Option::is_some).then_some(u64::MAX);
            prop_assert_eq!(lanes.next_wake(), waits.or(routed));
        }
    }
}
