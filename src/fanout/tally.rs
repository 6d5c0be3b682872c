//! How many connections of a kind there are: in all, and from each address.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;

/// A count, in all and by address.
#[derive(Debug, Default)]
pub struct Tally {
    all: AtomicUsize,
    addresses: DashMap<IpAddr, usize>,
}

impl Tally {
    /// Counts one in.
    pub fn add(&self, ip: IpAddr) {
        self.all.fetch_add(1, Ordering::Relaxed);
        *self.addresses.entry(ip).or_default() += 1;
    }

    /// Counts one out that was counted in.
    pub fn remove(&self, ip: IpAddr) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if let dashmap::Entry::Occupied(mut count) = self.addresses.entry(ip) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Those from an address.
    #[must_use]
    pub fn from(&self, ip: IpAddr) -> usize {
        self.addresses.get(&ip).map_or(0, |count| *count)
    }
}
