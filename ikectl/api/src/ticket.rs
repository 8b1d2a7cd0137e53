//! Session tickets as both sides see them, and where an SA's state came from.

use serde::{Deserialize, Serialize};

/// What the daemon knows of tickets; counts are since it started.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tickets {
    /// Gateway: live ticket keys, oldest first.
    #[serde(default)]
    pub epochs: Vec<TicketEpoch>,
    /// Gateway: tickets issued.
    pub issued: u64,
    /// Gateway: presented tickets that opened an SA.
    pub honoured: u64,
    /// Gateway: presented tickets that were refused, by reason.
    #[serde(default)]
    pub refused: Vec<TicketRefusals>,
    /// Gateway: SAs whose peer can resume them with a ticket of ours.
    pub outstanding: u64,
    /// Client: sessions that can be resumed.
    #[serde(default)]
    pub held: Vec<HeldTicket>,
    /// Gateway: peers whose tickets are revoked, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revocations: Vec<TicketRevocation>,
}

/// A peer whose tickets are revoked. What it gets afterwards is honoured.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TicketRevocation {
    /// Its identity, as it was given.
    pub peer: String,
    /// Since the revocation.
    pub age_seconds: u64,
    /// Until the last ticket that it can concern has expired.
    pub refused_for_seconds: u64,
}

/// A ticket key. Only the newest issues.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TicketEpoch {
    /// Its id, the second octet of its tickets.
    pub key_id: u8,
    /// Since it began to issue.
    pub age_seconds: u64,
    /// How long it will issue; absent when it does not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issues_for_seconds: Option<u64>,
    /// How long its tickets are honoured at most.
    pub accepted_for_seconds: u64,
}

/// Tickets refused for one reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TicketRefusals {
    /// Why.
    pub reason: String,
    /// How many.
    pub tickets: u64,
}

/// A session that a client can resume, without the ticket's octets.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeldTicket {
    /// The connection.
    pub connection: String,
    /// Whether the connection sleeps on it.
    pub suspended: bool,
    /// The gateway's identity.
    pub gateway_id: String,
    /// Where the gateway was reached.
    pub gateway_addr: String,
    /// Its UDP port.
    pub gateway_port: u16,
    /// The ticket's length.
    pub ticket_bytes: u64,
    /// Since it came.
    pub age_seconds: u64,
    /// What is left of its lifetime; absent when that is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
    /// Resumptions since the last full authentication.
    pub resume_count: u32,
}

/// Where the state of an established IKE SA came from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SaOrigin {
    /// Its number.
    pub id: u64,
    /// The connection.
    pub connection: String,
    /// Since the ticket was issued that opened it (gateway), or came (client).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_age_seconds: Option<u64>,
    /// Every item.
    pub items: Vec<OriginItem>,
}

/// One item of an SA's state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OriginItem {
    /// Its row in the state table.
    pub row: String,
    /// The item.
    pub item: String,
    /// Its value.
    pub value: String,
    /// Where that came from: `config`, `exchange`, `ticket`, `fresh`.
    pub from: Vec<String>,
}
