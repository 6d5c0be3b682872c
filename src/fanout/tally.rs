//! How many connections of a kind there are: in all, and from each address. An IPv6 address stands for its
//! whole /64, which is what one customer is given.

use std::net::{IpAddr, Ipv6Addr};
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
        *self.addresses.entry(customer(ip)).or_default() += 1;
    }

    /// Counts one out that was counted in.
    pub fn remove(&self, ip: IpAddr) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if let dashmap::Entry::Occupied(mut count) = self.addresses.entry(customer(ip)) {
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
        self.addresses.get(&customer(ip)).map_or(0, |count| *count)
    }
}

/// Whom an address is counted for.
fn customer(ip: IpAddr) -> IpAddr {
    const NETWORK: u128 = u128::MAX << 64;
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & NETWORK).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_customers_addresses_count_together() {
        let tally = Tally::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for one in ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "192.0.2.1", "::ffff:192.0.2.1"] {
            tally.add(ip(one));
        }
        tally.add(ip("192.0.2.2"));
        assert_eq!(tally.from(ip("2001:db8:1:2:3::")), 2);
        assert_eq!(tally.from(ip("2001:db8:1:3::1")), 0);
        assert_eq!(tally.from(ip("192.0.2.1")), 2, "IPv4, however it came");
        tally.remove(ip("::ffff:192.0.2.1"));
        assert_eq!((tally.from(ip("192.0.2.1")), tally.all()), (1, 4));
    }
}
