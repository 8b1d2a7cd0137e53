//! The last failures of one worker's peers, for whoever asks why a peer has no tunnel. Bounded in number
//! and octets, and shared out: one network does not crowd out the others, nor forged addresses the peers
//! that are where they say.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
};

use ike::{
    Whose,
    defence::{allowance::Allowance, budget::network},
    failure::{Failure, Standing},
    io::Stamp,
};
use tracing::{info, warn};

use crate::control::FailureReport;

/// Failures kept of peers that are where they say, and as many of those that may not be.
const KEPT: usize = 256;
/// Octets that either of these takes.
const KEPT_OCTETS: usize = 256 << 10;
/// Of these, failures of one network: one IPv4 address or one IPv6 /64.
const OF_NETWORK: usize = 8;
/// Seconds before the same failure has another line in the log.
const SAY_AGAIN: u64 = 60;
/// Lines of the log in a second for peers that are where they say, and for the others.
const LINES: (u32, u32) = (10, 2);

/// What is kept.
#[derive(Debug)]
pub(super) struct Failures {
    strangers: Shelf,
    peers: Shelf,
}

#[derive(Debug)]
struct Shelf {
    /// The latest last.
    kept: VecDeque<Kept>,
    octets: usize,
    lines: Allowance,
    unsaid: u64,
}

#[derive(Debug)]
struct Kept {
    failure: Failure,
    /// Unix seconds.
    first: u64,
    last: u64,
    said: u64,
    times: u64,
}

impl Failures {
    pub(super) const fn new() -> Self {
        Self {
            strangers: Shelf::new(LINES.1),
            peers: Shelf::new(LINES.0),
        }
    }

    /// Keeps a failure, and writes it into the log if it is news.
    pub(super) fn happened(&mut self, failure: Failure, now: Stamp) {
        let stranger = failure.standing == Standing::Stranger;
        let shelf = if stranger {
            &mut self.strangers
        } else {
            &mut self.peers
        };
        let Some(line) = shelf.keep(failure.clone(), now) else {
            return;
        };
        let Failure {
            from,
            peer,
            connection,
            cause,
            ..
        } = &failure;
        let (event, connection) = ("failed", connection.as_deref());
        let peer = peer.as_ref().map(ToString::to_string);
        let (exchange, reason) = (failure.exchange_name(), cause.word());
        if stranger {
            info!(event, connection, peer, %from, exchange, reason, "{line}");
        } else {
            warn!(event, connection, peer, %from, exchange, reason, "{line}");
        }
    }

    /// Those of a peer, or of all: an address, an identity as it is shown or configured, or the name of a
    /// connection.
    pub(super) fn of(&self, peer: Option<&str>) -> Vec<FailureReport> {
        let whose = peer.map(Whose::from_text);
        let kept = self.strangers.kept.iter().chain(&self.peers.kept);
        let wanted = kept.filter(|kept| {
            whose
                .as_ref()
                .is_none_or(|whose| is_of(&kept.failure, whose))
        });
        let report = |kept: &Kept| FailureReport {
            failure: kept.failure.clone(),
            first: kept.first,
            last: kept.last,
            times: kept.times,
        };
        wanted.map(report).collect()
    }
}

impl Shelf {
    const fn new(lines: u32) -> Self {
        Self {
            kept: VecDeque::new(),
            octets: 0,
            lines: Allowance::new(lines),
            unsaid: 0,
        }
    }

    /// The line for the log, if there is to be one.
    fn keep(&mut self, failure: Failure, now: Stamp) -> Option<String> {
        let before = self
            .kept
            .iter()
            .position(|kept| kept.failure.repeats(&failure));
        let kept = match before.and_then(|at| self.remove(at)) {
            Some(kept) => Kept {
                failure,
                last: now.wall,
                times: kept.times.saturating_add(1),
                ..kept
            },
            None => Kept {
                failure,
                first: now.wall,
                last: now.wall,
                said: 0,
                times: 1,
            },
        };
        let line = self.line(&kept, now);
        let said = if line.is_some() { now.wall } else { kept.said };
        self.octets += kept.failure.octets();
        self.kept.push_back(Kept { said, ..kept });
        self.bound();
        line
    }

    fn line(&mut self, kept: &Kept, now: Stamp) -> Option<String> {
        if now.wall < kept.said.saturating_add(SAY_AGAIN) {
            return None;
        }
        if !self.lines.take(now.boot) {
            self.unsaid += 1;
            return None;
        }
        let mut line = kept.failure.to_string();
        if kept.times > 1 {
            let _infallible = write!(line, " ({} times)", kept.times);
        }
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid > 0 {
            let _infallible = write!(line, " [{unsaid} more failures were not logged]");
        }
        Some(line)
    }

