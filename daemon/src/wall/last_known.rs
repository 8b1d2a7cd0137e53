//! What time it was when this machine last ran. A router without a clock of its own starts in the past,
//! until somebody on the network tells it the time: every ticket and record would be of the future, and
//! every certificate not valid yet, just when all clients come back. So the keeper notes the time, in
//! the modification time of a file that names the boot; and after a reboot into the past time goes on
//! from there.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::LEAP;

/// How often the time is noted. It is a write to the disk: not more often than need be.
const NOTE_EVERY: Duration = Duration::from_mins(1);
/// How long after the last note the machine may have gone on, since the kernel takes its time too: nothing
/// that it has left behind is to be of the future.
const UNNOTED: Duration = Duration::from_mins(2);
/// Octets that fit into the file: a name, and two times with their seconds and nanoseconds.
const MAX_WRITTEN: usize = 64;
/// A clock that nobody sets for so long is taken as it is: who put it back may have meant it.
const HOLD_FOR: Duration = Duration::from_hours(24);

// RFC 5723: A16
/// Unix time after a reboot into the past, until the clock is set.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Floor {
    /// Unix time when a keeper found the clock behind.
    found: Duration,
    /// The boot clock then.
    since: Duration,
}

impl Floor {
    pub(crate) fn at(self, boot: Duration) -> Duration {
        self.found.saturating_add(boot.saturating_sub(self.since))
    }

    /// Whether the clock has still to be set.
    pub(crate) fn holds(self, boot: Duration, clock: Duration) -> bool {
        let gone = boot.saturating_sub(self.since);
        gone < HOLD_FOR && clock.saturating_add(LEAP) < self.at(boot)
    }
}

/// The file in which the time is noted.
#[derive(Debug)]
pub(crate) struct LastKnown {
    file: File,
    written: Written,
    /// The clock was behind and has been set: it is no leap to be in doubt of, and power that has failed
    /// once may fail again.
    set: bool,
    /// When it is noted next, on the boot clock.
    next: Duration,
}

/// What is in it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Written {
    /// The kernel's name of the boot.
    boot_id: [u8; 16],
    /// Until the clock has been set, also for a keeper that starts in the meantime.
    floor: Option<Floor>,
}

impl LastKnown {
    /// Opens the file in `folder`, or makes it. `boot` and `clock` are the boot clock and what the wall
    /// clock shows.
    pub(crate) fn open(
        folder: &Path,
        boot_id: [u8; 16],
        boot: Duration,
        clock: Duration,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(folder.join("clock"))?;
        let metadata = file.metadata()?;
        let mut octets = [0; MAX_WRITTEN];
        let length = file.read_at(&mut octets, 0)?;
        // What cannot be read is of another boot.
        let written: Option<Written> = postcard::from_bytes(&octets[..length]).ok();
        let floor = match written.filter(|written| written.boot_id == boot_id) {
            Some(written) => written.floor,
            None if metadata.len() == 0 => None,
            None => {
                let noted = metadata.modified()?.duration_since(UNIX_EPOCH);
                Some(Floor {
                    found: noted.unwrap_or_default().saturating_add(UNNOTED),
                    since: boot,
                })
            }
        };
        let floor = floor.filter(|floor| floor.holds(boot, clock));
        let this = Self {
            file,
            written: Written { boot_id, floor },
            set: false,
            next: boot,
        };
        this.write()?;
        this.note(floor.map_or(clock, |floor| floor.at(boot)))?;
        Ok(this)
    }

    /// What the time is not to be before.
    pub(crate) fn floor(&self) -> Option<Floor> {
        self.written.floor
    }

    /// To be called now and then: notes the time that is believed. `clock` is what the wall clock shows.
    pub(crate) fn tick(
        &mut self,
        boot: Duration,
        clock: Duration,
        believed: Duration,
    ) -> io::Result<()> {
        if boot < self.next {
            return Ok(());
        }
        self.next = boot.saturating_add(NOTE_EVERY);
        let is_set = |floor: &mut Floor| !floor.holds(boot, clock);
        if self.written.floor.take_if(is_set).is_some() {
            self.set = true;
            self.write()?;
        }
        self.note(if self.set { clock } else { believed })
    }

    /// Notes the time. Nothing is synced: the kernel writes it within a minute.
    pub(crate) fn note(&self, believed: Duration) -> io::Result<()> {
        let time = UNIX_EPOCH.checked_add(believed);
        time.map_or(Ok(()), |time| self.file.set_modified(time))
    }

    /// In one write, which is of one sector. It makes the kernel note its own time.
    fn write(&self) -> io::Result<()> {
        let mut octets = [0; MAX_WRITTEN];
        let written = postcard::to_slice(&self.written, &mut octets).map_err(io::Error::other)?;
        self.file.write_all_at(written, 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// All times are in minutes.
    const RIGHT: u64 = 30_000_000;
    const DAY: u64 = 24 * 60;

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_mins(minutes)
    }

    /// A folder whose machine last ran under this name of a boot at [`RIGHT`].
    fn left_behind(boot_id: u8) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let mut kept = open(&folder, boot_id, DAY, RIGHT - 1);
        kept.tick(minutes(DAY + 1), minutes(RIGHT), minutes(RIGHT))
            .expect("noted");
        folder
    }

    fn open(folder: &tempfile::TempDir, boot: u8, up: u64, clock: u64) -> LastKnown {
        LastKnown::open(folder.path(), [boot; 16], minutes(up), minutes(clock)).expect("ours")
    }

