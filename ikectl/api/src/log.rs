//! How much is logged.

use serde::{Deserialize, Serialize};

/// How much the engine logs, and whose messages.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// What the configuration says.
    pub configured: String,
    /// How long until that counts again; absent if it does, or not before somebody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_seconds: Option<u64>,
    /// Peers whose messages are logged.
    #[serde(default)]
    pub watched: Vec<WatchedPeer>,
}

/// A peer whose messages are logged.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct WatchedPeer {
    /// As it was given: an address, an identity, or the name of a connection.
    pub peer: String,
    /// For how much longer.
    pub left_seconds: u64,
}
