//! All IKE SAs of one endpoint and the ways to find them: by our SPI, by first message, by kernel
//! operation, by deadline. An SA is checked out while it makes a step, so that the step may touch
//! everything else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gate_abi::sip::{SipKey, siphash24_128};

use super::{
    ike_sa::{IkeSa, State},
    presence::Presence,
};
use crate::{
    io::{Path, StoreId},
    kernel::{OpId, Owner},
    ticket::TicketName,
    wire::header::Spi,
};

/// What makes two first messages one: everything. Two that share SPIi and source but not their
/// octets are two clients, or a client and an attacker who must not get in its way (RFC 7296, 2.1).
/// This is a keyed hash of the source and the whole message.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct FirstKey([u8; 16]);

impl FirstKey {
    pub(crate) fn new(key: &SipKey, path: &Path, message: &[u8]) -> Self {
        let ip = match path.remote.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let digest = siphash24_128(key, message);
        let port = path.remote.port().to_be_bytes();
        let named = [&digest[..], &ip.octets(), &port].concat();
        Self(siphash24_128(key, &named))
    }
}

#[derive(Debug)]
pub(crate) struct SaTable {
    sas: BTreeMap<u64, IkeSa>,
    by_spi: HashMap<Spi, u64>,
    firsts: HashMap<FirstKey, u64>,
    ops: HashMap<OpId, u64>,
    /// Moves under way: whose states go between which addresses.
    moves: HashMap<OpId, (Owner, Path)>,
    stores: HashMap<StoreId, u64>,
    deadlines: BTreeSet<(Duration, u64)>,
    owners: BTreeSet<(Owner, u64)>,
    tickets: BTreeSet<(TicketName, u64)>,
    attempts: BTreeSet<(Arc<str>, u64)>,
    esp_spis: HashSet<u32>,
    /// Those that are over, but for the repetition of their last answer, by when that ends.
    lingering: BTreeSet<(Duration, u64)>,
    pub(crate) presence: Arc<Presence>,
    /// Who of the peers there is a number of ours.
    present: HashMap<u64, Owner>,
    half_open_octets: usize,
    next_id: u64,
    /// Between two numbers: those in between are of other workers' SAs.
    id_step: u64,
    last_op: u64,
}

impl SaTable {
    /// An empty table of this worker among so many.
    pub(crate) fn new(worker: u8, workers: u8) -> Self {
        Self {
            sas: BTreeMap::new(),
            by_spi: HashMap::new(),
            firsts: HashMap::new(),
            ops: HashMap::new(),
            moves: HashMap::new(),
            stores: HashMap::new(),
            deadlines: BTreeSet::new(),
            owners: BTreeSet::new(),
            tickets: BTreeSet::new(),
            attempts: BTreeSet::new(),
            esp_spis: HashSet::new(),
            lingering: BTreeSet::new(),
            presence: Arc::default(),
            present: HashMap::new(),
            half_open_octets: 0,
            next_id: u64::from(worker) + 1,
            id_step: u64::from(workers.max(1)),
            last_op: 0,
        }
    }

