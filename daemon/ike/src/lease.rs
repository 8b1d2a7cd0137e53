//! Inner addresses (RFC 7296, 2.19): who has which. A gateway leases them out of its pools, and a client
//! gets the one it had before whenever that can be (RFC 5723, 5, note 5).

pub mod book;

use std::{net::IpAddr, ops::RangeInclusive, sync::Arc};

pub use self::book::{Book, LeaseRecord, LeaseView, PoolView};
use crate::{
    io::{Stamp, StoreId},
    peer::Connection,
    wire::{cp::Domain, id::Identity, ts::TrafficSelector},
};

/// Addresses that a gateway leases to the clients of a connection, and what it tells them besides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pool {
    /// Its name, printable and unique.
    pub name: Arc<str>,
    /// The addresses, each range of one family; no address is in two ranges of any pools.
    pub ranges: Vec<RangeInclusive<IpAddr>>,
    /// Networks that cover these and as little else as possible. What goes there and belongs to no SA
    /// is blocked.
    pub networks: Vec<TrafficSelector>,
    /// Name servers inside.
    pub dns: Vec<IpAddr>,
    /// Domains that those servers are to be asked for; none for all (RFC 8598, 4.1).
    pub domains: Vec<Domain>,
}

/// What a client has on the inside: its addresses, at most one of each family, and its name servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Leased {
    /// Addresses, the gateway's lease.
    pub addresses: Vec<IpAddr>,
    /// Client: name servers.
    pub dns: Vec<IpAddr>,
    /// Client: domains to ask those servers for; none for all.
    pub domains: Vec<Domain>,
}

/// One SA's hold on a lease, unique within one run. A lease is in use while anybody holds it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LeaseId(pub u64);

/// An authenticated peer asks for addresses.
#[derive(Debug)]
pub struct LeaseRequest<'a> {
    /// Its connection, with the pools.
    pub connection: &'a Connection,
    /// Who it has proved to be.
    pub peer: &'a Identity,
    /// One address for each family it wants: the one it had before, or the unspecified one for any.
    pub wanted: &'a [IpAddr],
    /// Now.
    pub now: Stamp,
}

/// Addresses for a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Granted {
    /// To be given back when the SA ends ([`crate::io::Output::LeaseEnded`]).
    pub id: LeaseId,
    /// One of each family that was wanted and can be had.
    pub addresses: Vec<IpAddr>,
    /// The lease is new and is being kept; [`crate::io::Input::Stored`] follows.
    pub stored: Option<StoreId>,
}

/// Why there are no addresses for a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoLease {
    /// Every one of the pools is in use.
    Exhausted,
    /// The peer's identity has so many in use already, and may have no more
    /// ([`Connection::leases_per_identity`]).
    Enough(u16),
}

/// Who keeps book of the leases of all pools.
pub trait LeaseBook {
    /// Leases addresses, or says why there are none to be had. A peer gets what it had before. What is in
    /// use is never taken away: of what is not, the address unused for longest changes hands first.
    fn grant(&mut self, request: &LeaseRequest<'_>) -> Result<Granted, NoLease>;
}

/// The book of whoever has no pools.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLeases;

impl LeaseBook for NoLeases {
    fn grant(&mut self, _request: &LeaseRequest<'_>) -> Result<Granted, NoLease> {
        Err(NoLease::Exhausted)
    }
}
