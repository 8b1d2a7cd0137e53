//! IKE SAs and their Child SAs.

use serde::{Deserialize, Serialize};

/// An IKE SA, or a connection that sleeps on a ticket.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IkeSa {
    /// Its number; absent for a suspended connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The connection, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Where it stands.
    pub state: SaState,
    /// IKE's major version.
    pub version: u8,
    /// Whether the daemon sent the first message.
    pub initiator: bool,
    /// SPIi, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi_i: Option<String>,
    /// SPIr, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spi_r: Option<String>,
    /// Our end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
    /// Suite, as both Swans write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
    /// When it was established; RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established: Option<String>,
    /// Since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub established_age_seconds: Option<u64>,
    /// Since the last full authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_auth_age_seconds: Option<u64>,
    /// Whether a ticket opened it.
    pub resumed: bool,
    /// Resumptions since the last full authentication.
    pub resume_count: u32,
    /// Whether a key exchange of its own is behind the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pfs: Option<Pfs>,
    /// The ticket that was received or issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Ticket>,
    /// What holds a suspended session: `memory`, `expire` or `disk`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_in: Option<String>,
    /// Client: name servers on the inside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    /// Client: domains to ask those servers for; none for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<String>,
    /// How long until we ask for new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_in_seconds: Option<u64>,
    /// Client: how long until we log in anew, beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reauth_in_seconds: Option<u64>,
    /// How long until we ask for a sign of life, if nothing is heard until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_in_seconds: Option<u64>,
    /// How long until it ends, without new keys before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_seconds: Option<u64>,
    /// Child SAs.
    #[serde(default)]
    pub children: Vec<ChildSa>,
}

/// Where an SA stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
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
    /// A state that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl SaState {
    /// As in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Deleting => "deleting",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether an SA's keys would stay secret if a ticket's key became known.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pfs {
    /// A key exchange of its own is behind them.
    Yes,
    /// They come from a ticket's, until the next rekey.
    Pending,
    /// A word that this reader does not know.
    #[serde(other)]
    Unknown,
}

impl Pfs {
    /// As in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Pending => "pending",
            Self::Unknown => "unknown",
        }
    }
}

/// One end of an IKE SA.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// Identity; the peer's is proven once the SA is established.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<String>,
    /// UDP port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether there is NAT on the way; only at the peer's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<bool>,
    /// Inner addresses that this end has leased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<String>,
}

/// A ticket, without its octets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Ticket {
    /// Gateway: the key it is sealed with. A client cannot read that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<u8>,
    /// Gateway: its number under that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// What is left of its lifetime.
    pub expires_in_seconds: u64,
}

/// A Child SA.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChildSa {
    /// Its name within the connection.
    pub name: String,
    /// `tunnel` or `transport`.
    pub mode: String,
    /// `udp` for ESP in UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    /// Cipher, and the group of a key exchange of its own, as both Swans write it.
    pub proposal: String,
    /// Our inbound SPI, 8 hexadecimal digits.
    pub spi_in: String,
    /// Our outbound SPI, 8 hexadecimal digits.
    pub spi_out: String,
    /// Octets received, by the kernel's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_bytes: Option<u64>,
    /// Packets received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_packets: Option<u64>,
    /// Octets sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_bytes: Option<u64>,
    /// Packets sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_packets: Option<u64>,
    /// Networks on our side.
    pub local_ts: Vec<String>,
    /// Networks on the peer's side.
    pub remote_ts: Vec<String>,
    /// How long until we ask for new keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_in_seconds: Option<u64>,
    /// How long until the kernel ends it, without new keys before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_seconds: Option<u64>,
}