    /// A number for the next SA.
    pub(crate) const fn next_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += self.id_step;
        id
    }

    /// A number for a kernel operation nobody waits for.
    pub(crate) const fn next_op(&mut self) -> OpId {
        self.last_op += 1;
        OpId(self.last_op)
    }

    /// A number for a kernel operation an SA waits for.
    pub(crate) fn op_of(&mut self, id: u64) -> OpId {
        let op = self.next_op();
        self.ops.insert(op, id);
        op
    }

    pub(crate) fn take_op(&mut self, op: OpId) -> Option<u64> {
        self.ops.remove(&op)
    }

    /// A number for a move, which nobody waits for but which may be refused.
    pub(crate) fn op_of_move(&mut self, owner: Owner, path: Path) -> OpId {
        let op = self.next_op();
        self.moves.insert(op, (owner, path));
        op
    }

    pub(crate) fn take_move(&mut self, op: OpId) -> Option<(Owner, Path)> {
        self.moves.remove(&op)
    }

    /// An SA waits for a change of the store.
    pub(crate) fn await_store(&mut self, store: StoreId, id: u64) {
        self.stores.insert(store, id);
    }

    pub(crate) fn take_store(&mut self, store: StoreId) -> Option<u64> {
        self.stores.remove(&store)
    }

    /// Puts an SA in, new or after a step, to be woken at the deadline of its state. `true` if its
    /// SPI is new.
    pub(crate) fn check_in(&mut self, sa: IkeSa) -> bool {
        let new = self.by_spi.insert(sa.our_spi(), sa.id).is_none();
        if let Some(at) = sa.deadline() {
            self.deadlines.insert((at, sa.id));
        }
        self.owners.extend(sa.owners().map(|owner| (owner, sa.id)));
        if let Some(ticket) = sa.presented_ticket() {
            self.tickets.insert((ticket, sa.id));
        }
        if let Some(name) = sa.attempt_of() {
            self.attempts.insert((Arc::clone(name), sa.id));
        }
        self.esp_spis.extend(sa.child_spis());
        self.half_open_octets += sa.half_open_octets();
        if let State::Lingering(last) = &sa.state {
            self.lingering.insert((last.until, sa.id));
        }
        self.note_presence(sa.id, sa.kept_peer(), sa.path.remote);
        self.sas.insert(sa.id, sa);
        new
    }

    /// Takes an SA out for a step; it stays findable by its SPI.
    pub(crate) fn check_out(&mut self, id: u64) -> Option<IkeSa> {
        let sa = self.sas.remove(&id)?;
        if let Some(at) = sa.deadline() {
            self.deadlines.remove(&(at, id));
        }
        for owner in sa.owners() {
            self.owners.remove(&(owner, id));
        }
        if let Some(ticket) = sa.presented_ticket() {
            self.tickets.remove(&(ticket, id));
        }
        if let Some(name) = sa.attempt_of() {
            self.attempts.remove(&(Arc::clone(name), id));
        }
        for spi in sa.child_spis() {
            self.esp_spis.remove(&spi);
        }
        self.half_open_octets -= sa.half_open_octets();
        if let State::Lingering(last) = &sa.state {
            self.lingering.remove(&(last.until, id));
        }
        Some(sa)
    }

    /// Forgets a checked-out SA; `true` if its SPI was known.
    pub(crate) fn forget(&mut self, sa: &IkeSa) -> bool {
        self.note_presence(sa.id, None, sa.path.remote);
        self.by_spi.remove(&sa.our_spi()).is_some()
    }

    fn note_presence(&mut self, id: u64, peer: Option<Owner>, at: SocketAddr) {
        match peer {
            Some(peer) => {
                self.presence.enter(peer.clone(), id, at);
                self.present.insert(id, peer);
            }
            None => {
                if let Some(peer) = self.present.remove(&id) {
                    self.presence.leave(&peer, id);
                }
            }
        }
    }

    pub(crate) fn remember_first(&mut self, key: FirstKey, id: u64) {
        self.firsts.insert(key, id);
    }

    pub(crate) fn forget_first(&mut self, key: &FirstKey) {
        self.firsts.remove(key);
    }

    pub(crate) fn by_spi(&self, spi: Spi) -> Option<u64> {
        self.by_spi.get(&spi).copied()
    }

    pub(crate) fn by_first(&self, key: &FirstKey) -> Option<&IkeSa> {
        self.firsts.get(key).and_then(|id| self.sas.get(id))
    }

    /// SAs of this owner, oldest first.
    pub(crate) fn of_owner(&self, owner: &Owner) -> Vec<u64> {
        ids(self
            .owners
            .range((owner.clone(), 0)..=(owner.clone(), u64::MAX)))
    }

    /// Half-open SAs that this ticket has opened, oldest first.
    pub(crate) fn of_ticket(&self, ticket: TicketName) -> Vec<u64> {
        ids(self.tickets.range((ticket, 0)..=(ticket, u64::MAX)))
    }

    /// SAs by their deadlines, the next one first.
    pub(crate) fn soonest(&self) -> impl Iterator<Item = &IkeSa> {
        self.deadlines.iter().filter_map(|(_, id)| self.sas.get(id))
    }

    /// Attempts of ours at this connection, oldest first.
    pub(crate) fn attempts_at(&self, connection: &Arc<str>) -> Vec<u64> {
        let of = |id| (Arc::clone(connection), id);
        ids(self.attempts.range(of(0)..=of(u64::MAX)))
    }

    pub(crate) fn has_esp_spi(&self, spi: u32) -> bool {
        self.esp_spis.contains(&spi)
    }

    /// Octets of fragments that half-open SAs wait with.
    pub(crate) const fn half_open_octets(&self) -> usize {
        self.half_open_octets
    }

    pub(crate) fn get(&self, id: u64) -> Option<&IkeSa> {
        self.sas.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &IkeSa> {
        self.sas.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.sas.len()
    }

    /// SAs that are, or may become, good for something.
    pub(crate) fn standing(&self) -> usize {
        self.sas.len() - self.lingering.len()
    }

    /// Takes out the one that has been over longest, if there are more than so many of these.
    pub(crate) fn superfluous(&mut self, most: usize) -> Option<IkeSa> {
        if self.lingering.len() <= most {
            return None;
        }
        let (_, oldest) = *self.lingering.first()?;
        self.check_out(oldest)
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The SA whose deadline has passed longest.
    pub(crate) fn due(&self, now: Duration) -> Option<u64> {
        self.deadlines
            .first()
            .filter(|(at, _)| *at <= now)
            .map(|(_, id)| *id)
    }
}

fn ids<'a, T: 'a>(found: impl Iterator<Item = &'a (T, u64)>) -> Vec<u64> {
    found.map(|(_, id)| *id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sa::{ike_sa::Lingering, window::Datagrams};

    fn over(table: &mut SaTable, id: u64, until: u64) {
        let last = Lingering {
            request: Vec::new(),
            response: Datagrams::none(),
            until: Duration::from_secs(until),
        };
        let at = "192.0.2.1:500".parse().expect("address");
        table.check_in(IkeSa {
            id,
            spi_i: [1; 8],
            spi_r: id.to_be_bytes(),
            initiator: false,
            path: Path {
                local: at,
                remote: at,
            },
            started: Duration::ZERO,
            state: State::Lingering(Box::new(last)),
        });
    }

    #[test]
    fn of_too_many_that_are_over_the_one_that_was_first_goes() {
        let mut table = SaTable::new(0, 1);
        for (id, until) in [(7, 30), (8, 31), (9, 32)] {
            over(&mut table, id, until);
            assert!(table.superfluous(3).is_none());
        }
        assert_eq!((table.len(), table.standing()), (3, 0));
        // An SA of long ago that has ended only now.
        over(&mut table, 2, 33);
        let oldest = table.superfluous(3).expect("one too many");
        assert_eq!(oldest.id, 7);
        table.forget(&oldest);
        assert!(table.superfluous(3).is_none() && table.by_spi(oldest.spi_r).is_none());
        assert_eq!((table.len(), table.standing()), (3, 0));
    }
}
