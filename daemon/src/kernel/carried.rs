//! What the states of an owner have carried that are gone: a session has new keys many times, and its
//! account goes on.

use std::collections::HashMap;

use super::Usage;

/// Counts by reqid.
#[derive(Debug, Default)]
pub(super) struct Carried(HashMap<u32, Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// Of states that are gone.
    gone: Usage,
    /// Of all, as far as an account has said it.
    told: Usage,
}

impl Carried {
    /// A state goes that has carried this.
    pub(super) fn add(&mut self, reqid: u32, inbound: bool, (bytes, packets): (u64, u64)) {
        let gone = &mut self.0.entry(reqid).or_default().gone;
        gone.add(inbound, (bytes, packets));
    }

    /// What the owner has carried since its last account; `present` is of the states that it has.
    pub(super) fn since_account(&self, reqid: u32, present: Usage) -> Usage {
        match self.0.get(&reqid) {
            Some(Counts { gone, told }) => gone.plus(present).minus(*told),
            None => present,
        }
    }

    /// The same, and with that an account is given. `goes_on` is whether there are states that may carry more.
    pub(super) fn account(&mut self, reqid: u32, present: Usage, goes_on: bool) -> Usage {
        let usage = self.since_account(reqid, present);
        if goes_on {
            let counts = self.0.entry(reqid).or_default();
            counts.told = counts.gone.plus(present);
        } else {
            self.forget(reqid);
        }
        usage
    }

    /// The reqid has another owner now, or none.
    pub(super) fn forget(&mut self, reqid: u32) {
        self.0.remove(&reqid);
    }

    /// Forgets whatever belongs to nobody any more.
    pub(super) fn retain(&mut self, known: impl Fn(u32) -> bool) {
        self.0.retain(|reqid, _| known(*reqid));
    }

    /// Owners with counts.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Usage {
    /// Adds what one state has carried.
    pub(super) const fn add(&mut self, inbound: bool, (bytes, packets): (u64, u64)) {
        let (all_bytes, all_packets) = if inbound {
            (&mut self.in_bytes, &mut self.in_packets)
        } else {
            (&mut self.out_bytes, &mut self.out_packets)
        };
        *all_bytes = all_bytes.saturating_add(bytes);
        *all_packets = all_packets.saturating_add(packets);
    }

    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            in_bytes: self.in_bytes.saturating_add(other.in_bytes),
            in_packets: self.in_packets.saturating_add(other.in_packets),
            out_bytes: self.out_bytes.saturating_add(other.out_bytes),
            out_packets: self.out_packets.saturating_add(other.out_packets),
        }
    }

    /// What is beyond the other. A state that the kernel has ended while its events were lost took its
    /// counts along: then nothing is.
    const fn minus(self, other: Self) -> Self {
        Self {
            in_bytes: self.in_bytes.saturating_sub(other.in_bytes),
            in_packets: self.in_packets.saturating_sub(other.in_packets),
            out_bytes: self.out_bytes.saturating_sub(other.out_bytes),
            out_packets: self.out_packets.saturating_sub(other.out_packets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQID: u32 = 7;

    fn received(bytes: u64) -> Usage {
        Usage {
            in_bytes: bytes,
            in_packets: bytes / 100,
            ..Usage::default()
        }
    }

    #[test]
    fn nothing_is_told_twice_and_nothing_is_lost() {
        let mut carried = Carried::default();
        assert_eq!(carried.since_account(REQID, received(300)), received(300));
        // New keys: what the old state has carried is not forgotten.
        carried.add(REQID, true, (300, 3));
        assert_eq!(carried.since_account(REQID, received(200)), received(500));
        // A session ends, and the last that the peer has sent to it drains.
        assert_eq!(carried.account(REQID, received(200), true), received(500));
        assert_eq!(
            carried.since_account(REQID, received(200)),
            Usage::default()
        );
        assert_eq!(carried.since_account(REQID, received(700)), received(500));
        // That is over too, and all states with it.
        carried.add(REQID, true, (900, 9));
        assert_eq!(
            carried.account(REQID, Usage::default(), false),
            received(700)
        );
        assert_eq!(carried.len(), 0);
    }

    #[test]
    fn directions_are_apart_and_counts_that_went_missing_wrap_nothing() {
        let mut carried = Carried::default();
        carried.add(REQID, false, (50, 1));
        let usage = carried.account(REQID, received(100), true);
        assert_eq!((usage.in_bytes, usage.out_bytes), (100, 50));
        assert_eq!((usage.in_packets, usage.out_packets), (1, 1));
        assert_eq!(
            carried.since_account(REQID, Usage::default()),
            Usage::default(),
            "the state went unseen"
        );
        carried.retain(|reqid| reqid != REQID);
        assert_eq!(carried.len(), 0);
    }
}
