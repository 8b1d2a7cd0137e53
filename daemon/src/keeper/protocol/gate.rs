//! What is said of the gate: how it is, and what an operator wants of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gate_abi::networks::{Prefix, Rule};
use serde::{Deserialize, Serialize};

use crate::gate::FloodMode;

/// The gate, for `ikectl gate`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateStatus {
    /// Where it stands.
    pub attachments: Vec<GateAttachment>,
    /// One for each reason.
    pub counters: Vec<GateCount>,
    /// Packets that were dropped, a few of many, the latest first.
    pub dropped: Vec<GateDrop>,
    /// The level of defence; `None` without a gate.
    pub flood: Option<FloodStatus>,
    /// What the lanes have been given, the sink last; empty if there are none.
    pub lanes: Vec<LaneCount>,
    /// Why datagrams are not shared out among lanes; `None` if they are.
    pub no_lanes: Option<String>,
    /// Networks with a rule.
    pub networks: Networks,
    /// How full its tables are.
    pub fill: Vec<GateFill>,
    /// Why there is none, or why it could not be read.
    pub trouble: Option<String>,
}

/// What the gate counted for one reason.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateCount {
    /// The reason's name.
    pub reason: String,
    /// Packets since its maps were made.
    pub packets: u64,
    /// Octets since then.
    pub octets: u64,
    /// Packets in a second, of late.
    pub per_second: u64,
}

/// A packet that the gate dropped.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateDrop {
    /// For so long.
    pub age: Duration,
    /// The reason's name.
    pub reason: String,
    /// The interface it came in by.
    pub interface: String,
    /// Where it came from and where it went to, if it could be read. Port 0 is none.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Octets, from the Ethernet header on.
    pub octets: u64,
}

/// The gate's level of defence, for `ikectl flood`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FloodStatus {
    /// As configured, or as an operator has set it.
    pub mode: String,
    /// How long what an operator has set counts.
    pub set_for: Option<Duration>,
    /// `calm`, `guarded` or `attack`.
    pub level: String,
    /// For so long.
    pub age: Duration,
    /// Why.
    pub why: String,
    /// First messages without proof in a second, of late.
    pub per_second: u64,
    /// How long such messages waited for the engine, of late.
    pub queue_delay: Duration,
    /// Of each kind of reply, how many.
    pub budgets: Vec<BudgetStatus>,
    /// Networks from which most of the packets came that were dropped of late.
    pub refused: Vec<RefusedNetwork>,
}

/// How many replies of a kind each CPU may send in a second.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BudgetStatus {
    /// The kind's name.
    pub name: String,
    /// So many.
    pub limit: u64,
    /// So many were sent in the latest second, by the CPU that has sent most.
    pub spent: u64,
}

/// A network from which packets were dropped.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RefusedNetwork {
    /// Its first address: all of one for IPv4, 64 bits for IPv6.
    pub network: IpAddr,
    /// Of a hundred of the packets that the gate has shown, so many at least.
    pub percent: u8,
    /// Why the last of them was dropped.
    pub reason: String,
}

/// The gate on one interface.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateAttachment {
    /// The interface.
    pub interface: String,
    /// `native`, `generic` or `none`.
    pub mode: String,
    /// Why it is not native.
    pub reason: String,
    /// The kernel's number of the program there.
    pub program: Option<u32>,
}

/// Datagrams that came to one lane on all ports.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LaneCount {
    /// Its name.
    pub lane: String,
    /// Since the keeper started.
    pub packets: u64,
    /// In a second, of late.
    pub per_second: u64,
}

/// How much of a table is taken.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct GateFill {
    /// What is in it.
    pub what: String,
    /// How many.
    pub used: u64,
    /// How many there can be.
    pub most: u64,
}

/// Networks that are judged beforehand.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Networks {
    /// Nobody is heard from there.
    pub denied: Vec<ListedNetwork>,
    /// Nobody there is asked for a cookie.
    pub allowed: Vec<ListedNetwork>,
}

impl Networks {
    /// All of them, each with its rule.
    #[must_use]
    pub fn rules(&self) -> Vec<(Prefix, Rule)> {
        let of = |list: &[ListedNetwork], rule| {
            let rules = list.iter().map(move |one| (one.network, rule));
            rules.collect::<Vec<_>>()
        };
        let mut rules = of(&self.denied, Rule::Deny);
        rules.extend(of(&self.allowed, Rule::Allow));
        rules
    }
}

/// A network with a rule.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ListedNetwork {
    /// Which.
    #[serde(with = "prefix")]
    pub network: Prefix,
    /// How long the rule will count; `None` for what is in the configuration.
    pub left: Option<Duration>,
}

/// What an operator wants of the gate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum GateCommand {
    /// A network is to be treated by a rule for so long.
    List {
        /// How.
        #[serde(with = "rule")]
        rule: Rule,
        /// Which.
        #[serde(with = "prefix")]
        network: Prefix,
        /// How long.
        lasting: Duration,
    },
    /// It is to be treated as all others again.
    Unlist {
        /// How it was.
        #[serde(with = "rule")]
        rule: Rule,
        /// Which.
        #[serde(with = "prefix")]
        network: Prefix,
    },
    /// The level of defence is to be chosen so for a while.
    Level {
        /// How.
        #[serde(with = "mode")]
        mode: FloodMode,
        /// How long.
        lasting: Duration,
    },
    /// It is to be chosen as configured again.
    ConfiguredLevel,
    /// The gate is to stand on its interfaces.
    Attach,
    /// It is to leave them until the operator or the next start of the daemon puts it back.
    Detach,
}

/// Why the gate does not do what an operator wants.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum GateRefused {
    /// The network is in the configuration.
    #[error("is denied by the configuration")]
    Configured,
    /// Nobody has said so of it.
    #[error("is not {}", .0.word())]
    NotListed(#[serde(with = "rule")] Rule),
    /// Somebody has said the opposite of it.
    #[error("is {}", .0.word())]
    Listed(#[serde(with = "rule")] Rule),
    /// No more can be listed.
    #[error("is one too many: {0} can be listed at a time")]
    Full(usize),
    /// The configuration wants no gate on interfaces.
    #[error("is switched off in the configuration")]
    SwitchedOff,
    /// In the gate's own words.
    #[error("{0}")]
    Failed(String),
}

mod mode {
    use serde::{Deserialize as _, de::Error as _};

    use super::FloodMode;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: serde::Serializer>(
        mode: &FloodMode,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(mode.word())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<FloodMode, D::Error> {
        let word = String::deserialize(deserializer)?;
        FloodMode::from_word(&word).ok_or_else(|| D::Error::custom("no mode"))
    }
}

mod rule {
    use serde::{Deserialize as _, Serialize as _, de::Error as _};

    use super::Rule;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: serde::Serializer>(
        rule: &Rule,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (*rule as u32).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Rule, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Rule::from_number(number).ok_or_else(|| D::Error::custom("no rule"))
    }
}

mod prefix {
    use serde::{Deserialize as _, Serialize as _, de::Error as _};

    use super::Prefix;

    pub(super) fn serialize<S: serde::Serializer>(
        prefix: &Prefix,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        prefix.key().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Prefix, D::Error> {
        let (bits, address) = <(u32, [u8; 16])>::deserialize(deserializer)?;
        let bits = u8::try_from(bits).map_err(D::Error::custom)?;
        Prefix::new(address, bits).ok_or_else(|| D::Error::custom("no network"))
    }
}
