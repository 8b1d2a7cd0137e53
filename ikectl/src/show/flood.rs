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
            let mode = match gate.mode.as_str() {
                "auto" => String::new(),
                mode => format!(" (mode {})", printable(mode)),
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
                .map(|one| format!("{} {}", printable(&one.reply), one.per_cpu_per_second))
                .collect();
            line("Budget, CPU and s", budgets.join("  "));
        }
        None => line(
            "Level",
            "no gate: the daemon asks for cookies by itself".to_owned(),
        ),
    }
    line("Half-open", flood.half_open.to_string());
    line(
        "Daemon's cookies",
        format!("{} sent  {} wrong", flood.cookies_sent, flood.cookies_wrong),
    );
    text
}

pub(super) fn gate_screen(gate: &Gate) -> String {
    let mut text = format!("gate {}", printable(&gate.mode));
    if !gate.interfaces.is_empty() {
        let _infallible = write!(text, " on {}", printable(&gate.interfaces.join(", ")));
    }
    if let Some(id) = gate.program_id {
        let _infallible = write!(text, ", program {id}");
    }
    if let Some(reason) = &gate.reason {
        let _infallible = write!(text, ": {}", printable(reason));
    }
    text.push('\n');
    if !gate.counters.is_empty() {
        let mut table = Table::new(&["VERDICT", "REASON", "PACKETS", "PER S"]);
        for one in &gate.counters {
            let packets = one.packets.to_string();
            table.row(vec![
                printable(&one.verdict),
                printable(&one.reason),
                packets,
                one.packets_per_second.to_string(),
            ]);
        }
        text.push_str(&table.text());
    }
    if !gate.dropped.is_empty() {
        let mut table = Table::new(&["DROPPED", "REASON", "INTERFACE", "FROM", "TO", "OCTETS"]);
        for one in &gate.dropped {
            let end = |end: &Option<String>| printable(end.as_deref().unwrap_or(UNKNOWN));
            table.row(vec![
                format!("{} ago", ago(one.age_seconds)),
                printable(&one.reason),
                printable(&one.interface),
                end(&one.source),
                end(&one.destination),
                one.frame_bytes.to_string(),
            ]);
        }
        text.push('\n');
        text.push_str(&table.text());
    }
    text
}
