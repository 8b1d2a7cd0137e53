//! Which CPUs work on IKE that passes the gate, where an operator names some: a flood then has nothing
//! in common with the CPUs that work on ESP but what the gate costs.

use crate::classify::Reason;

/// CPU map with a queue for each named CPU, by its number.
pub const CPUS: &str = "CPUS";
/// The same for the program for frames in several buffers.
pub const CPUS_FRAGS: &str = "CPUS_FRAGS";
/// Array of one [`Named`].
pub const NAMED: &str = "NAMED";
/// Hash of the indexes of the interfaces to take packets from; the values say nothing.
pub const STEERED: &str = "STEERED";
/// Interfaces that packets can be taken from.
pub const STEERED_ENTRIES: usize = 64;
/// CPUs that can be named; a power of two.
pub const MAX_NAMED: usize = 16;

/// The named CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Named {
    /// How many there are.
    pub len: u64,
    /// Their numbers.
    pub cpus: [u64; MAX_NAMED],
}

impl Named {
    /// The value as it is written to the map; `None` if there are too many.
    #[must_use]
    pub fn words(cpus: &[u32]) -> Option<[u64; 1 + MAX_NAMED]> {
        let mut words = [0; 1 + MAX_NAMED];
        let (len, places) = words.split_first_mut()?;
        *len = cpus.len() as u64;
        let places = places.get_mut(..cpus.len())?;
        for (place, cpu) in places.iter_mut().zip(cpus) {
            *place = u64::from(*cpu);
        }
        Some(words)
    }

    /// The CPU for what has come in on this one: always the same, so that nothing overtakes.
    #[inline(always)]
    #[must_use]
    pub fn instead_of(&self, cpu: u32) -> Option<u32> {
        // In 32 bits the kernel needs no call to divide.
        let len = self.len as u32;
        if len == 0 {
            return None;
        }
        let at = (cpu % len) as usize & (MAX_NAMED - 1);
        self.cpus.get(at).map(|cpu| *cpu as u32)
    }
}

/// Whether what passes for this reason is an IKE message, and not something that is none of ours, ESP,
/// or too odd to be told apart.
#[inline(always)]
#[must_use]
pub const fn is_ike(reason: u64) -> bool {
    reason == Reason::OwnSpi as u64
        || reason == Reason::OwnSpiDead as u64
        || reason == Reason::OwnSpiUnchecked as u64
        || reason == Reason::Masqueraded as u64
        || reason == Reason::SaInit as u64
        || reason == Reason::SaInitWithCookie as u64
        || reason == Reason::Repetition as u64
        || reason == Reason::ResumeProven as u64
        || reason == Reason::ResumeWithCookie as u64
        || reason == Reason::ResumeUnchecked as u64
        || reason == Reason::TicketNotFound as u64
        || reason == Reason::Allowed as u64
        || reason == Reason::LeftToDaemon as u64
}

const _: () = assert!(size_of::<Named>() == size_of::<[u64; 1 + MAX_NAMED]>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classify::Verdict;

    #[test]
    fn every_cpu_has_one_of_the_named_ones() {
        let words = Named::words(&[3, 7, 11]).expect("three");
        let [len, cpus @ ..] = words;
        let named = Named { len, cpus };
        let chosen = [0, 1, 2, 3, 7].map(|cpu| named.instead_of(cpu));
        assert_eq!(chosen, [Some(3), Some(7), Some(11), Some(3), Some(7)]);
        assert_eq!(Named::default().instead_of(5), None);
        assert!(Named::words(&[0; MAX_NAMED]).is_some());
        assert!(Named::words(&[0; MAX_NAMED + 1]).is_none());
    }

    #[test]
    fn of_what_passes_all_is_steered_that_is_ike() {
        // A gate that sleeps has judged nothing.
        let others = [
            Reason::Esp,
            Reason::NotIke,
            Reason::NotLocal,
            Reason::Fragment,
            Reason::Options,
            Reason::GateAsleep,
        ];
        for reason in Reason::ALL {
            let passes = matches!(reason.verdict(), Verdict::Pass(_));
            let wanted = passes && !others.contains(reason);
            assert_eq!(is_ike(*reason as u64), wanted, "{reason:?}");
        }
    }
}
