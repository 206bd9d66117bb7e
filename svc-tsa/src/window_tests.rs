//! Laws of windows: what is in force is a function of the set of events and the time.

use super::*;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

fn mark(time: u64, node: u8, seq: u64) -> (Mark, Arc<str>) {
    let log = Arc::new(Log { node: node.to_string(), log_id: "log".into() });
    (Mark { time, log, seq }, format!("reply {time} {node} {seq}").into())
}

fn threshold(count: u64, period_s: u64, duration_s: u64) -> Terms {
    let trigger = Trigger::Threshold { count, period: Duration::from_secs(period_s) };
    Terms::new(&trigger, Duration::from_secs(duration_s))
}

/// The definition, word for word: every mark is held, every mark looks back over its own period.
fn by_definition(terms: Terms, marks: &[(Mark, Arc<str>)], now: u64) -> Vec<(Mark, u64)> {
    let set: BTreeSet<Mark> = marks.iter().map(|(mark, _)| mark.clone()).collect();
    let mut slots: BTreeMap<u64, (Mark, u64)> = BTreeMap::new();
    for mark in &set {
        let within = set.iter().filter(|other| *other <= mark && other.time + terms.period > mark.time).count();
        if within >= terms.count {
            let expires = mark.time + terms.duration;
            slots.entry(mark.time / terms.slot).or_insert((mark.clone(), expires)).1 = expires;
        }
    }
    slots.into_values().filter(|(_, expires)| *expires > now).collect()
}

fn in_force(window: &Window, now: u64) -> Vec<(Mark, u64)> {
    window.firings(now).into_iter().map(|firing| (firing.first, firing.expires)).collect()
}

#[test]
fn a_threshold_counts_within_its_own_period() {
    let mut window = Window::new(threshold(3, 10, 100));
    window.absorb([mark(SECOND, 0, 1), mark(5 * SECOND, 0, 2), mark(11 * SECOND, 0, 3)], 0);
    assert_eq!(window.firings(0), [], "the first is exactly a period before the third");
    window.absorb([mark(10 * SECOND, 0, 4)], 0);
    // At 10 s there are three, and at 11 s again: one firing, which lasts from the first until after the last.
    assert_eq!(in_force(&window, 0), [(mark(10 * SECOND, 0, 4).0, 111 * SECOND)]);
    assert_eq!(in_force(&window, 111 * SECOND), []);
}

#[test]
fn repeats_are_not_counted_twice() {
    let mut window = Window::new(threshold(2, 10, 10));
    for _ in 0..5 {
        window.absorb([mark(SECOND, 0, 1)], 0);
    }
    assert_eq!(window.firings(0), []);
}

#[test]
fn a_flood_is_remembered_by_its_edges() {
    let mut window = Window::new(threshold(5, 60, 3600));
    let flood = (0..100_000).map(|seq| mark(seq * SECOND / 10, 0, seq));
    let difference = window.absorb(flood, 0);
    assert!(window.marks.len() < 100, "{}", window.marks.len());
    assert_eq!(difference.written.len(), window.marks.len());
    assert_eq!(difference.erased, []);
}

#[test]
fn nothing_is_left_once_all_has_passed() {
    let mut window = Window::new(threshold(2, 10, 10));
    window.absorb([mark(SECOND, 0, 1), mark(2 * SECOND, 0, 2)], 0);
    let mut now = 0;
    while let Some(next) = window.next_change(now) {
        assert!(next > now);
        now = next;
        window.absorb([], now);
    }
    assert_eq!((window.marks.len(), now), (0, 30 * SECOND));
}

/// One instance's life: batches of the events in some order, with repeats, at rising times.
#[derive(Debug, Clone)]
struct Life {
    order: Vec<prop::sample::Index>,
    batch: usize,
    nows: Vec<u64>,
}

fn life() -> impl Strategy<Value = Life> {
    (prop::collection::vec(any::<prop::sample::Index>(), 0..120), 1usize..20, prop::collection::vec(0u64..400, 12))
        .prop_map(|(order, batch, nows)| Life { order, batch, nows })
}

fn live(terms: Terms, events: &[(Mark, Arc<str>)], life: &Life, end: u64) -> Window {
    let mut window = Window::new(terms);
    // First some at random, repeats among them, then all of them backwards, so that each is seen at least once.
    let mut order: Vec<_> = life.order.iter().map(|index| index.get(events).clone()).collect();
    order.extend(events.iter().rev().cloned());
    let mut nows = life.nows.clone();
    nows.sort_unstable();
    let mut disk: BTreeSet<Mark> = BTreeSet::new();
    for (place, batch) in order.chunks(life.batch).enumerate() {
        let now = (nows[place.min(nows.len() - 1)] * SECOND).min(end);
        let difference = window.absorb(batch.to_vec(), now);
        difference.erased.iter().for_each(|mark| assert!(disk.remove(mark)));
        difference.written.into_iter().for_each(|mark| assert!(disk.insert(mark)));
        assert!(disk.iter().eq(window.marks.keys()), "the disk holds what the window holds");
    }
    window
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_events_are_the_same_actions(
        events in prop::collection::vec((0u64..400, 0u8..3, 0u64..40), 1..120),
        (count, period, duration) in (1u64..6, 1u64..40, 1u64..120),
        (one, other) in (life(), life()),
        end in 0u64..600,
    ) {
        let terms = threshold(count, period, duration);
        let events: Vec<_> = events.into_iter().map(|(time, node, seq)| mark(time * SECOND, node, seq)).collect();
        let end = end * SECOND;
        let expected = by_definition(terms, &events, end);
        prop_assert_eq!(in_force(&live(terms, &events, &one, end), end), expected.clone());
        prop_assert_eq!(in_force(&live(terms, &events, &other, end), end), expected);
    }

    #[test]
    fn more_events_never_end_anything(
        events in prop::collection::vec((0u64..100, 0u8..2, 0u64..40), 1..60),
        (count, period, duration) in (1u64..5, 1u64..20, 1u64..50),
        part in 0usize..60,
    ) {
        let terms = threshold(count, period, duration);
        let events: Vec<_> = events.into_iter().map(|(time, node, seq)| mark(time * SECOND, node, seq)).collect();
        let (mut fewer, mut all) = (Window::new(terms), Window::new(terms));
        fewer.absorb(events.iter().take(part).cloned(), 0);
        all.absorb(events.iter().cloned(), 0);
        for firing in fewer.firings(0) {
            let slot = terms.slot_of(firing.first.time);
            let same = all.firings(0).into_iter().find(|other| terms.slot_of(other.first.time) == slot);
            prop_assert!(same.is_some_and(|same| same.first <= firing.first && same.expires >= firing.expires));
        }
    }
}
