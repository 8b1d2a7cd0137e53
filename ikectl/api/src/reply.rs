//! What the daemon answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Connection, ConnectionTraffic, Flood, Gate, IkeSa, Lease, Log, PeerFailure, Pool, SaOrigin,
    Tickets,
};

/// One reply: who answers, then exactly one outcome.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reply {
    /// Who answers, in which shapes, and when.
    pub rekindle: Stamp,
    /// The answer.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The envelope's head.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Stamp {
    /// The daemon's version.
    pub version: String,
    /// [`crate::SCHEMA`].
    pub schema: u32,
    /// RFC 3339, UTC.
    pub time: String,
}

/// What came of a request; its name is the key beside `rekindle`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// To `status`.
    Status(Status),
    /// To `sa_list` and `sa_show`.
    IkeSas(Vec<IkeSa>),
    /// To `sa_origin`.
    SaOrigin(SaOrigin),
    /// To `ticket_list`.
    Tickets(Tickets),
    /// To `pool_list`.
    Pools(Vec<Pool>),
    /// To `pool_leases`.
    Leases(Vec<Lease>),
    /// To `gate`.
    Gate(Gate),
    /// To `connection_list`.
    Connections(Vec<Connection>),
    /// To `flood`.
    Flood(Flood),
    /// To `why`.
    PeerFailures(Vec<PeerFailure>),
    /// To `traffic`.
    Traffic(Vec<ConnectionTraffic>),
    /// To `log` and all that begins with it.
    Log(Log),
    /// To every command.
    Done(Done),
    /// To anything.
    Error(Failure),
}

/// The daemon as a whole.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Since it started.
    pub uptime_seconds: u64,
    /// Process that answers.
    pub pid: u32,
    /// Configured connections.
    pub connections: u64,
    /// IKE SAs with both sides authenticated.
    pub ike_sas_established: u64,
    /// IKE SAs whose peer has proved nothing yet.
    pub ike_sas_half_open: u64,
    /// Connections that sleep on a ticket.
    pub suspended: u64,
    /// Child SAs in the kernel.
    pub child_sas: u64,
    /// Full logins since the start.
    pub full_logins: u64,
    /// Resumed logins since the start.
    pub resumed_logins: u64,
    /// Logins that came to nothing since the start.
    pub failed_logins: u64,
    /// Tickets issued since the start.
    pub tickets_issued: u64,
    /// Presented tickets that were refused since the start.
    pub tickets_refused: u64,
    /// Epoch that new tickets are sealed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_key_id: Option<u8>,
    /// Messages since the start that took no SA further, by reason: malformed, unasked, repeated, or
    /// answered with a refusal.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
    /// `native`, `generic` or `none`.
    pub gate_mode: String,
    /// What an operator should look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attention: Vec<Attention>,
}

/// One thing an operator should look at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attention {
    /// One line.
    pub text: String,
}

/// A command was carried out.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Done {
    /// The connection, for commands on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The IKE SA that `up` or `rekey` brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The IKE SA that `rekey` replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_id: Option<u64>,
    /// Whether a ticket opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<bool>,
    /// From the first message to the installed Child SA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setup_seconds: Option<f64>,
    /// The ticket key that issues from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<u8>,
    /// Tickets of one peer that were revoked, of those issued on SAs that are still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
    /// How long any other ticket that the peer may hold will be refused: until it has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_for_seconds: Option<u64>,
    /// Clients that are told to go to another gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<u64>,
    /// The network that a command was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// How long nobody will be heard from there; 0 if it is heard again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_for_seconds: Option<u64>,
    /// How long it will be asked for no cookie; 0 if it is asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_for_seconds: Option<u64>,
    /// Clients that stay because they have not said that they would follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unable: Option<u64>,
    /// Connections that a reload has found new.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<String>,
    /// Connections with other settings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Connections that are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Lists of revoked certificates that count from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<u64>,
    /// How many certificates they name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates_revoked: Option<u64>,
}

/// A request came to nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Failure {
    /// What kind of failure, for programs.
    pub code: ErrorCode,
    /// What it was about and why it failed, for people; one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request was not understood.
    BadRequest,
    /// Too many clients, or too many requests under way.
    Busy,
    /// The command was tried and failed.
    Failed,
    /// Nothing has this name or number.
    NotFound,
    /// The time for an answer is over; the command may still succeed.
    Timeout,
    /// A kind that this reader does not know.
    #[serde(other)]
    Unknown,
}