    // RFC 5723: A16
    #[test]
    fn time_goes_on_after_a_reboot_into_the_past() {
        let folder = left_behind(1);
        for behind in [0, 1, RIGHT - DAY, RIGHT - 4] {
            let kept = open(&folder, 2, 1, behind);
            let floor = kept.floor().expect("it is behind");
            // Two minutes more than was noted: as long may nothing have been noted.
            assert_eq!(floor.at(minutes(1)), minutes(RIGHT + 2));
            assert_eq!(floor.at(minutes(5)), minutes(RIGHT + 6));
            assert!(floor.holds(minutes(5), minutes(behind + 4)));
            assert!(!floor.holds(minutes(5), minutes(RIGHT + 4)));
        }
    }

    #[test]
    fn a_clock_that_is_right_or_a_little_behind_is_believed() {
        let folder = left_behind(1);
        for right in [RIGHT, RIGHT + DAY, RIGHT - 3] {
            let kept = open(&folder, 2, 1, right);
            assert_eq!(kept.floor(), None);
            kept.note(minutes(RIGHT)).expect("noted");
            open(&folder, 1, 1, right)
                .note(minutes(RIGHT))
                .expect("noted");
        }
    }

    #[test]
    fn whoever_sets_the_clock_back_without_a_reboot_is_believed() {
        let folder = left_behind(1);
        assert_eq!(open(&folder, 1, DAY, RIGHT - DAY).floor(), None);
        // That is what time it is from now on.
        let kept = open(&folder, 1, DAY, RIGHT - DAY);
        kept.note(minutes(RIGHT - DAY)).expect("noted");
        assert_eq!(open(&folder, 2, 1, RIGHT - DAY).floor(), None);
    }

    #[test]
    fn a_keeper_that_starts_again_before_the_clock_is_set_holds_on() {
        let folder = left_behind(1);
        let mut kept = open(&folder, 2, 1, 1);
        let floor = kept.floor();
        kept.tick(minutes(3), minutes(3), minutes(RIGHT + 4))
            .expect("noted");
        for up in 4..10 {
            // It goes on, and does not leap.
            assert_eq!(open(&folder, 2, up, up).floor(), floor);
        }
    }

    #[test]
    fn how_long_the_machine_has_been_up_does_not_matter() {
        let folder = left_behind(1);
        assert!(open(&folder, 2, 9 * DAY, 9 * DAY).floor().is_some());
    }

    #[test]
    fn what_the_clock_was_set_to_is_noted_at_once() {
        let folder = left_behind(1);
        let mut kept = open(&folder, 2, 1, 1);
        // The machine was off for a day, which the keeper takes for a leap.
        let [set, in_doubt] = [RIGHT + DAY, RIGHT + 3].map(minutes);
        kept.tick(minutes(2), set, in_doubt).expect("noted");
        let floor = open(&folder, 3, 1, 1).floor();
        assert_eq!(
            floor.expect("behind").at(minutes(1)),
            minutes(RIGHT + DAY + 2)
        );
    }

    #[test]
    fn once_the_clock_has_been_set_it_may_be_set_back() {
        let folder = left_behind(1);
        let mut kept = open(&folder, 2, 1, 1);
        kept.tick(minutes(2), minutes(RIGHT), minutes(RIGHT))
            .expect("noted");
        assert_eq!(kept.floor(), None);
        assert_eq!(open(&folder, 2, 3, 1).floor(), None);
    }

    #[test]
    fn what_nobody_sets_for_a_day_is_the_time() {
        let folder = left_behind(1);
        let mut kept = open(&folder, 2, 1, 1);
        let floor = kept.floor().expect("it is behind");
        assert!(floor.holds(minutes(DAY), minutes(DAY)));
        assert!(!floor.holds(minutes(DAY + 1), minutes(DAY + 1)));
        kept.tick(minutes(DAY + 1), minutes(DAY + 1), minutes(DAY + 1))
            .expect("noted");
        assert_eq!(kept.floor(), None);
        assert_eq!(open(&folder, 2, DAY + 2, DAY + 2).floor(), None);
    }

    #[test]
    fn it_is_noted_once_a_minute() {
        let folder = left_behind(1);
        let modified =
            || fs::metadata(folder.path().join("clock")).and_then(|file| file.modified());
        let mut kept = open(&folder, 1, DAY, RIGHT);
        for second in 0..59 {
            let after = |time| minutes(time) + Duration::from_secs(second);
            kept.tick(after(DAY), after(RIGHT), after(RIGHT))
                .expect("noted");
        }
        assert_eq!(modified().expect("there"), UNIX_EPOCH + minutes(RIGHT));
        kept.tick(minutes(DAY + 1), minutes(RIGHT + 1), minutes(RIGHT + 1))
            .expect("noted");
        assert_eq!(modified().expect("there"), UNIX_EPOCH + minutes(RIGHT + 1));
    }

    #[test]
    fn a_file_that_says_nothing_of_the_boot_still_says_the_time() {
        for cut in [1, 15] {
            let folder = left_behind(1);
            let file = OpenOptions::new()
                .write(true)
                .open(folder.path().join("clock"));
            let file = file.expect("there");
            file.set_len(cut).expect("cut");
            file.set_modified(UNIX_EPOCH + minutes(RIGHT))
                .expect("ours");
            assert!(open(&folder, 1, 1, 1).floor().is_some());
        }
    }
}
