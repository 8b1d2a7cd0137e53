//! What states have carried that are gone. A session has new keys many times, and its account goes on; a
//! connection has many sessions, and its totals never fall.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::Usage;

/// Connections with totals; configurations have fewer.
const MAX_CONNECTIONS: usize = 65_536;

/// Counts by reqid and by connection.
#[derive(Debug, Default)]
pub(super) struct Carried {
    owners: HashMap<u32, Counts>,
    connections: BTreeMap<Arc<str>, Usage>,
    /// The totals as they were last told.
    told: BTreeMap<Arc<str>, Usage>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Of states that are gone.
    gone: Usage,
    /// Of all, as far as an account has said it.
    told: Usage,
}

impl Carried {
    /// A state goes that has carried this, of an owner of that connection.
    pub(super) fn add(
        &mut self,
        (reqid, connection): (u32, Option<&str>),
        inbound: bool,
        counts: (u64, u64),
    ) {
        let gone = &mut self.owners.entry(reqid).or_default().gone;
        gone.add(inbound, counts);
        let Some(connection) = connection else {
            return;
        };
        if let Some(total) = self.connections.get_mut(connection) {
            total.add(inbound, counts);
        } else if self.connections.len() < MAX_CONNECTIONS {
            let mut total = Usage::default();
            total.add(inbound, counts);
            self.connections.insert(connection.into(), total);
        }
    }

    /// Totals by connection, `present` being those of the states that there are. A state that the kernel has ended
    /// by itself is in neither for a moment: nothing is told that is less than before.
    pub(super) fn totals(
        &mut self,
        present: BTreeMap<Arc<str>, Usage>,
    ) -> &BTreeMap<Arc<str>, Usage> {
        let mut totals = self.connections.clone();
        for (connection, usage) in present {
            let total = totals.entry(connection).or_default();
            *total = total.plus(usage);
        }
        for (connection, total) in totals {
            let told = self.told.entry(connection).or_default();
            *told = told.most(total);
        }
        &self.told
    }

    /// What the owner has carried since its last account; `present` is of the states that it has.
    pub(super) fn since_account(&self, reqid: u32, present: Usage) -> Usage {
        match self.owners.get(&reqid) {
            Some(Counts { gone, told }) => gone.plus(present).minus(*told),
            None => present,
        }
    }

    /// The same, and with that an account is given. `goes_on` is whether there are states that may carry more.
    pub(super) fn account(&mut self, reqid: u32, present: Usage, goes_on: bool) -> Usage {
        let usage = self.since_account(reqid, present);
        if goes_on {
            let counts = self.owners.entry(reqid).or_default();
            counts.told = counts.gone.plus(present);
        } else {
            self.forget(reqid);
        }
        usage
    }

    /// The reqid has another owner now, or none.
    pub(super) fn forget(&mut self, reqid: u32) {
        self.owners.remove(&reqid);
    }

    /// Forgets whatever belongs to nobody any more.
    pub(super) fn retain(&mut self, known: impl Fn(u32) -> bool) {
        self.owners.retain(|reqid, _| known(*reqid));
    }

    /// Owners with counts.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
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

    /// The more of each.
    fn most(self, other: Self) -> Self {
        Self {
            in_bytes: self.in_bytes.max(other.in_bytes),
            in_packets: self.in_packets.max(other.in_packets),
            out_bytes: self.out_bytes.max(other.out_bytes),
            out_packets: self.out_packets.max(other.out_packets),
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
    const OF: (u32, Option<&str>) = (REQID, Some("rw"));

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
        carried.add(OF, true, (300, 3));
        assert_eq!(carried.since_account(REQID, received(200)), received(500));
        // A session ends, and the last that the peer has sent to it drains.
        assert_eq!(carried.account(REQID, received(200), true), received(500));
        assert_eq!(
            carried.since_account(REQID, received(200)),
            Usage::default()
        );
        assert_eq!(carried.since_account(REQID, received(700)), received(500));
        // That is over too, and all states with it.
        carried.add(OF, true, (900, 9));
        assert_eq!(
            carried.account(REQID, Usage::default(), false),
            received(700)
        );
        assert_eq!(carried.len(), 0);
    }

    #[test]
    fn directions_are_apart_and_counts_that_went_missing_wrap_nothing() {
        let mut carried = Carried::default();
        carried.add(OF, false, (50, 1));
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

    #[test]
    fn totals_of_a_connection_never_fall() {
        let mut carried = Carried::default();
        let present = |bytes| BTreeMap::from([(Arc::from("rw"), received(bytes))]);
        let told = |carried: &mut Carried, bytes| carried.totals(present(bytes))["rw"];
        assert_eq!(told(&mut carried, 300), received(300));
        // The kernel has ended the state by itself, and has not said so yet.
        assert_eq!(told(&mut carried, 0), received(300));
        carried.add(OF, true, (400, 4));
        assert_eq!(told(&mut carried, 0), received(400));
        carried.add((REQID + 1, Some("rw")), true, (100, 1));
        carried.account(REQID, Usage::default(), false);
        assert_eq!(told(&mut carried, 200), received(700), "accounts or not");
        carried.add((9, None), true, (100, 1));
        assert_eq!(carried.totals(BTreeMap::new()).len(), 1);
    }
}
