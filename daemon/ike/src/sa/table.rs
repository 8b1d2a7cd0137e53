//! All IKE SAs of one endpoint and the ways to find them: by our SPI, by first message, by kernel
//! operation, by deadline. An SA is checked out while it makes a step, so that the step may touch
//! everything else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use super::ike_sa::IkeSa;
use crate::{kernel::OpId, wire::header::Spi};

/// What makes two first messages one: everything. Two that share SPIi and source but not their
/// octets are two clients, or a client and an attacker who must not get in its way (RFC 7296, 2.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct FirstKey {
    pub spi_i: Spi,
    pub from: SocketAddr,
    /// Keyed hash of the whole message.
    pub digest: [u8; 16],
}

#[derive(Debug, Default)]
pub(crate) struct SaTable {
    sas: BTreeMap<u64, (IkeSa, Option<Duration>)>,
    by_spi: HashMap<Spi, u64>,
    firsts: HashMap<FirstKey, u64>,
    ops: HashMap<OpId, u64>,
    deadlines: BTreeSet<(Duration, u64)>,
    last_id: u64,
    last_op: u64,
}

impl SaTable {
    /// A number for the next SA.
    pub(crate) const fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
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

    /// Puts an SA in, new or after a step, to be woken at `deadline`.
    pub(crate) fn check_in(&mut self, sa: IkeSa, deadline: Option<Duration>) {
        self.by_spi.insert(sa.our_spi(), sa.id);
        if let Some(at) = deadline {
            self.deadlines.insert((at, sa.id));
        }
        self.sas.insert(sa.id, (sa, deadline));
    }

    /// Takes an SA out for a step; it stays findable by its SPI.
    pub(crate) fn check_out(&mut self, id: u64) -> Option<IkeSa> {
        let (sa, deadline) = self.sas.remove(&id)?;
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, id));
        }
        Some(sa)
    }

    /// Forgets a checked-out SA.
    pub(crate) fn forget(&mut self, sa: &IkeSa) {
        self.by_spi.remove(&sa.our_spi());
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
        self.firsts
            .get(key)
            .and_then(|id| self.sas.get(id))
            .map(|(sa, _)| sa)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &IkeSa> {
        self.sas.values().map(|(sa, _)| sa)
    }

    pub(crate) fn len(&self) -> usize {
        self.sas.len()
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
