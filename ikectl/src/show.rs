//! Replies as people read them.

mod check;
mod connection;
mod flood;
mod log;
pub(crate) mod metrics;
mod pool;
mod ticket;
mod why;

use std::fmt::Write as _;

use ikectl_api::{ChildSa, Done, Endpoint, IkeSa, Outcome, Pfs, Reply, Status};

pub(crate) use self::check::check;
use crate::{
    ask::{Trouble, printable},
    table::Table,
};

const UNKNOWN: &str = "-";

/// The daemon's own JSON, which may say more than this program knows.
pub(crate) fn json(line: &str, pretty: bool) -> Result<String, Trouble> {
    if !pretty {
        return Ok(line.to_owned());
    }
    let nonsense = |error: serde_json::Error| Trouble::Nonsense(error.to_string());
    let value: serde_json::Value = serde_json::from_str(line).map_err(nonsense)?;
    Ok(serde_json::to_string_pretty(&value).map_err(nonsense)? + "\n")
}

/// Text for a terminal; `one_sa` asks for the long form.
pub(crate) fn text(reply: &Reply, one_sa: bool) -> String {
    match &reply.outcome {
        Outcome::Status(status) => status_screen(&reply.rekindle.version, status),
        Outcome::IkeSas(sas) if one_sa => sas.iter().map(sa_block).collect(),
        Outcome::IkeSas(sas) => sa_table(sas),
        Outcome::SaOrigin(origin) => ticket::origin_screen(origin),
        Outcome::Tickets(tickets) => ticket::screen(tickets),
        Outcome::Pools(pools) => pool::table(pools),
        Outcome::Leases(leases) => pool::leases(leases),
        Outcome::Gate(gate) => flood::gate_screen(gate),
        Outcome::Connections(all) => connection::screen(all),
        Outcome::Flood(flood) => flood::screen(flood),
        Outcome::PeerFailures(failures) => why::screen(failures),
        Outcome::Log(log) => log::screen(log),
        Outcome::Traffic(all) => connection::traffic(all),
        Outcome::Done(done) => done_line(done),
        Outcome::Error(failure) => printable(&failure.message) + "\n",
    }
}

fn status_screen(version: &str, status: &Status) -> String {
    let mut text = format!(
        "rekindle {}  up {}  pid {}  {} configured\n",
        printable(version),
        ago(status.uptime_seconds),
        status.pid,
        count(status.connections, "connection"),
    );
    let key = status
        .ticket_key_id
        .map_or(String::new(), |id| format!("key {id}  "));
    let logins = status.full_logins + status.resumed_logins;
    let share = match (status.resumed_logins * 100).checked_div(logins) {
        Some(percent) => format!(" ({percent} %)"),
        None => String::new(),
    };
    let mut line = |head: &str, rest: String| {
        let _infallible = writeln!(text, "{head:<10}{rest}");
    };
    line(
        "IKE SAs",
        format!(
            "{} established  {} half-open  {} suspended  Child SAs {}",
            status.ike_sas_established,
            status.ike_sas_half_open,
            status.suspended,
            status.child_sas
        ),
    );
    line(
        "Logins",
        format!(
            "{} full  {} resumed{share}  {} failed",
            status.full_logins, status.resumed_logins, status.failed_logins
        ),
    );
    line(
        "Tickets",
        format!(
            "{key}{} issued  {} refused",
            status.tickets_issued, status.tickets_refused
        ),
    );
    let idle = status
        .counters
        .iter()
        .filter(|(_, messages)| **messages > 0);
    let idle: Vec<_> = idle
        .map(|(reason, messages)| format!("{} {messages}", printable(reason)))
        .collect();
    if !idle.is_empty() {
        line("Messages", idle.join("  "));
    }
    line("Gate", printable(&status.gate_mode));
    for (at, one) in status.attention.iter().enumerate() {
        line(if at == 0 { "Attention" } else { "" }, printable(&one.text));
    }
    if status.connections == 0 {
        line(
            "Next",
            "no connection is configured; add [connections.NAME]".to_owned(),
        );
    }
    text
}

fn sa_table(sas: &[IkeSa]) -> String {
    if sas.is_empty() {
        return "no IKE SAs\n".to_owned();
    }
    let mut table = Table::new(&[
        "ID", "CONN", "PEER", "ADDRESS", "STATE", "AGE", "RESUMED", "PFS", "TICKET", "CHILD",
        "IN/OUT",
    ]);
    for sa in sas {
        table.row(vec![
            sa.id.map_or(UNKNOWN.to_owned(), |id| id.to_string()),
            known(sa.connection.as_deref()),
            known(sa.remote.id.as_deref()),
            address(&sa.remote),
            match &sa.held_in {
                Some(form) => format!("{} ({})", sa.state.word(), printable(form)),
                None => sa.state.word().replace('_', "-"),
            },
            sa.established_age_seconds.map_or(UNKNOWN.to_owned(), ago),
            if sa.resumed {
                format!("yes({})", sa.resume_count)
            } else {
                "no".to_owned()
            },
            known(sa.pfs.map(Pfs::word)),
            sa.ticket
                .as_ref()
                .map_or(UNKNOWN.to_owned(), |one| ago(one.expires_in_seconds)),
            known(child_names(sa).as_deref()),
            traffic(&sa.children),
        ]);
    }
    table.text()
}

