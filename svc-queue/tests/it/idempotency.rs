//! One idempotency key, many askers: at once, in a batch, after a failure, after a restart, after its window.
#![allow(clippy::unwrap_used)]

use godwit_proto::id::MessageId;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use svc_queue::idempotency::{Claim, Claimed, Content, Error, Key, Keys};

const DAY: Duration = Duration::from_secs(86_400);

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("godwit-keys-{}", MessageId::new())))
    }

    fn open(&self) -> Keys {
        Keys::open(&self.0, DAY).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn claim(key: &str, content: &str, id: u128) -> Claim {
    Claim { key: Key::of("t", key), content: Content::of([content.as_bytes()]), message_id: MessageId(id) }
}

fn same(id: u128) -> Claimed {
    Claimed::Same(MessageId(id))
}

/// Claims, and keeps what is fresh.
async fn take(keys: &Keys, claims: &[Claim], now: SystemTime) -> Vec<Claimed> {
    let (answers, reservation) = keys.claim(claims.to_vec(), now).await.unwrap();
    reservation.keep(|_| true).await.unwrap();
    answers
}

#[tokio::test]
async fn the_first_is_fresh_and_the_others_are_led_to_it() {
    use Claimed::{Conflict, Fresh};
    let dir = Dir::new();
    let keys = dir.open();
    let cases: [(&[Claim], &[Claimed]); 6] = [
        (&[claim("a", "x", 1)], &[Fresh]),
        (&[claim("a", "x", 2)], &[same(1)]),
        // The very same message once more.
        (&[claim("a", "x", 1)], &[same(1)]),
        (&[claim("a", "y", 3)], &[Conflict]),
        // Within one batch.
        (
            &[claim("b", "x", 4), claim("b", "x", 5), claim("b", "y", 6), claim("a", "x", 7)],
            &[Fresh, same(4), Conflict, same(1)],
        ),
        (&[claim("b", "x", 8), claim("c", "x", 9)], &[same(4), Fresh]),
    ];
    for (claims, expected) in cases {
        assert_eq!(take(&keys, claims, now()).await, expected, "{claims:?}");
    }
}

#[tokio::test]
async fn a_key_is_a_tenants_own() {
    let dir = Dir::new();
    let keys = dir.open();
    let of = |tenant, key, id| Claim { key: Key::of(tenant, key), ..claim("", "x", id) };
    for (id, (tenant, key)) in (1..).zip([("t", "a"), ("u", "a"), ("ta", ""), ("", "ta")]) {
        assert_eq!(take(&keys, &[of(tenant, key, id)], now()).await, [Claimed::Fresh], "{tenant} {key}");
    }
}

#[tokio::test]
async fn a_key_whose_message_was_not_accepted_is_free_again() {
    let dir = Dir::new();
    let keys = dir.open();
    let (answers, reservation) = keys.claim(vec![claim("a", "x", 1), claim("b", "x", 2)], now()).await.unwrap();
    assert_eq!(answers, [Claimed::Fresh, Claimed::Fresh]);
    reservation.keep(|id| id == MessageId(2)).await.unwrap();
    assert_eq!(take(&keys, &[claim("a", "other", 3), claim("b", "x", 4)], now()).await, [Claimed::Fresh, same(2)]);
    // The asker went away.
    drop(keys.claim(vec![claim("c", "x", 5)], now()).await.unwrap());
    assert_eq!(take(&keys, &[claim("c", "y", 6)], now()).await, [Claimed::Fresh]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_is_fresh() {
    let dir = Dir::new();
    let keys = dir.open();
    for round in 0..20 {
        let key = format!("k{round}");
        // Each asks for two keys, in both orders, so that they could block each other.
        let askers = (0..16u128).map(|id| {
            let (keys, mut claims) = (keys.clone(), vec![claim(&key, "x", id), claim("shared", "x", id)]);
            if id % 2 == 0 {
                claims.reverse();
            }
            tokio::spawn(async move { (id, take(&keys, &claims, now()).await) })
        });
        let answers = futures::future::join_all(askers.collect::<Vec<_>>()).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
        let of_key = |(id, answer): &(u128, Vec<Claimed>)| (*id, answer[usize::from(id % 2 == 0)]);
        let fresh: Vec<_> = answers.iter().map(of_key).filter(|(_, is)| *is == Claimed::Fresh).collect();
        assert_eq!(fresh.len(), 1);
        let first = fresh[0].0;
        assert!(answers.iter().map(of_key).all(|(id, is)| id == first || is == same(first)));
    }
}

#[tokio::test]
async fn who_waits_for_a_failed_first_is_the_first() {
    let dir = Dir::new();
    let keys = dir.open();
    let (_, first) = keys.claim(vec![claim("a", "x", 1)], now()).await.unwrap();
    let claims = vec![claim("a", "y", 2)];
    let mut second = Box::pin(keys.claim(claims, now()));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(second.await.unwrap().0, [Claimed::Fresh]);
}

#[tokio::test]
async fn keys_outlive_a_restart() {
    let dir = Dir::new();
    for round in 0..3 {
        let keys = dir.open();
        let answer = take(&keys, &[claim("a", "x", round + 1)], now()).await;
        assert_eq!(answer, [if round == 0 { Claimed::Fresh } else { same(1) }]);
    }
}

#[tokio::test]
async fn a_key_ends_with_its_window_and_is_pruned() {
    let dir = Dir::new();
    let keys = dir.open();
    let later = now() + DAY;
    take(&keys, &[claim("a", "x", 1), claim("b", "x", 2)], now()).await;
    assert_eq!(take(&keys, &[claim("a", "y", 3)], later - Duration::from_secs(1)).await, [Claimed::Conflict]);
    assert_eq!(take(&keys, &[claim("a", "y", 4)], later).await, [Claimed::Fresh]);
    assert_eq!(keys.prune(later - Duration::from_secs(1)).await.unwrap(), 0);
    assert_eq!(keys.prune(later).await.unwrap(), 2);
    // What was used anew stays.
    assert_eq!(take(&keys, &[claim("a", "y", 5)], later).await, [same(4)]);
    assert_eq!(keys.prune(later + DAY).await.unwrap(), 1);
}

#[tokio::test]
async fn what_a_crash_forgot_comes_back_from_the_messages() {
    let dir = Dir::new();
    let keys = dir.open();
    take(&keys, &[claim("known", "x", 1)], now()).await;
    let held =
        vec![(claim("lost", "x", 2), now()), (claim("known", "x", 3), now()), (claim("ended", "x", 4), now() - DAY)];
    keys.restore(held, now()).await.unwrap();
    let asked = [claim("lost", "x", 5), claim("known", "x", 6), claim("ended", "x", 7)];
    assert_eq!(take(&keys, &asked, now()).await, [same(2), same(1), Claimed::Fresh]);
}

#[tokio::test]
async fn two_instances_do_not_share_a_store() {
    let dir = Dir::new();
    let _keys = dir.open();
    assert!(matches!(Keys::open(&dir.0, DAY), Err(Error::InUse)));
}

#[tokio::test]
async fn a_sparse_store_is_rewritten_with_all_that_lives() {
    let dir = Dir::new();
    let keys = dir.open();
    let claims: Vec<_> = (0..100).map(|id| claim(&id.to_string(), "x", id)).collect();
    take(&keys, &claims, now()).await;
    drop(keys);
    let keys = Keys::open_rewriting(&dir.0, DAY, 0).unwrap();
    assert!(dir.0.join("2/db").exists() && !dir.0.join("1/db").exists());
    assert_eq!(take(&keys, &claims, now()).await, (0..100).map(same).collect::<Vec<_>>());
    assert_eq!(keys.prune(now() + DAY).await.unwrap(), 100);
    drop(keys);
    assert_eq!(take(&dir.open(), &claims[..1], now()).await, [Claimed::Fresh]);
}

#[tokio::test]
async fn a_damaged_store_is_left_and_begun_anew() {
    for (round, filler) in [0x00, 0xff, 0x41].into_iter().enumerate() {
        let dir = Dir::new();
        let keys = dir.open();
        let claims: Vec<_> = (0..500).map(|id| claim(&id.to_string(), "x", id)).collect();
        take(&keys, &claims, now()).await;
        drop(keys);
        let path = dir.0.join("1/db");
        // The store's threads may outlive its last handle for a moment, and write.
        std::fs::File::open(&path).unwrap().lock().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let from = if round == 1 { 0 } else { 64 };
        bytes[from..].fill(filler);
        std::fs::write(&path, bytes).unwrap();
        std::fs::write(dir.0.join("1/conf"), [filler; 40]).unwrap();
        let keys = dir.open();
        assert_eq!(take(&keys, &[claim("1", "y", 9_999)], now()).await, [Claimed::Fresh]);
        keys.restore(claims.iter().map(|claim| (*claim, now())).collect(), now()).await.unwrap();
        assert_eq!(take(&keys, &[claim("7", "x", 0)], now()).await, [same(7)]);
        drop(keys);
        assert_eq!(take(&dir.open(), &[claim("1", "y", 0)], now()).await, [same(9_999)]);
        assert!(path.exists(), "the damaged one is still there");
    }
}
