//! Idempotency keys: within a window, the same key leads to the message that was accepted first.
//!
//! The order that makes it safe: [`Keys::claim`] reserves a batch's keys in memory, the spool takes the messages, and
//! [`Reservation::keep`] writes the keys before the acceptance is answered. So a key on disk always speaks of a message that
//! was accepted; one that a crash kept off the disk comes back from the message itself ([`Keys::restore`]), which carries it.
//!
//! **Invariant**: the one file of this crate that says `sled::`; what it holds can be rebuilt.

use crate::spool::disk::{self, Disk, File, RealDisk};
use godwit_kit::Host;
use godwit_proto::id::MessageId;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

const CACHE_BYTES_MAX: u64 = 16 << 20;
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_MAX: usize = 10_000;

/// Below this size the database is never rewritten; above, when it is more than four times what lives in it.
const REWRITE_BYTES_MIN: u64 = 64 << 20;
/// A key in both trees with sled's own bookkeeping.
const ENTRY_BYTES: u64 = 150;

/// A sender's key, of one tenant: 128 bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 16]);

/// What the key was used for: 128 bits of a hash over what a sender repeats unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content(pub [u8; 16]);

/// One message's wish to be the one of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub key: Key,
    pub content: Content,
    pub message_id: MessageId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The first: enqueue it, then keep the reservation.
    Fresh,
    /// This one was accepted first, or comes earlier in the same batch and shares its fate.
    Same(MessageId),
    /// The key was used for something else.
    Conflict,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the idempotency keys are in use by another instance")]
    InUse,
    #[error("the idempotency keys cannot be stored: {0}")]
    Store(String),
}

impl Key {
    /// The same text of two tenants is two keys.
    pub fn of(tenant: &str, text: &str) -> Self {
        Self(digest([tenant.as_bytes(), text.as_bytes()]))
    }
}

impl Content {
    /// Parts are told apart. Leave out what changes from one try to the next (trace headers, dates, ids).
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(digest(parts))
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let whole: [u8; 32] = hash.finalize().into();
    std::array::from_fn(|place| whole[place])
}

/// All keys of one queue node. Cheap to clone.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    store: Store,
    window: Duration,
    /// Keys of batches that are on their way into the spool. std's mutex: held for a few instructions only.
    reserved: Mutex<HashSet<Key>>,
    /// Told whenever keys are no longer reserved.
    freed: watch::Sender<u64>,
    /// Writes so far, and how many of them the newest sync covers: those who wait together are synced together.
    written: AtomicU64,
    synced: tokio::sync::Mutex<u64>,
}

/// Keys that others wait for. Dropped without `keep`, they are free again.
pub struct Reservation {
    keys: Keys,
    held: Vec<Claim>,
    claimed: SystemTime,
}

impl Keys {
    /// Opens (or makes) the store in a folder. Blocks. A store that is damaged is left where it is and a new one begun.
    ///
    /// # Errors
    /// `InUse`; `Store` where the folder cannot be used.
    pub fn open(dir: &Path, window: Duration) -> Result<Self, Error> {
        Self::open_rewriting(dir, window, REWRITE_BYTES_MIN)
    }

    /// The same, with another size from which a sparse store is rewritten.
    #[doc(hidden)]
    pub fn open_rewriting(dir: &Path, window: Duration, bytes_min: u64) -> Result<Self, Error> {
        Ok(Self(Arc::new(Inner {
            store: Store::open(dir, bytes_min)?,
            window,
            reserved: Mutex::default(),
            freed: watch::Sender::new(0),
            written: AtomicU64::new(0),
            synced: tokio::sync::Mutex::new(0),
        })))
    }

    /// Removes ended keys from time to time, until the host stops.
    pub fn prune_on(&self, host: &Host) {
        let (keys, clock, stop) = (self.clone(), host.clock.clone(), host.stop.clone());
        host.stop.spawn(async move {
            loop {
                tokio::select! {
                    () = clock.sleep(PRUNE_EVERY) => {}
                    () = stop.requested() => return,
                }
                if let Err(error) = keys.prune(clock.now()).await {
                    tracing::warn!(%error, "idempotency keys not pruned");
                }
            }
        });
    }

