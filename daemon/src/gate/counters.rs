//! The gate's counters: every CPU has its own, so a reader adds them up.

use aya::maps::{MapData, MapError, PerCpuArray};
use gate_abi::classify::Reason;
use gate_abi::defence::{Budget, SECOND};
use gate_abi::maps::Own;

/// What one reason has come to since the maps were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Why.
    pub reason: Reason,
    /// Packets on all CPUs.
    pub packets: u64,
    /// Octets on all CPUs, from the Ethernet header on.
    pub octets: u64,
}

/// What every CPU keeps for itself.
pub(super) struct Counters(pub(super) PerCpuArray<MapData, [u64; Own::WORDS]>);

impl Counters {
    pub(super) fn read(&self) -> Result<Vec<Counted>, MapError> {
        let per_cpu = self.0.get(&0, 0)?;
        let sum = |reason| {
            let mut counted = Counted {
                reason,
                packets: 0,
                octets: 0,
            };
            for own in per_cpu.iter() {
                let count = Own::count(own, reason);
                counted.packets = counted.packets.wrapping_add(count.packets);
                counted.octets = counted.octets.wrapping_add(count.octets);
            }
            counted
        };
        Ok(Reason::ALL.iter().copied().map(sum).collect())
    }

    /// What the CPU that has spent most of a budget has spent in the last second in which it did, if that is
    /// not long over at this time since boot.
    pub(super) fn spent(&self, now: u64) -> Result<[u64; Budget::COUNT], MapError> {
        let per_cpu = self.0.get(&0, 0)?;
        let most = |budget| {
            let spent = per_cpu.iter().map(|own| Own::spent(own, budget));
            let of_late = spent.filter(|one| now.saturating_sub(one.since) < 2 * SECOND);
            of_late.map(|one| one.given).max().unwrap_or(0)
        };
        Ok(Budget::ALL.map(most))
    }
}
