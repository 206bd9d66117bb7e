//! How many are inside, in sum and from one address: no single caller takes all the places.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub count_max: usize,
    pub per_address_max: usize,
}

/// Those who are inside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Crowd {
    limits: Limits,
    /// Std's: held for a count, never across an await.
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    sum: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// One place inside, until dropped.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    counts: Arc<Mutex<Counts>>,
}

/// The limit that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("{0} at once, no more")]
    All(usize),
    #[error("{0} at once from one address, no more")]
    Address(usize),
}

impl Crowd {
    pub fn new(limits: Limits) -> Self {
        Self { limits, counts: Arc::default() }
    }

    /// # Errors
    /// There is no place left, or none for this address.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Full> {
        let Limits { count_max, per_address_max } = self.limits;
        let address = network(address);
        let mut counts = lock(&self.counts);
        if counts.sum >= count_max {
            return Err(Full::All(count_max));
        }
        let own = counts.by_address.entry(address).or_default();
        // Where it is above zero already: an entry is never left at zero.
        if *own >= per_address_max {
            return Err(Full::Address(per_address_max));
        }
        *own += 1;
        counts.sum += 1;
        Ok(Place { address, counts: self.counts.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        counts.sum -= 1;
        if let Some(own) = counts.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// One machine has all addresses of a /64 (RFC 4291 section 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_the_places() {
        let crowd = Crowd::new(Limits { count_max: 3, per_address_max: 2 });
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let mut inside = vec![enter("10.0.0.1").unwrap(), enter("::ffff:10.0.0.1").unwrap()];
        assert_eq!(enter("10.0.0.1").unwrap_err(), Full::Address(2));
        inside.push(enter("2001:db8::1").unwrap());
        assert_eq!(enter("10.0.0.2").unwrap_err(), Full::All(3));
        inside.remove(0);
        inside.push(enter("2001:db8::2").unwrap());
        inside.remove(0);
        assert_eq!(enter("2001:db8::3").unwrap_err(), Full::Address(2), "one network, one machine");
        inside.clear();
        assert!(lock(&crowd.counts).by_address.is_empty(), "nothing is kept of those who left");
    }
}
