//! How many half-open IKE SAs a network and everybody together may have. Over a network's share means
//! a cookie, never a refusal: its addresses may be forged (RFC 8019, 4.2).

use std::{collections::HashMap, net::IpAddr};

/// Counts half-open SAs. Its table holds one entry for each network with one, so the total bounds it.
#[derive(Debug)]
pub struct HalfOpenBudget {
    total: usize,
    limit: usize,
    soft_total: usize,
    soft_network: u32,
    networks: HashMap<u64, u32>,
}

/// What a new first message meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Room {
    /// Go on.
    Free,
    /// Go on if it brings a cookie.
    CookieFirst,
    /// No slot left at all, unless another gives way to a cookie.
    Full,
}

impl HalfOpenBudget {
    /// Room for `limit` in all; cookies from `soft_total` in all or `soft_network` of one network on.
    #[must_use]
    pub fn new(limit: usize, soft_total: usize, soft_network: u32) -> Self {
        Self {
            total: 0,
            limit,
            soft_total,
            soft_network,
            networks: HashMap::new(),
        }
    }

    /// What a first message from this address meets.
    #[must_use]
    pub fn room(&self, from: IpAddr) -> Room {
        if self.is_full() {
            return Room::Full;
        }
        if self.total >= self.soft_total || self.of_network(from) >= self.soft_network {
            Room::CookieFirst
        } else {
            Room::Free
        }
    }

    /// One more half-open SA.
    pub fn take(&mut self, from: IpAddr) {
        self.total += 1;
        *self.networks.entry(network(from)).or_default() += 1;
    }

    /// One half-open SA less.
    pub fn give_back(&mut self, from: IpAddr) {
        self.total = self.total.saturating_sub(1);
        let key = network(from);
        if let Some(count) = self.networks.get_mut(&key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.networks.remove(&key);
            }
        }
    }

    /// Whether one has to give way before there can be another.
    pub(crate) const fn is_full(&self) -> bool {
        self.total >= self.limit
    }

    /// Half-open SAs of an address's network now.
    pub(crate) fn of_network(&self, of: IpAddr) -> u32 {
        self.networks.get(&network(of)).copied().unwrap_or(0)
    }

    /// Half-open SAs now.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }
}

/// One IPv4 address, or one /64 of IPv6: what one attacker gets for nothing.
#[must_use]
pub fn network(address: IpAddr) -> u64 {
    match address {
        // 32 zero bits in front cannot be a /64 in use.
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_over_its_share_needs_a_cookie_and_its_neighbour_does_not() {
        let mut budget = HalfOpenBudget::new(10, 8, 2);
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        budget.take(a);
        assert_eq!(budget.room(a), Room::Free);
        budget.take(a);
        assert_eq!(
            (budget.room(a), budget.room(b)),
            (Room::CookieFirst, Room::Free)
        );
        budget.give_back(a);
        assert_eq!(budget.room(a), Room::Free);
    }

    #[test]
    fn all_addresses_of_one_ipv6_network_share_its_room() {
        let mut budget = HalfOpenBudget::new(10, 8, 1);
        budget.take("2001:db8::1".parse().unwrap());
        assert_eq!(
            budget.room("2001:db8::2".parse().unwrap()),
            Room::CookieFirst
        );
        assert_eq!(budget.room("2001:db8:0:1::2".parse().unwrap()), Room::Free);
    }

    #[test]
    fn the_total_is_a_hard_bound() {
        let mut budget = HalfOpenBudget::new(2, 2, 9);
        for i in 1..=2 {
            budget.take(IpAddr::from([192, 0, 2, i]));
        }
        assert_eq!(budget.room("198.51.100.1".parse().unwrap()), Room::Full);
        assert_eq!(budget.total(), 2);
    }
}
