//! What keeper and engine say to each other: one postcard message a datagram, with descriptors beside
//! it where the message says so. Both ends are the same binary, so there is no version.
//!
//! | engine asks                | keeper answers                                                  |
//! |----------------------------|-----------------------------------------------------------------|
//! | `Hello`                    | `Sockets`, with them as descriptors, as often as it takes; then `Hello`, with bitmaps and the board |
//! | `Kernel`                   | `Done` with the same operation numbers                          |
//! | `Usage`, `Account`, `Traffic`, `Orphans` | the same word; the last two come in pages          |
//! | `ReserveIndexes`           | `Indexes`; after the two below, if the epoch changed on the way |
//! | `NewEpoch`                 | `Indexes`; `Epochs`, with all bitmaps beside it; then `NewEpoch` |
//! | `GateStatus`               | `Gate`                                                          |
//! | `Gate`                     | `Denied`, if the list has changed; then `GateDone`              |
//! | (nothing)                  | `Wanted`, `Expired`, `Mapped` as the kernel says                |
//! | (nothing)                  | on rotation `Indexes`, `Epochs` or `SpiKeys`; `Denied` when a network is heard again; `Stop` at the end |

mod carriage;
mod gate;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ike::{
    crypto::{Integrity, Secret},
    io::Path,
    kernel::{Carriage, ChildInstall, EspCipher, EspKey, KernelOp, Owner},
    wire::ts::TrafficSelector,
};
use serde::{Deserialize, Serialize};

pub use self::gate::{
    BudgetStatus, FloodStatus, GateAttachment, GateCommand, GateCount, GateDrop, GateFill,
    GateRefused, GateStatus, LaneCount, ListedNetwork, Networks, RefusedNetwork,
};
use crate::{
    kernel::Usage,
    tickets::{EpochTimes, IndexRange},
    udp::{Service, Share},
    wall::Floor,
};

/// Longest message in either direction.
pub const MAX_MESSAGE: usize = 64 << 10;
/// Operations in one message: the logins of one turn of the engine.
const MAX_BATCH: usize = 64;
/// Descriptors beside one message, of which the kernel takes 253: sockets, or all bitmaps and the board.
pub const MAX_DESCRIPTORS: usize = 192;

/// Engine to keeper.
#[derive(Debug, Deserialize, Serialize)]
pub struct ToKeeper {
    /// Returned with the answer.
    pub id: u64,
    /// What is wanted.
    pub request: Request,
}

/// Keeper to engine.
#[derive(Debug, Deserialize, Serialize)]
pub struct FromKeeper {
    /// Of the request; 0 for what nobody asked for.
    pub id: u64,
    /// What there is to say.
    pub answer: Answer,
}

/// Octets that a name and its [`Usage`] take at most beyond the name's own.
pub const USAGE_OCTETS: usize = 48;
/// Octets of owners' names in one [`Request::Account`], with [`USAGE_OCTETS`] of each, so that question and answer are
/// well within what a message holds.
pub const ACCOUNT_OCTETS: usize = 32 << 10;

/// What an engine can ask for.
#[derive(Debug, Deserialize, Serialize)]
pub enum Request {
    /// First message of every engine.
    Hello,
    /// Change SAs or policies, in this order: as many as [`batch`] says.
    Kernel(Vec<Operation>),
    /// Counters of an owner's Child SA.
    Usage {
        /// Whose.
        owner: String,
    },
    /// What sessions have carried that are over, by owner; with that an account is given.
    Account {
        /// Owners, of [`ACCOUNT_OCTETS`] in all unless it is one session's.
        owners: Vec<String>,
    },
    /// What Child SAs have carried by connection, from the first name behind this one on.
    Traffic {
        /// The last name of the page before, or nothing.
        after: String,
    },
    /// Start a new ticket epoch now.
    NewEpoch {
        /// Retire all others: their tickets are void.
        alone: bool,
    },
    /// Fresh ticket indexes.
    ReserveIndexes,
    /// What is in the kernel without an owner, past this many that are known already.
    Orphans {
        /// How many to leave out.
        skip: u32,
    },
    /// Where the gate stands and what it counted.
    GateStatus,
    /// What an operator wants of it.
    Gate(GateCommand),
}

