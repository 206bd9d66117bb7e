//! A disk in memory that forgets what was not synced: the test support behind the crash tests. Seeded, so a failure repeats.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::disk::{Disk, File};

const SECTOR: usize = 512;

/// Which call a planned fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write,
    Sync,
    SyncDir,
    Read,
    Create,
}

/// The disk. Clones are the same disk. After `crash` the old one answers only errors; what survived is a new one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: StdRng,
    inodes: Vec<Inode>,
    /// Names now, and the names' changes that no `sync_dir` has covered, in order.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<Vec<NameChange>>,
    ignore_sync: bool,
    dead: bool,
    locked: bool,
    plans: Vec<Plan>,
    syncs: u64,
}

/// A name and what it stands for from now on. A rename is two of them that happen together.
type NameChange = (String, Option<usize>);

struct Plan {
    call: Call,
    skip: usize,
    times: usize,
    error: i32,
}

#[derive(Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Len(usize),
}

pub const EIO: i32 = 5;
pub const ENOSPC: i32 = 28;

impl SimDisk {
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            rng: StdRng::seed_from_u64(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            ignore_sync: false,
            dead: false,
            locked: false,
            plans: Vec::new(),
            syncs: 0,
        })
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Power is cut: returns the disk as it comes back. Of what was not synced, a random part is there, torn at sectors.
    pub fn crash(&self) -> SimDisk {
        let mut state = self.state();
        state.dead = true;
        let seed = state.rng.random();
        let mut rng = StdRng::seed_from_u64(seed);
        let pending = std::mem::take(&mut state.pending_names);
        let kept = rng.random_range(0..=pending.len());
        let mut names = std::mem::take(&mut state.durable_names);
        pending.into_iter().take(kept).flatten().for_each(|change| apply_name(&mut names, change));
        let inodes = std::mem::take(&mut state.inodes).into_iter().map(|inode| inode.survive(&mut rng)).collect();
        let ignore_sync = state.ignore_sync;
        drop(state);
        let survivor = SimDisk::new(seed);
        let mut next = survivor.state();
        next.inodes = inodes;
        next.durable_names = names.clone();
        next.names = names;
        next.ignore_sync = ignore_sync;
        drop(next);
        survivor
    }

    /// A lying disk: syncs answer Ok and do nothing. The crash test must then find losses, or it tests nothing.
    pub fn ignore_sync(&self, ignore: bool) {
        self.state().ignore_sync = ignore;
    }

    /// After `skip` more such calls, the next `times` fail with this errno.
    pub fn fail(&self, call: Call, skip: usize, times: usize, error: i32) {
        self.state().plans.push(Plan { call, skip, times, error });
    }

    /// Everything written so far becomes durable, as it does when the power stays on for a while.
    pub fn settle(&self) {
        let mut state = self.state();
        state.pending_names.clear();
        state.durable_names = state.names.clone();
        for inode in &mut state.inodes {
            inode.durable = inode.now.clone();
            inode.pending.clear();
        }
    }

    pub fn heal(&self) {
        self.state().plans.clear();
    }

    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&inode| state.inodes[inode].now.clone())
    }

    /// Changes a file behind the spool's back, durably.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = *state.names.get(name).expect("the test names a file that is there");
        let inode = &mut state.inodes[inode];
        change(&mut inode.now);
        inode.durable = inode.now.clone();
        inode.pending.clear();
    }
}

impl Inode {
    fn survive(mut self, rng: &mut StdRng) -> Inode {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Change::Len(len) if rng.random_bool(0.5) => self.durable.resize(len, 0),
                Change::Len(_) => {}
                Change::Write { offset, bytes } => keep_sectors(&mut self.durable, offset, &bytes, rng),
            }
        }
        Inode { now: self.durable.clone(), durable: self.durable, pending: Vec::new() }
    }
}

