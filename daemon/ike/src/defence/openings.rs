//! How often the body of one ticket is opened. Only the envelope is known to be ours before that: a
//! captured ticket with another body in every message would make us decrypt each of them. The gate
//! has the same meters; these are for those it does not stand in front of. All workers of a gateway charge
//! the same cells.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use gate_abi::{
    defence::Meter,
    sip::{SipKey, siphash24_words},
};

use super::budget::network;

/// Cells of each of the two meters. A ticket has two of them and is hot when both are used up, so that
/// ten thousand clients who come back at once hardly ever stand in each other's way.
const CELLS: usize = 1 << 16;

/// Meters of openings by ticket, and by ticket and network.
#[derive(Debug)]
pub struct Openings {
    key: SipKey,
    unproven: Box<[AtomicU64]>,
    proven: Box<[AtomicU64]>,
}

impl Openings {
    /// No ticket opened yet. The key is drawn, so that nobody chooses who shares a cell.
    #[must_use]
    pub fn new(key: SipKey) -> Self {
        let cells = || (0..CELLS).map(|_| AtomicU64::new(0)).collect();
        Self {
            key,
            unproven: cells(),
            proven: cells(),
        }
    }

    /// Takes one opening that anybody may ask for, of the ticket with this envelope tag. If there is
    /// none, the ticket is hot.
    pub(crate) fn take(&self, ticket: u64, now: Duration) -> bool {
        let hash = siphash24_words(&self.key, &[ticket]);
        charge(&self.unproven, Meter::Ticket, hash, now)
    }

    /// Takes one for an address that has shown a cookie: its network's share, which nobody elsewhere
    /// can use up.
    pub(crate) fn take_proven(&self, ticket: u64, from: IpAddr, now: Duration) -> bool {
        let hash = siphash24_words(&self.key, &[ticket, network(from)]);
        charge(&self.proven, Meter::TicketNetwork, hash, now)
    }
}

fn charge(cells: &[AtomicU64], meter: Meter, hash: u64, now: Duration) -> bool {
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut taken = false;
    for row in [hash, hash >> 32] {
        let charged = cells.get(row as usize % CELLS).is_some_and(|cell| {
            let charge = |used_until| meter.limit().charge(used_until, now);
            let charged = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge);
            charged.is_ok()
        });
        taken |= charged;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_opened_three_times_and_then_once_in_five_seconds() {
        let openings = Openings::new(SipKey { k0: 1, k1: 2 });
        let ticket = 99;
        let at = |second: u64| Duration::from_secs(1000 + second);
        let taken = |openings: &Openings, second| {
            (0..10)
                .filter(|_| openings.take(ticket, at(second)))
                .count()
        };
        assert_eq!(taken(&openings, 0), 3);
        assert_eq!(taken(&openings, 4), 0);
        assert_eq!(taken(&openings, 5), 1);
        let [here, there] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("address"));
        let of = |openings: &Openings, from| {
            (0..10)
                .filter(|_| openings.take_proven(ticket, from, at(5)))
                .count()
        };
        assert_eq!(of(&openings, here), 3);
        assert_eq!(of(&openings, there), 3, "another network's share");
    }
}
