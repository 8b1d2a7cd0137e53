//! Packets that the gate dropped, a few each second, for an operator to look at. The latest are kept
//! and the rest forgotten.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use gate_abi::classify::Reason;
use gate_abi::sample::{BARE, PER_SECOND, Sample};

use super::{
    Attachment,
    refused::{Refusals, Refused},
};

/// How many are kept.
const MOST_KEPT: usize = 20;
/// How many are read at a time; what is behind them waits for the next time.
const MOST_AT_ONCE: u64 = 10 * PER_SECOND;

/// One packet that was dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When, on the boot clock.
    pub at: Duration,
    /// Why.
    pub reason: Reason,
    /// The interface it came in by; its number if it is gone.
    pub interface: String,
    /// Where it came from and where it went to, if it could be read. Port 0 is none.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// Octets, from the Ethernet header on.
    pub octets: u64,
}

/// The ring that the gate writes, and what was read from it.
pub(super) struct Samples {
    ring: RingBuf<MapData>,
    latest: VecDeque<Dropped>,
    refusals: Refusals,
}

impl Samples {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self {
            ring,
            latest: VecDeque::with_capacity(MOST_KEPT),
            refusals: Refusals::default(),
        }
    }

    /// Reads what has come. Without this the ring is full after a while, and the gate writes no more.
    pub(super) fn read(&mut self, attachments: &[Attachment]) {
        for _ in 0..MOST_AT_ONCE {
            let Some(item) = self.ring.next() else {
                break;
            };
            let Some(dropped) =
                Sample::read(&item).and_then(|sample| dropped(&sample, attachments))
            else {
                continue;
            };
            if let Some((source, _)) = dropped.ends {
                self.refusals.add(source.ip(), dropped.reason, dropped.at);
            }
            self.latest.truncate(MOST_KEPT - 1);
            self.latest.push_front(dropped);
        }
    }

    /// Where most of them come from.
    pub(super) fn refused(&self, most: usize, now: Duration) -> Vec<Refused> {
        self.refusals.top(most, now)
    }

    /// The latest first.
    pub(super) fn latest(&self) -> impl Iterator<Item = &Dropped> {
        self.latest.iter()
    }
}

fn dropped(sample: &Sample, attachments: &[Attachment]) -> Option<Dropped> {
    let index = u32::try_from(sample.interface).ok()?;
    let on = attachments.iter().find(|on| on.index == index);
    let address = |(address, port)| {
        let address = IpAddr::from(Ipv6Addr::from_octets(address)).to_canonical();
        SocketAddr::new(address, port)
    };
    Some(Dropped {
        at: Duration::from_nanos(sample.at),
        reason: sample.reason()?,
        interface: on.map_or_else(|| index.to_string(), |on| on.interface.clone()),
        ends: sample
            .ends()
            .map(|ends| (address(ends.source), address(ends.destination))),
        octets: sample.octets & !BARE,
    })
}
