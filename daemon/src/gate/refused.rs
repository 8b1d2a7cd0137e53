//! The networks that most of the dropped packets come from, by the few that the gate shows. A table of fixed
//! size counts those that come often ("space-saving": whoever is new takes the place and the count of the
//! rarest), and forgets half of it every minute.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use gate_abi::classify::Reason;

/// Networks that are counted at a time.
const MOST_COUNTED: usize = 64;
/// After so long what was counted counts half.
const HALF_LIFE: Duration = Duration::from_mins(1);

/// A network, and its part of the packets dropped of late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its first address: all of one for IPv4, 64 bits for IPv6.
    pub network: IpAddr,
    /// Of a hundred packets that the gate has shown, so many at least.
    pub percent: u8,
    /// Why the last of them was dropped.
    pub reason: Reason,
}

#[derive(Debug, Default)]
pub(super) struct Refusals {
    counted: Vec<Entry>,
    total: u64,
    halved: Duration,
}

#[derive(Debug)]
struct Entry {
    network: IpAddr,
    count: u64,
    /// What of the count is somebody else's.
    taken_over: u64,
    reason: Reason,
}

impl Refusals {
    /// A packet from this address was dropped then.
    pub(super) fn add(&mut self, from: IpAddr, reason: Reason, at: Duration) {
        if at.saturating_sub(self.halved) >= HALF_LIFE {
            self.halve(at);
        }
        self.total += 1;
        let network = network_of(from);
        let known = self.counted.iter_mut().find(|one| one.network == network);
        if let Some(one) = known {
            one.count += 1;
            one.reason = reason;
            return;
        }
        let mut taken_over = 0;
        if self.counted.len() >= MOST_COUNTED {
            let counts = self.counted.iter().enumerate();
            let rarest = counts.min_by_key(|(_, one)| one.count).map(|(at, _)| at);
            taken_over = rarest.map_or(0, |at| self.counted.swap_remove(at).count);
        }
        self.counted.push(Entry {
            network,
            count: taken_over + 1,
            taken_over,
            reason,
        });
    }

    fn halve(&mut self, now: Duration) {
        let halves = now.saturating_sub(self.halved).as_secs() / HALF_LIFE.as_secs();
        let by = halves.min(63) as u32;
        self.halved = now;
        self.total >>= by;
        for one in &mut self.counted {
            one.count >>= by;
            one.taken_over >>= by;
        }
        self.counted.retain(|one| one.count > 0);
    }

    /// So many of them, those first that come most often.
    pub(super) fn top(&self, most: usize, now: Duration) -> Vec<Refused> {
        if now.saturating_sub(self.halved) >= 8 * HALF_LIFE {
            return Vec::new();
        }
        let own = |one: &Entry| one.count.saturating_sub(one.taken_over);
        let mut all: Vec<&Entry> = self.counted.iter().filter(|one| own(one) > 0).collect();
        all.sort_by_key(|one| (std::cmp::Reverse(own(one)), one.network));
        let refused = all.into_iter().take(most).map(|one| Refused {
            network: one.network,
            percent: (own(one) * 100 / self.total.max(1)).min(100) as u8,
            reason: one.reason,
        });
        refused.collect()
    }
}

/// What one attacker has for nothing: an address of IPv4, 64 bits of IPv6.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        v4 @ IpAddr::V4(_) => v4,
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0xcb00_7100 + number).into())
    }

    #[test]
    fn whoever_sends_most_is_named_among_any_number_of_others() {
        let mut refusals = Refusals::default();
        let loud: IpAddr = "2001:db8::7".parse().expect("address");
        for number in 0..3000 {
            refusals.add(address(number), Reason::Version, seconds(1));
            if number % 3 == 0 {
                refusals.add(loud, Reason::Denied, seconds(1));
            }
        }
        assert_eq!(refusals.counted.len(), MOST_COUNTED);
        let top = refusals.top(3, seconds(2));
        let expected = Refused {
            network: "2001:db8::".parse().expect("network"),
            percent: 25,
            reason: Reason::Denied,
        };
        assert_eq!(top[0], expected);
        // What takes a place over does not count as its own.
        assert!(top[1..].iter().all(|one| one.percent == 0), "{top:?}");
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut refusals = Refusals::default();
        for _ in 0..100 {
            refusals.add(address(1), Reason::Denied, seconds(60));
        }
        for _ in 0..75 {
            refusals.add(address(2), Reason::Version, seconds(120));
        }
        let top = refusals.top(8, seconds(121));
        let shares: Vec<_> = top.iter().map(|one| (one.network, one.percent)).collect();
        assert_eq!(shares, [(address(2), 60), (address(1), 40)]);
        assert_eq!(refusals.top(8, seconds(3600)), []);
    }
}
