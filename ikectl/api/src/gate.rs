//! What the daemon says of the gate and of floods.

use serde::{Deserialize, Serialize};

/// The gate.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Gate {
    /// `native`, `generic` or `none`.
    pub mode: String,
    /// Why it is not native, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it was to be attached.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// How it stands on each of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<GateAttachment>,
    /// The kernel's number of its program on the first of them where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_id: Option<u32>,
    /// Verdicts, by reason.
    #[serde(default)]
    pub counters: Vec<GateCounter>,
    /// Packets that were dropped, a few of many, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<GateDrop>,
    /// What came to the sockets' lanes, whether a gate stands in front of them or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<GateLane>,
    /// Why there are no lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_lanes: Option<String>,
    /// Networks from which nobody is heard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<GateDenied>,
    /// How full its tables are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fill: Vec<GateFill>,
}

/// The gate on one interface.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateAttachment {
    /// Its name.
    pub interface: String,
    /// `native`, `generic` or `none`.
    pub mode: String,
    /// Why it is not native, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kernel's number of the program there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_id: Option<u32>,
}

/// Datagrams in one lane, of all ports.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateLane {
    /// `existing`, `resume`, `cookie`, `unproven`, or `sink` for what nobody reads.
    pub lane: String,
    /// Since the daemon started.
    pub packets: u64,
    /// In a second, of late.
    pub packets_per_second: u64,
}

/// A network from which nobody is heard.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateDenied {
    /// Which.
    pub network: String,
    /// For how long; absent for what is in the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied_for_seconds: Option<u64>,
}

/// How much of a table is taken.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateFill {
    /// What is in it.
    pub table: String,
    /// How many.
    pub entries: u64,
    /// How many there can be.
    pub max_entries: u64,
}

/// One row of the gate's verdicts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateCounter {
    /// `pass`, `drop` or `tx`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// How often.
    pub packets: u64,
    /// How often in a second, of late.
    #[serde(default)]
    pub packets_per_second: u64,
}

/// A packet that the gate dropped.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateDrop {
    /// So long ago.
    pub age_seconds: u64,
    /// Why.
    pub reason: String,
    /// The interface it came in by.
    pub interface: String,
    /// Address and port that it came from, as it says; absent if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Address and port that it went to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// From the Ethernet header on.
    pub frame_bytes: u64,
}

/// What stands against a flood.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Flood {
    /// IKE SAs whose peer has proved nothing yet.
    pub half_open: u64,
    /// Networks that these come from: IPv4 addresses, and 64 bits of IPv6.
    #[serde(default)]
    pub half_open_networks: u64,
    /// Those of them with most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub half_open_by_network: Vec<HalfOpenNetwork>,
    /// COOKIEs that the daemon itself has sent since the start.
    pub cookies_sent: u64,
    /// Cookies that it has found wrong.
    pub cookies_wrong: u64,
    /// Networks whose first messages need no cookie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<AllowedNetwork>,
    /// What the gate does; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<FloodLevel>,
}

/// A network whose first messages need no cookie.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AllowedNetwork {
    /// Which.
    pub network: String,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_for_seconds: Option<u64>,
}

/// A network that half-open IKE SAs come from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HalfOpenNetwork {
    /// Which.
    pub network: String,
    /// How many.
    pub half_open: u64,
}

/// A network that packets come from which the gate drops.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RefusedNetwork {
    /// Which.
    pub network: String,
    /// Of a hundred of the packets that the gate has shown of late, so many at least.
    pub percent: u8,
    /// Why the last of them was dropped.
    pub reason: String,
}

/// The gate's level of defence.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct FloodLevel {
    /// `auto`, or what is configured or set.
    pub mode: String,
    /// How long what an operator has set counts; absent if that is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_for_seconds: Option<u64>,
    /// `calm`, `guarded` or `attack`.
    pub level: String,
    /// For so long.
    pub age_seconds: u64,
    /// Why, for people.
    pub why: String,
    /// First messages without proof in a second, of late.
    pub unproven_per_second: u64,
    /// How long such messages waited for the engine, of late.
    #[serde(default)]
    pub queue_delay_seconds: f64,
    /// What may be sent back.
    pub budgets: Vec<ReplyBudget>,
    /// Networks from which most of the packets came that were dropped of late.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedNetwork>,
}

/// How many replies of one kind may be sent.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ReplyBudget {
    /// Which.
    pub reply: String,
    /// In a second, on each CPU.
    pub per_cpu_per_second: u64,
    /// In the latest second, on the CPU that has sent most.
    #[serde(default)]
    pub spent: u64,
}