    /// Whoever has most gives way, with his oldest.
    fn bound(&mut self) {
        // Of a peer that was not found, nobody but its connection is known.
        let of = |kept: &Kept| {
            let failure = &kept.failure;
            let nowhere = failure.from.ip().is_unspecified();
            let connection = failure.connection.clone().filter(|_| nowhere);
            (network(failure.from.ip()), connection)
        };
        loop {
            let mut counts: HashMap<_, usize> = HashMap::new();
            for kept in &self.kept {
                *counts.entry(of(kept)).or_default() += 1;
            }
            let most = counts.values().copied().max().unwrap_or(0);
            let over = self.kept.len() > KEPT || self.octets > KEPT_OCTETS;
            if !over && most <= OF_NETWORK {
                return;
            }
            let crowded = |kept: &Kept| counts.get(&of(kept)) == Some(&most);
            let Some(at) = self.kept.iter().position(crowded) else {
                return;
            };
            self.remove(at);
        }
    }

    fn remove(&mut self, at: usize) -> Option<Kept> {
        let kept = self.kept.remove(at)?;
        self.octets -= kept.failure.octets();
        Some(kept)
    }
}

fn is_of(failure: &Failure, whose: &Whose) -> bool {
    let connection = failure.connection.as_deref();
    whose.is(failure.from.ip(), connection, failure.peer.as_ref())
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use ike::{
        failure::Cause,
        wire::{header::Exchange, id::Identity},
    };

    use super::*;

    fn at(second: u64) -> Stamp {
        Stamp {
            boot: Duration::from_secs(second),
            wall: 1_800_000_000 + second,
        }
    }

    fn failure(from: &str, theirs: &str) -> Failure {
        let from: SocketAddr = from.parse().expect("an address");
        let cause = Cause::Proposals {
            ours: "aes256gcm16".to_owned(),
            theirs: Some(theirs.to_owned()),
        };
        Failure::of_stranger(from, Exchange::IkeSaInit, cause)
    }

    #[test]
    fn a_repetition_is_counted_and_has_no_line_of_its_own() {
        let mut shelf = Shelf::new(10);
        let line = shelf.keep(failure("192.0.2.1:500", "3des"), at(0));
        let line = line.expect("news");
        assert!(
            line.starts_with("192.0.2.1:500: IKE_SA_INIT: no IKE proposal in common"),
            "{line}"
        );
        for second in 1..60 {
            let same = failure(&format!("192.0.2.1:{}", 600 + second), "3des");
            assert_eq!(shelf.keep(same, at(second)), None);
        }
        let again = shelf.keep(failure("192.0.2.1:500", "3des"), at(60));
        assert!(again.expect("after a minute").ends_with("(61 times)"));
        let [kept] = &shelf.kept.make_contiguous()[..] else {
            panic!("one");
        };
        assert_eq!((kept.times, kept.last - kept.first), (61, 60));
    }

    #[test]
    fn one_network_does_not_crowd_out_another() {
        let mut failures = Failures::new();
        failures.happened(failure("198.51.100.7:500", "3des"), at(0));
        for port in 1..5000 {
            let other = failure(&format!("192.0.2.1:{port}"), &port.to_string());
            failures.happened(other, at(1));
        }
        assert_eq!(failures.of(Some("192.0.2.1")).len(), OF_NETWORK);
        assert_eq!(failures.of(Some("198.51.100.7")).len(), 1);
        assert_eq!(failures.of(Some("198.51.100.7:4500")).len(), 1);
        let latest = failures.of(Some("192.0.2.1")).pop().expect("some");
        assert!(latest.failure.verdict().contains("offers 4999"));
    }

    #[test]
    fn forged_addresses_do_not_crowd_out_peers_and_all_is_bounded() {
        let mut failures = Failures::new();
        let peer = Identity::from_text("alice@example.net");
        failures.happened(failure("198.51.100.7:500", "x").claimed(peer), at(0));
        let long = "x".repeat(4000);
        for host in 0..3000u32 {
            let from = std::net::Ipv4Addr::from(0x0a00_0000 + host);
            failures.happened(failure(&format!("{from}:500"), &long), at(1));
        }
        assert_eq!(failures.of(Some("alice@example.net")).len(), 1);
        assert_eq!(failures.of(Some("@alice@example.net")).len(), 0);
        let Shelf {
            kept,
            octets,
            unsaid,
            ..
        } = &failures.strangers;
        assert!(kept.len() <= KEPT && *octets <= KEPT_OCTETS && !kept.is_empty());
        assert_eq!(
            kept.iter().map(|kept| kept.failure.octets()).sum::<usize>(),
            *octets
        );
        assert_eq!(*unsaid, 2998);
    }

    #[test]
    fn a_connection_is_found_by_its_name() {
        let mut failures = Failures::new();
        let mut named = failure("192.0.2.1:500", "3des");
        named.connection = Some("rw".into());
        failures.happened(named, at(0));
        assert_eq!(failures.of(Some("rw")).len(), 1);
        assert_eq!(failures.of(Some("home")).len(), 0);
        assert_eq!(failures.of(None).len(), 1);
    }
}