/// Close to swanctl's block: there are eyes and expressions that know it.
fn sa_block(sa: &IkeSa) -> String {
    let number = sa.id.map_or(String::new(), |id| format!("#{id}, "));
    let (mark_i, mark_r) = if sa.initiator { ("*", "") } else { ("", "*") };
    let mut text = format!(
        "{}: {number}{}, IKEv{}, {}_i{mark_i} {}_r{mark_r}\n",
        known(sa.connection.as_deref()),
        sa.state.word().to_uppercase(),
        sa.version,
        known(sa.spi_i.as_deref()),
        known(sa.spi_r.as_deref()),
    );
    let mut line = |line: String| {
        let _infallible = writeln!(text, "  {line}");
    };
    for (side, end) in [("local", &sa.local), ("remote", &sa.remote)] {
        line(format!(
            "{side:<6} '{}' @ {}",
            known(end.id.as_deref()),
            bracketed(end)
        ));
        if !end.vips.is_empty() {
            line(format!("{side:<6} [{}]", printable(&end.vips.join(" "))));
        }
    }
    if !sa.dns.is_empty() {
        let domains = if sa.domains.is_empty() {
            String::new()
        } else {
            format!(" for {}", sa.domains.join(" "))
        };
        line(printable(&format!("dns    {}{domains}", sa.dns.join(" "))));
    }
    if let Some(proposal) = &sa.proposal {
        line(printable(proposal));
    }
    if let Some(age) = sa.established_age_seconds {
        let resumed = match (sa.resumed, sa.full_auth_age_seconds) {
            (true, Some(full)) => {
                format!(
                    " (resumed {}x, full authentication {} ago)",
                    sa.resume_count,
                    ago(full)
                )
            }
            (true, None) => format!(" (resumed {}x)", sa.resume_count),
            (false, _) => String::new(),
        };
        let pfs = match sa.pfs {
            Some(pfs) => format!(", pfs {}", pfs.word()),
            None => String::new(),
        };
        line(format!("established {} ago{resumed}{pfs}", ago(age)));
    }
    let plans = [
        ("rekeying in", sa.rekey_in_seconds),
        ("authenticating anew in", sa.reauth_in_seconds),
        ("asking for a sign of life in", sa.liveness_in_seconds),
        ("ends in", sa.ends_in_seconds),
    ];
    if let Some(plans) = planned(&plans) {
        line(plans);
    }
    if let Some(ticket) = &sa.ticket {
        let name = match (ticket.key_id, ticket.index) {
            (Some(key_id), Some(index)) => format!("key {key_id} index {index}, "),
            _ => String::new(),
        };
        let left = ago(ticket.expires_in_seconds);
        line(format!("ticket: {name}expires in {left}"));
    }
    for child in &sa.children {
        let mode = printable(&child.mode).to_uppercase();
        let encap = child.encap.as_ref().map_or("", |_| "-in-UDP");
        let cipher = printable(&child.proposal);
        line(format!(
            "{}: INSTALLED, {mode}{encap}, ESP:{cipher}",
            printable(&child.name)
        ));
        let plans = [
            ("rekeying in", child.rekey_in_seconds),
            ("ends in", child.ends_in_seconds),
        ];
        if let Some(plans) = planned(&plans) {
            line(format!("  {plans}"));
        }
        let counters = [
            ("in ", &child.spi_in, child.in_bytes, child.in_packets),
            ("out", &child.spi_out, child.out_bytes, child.out_packets),
        ];
        for (way, spi, bytes, packets) in counters {
            let counted = match (bytes, packets) {
                (Some(bytes), Some(packets)) => format!(", {bytes} bytes, {packets} packets"),
                _ => String::new(),
            };
            line(format!("  {way} {}{counted}", printable(spi)));
        }
        line(format!("  local  {}", printable(&child.local_ts.join(" "))));
        line(format!(
            "  remote {}",
            printable(&child.remote_ts.join(" "))
        ));
    }
    text
}

