//! What the core wants from the kernel's IPsec: Child SAs in, Child SAs out, and policies that let
//! nothing of a protected flow leave in clear while there is no SA. Netlink is the caller's affair.

mod carriage;
pub mod flows;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

pub use self::carriage::{Carriage, CopyDscp, Mark, Mode, Offload, REPLAY_WINDOW, Volume, Ways};
use crate::{crypto::Secret, io::Path, wire::ts::TrafficSelector};

/// Number of an operation, unique within one run of the core.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct OpId(pub u64);

/// Whose states and policies these are: stable over restarts, so that what an earlier run left
/// behind is found again. `connection/child/peer identity`, printable.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Owner(pub Arc<str>);

impl Owner {
    /// The name of its connection.
    #[must_use]
    pub fn connection(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

/// One change of the kernel's state.
#[derive(Debug)]
pub enum KernelOp {
    /// New states and policies for an owner; whatever states the owner had before are deleted after
    /// the policies point to the new ones, so that no packet of the flow finds none.
    Install(Box<ChildInstall>),
    /// New states for an owner beside those it has, which its policies go on leading to. Both receive.
    Add(Box<ChildInstall>),
    /// The owner's policies lead to this state of its own from now on. Its other states stay.
    Lead {
        /// Whose.
        owner: Owner,
        /// Outer addresses.
        path: Path,
        /// SPI of the outbound state.
        outbound: u32,
        /// How it is carried.
        carriage: Carriage,
        /// Selectors of our side.
        local_ts: Vec<TrafficSelector>,
        /// Selectors of the peer's side.
        remote_ts: Vec<TrafficSelector>,
    },
    /// All states of the owner go between these addresses from now on, and its IPsec policies with them.
    /// Keys, counters and replay windows stay.
    Move {
        /// Whose.
        owner: Owner,
        /// Outer addresses; the ports matter only with `udp_encap`.
        path: Path,
        /// ESP in UDP from now on, or not.
        udp_encap: bool,
    },
    /// Delete the owner's states with these inbound and outbound SPIs and its IPsec policies. The
    /// block policies stay.
    Remove {
        /// Whose.
        owner: Owner,
        /// SPI of our inbound state.
        inbound: u32,
        /// SPI of the peer's inbound state, our outbound one.
        outbound: u32,
    },
    /// From now on packets of the flow are dropped unless an IPsec policy of the owner says better.
    Block {
        /// Whose.
        owner: Owner,
        /// How what belongs to the flow will be carried.
        carriage: Carriage,
        /// The outer address of the peer, if there is only one.
        peer: Option<IpAddr>,
        /// Selectors of our side.
        local_ts: Vec<TrafficSelector>,
        /// Selectors of the peer's side.
        remote_ts: Vec<TrafficSelector>,
    },
    /// The same, and the first packet that would leave is reported, so that the connection can be brought
    /// up for those that follow. It stands for as long as the owner has no Child SA.
    Trap {
        /// Whose.
        owner: Owner,
        /// How what belongs to the flow will be carried.
        carriage: Carriage,
        /// Outer addresses, ours first; ours may be unspecified.
        ends: (IpAddr, IpAddr),
        /// Selectors of our side.
        local_ts: Vec<TrafficSelector>,
        /// Selectors of the peer's side.
        remote_ts: Vec<TrafficSelector>,
    },
    /// Take everything of the owner away, block policies too.
    Release {
        /// Whose.
        owner: Owner,
    },
}

/// Both directions of one Child SA.
#[derive(Debug)]
pub struct ChildInstall {
    /// Whose.
    pub owner: Owner,
    /// Outer addresses; the ports matter only with `udp_encap`.
    pub path: Path,
    /// ESP in UDP (RFC 3948), because NAT was detected.
    pub udp_encap: bool,
    /// How it is carried.
    pub carriage: Carriage,
    /// Cipher of both directions.
    pub cipher: EspCipher,
    /// What the peer sends to us.
    pub inbound: EspKey,
    /// What we send.
    pub outbound: EspKey,
    /// Extended sequence numbers (RFC 4304).
    pub esn: bool,
    /// Selectors of our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// Client: addresses leased to us. They are the owner's until it is released, and packets to the
    /// peer's side come from them.
    pub leased: Vec<IpAddr>,
    /// The kernel deletes the states by itself after this time, whatever becomes of us.
    pub hard_lifetime: Duration,
}

impl ChildInstall {
    /// Outer addresses, ours first.
    #[must_use]
    pub const fn addresses(&self) -> (IpAddr, IpAddr) {
        let Path { local, remote } = &self.path;
        (ip(local), ip(remote))
    }
}

const fn ip(address: &SocketAddr) -> IpAddr {
    address.ip()
}

/// Key of one direction.
#[derive(Debug)]
pub struct EspKey {
    /// The receiver's SPI.
    pub spi: u32,
    /// Cipher key and four octets of salt (RFC 4106, 8.1; RFC 7634, 2), or cipher key and integrity key
    /// (RFC 7296, 2.17).
    pub key: Secret,
}

/// ESP has the ciphers of IKE.
pub use crate::crypto::Encryption as EspCipher;

/// The kernel refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KernelFailed {
    /// What the kernel said, extended acknowledgement included.
    pub text: String,
}
