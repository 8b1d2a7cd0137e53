//! What several workers say, as one answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ike::Told;

use crate::control::{
    CommandError, FailureReport, FloodReport, RevokeDone, SaReport, StatusReport, TicketReport,
};

/// Connections in one answer that do not come up.
const WAITING_TOLD: usize = 8;
/// Failures in one answer.
const FAILURES_TOLD: usize = 64;

/// By number, as one worker would have them; sleepers have none and come last.
pub(super) fn in_order(mut all: Vec<SaReport>) -> Vec<SaReport> {
    all.sort_by_key(|report| (report.view.id == 0, report.view.id));
    all
}

pub(super) fn both_statuses(mut all: StatusReport, part: StatusReport) -> StatusReport {
    all.established += part.established;
    all.half_open += part.half_open;
    all.suspended += part.suspended;
    all.child_sas += part.child_sas;
    all.full_logins += part.full_logins;
    all.resumed_logins += part.resumed_logins;
    all.failed_logins += part.failed_logins;
    all.tickets_issued += part.tickets_issued;
    all.tickets_refused += part.tickets_refused;
    add(&mut all.counters, part.counters);
    for line in part.attention {
        if !all.attention.contains(&line) {
            all.attention.push(line);
        }
    }
    all.up.extend(part.up);
    all.waiting.extend(part.waiting);
    all
}

/// Names what waits everywhere: one worker may try in vain what another one has up.
pub(super) fn with_the_waiting(mut all: StatusReport) -> StatusReport {
    let up: BTreeSet<&Arc<str>> = all.up.iter().collect();
    let lost = all.waiting.iter().filter(|one| !up.contains(one));
    let line = |one: &Arc<str>| format!("{one} is to be up and is not: ikectl why {one}");
    let lines: Vec<_> = lost.take(WAITING_TOLD).map(line).collect();
    all.attention.extend(lines);
    all
}

pub(super) fn both_tickets(mut all: TicketReport, part: TicketReport) -> TicketReport {
    all.issued += part.issued;
    all.honoured += part.honoured;
    all.outstanding += part.outstanding;
    all.held.extend(part.held);
    add(&mut all.refused, part.refused);
    all
}

pub(super) fn both_floods(mut all: FloodReport, part: FloodReport) -> FloodReport {
    for (network, count) in part.networks {
        *all.networks.entry(network).or_default() += count;
    }
    FloodReport {
        networks: all.networks,
        half_open: all.half_open + part.half_open,
        cookies_sent: all.cookies_sent + part.cookies_sent,
        cookies_wrong: all.cookies_wrong + part.cookies_wrong,
        flood: all.flood.or(part.flood),
        allowed: all.allowed,
    }
}

/// A failure counts more than a success, and that more than having had nothing to do.
pub(super) fn both_downs(
    one: Result<(), CommandError>,
    other: Result<(), CommandError>,
) -> Result<(), CommandError> {
    match (one, other) {
        (Err(CommandError::NotUp), other) => other,
        (one, Err(CommandError::NotUp)) | (one @ Err(_), _) => one,
        (Ok(()), other) => other,
    }
}

pub(super) fn both_told(
    one: Result<Told, CommandError>,
    other: Result<Told, CommandError>,
) -> Result<Told, CommandError> {
    let (one, other) = (one?, other?);
    Ok(Told {
        told: one.told + other.told,
        unable: one.unable + other.unable,
    })
}

pub(super) fn both_revoked(
    one: Result<RevokeDone, String>,
    other: Result<RevokeDone, String>,
) -> Result<RevokeDone, String> {
    let (one, other) = (one?, other?);
    Ok(RevokeDone {
        tickets: one.tickets + other.tickets,
        refused_for: one.refused_for.max(other.refused_for),
    })
}

/// The latest first, and no more than people read.
pub(super) fn latest(mut all: Vec<FailureReport>) -> Vec<FailureReport> {
    all.sort_by_key(|report| std::cmp::Reverse(report.last));
    all.truncate(FAILURES_TOLD);
    all
}

/// Adds counts under the same words.
fn add(all: &mut Vec<(&'static str, u64)>, part: Vec<(&'static str, u64)>) {
    let mut more: BTreeMap<_, _> = part.into_iter().collect();
    for (word, count) in all.iter_mut() {
        *count += more.remove(word).unwrap_or(0);
    }
    all.extend(more);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ike::view::Closed;

    use super::*;

    #[test]
    fn counts_of_all_workers_are_added_under_their_words() {
        let part = |established, word, trouble: &str| StatusReport {
            uptime: Duration::from_secs(9),
            connections: 2,
            established,
            counters: vec![("stray", 1), (word, 5)],
            attention: vec!["the same".to_owned(), trouble.to_owned()],
            gate_mode: "none",
            ..StatusReport::default()
        };
        let all = both_statuses(part(3, "a", "x"), part(4, "b", "y"));
        assert_eq!((all.connections, all.established), (2, 7));
        assert_eq!(all.counters, [("stray", 2), ("a", 5), ("b", 5)]);
        assert_eq!(all.attention, ["the same", "x", "y"]);
    }

    #[test]
    fn what_one_worker_has_up_another_one_does_not_wait_for() {
        let part = |up: &[&str], waiting: &[&str]| StatusReport {
            up: up.iter().map(|name| Arc::from(*name)).collect(),
            waiting: waiting.iter().map(|name| Arc::from(*name)).collect(),
            ..StatusReport::default()
        };
        let all = both_statuses(part(&["a"], &["b", "c"]), part(&["b"], &[]));
        let lines = with_the_waiting(all).attention;
        assert_eq!(lines, ["c is to be up and is not: ikectl why c"]);
    }

    #[test]
    fn half_open_sas_of_all_workers_are_added_up_by_network() {
        let part = |networks: &[(&str, u64)]| FloodReport {
            half_open: networks.iter().map(|(_, count)| count).sum(),
            networks: networks
                .iter()
                .map(|(network, count)| (network.parse().expect("address"), *count))
                .collect(),
            cookies_sent: 1,
            cookies_wrong: 0,
            flood: None,
            allowed: Vec::new(),
        };
        let one = part(&[("192.0.2.7", 2), ("2001:db8::", 1)]);
        let all = both_floods(one, part(&[("192.0.2.7", 3), ("192.0.2.8", 1)]));
        let expected = part(&[("192.0.2.7", 5), ("2001:db8::", 1), ("192.0.2.8", 1)]);
        assert_eq!((all.half_open, &all.networks), (7, &expected.networks));
    }

    #[test]
    fn a_down_that_failed_somewhere_has_failed() {
        let failed = || Err(CommandError::Ended(Closed::Crashed));
        let idle = || Err(CommandError::NotUp);
        assert_eq!(both_downs(Ok(()), idle()), Ok(()));
        assert_eq!(both_downs(idle(), Ok(())), Ok(()));
        assert_eq!(both_downs(idle(), idle()), idle());
        assert_eq!(both_downs(Ok(()), failed()), failed());
        assert_eq!(both_downs(failed(), Ok(())), failed());
        assert_eq!(both_downs(failed(), idle()), failed());
    }
}