/// What is to come and when; nothing if nothing is.
fn planned(plans: &[(&str, Option<u64>)]) -> Option<String> {
    let known = plans.iter().filter_map(|(what, at)| Some((what, (*at)?)));
    let texts: Vec<_> = known
        .map(|(what, at)| format!("{what} {}", ago(at)))
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn done_line(done: &Done) -> String {
    let mut text = done
        .connection
        .as_deref()
        .map_or("done".to_owned(), printable);
    if let Some(key_id) = done.key_id {
        return format!("ticket key {key_id} issues from now on\n");
    }
    if let Some(revoked) = done.revoked {
        let mut text = count(revoked, "ticket") + " of present SAs revoked";
        if let Some(seconds) = done.refused_for_seconds {
            let _infallible = write!(text, "; older ones are refused for {}", ago(seconds));
        }
        return text + "\n";
    }
    if let Some((lists, revoked)) = done.lists.zip(done.certificates_revoked) {
        let (lists, revoked) = (count(lists, "list"), count(revoked, "revoked certificate"));
        let named = |how: &str, names: &[String]| {
            let names: Vec<_> = names.iter().map(|name| printable(name)).collect();
            (!names.is_empty()).then(|| format!("{how}: {}\n", names.join(", ")))
        };
        let changes = [
            named("added", &done.added),
            named("changed", &done.changed),
            named("removed", &done.removed),
        ];
        let changes: String = changes.into_iter().flatten().collect();
        let changes = if changes.is_empty() {
            "no connection has changed\n".to_owned()
        } else {
            changes
        };
        return format!("{changes}{lists} read, with {revoked}\n");
    }
    if let Some(told) = done.told {
        let mut text = count(told, "client") + " told to go";
        if let Some(unable @ 1..) = done.unable {
            let stay = if unable == 1 {
                "does not follow and stays"
            } else {
                "do not follow and stay"
            };
            let _infallible = write!(text, "; {} {stay}", count(unable, "client"));
        }
        return text + "\n";
    }
    if let Some(network) = &done.network {
        let how = match (done.denied_for_seconds, done.allowed_for_seconds) {
            (Some(seconds @ 1..), _) => format!("is denied for {}", ago(seconds)),
            (_, Some(seconds @ 1..)) => {
                format!("is asked for no cookie for {}", ago(seconds))
            }
            (None, Some(0)) => "is treated as all others again".to_owned(),
            (Some(0) | None, _) => "is heard again".to_owned(),
        };
        return format!("{} {how}\n", printable(network));
    }
    if let (Some(id), Some(old)) = (done.id, done.old_id) {
        let _infallible = write!(text, "[{id}]: new keys, was [{old}]");
    } else if let Some(id) = done.id {
        let how = if done.resumed == Some(true) {
            "resumed"
        } else {
            "up"
        };
        let _infallible = write!(text, "[{id}]: {how}");
        if let Some(seconds) = done.setup_seconds {
            let _infallible = write!(text, ", {:.1} ms", seconds * 1000.0);
        }
    } else if done.connection.is_some() {
        text.push_str(": done");
    }
    text + "\n"
}

fn known(text: Option<&str>) -> String {
    text.map_or(UNKNOWN.to_owned(), printable)
}

fn address(end: &Endpoint) -> String {
    let (Some(addr), Some(port)) = (&end.addr, end.port) else {
        return UNKNOWN.to_owned();
    };
    let nat = if end.nat == Some(true) { " NAT" } else { "" };
    let addr = printable(addr);
    if addr.contains(':') {
        format!("[{addr}]:{port}{nat}")
    } else {
        format!("{addr}:{port}{nat}")
    }
}

fn bracketed(end: &Endpoint) -> String {
    match (&end.addr, end.port) {
        (Some(addr), Some(port)) => format!("{}[{port}]", printable(addr)),
        _ => UNKNOWN.to_owned(),
    }
}

/// Of all of them together.
fn traffic(children: &[ChildSa]) -> String {
    let sum = |of: fn(&ChildSa) -> Option<u64>| children.iter().map(of).sum::<Option<u64>>();
    match (sum(|child| child.in_bytes), sum(|child| child.out_bytes)) {
        (Some(received), Some(sent)) if !children.is_empty() => {
            format!("{}/{}", octets(received), octets(sent))
        }
        _ => UNKNOWN.to_owned(),
    }
}

fn child_names(sa: &IkeSa) -> Option<String> {
    let names: Vec<&str> = sa
        .children
        .iter()
        .map(|child| child.name.as_str())
        .collect();
    (!names.is_empty()).then(|| names.join(","))
}

fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// A span of time in its two largest units.
fn ago(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return "0s".to_owned();
    };
    let mut left = seconds;
    let mut text = String::new();
    for (unit, name) in UNITS.iter().skip(first).take(2) {
        if left >= *unit {
            let _infallible = write!(text, "{}{name}", left / unit);
        }
        left %= unit;
    }
    text
}

/// Octets with a decimal prefix and two digits or more.
fn octets(number: u64) -> String {
    const PREFIXES: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1000, "k"),
    ];
    for (unit, prefix) in PREFIXES {
        if number >= unit {
            let tenths = number / (unit / 10);
            return if tenths < 100 {
                format!("{}.{}{prefix}", tenths / 10, tenths % 10)
            } else {
                format!("{}{prefix}", tenths / 10)
            };
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests;
