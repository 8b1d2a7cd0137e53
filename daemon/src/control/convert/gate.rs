//! The gate and floods, as they are told on the socket.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gate_abi::networks::Rule;
use ikectl_api as api;

use crate::{
    control::request::{FloodReport, GateReport, GateVerdict},
    gate::network_to_text,
    keeper::{
        BudgetStatus, GateAttachment, GateDrop, GateFill, GateRefused, LaneCount, ListedNetwork,
        RefusedNetwork,
    },
};

/// Networks with half-open SAs that are named.
const NETWORKS_TOLD: usize = 8;

/// A network by its first address, all of one for IPv4 and 64 bits for IPv6, as the gate's list takes it.
fn network_at(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}/32"),
        IpAddr::V6(v6) => format!("{v6}/64"),
    }
}

pub(in crate::control) fn flood(report: FloodReport) -> api::Flood {
    let budget = |one: BudgetStatus| api::ReplyBudget {
        reply: one.name,
        per_cpu_per_second: one.limit,
        spent: one.spent,
    };
    let refused = |one: RefusedNetwork| api::RefusedNetwork {
        network: network_at(one.network),
        percent: one.percent,
        reason: one.reason,
    };
    let allowed_network = |one: ListedNetwork| api::AllowedNetwork {
        network: network_to_text(one.network),
        allowed_for_seconds: one.left.as_ref().map(Duration::as_secs),
    };
    let FloodReport {
        half_open,
        networks,
        cookies_sent,
        cookies_wrong,
        flood,
        allowed,
    } = report;
    let half_open_networks = networks.len() as u64;
    let mut by_network: Vec<_> = networks.into_iter().collect();
    by_network.sort_by_key(|(network, count)| (std::cmp::Reverse(*count), *network));
    by_network.truncate(NETWORKS_TOLD);
    let of_network = |(network, half_open)| api::HalfOpenNetwork {
        network: network_at(network),
        half_open,
    };
    api::Flood {
        half_open,
        half_open_networks,
        half_open_by_network: by_network.into_iter().map(of_network).collect(),
        cookies_sent,
        cookies_wrong,
        allowed: allowed.into_iter().map(allowed_network).collect(),
        gate: flood.map(|gate| api::FloodLevel {
            mode: gate.mode,
            set_for_seconds: gate.set_for.as_ref().map(Duration::as_secs),
            level: gate.level,
            age_seconds: gate.age.as_secs(),
            why: gate.why,
            unproven_per_second: gate.per_second,
            queue_delay_seconds: gate.queue_delay.as_secs_f64(),
            budgets: gate.budgets.into_iter().map(budget).collect(),
            refused: gate.refused.into_iter().map(refused).collect(),
        }),
    }
}

pub(in crate::control) fn gate(report: GateReport) -> api::Gate {
    let counter = |one: GateVerdict| api::GateCounter {
        verdict: one.verdict.to_owned(),
        reason: one.reason.to_owned(),
        packets: one.packets,
        packets_per_second: one.per_second,
    };
    let attachment = |one: GateAttachment| api::GateAttachment {
        interface: one.interface,
        mode: one.mode,
        reason: Some(one.reason).filter(|reason| !reason.is_empty()),
        program_id: one.program,
    };
    let lane = |one: LaneCount| api::GateLane {
        lane: one.lane,
        packets: one.packets,
        packets_per_second: one.per_second,
    };
    let denied = |one: ListedNetwork| api::GateDenied {
        network: network_to_text(one.network),
        denied_for_seconds: one.left.as_ref().map(Duration::as_secs),
    };
    let fill = |one: GateFill| api::GateFill {
        table: one.what,
        entries: one.used,
        max_entries: one.most,
    };
    let on = report.attachments.iter();
    api::Gate {
        mode: report.mode.to_owned(),
        reason: report.reason,
        interfaces: on.clone().map(|one| one.interface.clone()).collect(),
        program_id: on.clone().find_map(|one| one.program),
        attachments: report.attachments.into_iter().map(attachment).collect(),
        counters: report.verdicts.into_iter().map(counter).collect(),
        dropped: report.dropped.into_iter().map(dropped).collect(),
        lanes: report.lanes.into_iter().map(lane).collect(),
        no_lanes: report.no_lanes,
        denied: report.denied.into_iter().map(denied).collect(),
        fill: report.fill.into_iter().map(fill).collect(),
    }
}

/// Why the gate does not do what an operator wants; `about` is the network that it was to deny.
pub(in crate::control) fn refused(about: &str, why: &GateRefused) -> api::Failure {
    let (code, cure) = match why {
        GateRefused::NotListed(Rule::Deny) => (
            api::ErrorCode::NotFound,
            Some("ikectl gate lists what is, as it was denied"),
        ),
        GateRefused::NotListed(Rule::Allow) => (
            api::ErrorCode::NotFound,
            Some("ikectl flood lists what is, as it was allowed"),
        ),
        GateRefused::Listed(Rule::Deny) => {
            (api::ErrorCode::Failed, Some("ikectl gate undeny it first"))
        }
        GateRefused::Listed(Rule::Allow) => (
            api::ErrorCode::Failed,
            Some("ikectl flood unallow it first"),
        ),
        GateRefused::Configured => (
            api::ErrorCode::Failed,
            Some("take it out of gate.denied and restart"),
        ),
        GateRefused::Full(_) => (
            api::ErrorCode::Failed,
            Some("name a network that has several of them in it"),
        ),
        GateRefused::SwitchedOff => (
            api::ErrorCode::Failed,
            Some("set another gate.mode and restart"),
        ),
        GateRefused::Failed(_) => (api::ErrorCode::Failed, None),
    };
    let why = why.to_string();
    api::Failure {
        code,
        message: format!("{} {}", about.escape_debug(), why.escape_debug()),
        cure: cure.map(str::to_owned),
    }
}

fn dropped(one: GateDrop) -> api::GateDrop {
    let (source, destination) = one.ends.unzip();
    let told = |end: Option<SocketAddr>| {
        end.map(|end| match end.port() {
            0 => end.ip().to_string(),
            _ => end.to_string(),
        })
    };
    api::GateDrop {
        age_seconds: one.age.as_secs(),
        reason: one.reason,
        interface: one.interface,
        source: told(source),
        destination: told(destination),
        frame_bytes: one.octets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_networks_those_with_most_are_named() {
        let one = |number: u32| (IpAddr::V4((0xcb00_7100 + number).into()), 1);
        let mut report = FloodReport {
            half_open: 25,
            networks: (0..20).map(one).collect(),
            cookies_sent: 0,
            cookies_wrong: 0,
            flood: None,
            allowed: Vec::new(),
        };
        let six = "2001:db8::".parse().expect("address");
        report.networks.insert(six, 5);
        let told = flood(report);
        let named = told.half_open_by_network;
        assert_eq!((told.half_open_networks, named.len()), (21, NETWORKS_TOLD));
        assert_eq!(
            (named[0].network.as_str(), named[0].half_open),
            ("2001:db8::/64", 5)
        );
        assert_eq!(named[1].network, "203.0.113.0/32");
    }
}
