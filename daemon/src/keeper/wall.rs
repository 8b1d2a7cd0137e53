//! The clocks, and whether the wall clock can be believed. The gate turns expired tickets away by it and the ring erases
//! their keys: a clock that leaps would have all of them turned away, and be without their keys when it is set right.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

/// A leap longer than this puts the clock in doubt.
const LEAP: Duration = Duration::from_mins(5);
/// After a leap the clock is believed again once it has gone evenly for so long.
const SOUND_AFTER: Duration = Duration::from_mins(10);

/// The wall clock, as seen beside the boot clock.
#[derive(Debug, Default)]
pub(super) struct WallClock {
    /// The last offset, in nanoseconds; wraps.
    last: Option<u64>,
    /// The last one that was not in doubt.
    believed: u64,
    /// Until when, on the boot clock, it is in doubt.
    doubted_until: Duration,
}

impl WallClock {
    /// Nanoseconds from the boot clock to the wall's, wrapped into a word; `None` while in doubt.
    pub(super) fn offset(&mut self, boot: Duration, wall: Duration) -> Option<u64> {
        let offset = nanoseconds(wall).wrapping_sub(nanoseconds(boot));
        // The shorter way round: a clock may be set before the boot clock's own beginning.
        let leapt = self.last.is_some_and(|last| {
            let forth = offset.wrapping_sub(last);
            u128::from(forth.min(forth.wrapping_neg())) > LEAP.as_nanos()
        });
        self.last = Some(offset);
        if leapt {
            self.doubted_until = boot.saturating_add(SOUND_AFTER);
        }
        if boot < self.doubted_until {
            return None;
        }
        self.believed = offset;
        Some(offset)
    }

    /// The wall's time in seconds; while in doubt, by how it went before.
    pub(super) fn believed(&self, boot: Duration) -> u64 {
        Duration::from_nanos(nanoseconds(boot).wrapping_add(self.believed)).as_secs()
    }
}

/// Good for five hundred years.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Time since boot, counting suspend: the clock of all deadlines.
pub(super) fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

pub(super) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The kernel's name for this boot; all zero where /proc does not say, which counts as one boot.
pub(super) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .unwrap_or_default()
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_clock_that_goes_evenly_is_believed() {
        let mut clock = WallClock::default();
        for boot in 0..1000 {
            let offset = clock.offset(seconds(boot), seconds(1_800_000_000 + boot));
            assert_eq!(offset, Some(1_800_000_000_000_000_000));
        }
        // Slewed, or set right by a little.
        assert!(
            clock
                .offset(seconds(1001), seconds(1_800_001_200))
                .is_some()
        );
    }

    #[test]
    fn after_a_leap_it_is_doubted_for_a_while() {
        for leap in [1_800_000_900_u64, 1_799_990_000, 0] {
            let mut clock = WallClock::default();
            assert!(clock.offset(seconds(100), seconds(1_800_000_000)).is_some());
            assert_eq!(clock.offset(seconds(101), seconds(leap)), None);
            assert_eq!(clock.offset(seconds(700), seconds(leap + 599)), None);
            assert!(clock.offset(seconds(701), seconds(leap + 600)).is_some());
        }
    }

    #[test]
    fn while_in_doubt_it_is_believed_to_go_on_as_before() {
        for leap in [1_900_000_000_u64, 1_799_990_000, 0] {
            let mut clock = WallClock::default();
            clock.offset(seconds(100), seconds(1_800_000_000));
            clock.offset(seconds(101), seconds(leap));
            clock.offset(seconds(102), seconds(leap + 1));
            assert_eq!(clock.believed(seconds(110)), 1_800_000_010);
            // Set right: what was to be doubted is over.
            clock.offset(seconds(500), seconds(1_800_000_400));
            assert_eq!(clock.believed(seconds(600)), 1_800_000_500);
            // Or it was right.
            clock.offset(seconds(700), seconds(leap));
            clock.offset(seconds(1300), seconds(leap + 600));
            assert_eq!(clock.believed(seconds(1300)), leap + 600);
        }
    }

    #[test]
    fn an_offset_below_zero_wraps() {
        let offset = WallClock::default()
            .offset(seconds(10), seconds(4))
            .unwrap();
        let boot = 10_000_000_000_u64;
        assert_eq!(boot.wrapping_add(offset), 4_000_000_000);
    }
}
