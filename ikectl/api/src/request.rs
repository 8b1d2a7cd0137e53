//! What a client asks for.

use serde::{Deserialize, Serialize};

/// One request: `{"method":"up","parameters":{"connection":"rw"}}`. Methods without parameters are
/// sent without the key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "method", content = "parameters", rename_all = "snake_case")]
pub enum Request {
    /// Health, counts and what needs attention.
    Status,
    /// All IKE SAs and suspended connections.
    SaList,
    /// One IKE SA.
    SaShow {
        /// Its number.
        id: u64,
    },
    /// Where the state of an established IKE SA came from.
    SaOrigin {
        /// Its number.
        id: u64,
    },
    /// Bring a connection up: resume with a ticket at hand, else log in. Or one of its Child SAs, and the
    /// connection first if it is not up.
    Up {
        /// Its name.
        connection: String,
        /// The Child SA's within it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
        /// How long to wait for the outcome.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_seconds: Option<u64>,
    },
    /// Delete a connection's SA with the peer's knowledge, and forget its ticket. Or one of its Child SAs,
    /// and nothing else.
    Down {
        /// Its name.
        connection: String,
        /// The Child SA's within it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<String>,
    },
    /// Drop a connection's SA without a word, and keep the ticket.
    Suspend {
        /// Its name.
        connection: String,
    },
    /// New keys for a connection's IKE SA, from a key exchange of their own; or for its Child SAs.
    Rekey {
        /// Its name.
        connection: String,
        /// The Child SAs instead.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        child: bool,
        /// Of these the one of this name; absent for each.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// Send clients whose SAs stand to another gateway: of one connection, or all. Exactly one of the two
    /// is given.
    Redirect {
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connection: Option<String>,
        /// The clients of every connection.
        #[serde(default)]
        all: bool,
        /// The gateway's address or name.
        gateway: String,
    },
    /// Read connections, secrets, certificates and lists of revoked ones from their files again.
    Reload,
    /// Ticket keys, counts, and tickets held.
    TicketList,
    /// Issue tickets under a new key from now on.
    TicketRotate,
    /// Void tickets: of one peer's SAs, or all. Exactly one of the two is given.
    TicketRevoke {
        /// The peer's identity.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        /// Every ticket ever issued.
        #[serde(default)]
        all: bool,
    },
    /// Pools of inner addresses.
    PoolList,
    /// Leases of all pools.
    PoolLeases,
    /// Every configured connection, up or not.
    ConnectionList,
    /// The level of defence, why, and what is sent back.
    Flood,
    /// Choose the level of defence for a while.
    FloodLevel {
        /// `calm`, `guarded`, `attack`, `auto` or `off`; `configured` ends what was chosen before.
        level: String,
        /// How long; [`crate::DENY_SECONDS`] if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Ask nobody in a network for a cookie for a while.
    FloodAllow {
        /// An address, or an address with a number of bits.
        network: String,
        /// How long; [`crate::DENY_SECONDS`] if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Ask them again.
    FloodUnallow {
        /// As it was allowed.
        network: String,
    },
    /// What the gate is attached to and has counted.
    Gate,
    /// Hear nobody from a network for a while.
    GateDeny {
        /// An address, or an address with a number of bits.
        network: String,
        /// How long; [`crate::DENY_SECONDS`] if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Hear a network again that was denied for a while.
    GateUndeny {
        /// As it was denied.
        network: String,
    },
    /// Put the gate back on its interfaces.
    GateAttach,
    /// Take the gate off all interfaces; the daemon goes on, and judges alone.
    GateDetach,
    /// The last failures of a peer, or of all, the latest first.
    Why {
        /// Its address, its identity, or the name of a connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
    },
    /// What Child SAs have carried, by connection.
    Traffic,
    /// How much is logged, and whose messages.
    Log,
    /// Log more or less.
    LogLevel {
        /// `error`, `warn`, `info`, `debug` or `trace`; `configured` ends what was chosen before.
        level: String,
        /// How long; until the engine ends if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Log the messages of one peer for a while.
    LogWatch {
        /// Its address, its identity, or the name of a connection.
        peer: String,
        /// How long; [`crate::WATCH_SECONDS`] if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u64>,
    },
    /// Log them no longer.
    LogUnwatch {
        /// As it was given.
        peer: String,
    },
    /// End the daemon.
    Shutdown {
        /// Delete all SAs with the peers' knowledge first; else they outlive the daemon.
        #[serde(default)]
        delete: bool,
    },
}
