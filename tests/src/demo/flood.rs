//! Where the packets of a flood went: the gate's counters, the kernel's, and the daemon's.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::findings::Flood;
use crate::{netns::Namespace, site::Site};

/// All counts at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts {
    /// Resumptions that the gate turned away.
    dropped: u64,
    /// Read from the UDP sockets of the gateway.
    read: u64,
    /// Lost because a socket was full.
    overflowed: u64,
    /// Tickets that the daemon refused since it started.
    refused: u64,
}

impl Counts {
    pub(super) fn take(gateway: &Site<'_>, namespace: &Namespace) -> Result<Self> {
        let mut dropped = 0;
        for reason in TURNED_AWAY {
            dropped += gateway.gate_count(reason)?;
        }
        let status = gateway.ikectl("status")?;
        let refused = status["tickets_refused"].as_u64().context("a count")?;
        let (read, overflowed) = udp(&namespace.run("cat", "/proc/net/snmp")?)
            .context("the UDP lines of /proc/net/snmp")?;
        Ok(Self {
            dropped,
            read,
            overflowed,
            refused,
        })
    }

    /// Resumptions that the gate has turned away since `before`.
    pub(super) const fn dropped_since(&self, before: &Self) -> u64 {
        self.dropped.saturating_sub(before.dropped)
    }

    /// Takes them once the daemon has dealt with what waited in its sockets.
    pub(super) fn settled(gateway: &Site<'_>, namespace: &Namespace) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut last = Self::take(gateway, namespace)?;
        loop {
            thread::sleep(QUIET);
            let next = Self::take(gateway, namespace)?;
            if next == last {
                return Ok(next);
            }
            ensure!(Instant::now() < deadline, "the counters do not rest");
            last = next;
        }
    }

    /// What became of `sent` packets since `before`; the daemon may have been restarted in between.
    pub(super) fn since(&self, before: &Self, sent: u64) -> Flood {
        let overflowed = self.overflowed.saturating_sub(before.overflowed);
        let refused = self.refused.checked_sub(before.refused);
        Flood {
            sent,
            dropped_by_gate: self.dropped_since(before),
            delivered: self.read.saturating_sub(before.read) + overflowed,
            refused: refused.unwrap_or(self.refused),
            overflowed,
        }
    }
}

/// `InDatagrams` and `RcvbufErrors`: a line of names, then a line of numbers.
fn udp(text: &str) -> Option<(u64, u64)> {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let names = lines.next()?.split_whitespace();
    let numbers = lines.next()?.split_whitespace();
    let columns: Vec<_> = names.zip(numbers).collect();
    let number = |wanted| {
        let column = columns.iter().find(|(name, _)| *name == wanted)?;
        column.1.parse().ok()
    };
    Some((number("InDatagrams")?, number("RcvbufErrors")?))
}

/// The gate's reasons to turn a forged resumption away, a few of them with an answer. The last holds
/// while the gateway has been dead for so long that the gate lets nobody knock.
const TURNED_AWAY: [&str; 3] = ["tag_wrong", "nack_tag_wrong", "daemon_silent"];
/// Without a change for so long, the sockets are empty.
const QUIET: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_udp_columns_are_found_by_name() {
        let text = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams \
                    RcvbufErrors\nUdp: 120 3 4 5 4\nUdpLite: InDatagrams\nUdpLite: 9\n";
        assert_eq!(udp(text), Some((120, 4)));
        assert_eq!(udp("Udp: InDatagrams\n"), None);
    }

    #[test]
    fn a_restarted_daemon_counts_from_zero() {
        let before = Counts {
            refused: 7,
            ..Counts::default()
        };
        let after = Counts {
            refused: 3,
            overflowed: 2,
            read: 4,
            dropped: 90,
        };
        let flood = after.since(&before, 100);
        assert_eq!(flood.reached_daemon(), 5);
        assert_eq!((flood.delivered, flood.dropped_by_gate), (6, 90));
    }
}
