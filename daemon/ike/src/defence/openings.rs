//! How often the body of one ticket is opened. Only the envelope is known to be ours before that: a
//! captured ticket with another body in every message would make us decrypt each of them. The gate
//! has the same meters; these are for those it does not stand in front of.

use std::{net::IpAddr, time::Duration};

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
pub(crate) struct Openings {
    key: SipKey,
    unproven: Box<[u64]>,
    proven: Box<[u64]>,
}

impl Openings {
    pub(crate) fn new(key: SipKey) -> Self {
        let cells = || vec![0; CELLS].into_boxed_slice();
        Self {
            key,
            unproven: cells(),
            proven: cells(),
        }
    }

    /// Takes one opening that anybody may ask for, of the ticket with this envelope tag. If there is
    /// none, the ticket is hot.
    pub(crate) fn take(&mut self, ticket: u64, now: Duration) -> bool {
        let hash = siphash24_words(&self.key, &[ticket]);
        charge(&mut self.unproven, Meter::Ticket, hash, now)
    }

    /// Takes one for an address that has shown a cookie: its network's share, which nobody elsewhere
    /// can use up.
    pub(crate) fn take_proven(&mut self, ticket: u64, from: IpAddr, now: Duration) -> bool {
        let hash = siphash24_words(&self.key, &[ticket, network(from)]);
        charge(&mut self.proven, Meter::TicketNetwork, hash, now)
    }
}

fn charge(cells: &mut [u64], meter: Meter, hash: u64, now: Duration) -> bool {
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut taken = false;
    for row in [hash, hash >> 32] {
        if let Some(cell) = cells.get_mut(row as usize % CELLS)
            && let Some(used_until) = meter.limit().charge(*cell, now)
        {
            *cell = used_until;
            taken = true;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_opened_three_times_and_then_once_in_five_seconds() {
        let mut openings = Openings::new(SipKey { k0: 1, k1: 2 });
        let ticket = 99;
        let at = |second: u64| Duration::from_secs(1000 + second);
        let taken = |openings: &mut Openings, second| {
            (0..10)
                .filter(|_| openings.take(ticket, at(second)))
                .count()
        };
        assert_eq!(taken(&mut openings, 0), 3);
        assert_eq!(taken(&mut openings, 4), 0);
        assert_eq!(taken(&mut openings, 5), 1);
        let [here, there] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().expect("address"));
        let of = |openings: &mut Openings, from| {
            (0..10)
                .filter(|_| openings.take_proven(ticket, from, at(5)))
                .count()
        };
        assert_eq!(of(&mut openings, here), 3);
        assert_eq!(of(&mut openings, there), 3, "another network's share");
    }
}
