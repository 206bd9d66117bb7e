//! Lives of deliveries, without a disk.

use super::*;
use bytes::Bytes;
use godwit_proto::id::NodeId;
use std::time::Duration;

const EGRESS: NodeId = NodeId(7);
const MINUTE: u64 = 60_000;

fn core() -> Core {
    let schedule = Schedule {
        retry_interval: Duration::from_secs(1_200),
        max_retry_interval: None,
        max_age: Duration::from_secs(86_400),
    };
    let mut core = Core::new(Rules { schedule, lease_expirations_max: 3, deliveries_max: 100 }, LeaseId(0));
    core.lanes.route("a.example", "mx", u64::MAX);
    core
}

fn head(domains: &[&str], due_ms: u64) -> Head {
    Head {
        egress_pool: "default".into(),
        domains: domains.iter().map(|domain| (*domain).into()).collect(),
        expires_ms: 100 * MINUTE,
        due_ms,
        ..Head::default()
    }
}

fn lease(core: &mut Core, now_ms: u64) -> Vec<Granted> {
    let site = core.lanes.hold_site("mx");
    let picked = core.pick(&Terms { site, egress_pools: &[], count_max: 10, bytes_max: 1_000 });
    core.lanes.release_site(site);
    picked.into_iter().map(|picked| core.grant(picked.key, EGRESS, now_ms + MINUTE, Bytes::from_static(b"m"))).collect()
}

fn mine(claim: Claim) -> Claimed {
    match claim {
        Claim::Mine(claimed) => *claimed,
        other => panic!("{other:?}"),
    }
}

fn retry(due_ms: u64) -> Next {
    Next::Retry { open: [0].into(), attempts: 1, due_ms, trace: None, reply_code: 451 }
}

#[test]
fn a_delivery_is_small() {
    assert!(size_of::<Delivery>() <= 88, "{}", size_of::<Delivery>());
    // In the slab, with its entries in the map of messages and the two ordered sets (64 bytes with their slack).
    assert!(size_of::<(Delivery, [u64; 2], u32, [(u64, Key); 2])>() <= 144);
}

#[test]
fn waits_is_leased_is_deferred_and_finished() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 5), 10, 0);
    assert_eq!((lease(&mut core, 4).len(), core.next_wake()), (0, Some(5)));
    core.advance(5);
    let granted = lease(&mut core, 5);
    assert_eq!((granted.len(), granted[0].attempts, lease(&mut core, 5).len()), (1, 0, 0));
    let claimed = mine(core.claim(granted[0].id, Some(granted[0].lease)));
    assert!(claimed.live && claimed.last && claimed.meta == "m");
    assert!(matches!(core.claim(granted[0].id, None), Claim::Busy));
    assert!(!core.apply(&claimed, retry(50), 6));
    assert!(core.leases.is_empty());
    core.advance(50);
    let granted = lease(&mut core, 50);
    assert_eq!((granted[0].attempts, granted[0].open.as_deref()), (1, Some(&[0][..])));
    let claimed = mine(core.claim(granted[0].id, Some(granted[0].lease)));
    assert!(!core.apply(&claimed, Next::Finished, 51));
    assert_eq!((core.delivery_count(), core.message_count(), core.knows(1)), (0, 0, true));
    assert!(matches!(core.claim(granted[0].id, None), Claim::Unknown));
}

#[test]
fn a_lease_that_runs_out_frees_its_delivery_and_too_many_hold_it() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    for round in 1..=2 {
        assert_eq!(lease(&mut core, round * 2 * MINUTE).len(), 1);
        assert_eq!(core.advance(round * 2 * MINUTE + MINUTE - 1).lease_expirations, 0);
        assert_eq!(core.advance(round * 2 * MINUTE + MINUTE), Advanced { lease_expirations: 1, ..Advanced::default() });
    }
    lease(&mut core, 10 * MINUTE);
    assert_eq!(core.advance(11 * MINUTE).held.len(), 1);
    assert_eq!(lease(&mut core, 11 * MINUTE).len(), 0);
    core.advance(32 * MINUTE);
    assert_eq!(lease(&mut core, 32 * MINUTE).len(), 1);
}

#[test]
fn an_outcome_after_the_lease_is_not_live() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    let first = lease(&mut core, 0);
    core.advance(MINUTE);
    let second = lease(&mut core, MINUTE);
    let claimed = mine(core.claim(first[0].id, Some(first[0].lease)));
    assert!(!claimed.live);
    core.apply(&claimed, Next::Narrowed { open: [1].into() }, MINUTE);
    // The second still has it, and its outcome ends it.
    assert!(core.leases.find(second[0].lease).is_some());
    let claimed = mine(core.claim(second[0].id, Some(second[0].lease)));
    assert!(claimed.live && claimed.open.as_deref() == Some(&[1]));
}

#[test]
fn a_lease_may_run_out_while_its_outcome_is_written() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    let granted = lease(&mut core, 0);
    let claimed = mine(core.claim(granted[0].id, Some(granted[0].lease)));
    core.advance(MINUTE);
    core.restore(claimed.key, MINUTE);
    assert_eq!(lease(&mut core, MINUTE).len(), 1);
}

