//! The gate's counters: every CPU has its own, so a reader adds them up.

use aya::maps::{MapData, MapError, PerCpuArray};
use gate_abi::classify::Reason;

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

/// The per-CPU array, by [`Reason`].
pub(super) struct Counters(pub(super) PerCpuArray<MapData, [u64; 2]>);

impl Counters {
    pub(super) fn read(&self) -> Result<Vec<Counted>, MapError> {
        Reason::ALL
            .iter()
            .map(|reason| self.read_one(*reason))
            .collect()
    }

    fn read_one(&self, reason: Reason) -> Result<Counted, MapError> {
        let per_cpu = self.0.get(&(reason as u32), 0)?;
        let sum = |place: usize| {
            per_cpu
                .iter()
                .fold(0u64, |sum, cpu| sum.wrapping_add(cpu[place]))
        };
        Ok(Counted {
            reason,
            packets: sum(0),
            octets: sum(1),
        })
    }
}
