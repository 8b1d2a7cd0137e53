//! What an operator sees of the core: plain copies of its state, without keys.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    io::Path,
    wire::{id::Identity, ts::TrafficSelector},
};

/// One IKE SA, or a connection that sleeps on a ticket.
#[derive(Clone, Debug)]
pub struct SaView {
    /// Our number of it; 0 for a suspended connection, which has no SA.
    pub id: u64,
    /// The connection's name, once known.
    pub connection: Option<Arc<str>>,
    /// Where it stands.
    pub state: SaState,
    /// Whether we sent the first message.
    pub initiator: bool,
    /// SPIi and SPIr.
    pub spis: ([u8; 8], [u8; 8]),
    /// Addresses in use.
    pub path: Option<Path>,
    /// Our identity.
    pub local_id: Option<Identity>,
    /// The peer's identity, proven if established.
    pub remote_id: Option<Identity>,
    /// Suite of the IKE SA, as both Swans write it.
    pub suite: Option<String>,
    /// NAT between us.
    pub nat: bool,
    /// Whether a ticket opened it.
    pub resumed: bool,
    /// Resumptions since the last full authentication.
    pub resume_count: u32,
    /// Since it was established.
    pub age: Option<Duration>,
    /// Since the last full authentication.
    pub full_auth_age: Option<Duration>,
    /// The ticket we hold (client) or issued (gateway): what is left of its lifetime.
    pub ticket_left: Option<Duration>,
    /// Its Child SA.
    pub child: Option<ChildView>,
}

/// One Child SA.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// Its name within the connection.
    pub name: Arc<str>,
    /// Whose kernel state it is, to ask the kernel for its counters.
    pub owner: Arc<str>,
    /// Our inbound SPI.
    pub spi_in: u32,
    /// Our outbound SPI.
    pub spi_out: u32,
    /// ESP in UDP.
    pub udp_encap: bool,
    /// ESP cipher, as both Swans write it.
    pub cipher: &'static str,
    /// Selectors of our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
}

/// Where an SA stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SaState {
    /// First message sent.
    Connecting,
    /// First message answered, the peer has proved nothing.
    HalfOpen,
    /// Both sides authenticated.
    Established,
    /// A DELETE is on its way.
    Deleting,
    /// No SA, but a ticket.
    Suspended,
}

impl SaState {
    /// Lower-case word for JSON and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Deleting => "deleting",
            Self::Suspended => "suspended",
        }
    }
}

/// Why an SA or an attempt ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Closed {
    /// We deleted it on the operator's word.
    Down,
    /// The peer sent DELETE.
    PeerDeleted,
    /// No answer in the time RFC 7296, 2.4 leaves us.
    Timeout,
    /// The peer did not prove its identity, or would not believe ours.
    AuthenticationFailed,
    /// No suite both sides like.
    NoProposalChosen,
    /// No common traffic selectors.
    TsUnacceptable,
    /// The kernel would not take the Child SA.
    Kernel,
    /// The operator suspended it.
    Suspended,
    /// A resumed SA, or a new login of the same peer, took its place.
    Replaced,
    /// The peer broke the protocol after it was authenticated.
    Protocol,
    /// A table of ours was full.
    Limit,
    /// Its lifetime is over.
    Expired,
}

impl Closed {
    /// Lower-case word for JSON, logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::PeerDeleted => "peer_deleted",
            Self::Timeout => "timeout",
            Self::AuthenticationFailed => "peer_auth_failed",
            Self::NoProposalChosen => "proposal_mismatch",
            Self::TsUnacceptable => "ts_mismatch",
            Self::Kernel => "kernel",
            Self::Suspended => "suspended",
            Self::Replaced => "replaced",
            Self::Protocol => "protocol_error",
            Self::Limit => "limit",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