#[test]
fn age_waits_for_a_lease_and_for_nothing_else() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    core.insert(2, &head(&["a.example"], 99 * MINUTE), 10, 0);
    core.insert(3, &head(&["b.example"], 0), 10, 0);
    let granted = lease(&mut core, 99 * MINUTE + 1_000);
    assert_eq!(granted.len(), 1);
    let expired = core.advance(100 * MINUTE).expired;
    assert_eq!(expired.len(), 2);
    expired.into_iter().for_each(|key| {
        let claimed = core.claimed(key);
        core.apply(&claimed, Next::Finished, 100 * MINUTE);
    });
    let expired = core.advance(101 * MINUTE).expired;
    assert_eq!(expired.iter().map(|key| core.claimed(*key).id.message.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn the_parts_of_a_message_end_apart() {
    let mut core = core();
    core.insert(1, &head(&["a.example", "b.example", "c.example"], 0), 10, 0);
    let id = |part| DeliveryId { message: MessageId(1), part };
    let (second, third) = (mine(core.claim(id(1), None)), mine(core.claim(id(2), None)));
    assert!(!core.apply(&second, Next::Finished, 0));
    let first = mine(core.claim(id(0), None));
    assert!(!first.last);
    assert!(!core.apply(&third, Next::Finished, 0));
    // Neither was the last when it was taken: the spool is still to be told.
    assert!(core.apply(&first, Next::Finished, 0));
}

#[test]
fn released_mail_is_due_when_it_says() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    let granted = lease(&mut core, 0);
    let ids = vec![granted[0].lease, LeaseId(99)];
    assert_eq!(core.release(ids, EGRESS, 30, 0), [LeaseId(99)]);
    assert_eq!((lease(&mut core, 29).len(), core.advance(30), lease(&mut core, 30).len()), (0, Advanced::default(), 1));
}

#[test]
fn what_is_held_over_a_restart_is_not_leased_twice() {
    let mut core = core();
    core.recover(1, &head(&["a.example"], 0), 10);
    core.recover(2, &head(&["a.example"], 0), 10);
    core.recover_state(2, 0, &crate::stored::State { open: vec![4], attempts: 3, ..Default::default() });
    core.open(5_000, 1_000);
    assert_eq!((core.advance(4_999), lease(&mut core, 4_999).len()), (Advanced::default(), 0));
    let id = DeliveryId { message: MessageId(1), part: 0 };
    assert!(core.hold(EGRESS, LeaseId(77), id, 65_000));
    core.advance(5_000);
    let granted = lease(&mut core, 5_000);
    assert_eq!(granted.iter().map(|granted| granted.id.message.0).collect::<Vec<_>>(), [2]);
    assert_eq!((granted[0].attempts, granted[0].open.as_deref()), (3, Some(&[4][..])));
    assert!(mine(core.claim(id, Some(LeaseId(77)))).live);
}

#[test]
fn a_withdrawal_takes_what_was_not_attempted() {
    let mut core = core();
    assert!(matches!(core.withdraw(1), Withdrawal::Unknown));
    assert!(core.arrive(1, 1));
    assert!(matches!(core.withdraw(1), Withdrawal::Arriving));
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    core.arrived(1, 1);
    let Withdrawal::Mine(taken) = core.withdraw(1) else { panic!() };
    core.restore(taken[0].key, 0);
    lease(&mut core, 0);
    assert!(matches!(core.withdraw(1), Withdrawal::TooLate));
}

#[test]
fn there_is_a_bound() {
    let mut core = core();
    assert!(core.arrive(1, 60));
    assert!(!core.arrive(2, 41));
    core.arrived(1, 60);
    assert!(core.arrive(2, 41));
}

#[test]
fn a_batch_ends_at_its_bytes_but_holds_one() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 5_000, 0);
    core.insert(2, &head(&["a.example"], 1), 600, 1);
    core.insert(3, &head(&["a.example"], 1), 600, 1);
    assert_eq!(lease(&mut core, 1).iter().map(|granted| granted.id.message.0).collect::<Vec<_>>(), [1]);
    assert_eq!(lease(&mut core, 1).len(), 1);
    assert_eq!(lease(&mut core, 1).len(), 1);
}

#[test]
fn what_is_set_aside_blocks_nobody_and_ends_by_age() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    let site = core.lanes.hold_site("mx");
    let picked = core.pick(&Terms { site, egress_pools: &[], count_max: 1, bytes_max: 1 });
    core.set_aside(picked[0].key, 0);
    assert_eq!((lease(&mut core, 0).len(), core.aside_count()), (0, 1));
    assert_eq!((core.advance(100 * MINUTE).expired.len(), core.aside_count()), (1, 0));
}

#[test]
fn a_mark_that_is_made_again_lasts_from_then_on() {
    let mut core = core();
    assert!(core.refuse_later(1, 10) && core.refuse_later(1, 20));
    assert_eq!(core.advance(10).lapsed, []);
    assert!(core.is_withdrawn(1));
    assert_eq!(core.advance(20).lapsed, [1]);
    assert_eq!((core.is_withdrawn(1), core.next_wake()), (false, Some(u64::MAX)));
}

#[test]
fn a_lease_id_that_somebody_has_is_not_held_for_another_delivery() {
    let mut core = core();
    core.insert(1, &head(&["a.example"], 0), 10, 0);
    let first = lease(&mut core, 0).remove(0);
    core.insert(2, &head(&["a.example"], 0), 10, 0);
    let other = DeliveryId { message: MessageId(2), part: 0 };
    assert!(!core.hold(EGRESS, first.lease, other, MINUTE));
    assert!(core.hold(EGRESS, LeaseId(99), other, MINUTE));
    assert_eq!(core.renew(vec![first.lease, LeaseId(99)], EGRESS, 2 * MINUTE), []);
}