    /// Answers for each claim, in order, and reserves the keys of those that are fresh: until the reservation is kept or
    /// dropped, other claims of these keys wait here.
    ///
    /// # Errors
    /// `Store`; nothing is reserved.
    pub async fn claim(&self, claims: Vec<Claim>, now: SystemTime) -> Result<(Vec<Claimed>, Reservation), Error> {
        let mut reservation = self.reserve(claims.clone(), now).await;
        let keys = self.clone();
        let answers = blocking(move || keys.answers(&claims, now)).await?;
        let fresh: HashSet<_> =
            answers.iter().filter(|(_, is)| *is == Claimed::Fresh).map(|(claim, _)| claim.key).collect();
        let mut first = HashSet::new();
        reservation.retain(|claim| fresh.contains(&claim.key) && first.insert(claim.key));
        Ok((answers.into_iter().map(|(_, is)| is).collect(), reservation))
    }

    /// The message is taken back: its key is free again, durably, and whoever claims it waits until the reservation is
    /// dropped, or kept because the message stays after all.
    ///
    /// # Errors
    /// `Store`; the key counts as before.
    pub async fn forget(&self, key: Key, message_id: MessageId, now: SystemTime) -> Result<Reservation, Error> {
        let reserved = Claim { key, content: Content([0; 16]), message_id };
        let mut reservation = self.reserve(vec![reserved], now).await;
        let keys = self.clone();
        let held = blocking(move || {
            let held = keys.0.store.get(key)?.filter(|(claim, _)| claim.message_id == message_id);
            if held.is_some() {
                keys.0.store.remove(key)?;
            }
            Ok(held)
        });
        match held.await? {
            Some((claim, _)) => reservation.held = vec![claim],
            None => reservation.retain(|_| false),
        }
        Ok(reservation)
    }

    /// Messages that the spool still holds and when each was accepted: their keys count again. At start only.
    ///
    /// # Errors
    /// `Store`.
    pub async fn restore(&self, held: Vec<(Claim, SystemTime)>, now: SystemTime) -> Result<(), Error> {
        let keys = self.clone();
        blocking(move || {
            let mut lost = Vec::new();
            for (claim, accepted) in held {
                if !keys.has_ended(accepted, now) && keys.look_up(claim.key, now)?.is_none() {
                    lost.push((claim, accepted));
                }
            }
            keys.0.store.put(&lost)
        })
        .await
    }

    /// Removes keys whose window has passed.
    ///
    /// # Errors
    /// `Store`.
    pub async fn prune(&self, now: SystemTime) -> Result<u64, Error> {
        let cutoff = millis(now.checked_sub(self.0.window).unwrap_or(UNIX_EPOCH));
        let mut removed = 0;
        loop {
            let keys = self.clone();
            let count = blocking(move || keys.0.store.remove_until(cutoff, PRUNE_MAX)).await?;
            removed += count as u64;
            if count < PRUNE_MAX {
                return Ok(removed);
            }
        }
    }

    /// Waits until none of the keys is reserved, then takes all of them: never some, so that batches cannot block each other.
    async fn reserve(&self, claims: Vec<Claim>, claimed: SystemTime) -> Reservation {
        loop {
            let mut freed = self.0.freed.subscribe();
            if self.try_reserve(&claims) {
                return Reservation { keys: self.clone(), held: claims, claimed };
            }
            // Its sender lives in `self`.
            let _ = freed.changed().await;
        }
    }

    fn try_reserve(&self, claims: &[Claim]) -> bool {
        let mut reserved = self.reserved();
        let is_free = !claims.iter().any(|claim| reserved.contains(&claim.key));
        if is_free {
            reserved.extend(claims.iter().map(|claim| claim.key));
        }
        is_free
    }

    fn answers(&self, claims: &[Claim], now: SystemTime) -> Result<Vec<(Claim, Claimed)>, Error> {
        let mut earlier: HashMap<Key, Claim> = HashMap::new();
        claims
            .iter()
            .map(|claim| {
                let known = match earlier.get(&claim.key) {
                    Some(first) => Some(*first),
                    None => self.look_up(claim.key, now)?,
                };
                let answer = match known {
                    None => Claimed::Fresh,
                    Some(first) if first.content == claim.content => Claimed::Same(first.message_id),
                    Some(_) => Claimed::Conflict,
                };
                earlier.entry(claim.key).or_insert(known.unwrap_or(*claim));
                Ok((*claim, answer))
            })
            .collect()
    }

    /// The claim that holds the key, if its window is still open.
    fn look_up(&self, key: Key, now: SystemTime) -> Result<Option<Claim>, Error> {
        let held = self.0.store.get(key)?;
        Ok(held.filter(|(_, accepted)| !self.has_ended(*accepted, now)).map(|(claim, _)| claim))
    }

    fn has_ended(&self, accepted: SystemTime, now: SystemTime) -> bool {
        now.duration_since(accepted).is_ok_and(|age| age >= self.0.window)
    }

