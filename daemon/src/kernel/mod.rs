//! The kernel's IPsec as the keeper drives it: one trait, carried out by [`Xfrm`] over netlink or by
//! [`NoOp`] where only the daemon itself is to be measured.
//!
//! Everything here encodes by hand. Five requests and two dump records are all we need of xfrm, and
//! hardly more of routes; for these a general packet crate would be the larger part, would print keys in `Debug` and would leave
//! them in buffers that nobody wipes.

mod adopt;
mod carried;
mod copy;
mod draining;
mod events;
mod inner;
mod journal;
mod link;
mod neighbours;
mod netlink;
mod outage;
mod policy;
mod rest;
mod route;
mod sources;
mod tunnel;
mod wire;
mod xfrm;

use std::{
    collections::{BTreeMap, HashSet},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ike::{
    kernel::{Carriage, KernelFailed, KernelOp, Owner},
    wire::ts::TrafficSelector,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use self::{netlink::Netlink, wire::Request};
pub use link::XfrmInterface;
pub(crate) use route::OUTER_MARK;
pub(crate) use wire::{POLICY_INFO, socket_bypass};
pub use xfrm::Xfrm;

/// How long states of an earlier run carry traffic before their owner has to be back.
pub const ORPHAN_LIFE: Duration = Duration::from_mins(30);

/// Where Child SAs and policies go.
pub trait Dataplane {
    /// Carries out one change. Either all of it holds afterwards, or none of what is new.
    fn apply(&mut self, op: &KernelOp) -> Result<(), KernelFailed>;

    /// Traffic of the owner's Child SA since its last account, from the kernel's own counters, with that of
    /// states which new keys have replaced; `None` if it has no states.
    fn usage(&mut self, owner: &Owner) -> Option<Usage>;

    /// Of a session of the owner's that is over, and with that an account is given: the same without the states
    /// that the owner has now, which are another session's.
    fn account(&mut self, owner: &Owner) -> Usage;

    /// What Child SAs have carried by connection, since the keeper's start and with what it found then; `None` if
    /// the kernel does not say.
    fn traffic(&mut self) -> Option<BTreeMap<Arc<str>, Usage>>;

    /// From now on nobody answers for what is there: it goes at `deadline` (time since boot) unless
    /// its owner installs anew.
    fn orphan_all(&mut self, deadline: Duration);

    /// What is there without an answerable owner.
    fn orphans(&self) -> Vec<Orphan>;

    /// Removes orphans whose deadline has passed. Returns how many owners lost theirs.
    fn expire_orphans(&mut self, now: Duration) -> usize;

    /// Readable when the kernel has something to say.
    fn events(&self) -> Option<BorrowedFd<'_>>;

    /// What it says, as far as it is about what is ours.
    fn happened(&mut self, now: Duration) -> Vec<Happened>;

    /// Removes states that have been replaced, once nothing is under way to them any more.
    fn drain(&mut self, now: Duration);

    /// Puts back routes and addresses of ours that went with a link, once it may have come back.
    fn mend(&mut self, now: Duration);

    /// Removes every state and policy of ours: the goodbye.
    fn clear(&mut self);
}

/// Octets and packets of one Child SA.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Usage {
    /// Octets received.
    pub in_bytes: u64,
    /// Packets received.
    pub in_packets: u64,
    /// Octets sent.
    pub out_bytes: u64,
    /// Packets sent.
    pub out_packets: u64,
}

/// What an earlier run, or an engine that died, left in the kernel for one owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Orphan {
    /// Whose.
    pub owner: Owner,
    /// SPIs of its states.
    pub spis: Vec<u32>,
    /// The peer's networks: inner addresses in here are still in use.
    pub remote_ts: Vec<TrafficSelector>,
    /// Client: inner addresses of ours.
    pub leased: Vec<IpAddr>,
}