/// Each crash has a mood: nothing, most, or a random half of the sectors arrive.
fn keep_sectors(durable: &mut Vec<u8>, offset: usize, bytes: &[u8], rng: &mut StdRng) {
    let kept = [0.0, 0.5, 0.95, 1.0][rng.random_range(0..4)];
    let mut at = offset;
    while at < offset + bytes.len() {
        let end = ((at / SECTOR + 1) * SECTOR).min(offset + bytes.len());
        if rng.random_bool(kept) {
            put(durable, at, &bytes[at - offset..end - offset]);
        }
        at = end;
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn apply_name(names: &mut BTreeMap<String, usize>, (name, inode): NameChange) {
    match inode {
        Some(inode) => names.insert(name, inode),
        None => names.remove(&name),
    };
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl State {
    fn check(&mut self, call: Call) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        for plan in self.plans.iter_mut().filter(|plan| plan.call == call) {
            if plan.skip > 0 {
                plan.skip -= 1;
            } else if plan.times > 0 {
                plan.times -= 1;
                return Err(io::Error::from_raw_os_error(plan.error));
            }
        }
        Ok(())
    }

    fn set_names(&mut self, changes: &[(&str, Option<usize>)]) {
        let changes: Vec<NameChange> = changes.iter().map(|(name, inode)| ((*name).to_owned(), *inode)).collect();
        changes.iter().cloned().for_each(|change| apply_name(&mut self.names, change));
        self.pending_names.push(changes);
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for SimDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.check(Call::Create)?;
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.set_names(&[(name, Some(inode))]);
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        state.check(Call::Read)?;
        let inode = state.find(name)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::SyncDir)?;
        let inode = state.find(from)?;
        state.set_names(&[(to, Some(inode)), (from, None)]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::SyncDir)?;
        state.find(name)?;
        state.set_names(&[(name, None)]);
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.check(Call::Read)?;
        let names = state.names.iter().filter(|(name, _)| folder_of(name) == folder);
        Ok(names
            .map(|(name, &inode)| {
                let short = name.rsplit_once('/').map_or(name.as_str(), |(_, short)| short);
                (short.to_owned(), state.inodes[inode].now.len() as u64)
            })
            .collect())
    }

    fn make_folder(&self, _folder: &str) -> io::Result<()> {
        self.state().check(Call::Create)
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state();
        state.check(Call::SyncDir)?;
        if !state.ignore_sync {
            let pending = std::mem::take(&mut state.pending_names);
            for changes in pending {
                if changes.iter().any(|(name, _)| folder_of(name) == folder) {
                    changes.into_iter().for_each(|change| apply_name(&mut state.durable_names, change));
                } else {
                    state.pending_names.push(changes);
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.state();
        state.check(Call::Create)?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(self.clone()))))
    }

    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }
}

struct Lock(SimDisk);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.check(Call::Read)?;
        let now = &state.inodes[self.inode].now;
        let start = (offset as usize).min(now.len());
        let n = buffer.len().min(now.len() - start);
        buffer[..n].copy_from_slice(&now[start..start + n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.disk.state();
        let verdict = state.check(Call::Write);
        if state.dead {
            return verdict;
        }
        let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if verdict.is_err() {
            let reached = state.rng.random_range(0..=bytes.len());
            bytes.truncate(reached);
        }
        let inode = &mut state.inodes[self.inode];
        put(&mut inode.now, offset as usize, &bytes);
        inode.pending.push(Change::Write { offset: offset as usize, bytes });
        verdict
    }

    /// A failed sync leaves an unknown part on the disk and forgets the rest: the next sync will not write it (fsyncgate).
    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        let verdict = state.check(Call::Sync);
        if state.dead {
            return verdict;
        }
        state.syncs += 1;
        let mut rng = StdRng::seed_from_u64(state.rng.random());
        let ignore = state.ignore_sync;
        let inode = &mut state.inodes[self.inode];
        if verdict.is_err() {
            let now = std::mem::take(&mut inode.now);
            *inode = std::mem::take(inode).survive(&mut rng);
            inode.now = now;
        } else if !ignore {
            for change in std::mem::take(&mut inode.pending) {
                match change {
                    Change::Write { offset, bytes } => put(&mut inode.durable, offset, &bytes),
                    Change::Len(len) => inode.durable.resize(len, 0),
                }
            }
        }
        verdict
    }

    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.check(Call::Read)?;
        Ok(state.inodes[self.inode].now.len() as u64)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.check(Call::Write)?;
        let inode = &mut state.inodes[self.inode];
        inode.now.resize(len as usize, 0);
        inode.pending.push(Change::Len(len as usize));
        Ok(())
    }
}
