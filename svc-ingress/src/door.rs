//! Counts what is inside and lets no more in: connections by listener and peer, and bytes of messages in hand.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// One listener's connections. A std mutex: held for a few instructions, never over an await.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    max_per_peer: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    count: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// Why a connection may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Listener { limit: usize },
    Peer { limit: usize },
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    connections: Arc<Connections>,
    peer: IpAddr,
}

impl Connections {
    pub fn new(max: usize, max_per_peer: usize) -> Self {
        Self { max, max_per_peer, inside: Mutex::default() }
    }

    /// # Errors
    /// Which limit is reached.
    pub fn enter(self: &Arc<Self>, peer: IpAddr) -> Result<Place, Full> {
        let mut inside = self.lock();
        if inside.count >= self.max {
            return Err(Full::Listener { limit: self.max });
        }
        let of_peer = inside.by_peer.entry(peer).or_default();
        if *of_peer >= self.max_per_peer {
            return Err(Full::Peer { limit: self.max_per_peer });
        }
        *of_peer += 1;
        inside.count += 1;
        Ok(Place { connections: self.clone(), peer })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.connections.lock();
        inside.count -= 1;
        let of_peer = inside.by_peer.get_mut(&self.peer);
        if of_peer.is_some_and(|count| std::mem::replace(count, *count - 1) == 1) {
            inside.by_peer.remove(&self.peer);
        }
    }
}

/// Bytes of messages that are being received or queued.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

/// One message's, or one call's, part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, used_bytes: AtomicUsize::new(0) }
    }

    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Nothing yet.
    pub fn charge(self: &Arc<Self>) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
    }
}

impl Charge {
    /// Takes `bytes` more; false where they are not to be had, and then takes nothing.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.budget.limit_bytes);
        let taken = self.budget.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        self.bytes += if taken { bytes } else { 0 };
        taken
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let connections = Arc::new(Connections::new(3, 2));
        let [a, b] = ["192.0.2.1", "192.0.2.2"].map(|peer| peer.parse().unwrap());
        let first = connections.enter(a).unwrap();
        let _second = connections.enter(a).unwrap();
        assert_eq!(connections.enter(a).unwrap_err(), Full::Peer { limit: 2 });
        let third = connections.enter(b).unwrap();
        assert_eq!(connections.enter(b).unwrap_err(), Full::Listener { limit: 3 });
        drop((first, third));
        let _again = connections.enter(a).unwrap();
        assert_eq!(connections.lock().by_peer.len(), 1);
    }

    #[test]
    fn bytes_are_limited_and_given_back() {
        let budget = Arc::new(Budget::new(10));
        let mut charge = budget.charge();
        assert!(charge.grow(6) && !charge.grow(5) && charge.grow(4));
        assert!(!budget.charge().grow(1));
        assert_eq!((charge.bytes(), budget.used_bytes()), (10, 10));
        drop(charge);
        assert_eq!(budget.used_bytes(), 0);
    }
}
