//! What the keeper says of the gate, for an operator.

use gate_abi::{defence::Budget, lane::Place};

use super::{
    super::protocol::{
        BudgetStatus, FloodStatus, GateAttachment, GateCount, GateDrop, GateFill, GateStatus,
        LaneCount, RefusedNetwork,
    },
    Guard, Sample,
};
use crate::gate::{Counted, Gate, boot_clock};

/// Networks that are named.
const REFUSED_TOLD: usize = 8;

impl Guard {
    /// As it is now.
    pub(in crate::keeper) fn status(&self) -> GateStatus {
        let mut status = GateStatus {
            networks: self.networks(),
            trouble: self.trouble.clone(),
            ..GateStatus::default()
        };
        let Some(gate) = &self.gate else {
            return status;
        };
        status.lanes = self.lane_counts(gate);
        if !self.on_interfaces {
            return status;
        }
        let attachments = gate.attachments().iter();
        status.attachments = attachments
            .map(|attachment| GateAttachment {
                interface: attachment.interface.clone(),
                mode: attachment.mode.name().into(),
                reason: attachment.reason.clone(),
                program: gate.program_on(attachment),
            })
            .collect();
        status.dropped = gate
            .dropped()
            .map(|one| GateDrop {
                age: boot_clock().saturating_sub(one.at),
                reason: one.reason.name().into(),
                interface: one.interface.clone(),
                ends: one.ends,
                octets: one.octets,
            })
            .collect();
        let counted = gate.counted().and_then(|counted| {
            let fill = gate.fill()?;
            Ok((counted, fill))
        });
        match counted {
            Ok((counted, fill)) => {
                status.counters = self.rated(counted);
                let fill = fill.into_iter().map(|one| GateFill {
                    what: one.what.into(),
                    used: one.used,
                    most: one.most,
                });
                status.fill = fill.collect();
            }
            Err(error) => status.trouble = Some(error.to_string()),
        }
        status.flood = Some(self.flood_status(gate));
        status
    }

    fn lane_counts(&self, gate: &Gate) -> Vec<LaneCount> {
        let Some(Ok(counts)) = gate.lane_counts() else {
            return Vec::new();
        };
        let [before, after] = &self.samples;
        let rates = after.lanes.iter().zip(&before.lanes);
        let rates = rates.map(|(after, before)| self.per_second(*before, *after));
        let names = Place::NAMES.iter().zip(counts).zip(rates);
        names
            .map(|((lane, packets), per_second)| LaneCount {
                lane: (*lane).into(),
                packets,
                per_second,
            })
            .collect()
    }

    fn rated(&self, counted: Vec<Counted>) -> Vec<GateCount> {
        let [before, after] = &self.samples;
        let of = |sample: &Sample, reason| {
            let one = sample.counted.iter().find(|one| one.reason == reason);
            one.map_or(0, |one| one.packets)
        };
        let counts = counted.into_iter().map(|one| GateCount {
            reason: one.reason.name().into(),
            packets: one.packets,
            octets: one.octets,
            per_second: self.per_second(of(before, one.reason), of(after, one.reason)),
        });
        counts.collect()
    }

    /// What was counted in a second between the last two looks.
    fn per_second(&self, before: u64, after: u64) -> u64 {
        let [earlier, later] = &self.samples;
        if earlier.counted.is_empty() {
            return 0;
        }
        let milliseconds = later.at.saturating_sub(earlier.at).as_millis().max(1) as u64;
        after.saturating_sub(before).saturating_mul(1000) / milliseconds
    }

    fn flood_status(&self, gate: &Gate) -> FloodStatus {
        let level = self.level.level();
        let spent = gate.spent().unwrap_or_default();
        let budgets = Budget::ALL.iter().zip(spent);
        let refused = gate.refused(REFUSED_TOLD).into_iter();
        FloodStatus {
            mode: self.level.mode().word().into(),
            set_for: self.level.set_for(boot_clock()),
            level: level.name().into(),
            age: boot_clock().saturating_sub(self.level.since()),
            why: self.level.why().into(),
            per_second: self.level.per_second(),
            queue_delay: self.level.delay(),
            budgets: budgets
                .map(|(budget, spent)| BudgetStatus {
                    name: budget.name().into(),
                    limit: budget.per_second(level),
                    spent,
                })
                .filter(|one| one.limit != u64::MAX)
                .collect(),
            refused: refused
                .map(|one| RefusedNetwork {
                    network: one.network,
                    percent: one.percent,
                    reason: one.reason.name().into(),
                })
                .collect(),
        }
    }
}
