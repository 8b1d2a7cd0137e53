//! Tickets and the origin of state, as people read them.

use std::fmt::Write as _;

use ikectl_api::{Endpoint, SaOrigin, Tickets};

use super::{UNKNOWN, address, ago};
use crate::{ask::printable, table::Table};

pub(super) fn screen(tickets: &Tickets) -> String {
    let mut text = String::new();
    if !tickets.epochs.is_empty() {
        let mut table = Table::new(&["KEY", "AGE", "ISSUES FOR", "ACCEPTED FOR"]);
        for epoch in &tickets.epochs {
            table.row(vec![
                epoch.key_id.to_string(),
                ago(epoch.age_seconds),
                epoch.issues_for_seconds.map_or(UNKNOWN.to_owned(), ago),
                ago(epoch.accepted_for_seconds),
            ]);
        }
        text.push_str(&table.text());
    }
    let total: u64 = tickets.refused.iter().map(|one| one.tickets).sum();
    let reasons: Vec<_> = tickets
        .refused
        .iter()
        .map(|one| format!("{} {}", printable(&one.reason), one.tickets))
        .collect();
    let reasons = if reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.join(", "))
    };
    let _infallible = writeln!(
        text,
        "{} issued  {} honoured  {total} refused{reasons}  {} outstanding",
        tickets.issued, tickets.honoured, tickets.outstanding
    );
    if !tickets.revocations.is_empty() {
        let mut table = Table::new(&["REVOKED", "AGE", "REFUSED FOR"]);
        for one in &tickets.revocations {
            table.row(vec![
                printable(&one.peer),
                ago(one.age_seconds),
                ago(one.refused_for_seconds),
            ]);
        }
        text.push_str(&table.text());
    }
    if !tickets.held.is_empty() {
        let mut table = Table::new(&[
            "HELD BY", "GATEWAY", "ADDRESS", "STATE", "AGE", "EXPIRES", "RESUMED", "OCTETS",
        ]);
        for held in &tickets.held {
            let gateway = Endpoint {
                addr: Some(held.gateway_addr.clone()),
                port: Some(held.gateway_port),
                ..Endpoint::default()
            };
            let state = if held.suspended {
                "suspended"
            } else {
                "at hand"
            };
            table.row(vec![
                printable(&held.connection),
                printable(&held.gateway_id),
                address(&gateway),
                state.to_owned(),
                ago(held.age_seconds),
                held.expires_in_seconds.map_or("over".to_owned(), ago),
                format!("{}x", held.resume_count),
                held.ticket_bytes.to_string(),
            ]);
        }
        text.push_str(&table.text());
    }
    text
}

pub(super) fn origin_screen(origin: &SaOrigin) -> String {
    let mut text = format!("{}: #{}\n", printable(&origin.connection), origin.id);
    let mut table = Table::new(&["ROW", "ITEM", "VALUE", "FROM"]);
    for item in &origin.items {
        let from: Vec<_> = item.from.iter().map(|one| source(one, origin)).collect();
        table.row(vec![
            printable(&item.row),
            printable(&item.item),
            printable(&item.value),
            from.join(", "),
        ]);
    }
    text.push_str(&table.text());
    text
}

fn source(word: &str, origin: &SaOrigin) -> String {
    match (word, origin.ticket_age_seconds) {
        ("exchange", _) => "this exchange".to_owned(),
        ("ticket", Some(age)) => format!("ticket (issued {age} s ago)"),
        _ => printable(word),
    }
}