/// One change of SAs or policies.
#[derive(Debug, Deserialize, Serialize)]
pub struct Operation {
    /// Whose: every worker numbers its own.
    pub worker: u8,
    /// The core's number of it.
    pub op: u64,
    /// What to do.
    #[serde(with = "KernelOpShape")]
    pub what: KernelOp,
}

/// How many of these operations, from the front, go into one message; at least one.
pub fn batch<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> usize {
    let mut room = MAX_MESSAGE;
    let fitting = operations.into_iter().take(MAX_BATCH).take_while(|next| {
        let (owner, selectors) = match &next.what {
            KernelOp::Install(child) | KernelOp::Add(child) => {
                (&child.owner, child.local_ts.len() + child.remote_ts.len())
            }
            KernelOp::Block {
                owner,
                local_ts,
                remote_ts,
                ..
            }
            | KernelOp::Trap {
                owner,
                local_ts,
                remote_ts,
                ..
            }
            | KernelOp::Lead {
                owner,
                local_ts,
                remote_ts,
                ..
            } => (owner, local_ts.len() + remote_ts.len()),
            KernelOp::Move { owner, .. }
            | KernelOp::Remove { owner, .. }
            | KernelOp::Release { owner } => (owner, 0),
        };
        let size = LONGEST_BARE + owner.0.len() + LONGEST_SELECTOR * selectors;
        let left = room.checked_sub(size);
        room = left.unwrap_or_default();
        left.is_some()
    });
    fitting.count().max(1)
}

/// Octets of an operation without its owner and selectors, at most: two ESP keys, two addresses, two that
/// are leased, and how it is carried.
const LONGEST_BARE: usize = 320 + carriage::LONGEST;
/// Octets of a selector, at most.
const LONGEST_SELECTOR: usize = 44;

/// How an operation has ended.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ended {
    /// As in the operation.
    pub worker: u8,
    /// As in the operation.
    pub op: u64,
    /// In the kernel's own words.
    pub result: Result<(), String>,
    /// What it has taken from another worker.
    pub taken: Option<Taken>,
}

/// An owner's Child SA that another worker's has replaced.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Taken {
    /// Who had put it into the kernel.
    pub worker: u8,
    /// Whose it was.
    pub owner: String,
    /// The SPI of its inbound state.
    pub inbound: u32,
}

/// One UDP socket and who reads what there.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Inlet {
    /// Which of the ports.
    pub service: Service,
    /// Which datagrams.
    pub share: Share,
    /// Which worker.
    pub worker: u8,
}

