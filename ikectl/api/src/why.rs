//! What went wrong with peers.

use serde::{Deserialize, Serialize};

/// One failure of a peer, or several of the same kind.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PeerFailure {
    /// When it last happened, RFC 3339, UTC.
    pub time: String,
    /// When it first did.
    pub first_time: String,
    /// How often.
    pub times: u64,
    /// Where the peer is, or says it is.
    pub addr: String,
    /// Its port.
    pub port: u16,
    /// `stranger`: the address may be forged; `reached`: it is where it says; `proven`: it is who it says.
    pub standing: String,
    /// Who it says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// Our part in the exchange: `initiator` or `responder`.
    pub role: String,
    /// The exchange, by its name in the RFCs.
    pub exchange: String,
    /// The step of it.
    pub step: String,
    /// What kind of failure, in lower case with underscores.
    pub reason: String,
    /// What we found, for people.
    pub verdict: String,
    /// `sent` or `received`, and the notification's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// What to do about it, for people.
    pub cure: String,
}
