//! Configured connections.

use serde::{Deserialize, Serialize};

/// A configured connection, up or not.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: ConnectionState,
    /// Where its peer is, as configured; absent for anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// `up`, `trap` or `none`: what brings it up.
    pub start: String,
    /// IKE SAs with both sides authenticated.
    pub ike_sas: u64,
    /// How long until it is tried again; of one that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_seconds: Option<u64>,
    /// What last went wrong; of one that is not up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<ConnectionFailure>,
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// It has an IKE SA, or more.
    Up,
    /// Its peer is looked up, or has been called.
    Connecting,
    /// It is tried again after a while.
    Waiting,
    /// It has a ticket and no SA, until the operator says `up`.
    Suspended,
    /// The first packet for its peer's networks brings it up.
    Trap,
    /// Nothing brings it up but the operator, or the peer.
    Down,
    /// Only the peer can call.
    Listening,
    /// A state that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl ConnectionState {
    /// As in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Suspended => "suspended",
            Self::Trap => "trap",
            Self::Down => "down",
            Self::Listening => "listening",
            Self::Unknown => "unknown",
        }
    }
}

/// What last went wrong with a connection, as `why` says it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectionFailure {
    /// When; RFC 3339, UTC.
    pub time: String,
    /// In which exchange.
    pub exchange: String,
    /// What went wrong.
    pub verdict: String,
    /// What to do.
    pub cure: String,
}

/// What the Child SAs of a connection have carried since the daemon's start, over all sessions and keys. It never
/// falls while the daemon runs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ConnectionTraffic {
    /// The connection's name.
    pub connection: String,
    /// Octets received.
    pub in_bytes: u64,
    /// Packets received.
    pub in_packets: u64,
    /// Octets sent.
    pub out_bytes: u64,
    /// Packets sent.
    pub out_packets: u64,
}
