//! The keeper's part in keys and indexes: it turns the ring of ticket epochs and the SPI keys, and
//! tells the engine and the gate of them.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::Duration,
};

use tracing::{error, info, warn};

use super::{
    Keeper,
    protocol::{Answer, EpochKey, FromKeeper, SpiKeys},
};
use crate::{
    tickets::{IndexRange, Notice, RingError},
    wall::{self, LastKnown, boot_clock},
};

/// Indexes given to an engine at a time.
const GRANT: u32 = 4096;
/// Keys that could not be rotated for the disk's sake are tried again after so long.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

/// Opens what says when this machine last ran, and goes on from there if its clock does not.
pub(super) fn last_known(folder: &Path, boot_id: [u8; 16], now: Duration) -> Option<LastKnown> {
    let opened = LastKnown::open(folder, boot_id, now, wall::shown());
    let last_known = opened.map_err(untold).ok()?;
    if let Some(floor) = last_known.floor() {
        wall::hold(floor);
        if let Some(behind) = wall::behind() {
            warn!("{behind}");
        }
    }
    Some(last_known)
}

/// Without it a reboot into the past costs full handshakes; that is no reason to stop.
fn untold(error: io::Error) {
    warn!("the time cannot be noted for after a reboot: {error}");
}

impl Keeper {
    pub(super) fn note_time(&mut self, now: Duration) {
        let believed = Duration::from_secs(self.wall.believed(now));
        let last_known = self.last_known.as_mut();
        let noted = last_known.map(|one| one.tick(now, wall::shown(), believed));
        if let Some(Err(error)) = noted {
            untold(error);
            self.last_known = None;
        }
    }

    pub(super) fn rotate(&mut self, now: Duration) {
        match self.ring.rotate(self.wall.between(now)) {
            Ok(true) => self.publish_epochs(),
            Ok(false) => {}
            Err(error) => {
                self.complain(&error);
                self.next_rotation = now + ROTATE_AGAIN;
            }
        }
        let unix = self.wall.believed(now);
        match self.node.rotate(&self.options.state_dir, unix) {
            Ok(true) => {
                self.guard.set_keys(&self.ring, &self.node);
                self.tell(0, Answer::SpiKeys(SpiKeys(*self.node.spi_keys())));
            }
            Ok(false) => {}
            Err(error) => {
                error!("SPI keys: {error}");
                self.next_rotation = now + ROTATE_AGAIN;
            }
        }
    }

    pub(super) fn new_epoch(&mut self, alone: bool) -> Result<u8, String> {
        let unix = self.wall.between(boot_clock());
        let made = if alone {
            self.ring.revoke_all(unix)
        } else {
            self.ring.force_epoch(unix)
        };
        // Whatever became of the disk: what the ring has forgotten is not honoured any more.
        self.publish_epochs();
        made.map_err(|error| {
            error!("ticket ring: {error}");
            error.to_string()
        })?;
        let newest = self.ring.epochs().last();
        newest.map(|(key_id, ..)| key_id).ok_or_else(String::new)
    }

    pub(super) fn grant(&mut self) -> Option<IndexRange> {
        let newest = self.ring.epochs().last().map(|(key_id, ..)| key_id);
        match self.ring.grant(GRANT, self.wall.between(boot_clock())) {
            Ok(range) => {
                if Some(range.key_id) != newest {
                    self.publish_epochs();
                }
                Some(range)
            }
            Err(error) => {
                self.complain(&error);
                None
            }
        }
    }

    /// Tells of the live epochs. Indexes of the newest come first and wait with the engine until it
    /// knows the epoch: no login in between goes without a ticket.
    fn publish_epochs(&mut self) {
        match self.ring.grant(GRANT, self.wall.between(boot_clock())) {
            Ok(range) => self.tell(0, Answer::Indexes(Some(range))),
            Err(error) => self.complain(&error),
        }
        self.guard.set_keys(&self.ring, &self.node);
        let answer = Answer::Epochs(self.epoch_keys());
        let bitmaps: Vec<BorrowedFd<'_>> = self
            .ring
            .epochs()
            .map(|(_, _, file)| file.as_fd())
            .collect();
        let sent = self
            .engine
            .as_mut()
            .map(|engine| engine.channel.send(&FromKeeper { id: 0, answer }, &bitmaps));
        self.check(sent);
    }

    /// Every login may ask for indexes that there are not.
    fn complain(&mut self, error: &RingError) {
        let now = boot_clock();
        if now >= self.next_complaint {
            error!("ticket ring: {error}");
            self.next_complaint = now + ROTATE_AGAIN;
        }
    }

    pub(super) fn epoch_keys(&self) -> Vec<EpochKey> {
        self.ring
            .epochs()
            .zip(self.ring.times())
            .map(|((key_id, root, _), times)| EpochKey {
                key_id,
                root,
                times,
                used_slot: self.guard.used_slot(key_id),
            })
            .collect()
    }
}

pub(super) fn announce(notice: Notice) {
    match notice {
        Notice::Fresh => info!("no ticket ring found: a fresh one was made"),
        Notice::PowerLoss => warn!(
            "the machine went down without warning: tickets used in its last second may be \
             accepted once more"
        ),
        Notice::Retired(key_id, why) => warn!(key_id, why, "a ticket epoch was retired early"),
    }
}