/// What the kernel has done or seen by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Happened {
    /// A packet of a flow that waits.
    Wanted {
        /// Whose.
        owner: Owner,
    },
    /// A state has carried so much that new keys are due, or has come to its end.
    Expired {
        /// Whose.
        owner: Owner,
        /// Its SPI.
        spi: u32,
        /// Whether it is gone.
        hard: bool,
    },
    /// A peer behind a NAT sends what is authenticated from elsewhere than its state says.
    Mapped {
        /// Whose.
        owner: Owner,
        /// The state's SPI.
        spi: u32,
        /// From where.
        source: SocketAddr,
    },
}

/// Why the data plane cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// No netlink socket, or it broke.
    #[error("xfrm netlink socket: {0}")]
    Netlink(#[from] io::Error),
    /// The kernel refused a request that does not belong to any operation.
    #[error("xfrm: {what}: {text}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's words.
        text: String,
    },
    /// An xfrm interface that is to be ours cannot be.
    #[error("interface {name}: {what}")]
    Interface {
        /// Its name.
        name: String,
        /// Why not, and what to do.
        what: String,
    },
    /// The journal of reqids cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// All reqids of our range belong to somebody.
    #[error("all {0} owners that the reqid journal can hold are in use")]
    OwnersExhausted(usize),
}

/// Whether the kernel's policies can say which traffic is meant, and if not, why.
pub(crate) fn may_select(
    local: &[TrafficSelector],
    remote: &[TrafficSelector],
) -> Result<(), String> {
    policy::slots(local, remote, &Carriage::default()).map(drop)
}

/// Which address of ours IKE to a peer leaves from by the routing table, without what is in ours.
pub(crate) fn source_towards(peer: IpAddr) -> io::Result<IpAddr> {
    let mut netlink = Netlink::open(NETLINK_ROUTE)?;
    let source = netlink.query(Request::way_to(peer), route::parse_source);
    let nowhere = || io::Error::from(Errno::ENETUNREACH);
    match source {
        Ok(source) => source.ok_or_else(nowhere),
        Err(DataplaneError::Netlink(error)) => Err(error),
        // Whatever the table says instead, packets do not get there.
        Err(_) => Err(nowhere()),
    }
}

fn failed(text: &str) -> KernelFailed {
    KernelFailed { text: text.into() }
}

/// A data plane that agrees to everything and moves no packet. For measurements of the daemon on
/// kernels without ESP, never for use: nothing is protected.
#[derive(Debug, Default)]
pub struct NoOp {
    owners: HashSet<Owner>,
}

impl Dataplane for NoOp {
    fn apply(&mut self, op: &KernelOp) -> Result<(), KernelFailed> {
        match op {
            KernelOp::Install(child) | KernelOp::Add(child) => {
                self.owners.insert(child.owner.clone());
            }
            KernelOp::Remove { owner, .. } | KernelOp::Release { owner } => {
                self.owners.remove(owner);
            }
            KernelOp::Block { .. }
            | KernelOp::Trap { .. }
            | KernelOp::Lead { .. }
            | KernelOp::Move { .. } => {}
        }
        Ok(())
    }

    fn usage(&mut self, owner: &Owner) -> Option<Usage> {
        self.owners.contains(owner).then(Usage::default)
    }

    fn account(&mut self, _owner: &Owner) -> Usage {
        Usage::default()
    }

    fn traffic(&mut self) -> Option<BTreeMap<Arc<str>, Usage>> {
        None
    }

    fn orphan_all(&mut self, _deadline: Duration) {
        self.owners.clear();
    }

    fn orphans(&self) -> Vec<Orphan> {
        Vec::new()
    }

    fn expire_orphans(&mut self, _now: Duration) -> usize {
        0
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn happened(&mut self, _now: Duration) -> Vec<Happened> {
        Vec::new()
    }

    fn drain(&mut self, _now: Duration) {}

    fn mend(&mut self, _now: Duration) {}

    fn clear(&mut self) {
        self.owners.clear();
    }
}