    /// Durable when it returns; one sync serves all who wait.
    async fn write(&self, held: Vec<(Claim, SystemTime)>) -> Result<(), Error> {
        let keys = self.clone();
        blocking(move || keys.0.store.put(&held)).await?;
        let mine = self.0.written.fetch_add(1, Ordering::SeqCst) + 1;
        let mut synced = self.0.synced.lock().await;
        if *synced < mine {
            let all = self.0.written.load(Ordering::SeqCst);
            let keys = self.clone();
            blocking(move || keys.0.store.sync()).await?;
            *synced = all;
        }
        Ok(())
    }

    fn reserved(&self) -> MutexGuard<'_, HashSet<Key>> {
        self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Writes the keys of the messages that the spool accepted and frees the others; durable when it returns. Call it in the
    /// task that appends: dropped in between, a message would be accepted without its key.
    ///
    /// # Errors
    /// `Store`: the messages stay accepted, but their keys may be forgotten.
    pub async fn keep(mut self, is_accepted: impl Fn(MessageId) -> bool) -> Result<(), Error> {
        self.retain(|claim| is_accepted(claim.message_id));
        let held: Vec<_> = self.held.iter().map(|claim| (*claim, self.claimed)).collect();
        if held.is_empty() {
            return Ok(());
        }
        self.keys.write(held).await
    }

    /// Frees what `wants` does not want.
    fn retain(&mut self, wants: impl FnMut(&Claim) -> bool) {
        let before: HashSet<_> = self.held.iter().map(|claim| claim.key).collect();
        self.held.retain(wants);
        let after: HashSet<_> = self.held.iter().map(|claim| claim.key).collect();
        self.free(&before - &after);
    }

    fn free(&self, keys: HashSet<Key>) {
        if !keys.is_empty() {
            self.keys.reserved().retain(|key| !keys.contains(key));
            self.keys.0.freed.send_modify(|version| *version += 1);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.free(self.held.iter().map(|claim| claim.key).collect());
    }
}

/// The database: key → (content, message id, accepted), and (accepted, key) for pruning.
struct Store {
    db: sled::Db,
    by_key: sled::Tree,
    by_time: sled::Tree,
    /// Its file once more: sled's own flush does not reach the disk (sled issue 1452).
    file: Arc<dyn File>,
}

impl Store {
    /// `current` names the subfolder that counts. A damaged or bloated one is followed by the next number.
    fn open(dir: &Path, rewrite_bytes_min: u64) -> Result<Self, Error> {
        let disk = RealDisk::at(dir).map_err(store)?;
        let current = disk::read_whole(&disk, "current").ok().and_then(|text| String::from_utf8(text).ok());
        let current: u64 = current.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
        match Self::open_patiently(&dir.join(current.to_string()))? {
            Some(kept) if !kept.is_bloated(rewrite_bytes_min) => {
                disk.sync_dir("").map_err(store)?;
                Ok(kept)
            }
            Some(bloated) => {
                let next = Self::begin(dir, &disk, current + 1, Some(&bloated))?;
                drop(bloated);
                remove_files(&dir.join(current.to_string()));
                Ok(next)
            }
            None => Self::begin(dir, &disk, current + 1, None),
        }
    }

    /// sled's own threads hold the lock for a moment after its last user has gone.
    fn open_patiently(dir: &Path) -> Result<Option<Self>, Error> {
        for pause_ms in [5, 10, 20, 40, 80, 160, 320, 640, 1_280] {
            match Self::open_guarded(dir) {
                Err(Error::InUse) => std::thread::sleep(Duration::from_millis(pause_ms)),
                opened => return opened,
            }
        }
        Self::open_guarded(dir)
    }