/// What a keeper can say.
#[derive(Debug, Deserialize, Serialize)]
pub enum Answer {
    /// To [`Request::Hello`], before the last of the answer: some of the sockets, in the order of their
    /// descriptors.
    Sockets(Vec<Inlet>),
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::Kernel`].
    Done(Vec<Ended>),
    /// To [`Request::Usage`].
    Usage(Option<Usage>),
    /// To [`Request::Account`], in the same order.
    Account(Vec<Usage>),
    /// The SPI keys have been rotated.
    SpiKeys(SpiKeys),
    /// All live epochs, oldest first; their bitmaps come beside it in the same order.
    Epochs(Vec<EpochKey>),
    /// To [`Request::NewEpoch`]: its id, or why there is none.
    NewEpoch(Result<u8, String>),
    /// To [`Request::ReserveIndexes`]; `None` while there are none to be had.
    Indexes(Option<IndexRange>),
    /// To [`Request::Orphans`]: one page, and whether there are more.
    Orphans {
        /// Some of them.
        page: Vec<OrphanShape>,
        /// Whether to ask again.
        more: bool,
    },
    /// To [`Request::Traffic`]: one page in the order of names, and whether there are more. Nothing if the kernel
    /// does not say.
    Traffic {
        /// Some of them.
        page: Vec<(String, Usage)>,
        /// Whether to ask again.
        more: bool,
    },
    /// To [`Request::GateStatus`].
    Gate(Box<GateStatus>),
    /// To [`Request::Gate`].
    GateDone(Result<(), GateRefused>),
    /// All networks with a rule.
    Networks(Networks),
    /// A packet of this owner's flow waits for the connection to come up.
    Wanted {
        /// Whose.
        owner: String,
    },
    /// A state of this owner's has carried so much that new keys are due, or is gone.
    Expired {
        /// Whose.
        owner: String,
        /// Its SPI.
        spi: u32,
        /// Whether it is gone.
        hard: bool,
    },
    /// The peer of this owner sends through its NAT from elsewhere.
    Mapped {
        /// Whose.
        owner: String,
        /// The SPI that it sends to.
        spi: u32,
        /// From where.
        source: SocketAddr,
    },
    /// The engine is to end within [`super::STOP_SECONDS`].
    Stop {
        /// With a DELETE to every peer, or so that everything can be resumed.
        goodbye: bool,
    },
}

/// All an engine needs to begin.
#[derive(Debug, Deserialize, Serialize)]
pub struct Hello {
    /// Threads to share the work among.
    pub workers: u8,
    /// All live epochs, oldest first, whose bitmaps come beside it.
    pub epochs: Vec<EpochKey>,
    /// Our octet in SPIs and tickets.
    pub node: u8,
    /// The present `k_spi`, then the one before.
    pub spi_keys: SpiKeys,
    /// Secret of crash detection tokens.
    #[serde(with = "secret")]
    pub qcd: Secret,
    /// How this start came about.
    pub boot: BootInfo,
    /// Whether the gate's board is the last descriptor.
    pub board: bool,
    /// Networks with a rule.
    pub networks: Networks,
}

/// How this start came about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BootInfo {
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Engines that this keeper has started before.
    pub engines_before: u32,
    /// Owners of what is in the kernel without an answerable engine.
    pub orphans: u32,
    /// What the time is at least, after a reboot into the past.
    pub floor: Option<Floor>,
}

/// The two live keys behind the check of our SPIs.
#[derive(
    Clone, Deserialize, Eq, PartialEq, Serialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop,
)]
pub struct SpiKeys(pub [[u8; 16]; 2]);

impl std::fmt::Debug for SpiKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SpiKeys(..)")
    }
}

/// One epoch's id and root.
#[derive(Debug, Deserialize, Serialize)]
pub struct EpochKey {
    /// Epoch.
    pub key_id: u8,
    /// Root of its keys.
    #[serde(with = "secret")]
    pub root: Secret,
    /// From when to when it is of use.
    pub times: EpochTimes,
    /// Its slot on the gate's board.
    pub used_slot: Option<u32>,
}

/// One owner's orphans.
#[derive(Debug, Deserialize, Serialize)]
pub struct OrphanShape {
    /// Whose.
    pub owner: String,
    /// SPIs of its states.
    pub spis: Vec<u32>,
    /// Networks of the peer's side.
    #[serde(with = "selectors")]
    pub remote_ts: Vec<TrafficSelector>,
    /// Inner addresses of ours.
    pub leased: Vec<IpAddr>,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "KernelOp")]
enum KernelOpShape {
    Install(#[serde(with = "child")] Box<ChildInstall>),
    Add(#[serde(with = "child")] Box<ChildInstall>),
    Lead {
        #[serde(with = "owner")]
        owner: Owner,
        #[serde(with = "PathShape")]
        path: Path,
        outbound: u32,
        #[serde(with = "carriage")]
        carriage: Carriage,
        #[serde(with = "selectors")]
        local_ts: Vec<TrafficSelector>,
        #[serde(with = "selectors")]
        remote_ts: Vec<TrafficSelector>,
    },
    Move {
        #[serde(with = "owner")]
        owner: Owner,
        #[serde(with = "PathShape")]
        path: Path,
        udp_encap: bool,
    },
    Remove {
        #[serde(with = "owner")]
        owner: Owner,
        inbound: u32,
        outbound: u32,
    },
    Trap {
        #[serde(with = "owner")]
        owner: Owner,
        #[serde(with = "carriage")]
        carriage: Carriage,
        ends: (IpAddr, IpAddr),
        #[serde(with = "selectors")]
        local_ts: Vec<TrafficSelector>,
        #[serde(with = "selectors")]
        remote_ts: Vec<TrafficSelector>,
    },
    Block {
        #[serde(with = "owner")]
        owner: Owner,
        #[serde(with = "carriage")]
        carriage: Carriage,
        peer: Option<IpAddr>,
        #[serde(with = "selectors")]
        local_ts: Vec<TrafficSelector>,
        #[serde(with = "selectors")]
        remote_ts: Vec<TrafficSelector>,
    },
    Release {
        #[serde(with = "owner")]
        owner: Owner,
    },
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "ChildInstall")]
struct ChildInstallShape {
    #[serde(with = "owner")]
    owner: Owner,
    #[serde(with = "PathShape")]
    path: Path,
    udp_encap: bool,
    #[serde(with = "carriage")]
    carriage: Carriage,
    #[serde(with = "EspCipherShape")]
    cipher: EspCipher,
    #[serde(with = "EspKeyShape")]
    inbound: EspKey,
    #[serde(with = "EspKeyShape")]
    outbound: EspKey,
    esn: bool,
    #[serde(with = "selectors")]
    local_ts: Vec<TrafficSelector>,
    #[serde(with = "selectors")]
    remote_ts: Vec<TrafficSelector>,
    leased: Vec<IpAddr>,
    hard_lifetime: Duration,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Path")]
struct PathShape {
    local: SocketAddr,
    remote: SocketAddr,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "EspKey")]
struct EspKeyShape {
    spi: u32,
    #[serde(with = "secret")]
    key: Secret,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "EspCipher")]
enum EspCipherShape {
    AesGcm128,
    AesGcm256,
    ChaCha20Poly1305,
    AesCbc128(#[serde(with = "IntegrityShape")] Integrity),
    AesCbc256(#[serde(with = "IntegrityShape")] Integrity),
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "Integrity")]
enum IntegrityShape {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

#[derive(Deserialize, Serialize)]
#[serde(remote = "TrafficSelector")]
struct SelectorShape {
    protocol: u8,
    start_port: u16,
    end_port: u16,
    start: IpAddr,
    end: IpAddr,
}

mod child {
    use super::{ChildInstall, ChildInstallShape};

    pub(super) fn serialize<S: serde::Serializer>(
        child: &ChildInstall,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ChildInstallShape::serialize(child, serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Box<ChildInstall>, D::Error> {
        ChildInstallShape::deserialize(deserializer).map(Box::new)
    }
}

mod owner {
    use serde::Deserialize;

    use super::{Arc, Owner};

    pub(super) fn serialize<S: serde::Serializer>(
        owner: &Owner,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&owner.0)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Owner, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Owner(Arc::from(name)))
    }
}

mod selectors {
    use serde::{Deserialize, Serialize};

    use super::{SelectorShape, TrafficSelector};

    #[derive(Deserialize, Serialize)]
    struct Wrapped(#[serde(with = "SelectorShape")] TrafficSelector);

    pub(super) fn serialize<S: serde::Serializer>(
        selectors: &[TrafficSelector],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(selectors.iter().copied().map(Wrapped))
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TrafficSelector>, D::Error> {
        let wrapped = Vec::<Wrapped>::deserialize(deserializer)?;
        Ok(wrapped
            .into_iter()
            .map(|Wrapped(selector)| selector)
            .collect())
    }
}

/// Key octets go from the secret to the message and back without a copy that nobody wipes.
mod secret {
    use std::fmt;

    use super::Secret;

    struct Octets;

    impl serde::de::Visitor<'_> for Octets {
        type Value = Secret;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("key octets")
        }

        fn visit_bytes<E: serde::de::Error>(self, octets: &[u8]) -> Result<Secret, E> {
            Ok(Secret::from(octets))
        }
    }

    pub(super) fn serialize<S: serde::Serializer>(
        secret: &Secret,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(secret.expose())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secret, D::Error> {
        deserializer.deserialize_bytes(Octets)
    }
}

#[cfg(test)]
mod tests;
