//! The clocks, and whether the wall clock can be believed. The gate turns expired tickets away by
//! it, and ring and store erase what belongs to them: a clock that leaps would have all of them
//! turned away, and nothing to open them with when it is set right.

mod last_known;

use std::{
    fmt, fs,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::time::{ClockId, clock_gettime};

pub(crate) use self::last_known::{Floor, LastKnown};
use crate::{control::rfc3339, tickets::UnixTime};

/// A leap longer than this puts the clock in doubt.
const LEAP: Duration = Duration::from_mins(5);
/// After a leap the clock is believed again once it has gone evenly for so long.
const SOUND_AFTER: Duration = Duration::from_mins(10);

/// The wall clock, as seen beside the boot clock.
#[derive(Debug, Default)]
pub(crate) struct WallClock {
    /// The last offset, in nanoseconds; wraps.
    last: Option<u64>,
    /// The last one that was not in doubt.
    believed: u64,
    /// Until when, on the boot clock, it is in doubt.
    doubted_until: Duration,
}

impl WallClock {
    /// Nanoseconds from the boot clock to the wall's, wrapped into a word; `None` while in doubt.
    pub(crate) fn offset(&mut self, boot: Duration, wall: Duration) -> Option<u64> {
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
    pub(crate) fn believed(&self, boot: Duration) -> u64 {
        unix(boot, self.believed)
    }

    /// The same, and while in doubt also as the wall clock has it.
    pub(crate) fn between(&self, boot: Duration) -> UnixTime {
        let believed = self.believed(boot);
        let shown = self.last.map_or(believed, |offset| unix(boot, offset));
        UnixTime {
            earliest: believed.min(shown),
            latest: believed.max(shown),
        }
    }
}

fn unix(boot: Duration, offset: u64) -> u64 {
    Duration::from_nanos(nanoseconds(boot).wrapping_add(offset)).as_secs()
}

/// Good for five hundred years.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

/// Time since boot, counting suspend: the clock of all deadlines.
pub(crate) fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .unwrap_or_default()
}

/// Unix time: what the wall clock shows, but for a clock that is [`behind`].
pub(crate) fn since_epoch() -> Duration {
    let clock = shown();
    floor(boot_clock(), clock).unwrap_or(clock)
}

/// Has [`since_epoch`] of this process go on from a floor until the clock is set, and then no more. There
/// is one, as there is one clock.
pub(crate) fn hold(floor: Floor) {
    let _held_already = HELD.set((floor, AtomicBool::new(false)));
}

/// Whether the wall clock has still to be set after a reboot into the past.
pub(crate) fn behind() -> Option<Behind> {
    let clock = shown();
    let counts = floor(boot_clock(), clock)?;
    Some(Behind { clock, counts })
}

/// What time it is in place of what the clock shows.
fn floor(boot: Duration, clock: Duration) -> Option<Duration> {
    let (floor, set) = HELD.get()?;
    if !floor.holds(boot, clock) {
        set.store(true, Ordering::Relaxed);
    }
    (!set.load(Ordering::Relaxed)).then(|| floor.at(boot))
}

/// The floor, and whether the clock has been set since.
static HELD: OnceLock<(Floor, AtomicBool)> = OnceLock::new();

/// What the wall clock shows, as Unix time.
pub(crate) fn shown() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A clock that is behind.
#[derive(Debug)]
pub(crate) struct Behind {
    clock: Duration,
    counts: Duration,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clock, counts) = (self.clock.as_secs(), self.counts.as_secs());
        write!(
            f,
            "the clock shows {}, but this machine ran later than that: until the clock is set, or for a day, it is taken to be {}",
            rfc3339(clock),
            rfc3339(counts)
        )
    }
}

/// The kernel's name for this boot; all zero where /proc does not say, which counts as one boot.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16)
        .unwrap_or_default()
        .to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tickets::{Ring, RingOptions};

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
            let between = clock.between(seconds(110));
            assert_eq!(between.earliest, (leap + 9).min(1_800_000_010));
            assert_eq!(between.latest, (leap + 9).max(1_800_000_010));
            // Set right: what was to be doubted is over.
            clock.offset(seconds(500), seconds(1_800_000_400));
            assert_eq!(clock.believed(seconds(600)), 1_800_000_500);
            // Or it was right.
            clock.offset(seconds(700), seconds(leap));
            clock.offset(seconds(1300), seconds(leap + 600));
            assert_eq!(clock.believed(seconds(1300)), leap + 600);
            assert_eq!(clock.between(seconds(1300)), (leap + 600).into());
        }
    }

    /// Which epochs issued under this clock, and are alive, after so many seconds.
    fn epochs_after(boot: u64, wall: impl Fn(u64) -> u64) -> [Vec<u8>; 2] {
        let folder = tempfile::tempdir().unwrap();
        let options = RingOptions {
            ticket_seconds: 3600,
            strict_after_power_loss: false,
        };
        let mut clock = WallClock::default();
        clock.offset(seconds(0), seconds(wall(0)));
        let (mut ring, _) = Ring::open(folder.path(), options, [1; 16], wall(0)).unwrap();
        let mut issued = Vec::new();
        for boot in (0..boot).step_by(10).map(seconds) {
            clock.offset(boot, seconds(wall(boot.as_secs())));
            ring.rotate(clock.between(boot)).unwrap();
            issued.push(ring.grant(1, clock.between(boot)).unwrap().key_id);
        }
        issued.dedup();
        [issued, ring.epochs().map(|(key_id, ..)| key_id).collect()]
    }

    #[test]
    fn what_is_issued_while_the_clock_is_set_right_stays_good() {
        const RIGHT: u64 = 1_800_000_000;
        let started_behind = |boot| boot + if boot < 60 { 0 } else { RIGHT };
        let [issued, alive] = epochs_after(500, started_behind);
        assert_eq!((issued.len(), &alive), (2, &issued));
        // What was issued in doubt was issued under the second, which stays.
        let [again, alive] = epochs_after(1800, started_behind);
        assert_eq!((again.len(), alive.len()), (2, 1));
        assert_eq!(alive[0], again[1]);
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_costs_no_epoch() {
        const RIGHT: u64 = 1_800_000_000;
        const DAY: u64 = 24 * 3600;
        for away in [RIGHT + 30 * DAY, RIGHT - 30 * DAY] {
            let leaps = |boot| {
                boot + if (60..600).contains(&boot) {
                    away
                } else {
                    RIGHT
                }
            };
            let [issued, alive] = epochs_after(1800, leaps);
            assert!(
                issued.iter().all(|id| alive.contains(id)),
                "{issued:?} {alive:?}"
            );
            assert!(alive.len() <= 3);
        }
    }

    #[test]
    fn a_clock_that_leaps_now_and_then_leaves_nothing_behind() {
        const RIGHT: u64 = 1_800_000_000;
        const DAY: u64 = 24 * 3600;
        // Ten times for a minute into the next decade, every four days.
        let leaps = |boot| {
            let ahead = boot / (4 * DAY) < 10 && (60..120).contains(&(boot % (4 * DAY)));
            boot + RIGHT + if ahead { 3650 * DAY } else { 0 }
        };
        let [_, alive] = epochs_after(44 * DAY, leaps);
        assert!(alive.len() <= 3, "{alive:?}");
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