    /// `None`: it is damaged, which sled says by an error or by a panic.
    fn open_guarded(dir: &Path) -> Result<Option<Self>, Error> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_at(dir)));
        let damage = match opened {
            Ok(Ok(opened)) => return Ok(Some(opened)),
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("acquire lock") => return Err(Error::InUse),
            Ok(Err(sled::Error::Io(error))) if error.kind() != std::io::ErrorKind::InvalidData => {
                return Err(store(error));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panics".into(),
        };
        tracing::error!(dir = %dir.display(), damage, "idempotency keys cannot be read; left there, and begun anew");
        Ok(None)
    }

    fn open_at(dir: &Path) -> sled::Result<Self> {
        let db = sled::Config::new().path(dir).cache_capacity(CACHE_BYTES_MAX).flush_every_ms(None).open()?;
        let (by_key, by_time) = (db.open_tree("by_key")?, db.open_tree("by_time")?);
        by_key.first()?;
        by_time.first()?;
        db.flush()?;
        let disk = RealDisk::at(dir)?;
        let file = disk.open("db")?;
        file.sync_data()?;
        disk.sync_dir("")?;
        Ok(Self { db, by_key, by_time, file })
    }

    /// A new database, with what lives in `old`; `current` names it once it is durable.
    fn begin(dir: &Path, disk: &RealDisk, number: u64, old: Option<&Self>) -> Result<Self, Error> {
        let next = Self::open_at(&dir.join(number.to_string())).map_err(store)?;
        if let Some(old) = old {
            for (from, to) in [(&old.by_time, &next.by_time), (&old.by_key, &next.by_key)] {
                for entry in from {
                    let (key, value) = entry.map_err(store)?;
                    to.insert(key, value).map_err(store)?;
                }
            }
            next.sync()?;
        }
        disk.sync_dir("").map_err(store)?;
        disk::replace(disk, "current", &[number.to_string().as_bytes()]).map_err(store)?;
        Ok(next)
    }

    /// sled never shrinks by itself.
    fn is_bloated(&self, bytes_min: u64) -> bool {
        let size_bytes = self.db.size_on_disk().unwrap_or(0);
        size_bytes > bytes_min && size_bytes / 4 > self.by_key.len() as u64 * ENTRY_BYTES
    }

    fn get(&self, key: Key) -> Result<Option<(Claim, SystemTime)>, Error> {
        let value = self.by_key.get(key.0).map_err(store)?;
        Ok(value.and_then(|value| {
            let (content, rest) = value.split_first_chunk::<16>()?;
            let (id, rest) = rest.split_first_chunk::<16>()?;
            let accepted = u64::from_be_bytes(*rest.first_chunk::<8>()?);
            let claim = Claim { key, content: Content(*content), message_id: MessageId(u128::from_be_bytes(*id)) };
            Some((claim, UNIX_EPOCH + Duration::from_millis(accepted)))
        }))
    }

    /// Durable when it returns. What it leaves in the order of time is pruned like any other.
    fn remove(&self, key: Key) -> Result<(), Error> {
        self.by_key.remove(key.0).map_err(store)?;
        self.sync()
    }

    /// In memory when it returns; `sync` makes it durable.
    fn put(&self, held: &[(Claim, SystemTime)]) -> Result<(), Error> {
        let (mut by_key, mut by_time) = (sled::Batch::default(), sled::Batch::default());
        for (claim, accepted) in held {
            let accepted = millis(*accepted).to_be_bytes();
            let id = claim.message_id.0.to_be_bytes();
            by_time.insert([&accepted[..], &claim.key.0].concat(), &[]);
            by_key.insert(&claim.key.0, [&claim.content.0[..], &id, &accepted].concat());
        }
        self.by_time.apply_batch(by_time).map_err(store)?;
        self.by_key.apply_batch(by_key).map_err(store)
    }

    fn sync(&self) -> Result<(), Error> {
        self.db.flush().map_err(store)?;
        self.file.sync_data().map_err(store)
    }

    /// Removes at most `count_max` keys that were accepted at or before `cutoff`.
    fn remove_until(&self, cutoff: u64, count_max: usize) -> Result<usize, Error> {
        let (mut by_key, mut by_time) = (sled::Batch::default(), sled::Batch::default());
        let mut count = 0;
        for entry in self.by_time.range(..=[&cutoff.to_be_bytes()[..], &[0xff; 16]].concat()).take(count_max) {
            let (place, _) = entry.map_err(store)?;
            let (accepted, key) = place.split_at(8);
            // A key that was used again since has a younger entry of its own.
            if self.by_key.get(key).map_err(store)?.is_some_and(|value| value.ends_with(accepted)) {
                by_key.remove(key);
            }
            by_time.remove(&place);
            count += 1;
        }
        self.by_key.apply_batch(by_key).map_err(store)?;
        self.by_time.apply_batch(by_time).map_err(store)?;
        Ok(count)
    }
}

/// What a rewritten database leaves; whatever stays is only space.
fn remove_files(dir: &Path) {
    let Ok(disk) = RealDisk::at(dir) else { return };
    for (name, _) in disk.list("").unwrap_or_default() {
        if let Err(error) = disk.remove(&name) {
            tracing::warn!(dir = disk.describe(), name, %error, "not removed");
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn store(error: impl ToString) -> Error {
    Error::Store(error.to_string())
}

/// sled may read or write the disk, and may panic where it finds damage.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(store(error)))
}
