//! The gate and what stands against a flood, as people read them.

use std::fmt::Write as _;

use ikectl_api::{Flood, Gate};

use super::{UNKNOWN, ago};
use crate::{ask::printable, table::Table};

pub(super) fn screen(flood: &Flood) -> String {
    let mut text = String::new();
    let mut line = |head: &str, rest: String| {
        let _infallible = writeln!(text, "{head:<20}{rest}");
    };
    match &flood.gate {
        Some(gate) => {
            let word = printable(&gate.level);
            let age = ago(gate.age_seconds);
            let mode = match (gate.set_for_seconds, gate.mode.as_str()) {
                (Some(left), mode) => {
                    format!(" (set to {} for {} more)", printable(mode), ago(left))
                }
                (None, "auto") => String::new(),
                (None, mode) => format!(" (mode {})", printable(mode)),
            };
            line(
                "Level",
                format!("{word}{mode} for {age}: {}", printable(&gate.why)),
            );
            let rate = gate.unproven_per_second;
            line("First messages", format!("{rate} a second without proof"));
            let delay = gate.queue_delay_seconds * 1000.0;
            line("Their queue", format!("{delay:.1} ms"));
            let budgets = gate.budgets.iter();
            let budgets: Vec<_> = budgets
                .map(|one| {
                    let (reply, most) = (printable(&one.reply), one.per_cpu_per_second);
                    format!("{reply} {} of {most}", one.spent)
                })
                .collect();
            line("Spent, CPU and s", budgets.join("  "));
        }
        None => line(
            "Level",
            "no gate: the daemon asks for cookies by itself".to_owned(),
        ),
    }
    let most = flood.half_open_by_network.first();
    let from = most.map_or(String::new(), |most| {
        let (networks, each) = (flood.half_open_networks, most.half_open);
        format!(" from {networks} networks, at most {each} each")
    });
    line("Half-open", format!("{}{from}", flood.half_open));
    line(
        "Daemon's cookies",
        format!("{} sent  {} wrong", flood.cookies_sent, flood.cookies_wrong),
    );
    for table in [half_open(flood), refused(flood), allowed(flood)]
        .into_iter()
        .flatten()
    {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

fn half_open(flood: &Flood) -> Option<String> {
    let rows = flood.half_open_by_network.iter();
    let rows = rows.map(|one| vec![printable(&one.network), one.half_open.to_string()]);
    table(&["HALF-OPEN FROM", "IKE SAS"], rows)
}

fn refused(flood: &Flood) -> Option<String> {
    let rows = flood.gate.iter().flat_map(|gate| &gate.refused).map(|one| {
        vec![
            printable(&one.network),
            format!("{} %", one.percent),
            printable(&one.reason),
        ]
    });
    table(&["DROPPED FROM", "SHARE", "LAST FOR"], rows)
}

fn allowed(flood: &Flood) -> Option<String> {
    let rows = flood.allowed.iter().map(|one| {
        let left = one.allowed_for_seconds.map(ago);
        let left = left.map_or(UNKNOWN.to_owned(), |left| format!("for {left}"));
        vec![printable(&one.network), left]
    });
    table(&["NO COOKIE FROM", ""], rows)
}

pub(super) fn gate_screen(gate: &Gate) -> String {
    let mut text = format!("gate {}", printable(&gate.mode));
    if !gate.interfaces.is_empty() {
        let _infallible = write!(text, " on {}", printable(&gate.interfaces.join(", ")));
    }
    if let Some(reason) = &gate.reason {
        let _infallible = write!(text, ": {}", printable(reason));
    }
    text.push('\n');
    let tables = [
        interfaces(gate),
        counters(gate),
        lanes(gate),
        denied(gate),
        fill(gate),
        dropped(gate),
    ];
    for table in tables.into_iter().flatten() {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

fn interfaces(gate: &Gate) -> Option<String> {
    let rows = gate.attachments.iter().map(|one| {
        let program = one.program_id.map(|id| id.to_string());
        vec![
            printable(&one.interface),
            printable(&one.mode),
            program.unwrap_or_else(|| UNKNOWN.to_owned()),
        ]
    });
    table(&["INTERFACE", "MODE", "PROGRAM"], rows)
}

fn counters(gate: &Gate) -> Option<String> {
    let rows = gate.counters.iter().map(|one| {
        vec![
            printable(&one.verdict),
            printable(&one.reason),
            one.packets.to_string(),
            one.packets_per_second.to_string(),
        ]
    });
    table(&["VERDICT", "REASON", "PACKETS", "PER S"], rows)
}

fn lanes(gate: &Gate) -> Option<String> {
    if let Some(why) = &gate.no_lanes {
        return Some(format!("no lanes: {}\n", printable(why)));
    }
    let rows = gate.lanes.iter().map(|one| {
        vec![
            printable(&one.lane),
            one.packets.to_string(),
            one.packets_per_second.to_string(),
        ]
    });
    table(&["LANE", "PACKETS", "PER S"], rows)
}

fn denied(gate: &Gate) -> Option<String> {
    let rows = gate.denied.iter().map(|one| {
        let left = one.denied_for_seconds;
        vec![
            printable(&one.network),
            left.map_or("configured".to_owned(), |left| format!("for {}", ago(left))),
        ]
    });
    table(&["DENIED", ""], rows)
}

fn fill(gate: &Gate) -> Option<String> {
    let rows = gate.fill.iter().map(|one| {
        vec![
            printable(&one.table),
            one.entries.to_string(),
            one.max_entries.to_string(),
        ]
    });
    table(&["TABLE", "ENTRIES", "OF"], rows)
}

fn dropped(gate: &Gate) -> Option<String> {
    let rows = gate.dropped.iter().map(|one| {
        let end = |end: &Option<String>| printable(end.as_deref().unwrap_or(UNKNOWN));
        vec![
            format!("{} ago", ago(one.age_seconds)),
            printable(&one.reason),
            printable(&one.interface),
            end(&one.source),
            end(&one.destination),
            one.frame_bytes.to_string(),
        ]
    });
    table(
        &["DROPPED", "REASON", "INTERFACE", "FROM", "TO", "OCTETS"],
        rows,
    )
}

/// Nothing if there are no rows.
fn table(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Option<String> {
    let mut table = Table::new(heads);
    let mut any = false;
    for row in rows {
        any = true;
        table.row(row);
    }
    any.then(|| table.text())
}
