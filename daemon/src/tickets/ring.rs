//! The ring of epochs: whose root seals new tickets, whose still open old ones, and which indexes
//! have been promised already.
//!
//! The order of writes makes every crash harmless. A bitmap exists before the ring names its epoch,
//! and goes only after the ring has forgotten it; indexes count as issued from the moment the ring
//! says so, which is before the first of them leaves.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ike::crypto::Secret;
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    durable::{self, DurableError, Magic, fresh_name},
    used::{INDEXES, UsedFile},
};

/// How long an epoch issues tickets.
const ISSUE_SECONDS: u64 = 24 * 3600;
/// A clock that was set back by less is no reason for another epoch.
const SET_BACK_SECONDS: u64 = 3600;
/// Epochs that can be alive at once.
pub const MAX_EPOCHS: usize = 16;
/// Indexes promised with one write to disk.
const RESERVE: u32 = 65_536;
const MAGIC: Magic = *b"rkring\0\x01";
/// Ticket expiry counts minutes, so the last ticket may live almost one longer.
const EXPIRY_GRAIN_SECONDS: u64 = 60;

/// How the ring behaves.
#[derive(Clone, Debug)]
pub struct RingOptions {
    /// Longest lifetime of a ticket, in seconds.
    pub ticket_seconds: u64,
    /// Retire all epochs when the machine went down without saying so: some used bits of its last
    /// second may be missing.
    pub strict_after_power_loss: bool,
}

impl RingOptions {
    const fn accept_until(&self, issue_until: u64) -> u64 {
        issue_until
            .saturating_add(self.ticket_seconds)
            .saturating_add(EXPIRY_GRAIN_SECONDS)
    }
}

/// Something that the operator should know about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Notice {
    /// There was no ring; a fresh one was made.
    Fresh,
    /// The machine went down; used bits of the last second may be missing.
    PowerLoss,
    /// An epoch was retired before its time, with the reason.
    Retired(u8, &'static str),
}

/// Why there is no ring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file, or a bitmap, failed us.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A bitmap could not be made or read.
    #[error("{path}: {source}", path = path.display())]
    Bitmap {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
    /// Every epoch is still needed by a ticket that was issued.
    #[error("{MAX_EPOCHS} ticket epochs are alive; no new one until the oldest has expired")]
    TooManyEpochs,
}

/// Indexes that belong to whoever holds this.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct IndexRange {
    /// Epoch.
    pub key_id: u8,
    /// First index.
    pub first: u32,
    /// One past the last.
    pub end: u32,
}

/// Unix time in seconds, as far as it is known: while the wall clock is in doubt, not exactly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnixTime {
    /// It is no less. What is not over by then is kept.
    pub earliest: u64,
    /// It is no more. Tickets issued now may bear this time.
    pub latest: u64,
}

impl From<u64> for UnixTime {
    fn from(exactly: u64) -> Self {
        Self {
            earliest: exactly,
            latest: exactly,
        }
    }
}

/// An epoch's times, in Unix seconds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EpochTimes {
    /// When it began to issue.
    pub began: u64,
    /// When it stops issuing at the latest; only the newest issues at all.
    pub issue_until: u64,
    /// When its last ticket is over.
    pub accept_until: u64,
}

/// The ring, open and kept on disk.
#[derive(Debug)]
pub struct Ring {
    folder: PathBuf,
    options: RingOptions,
    state: State,
    /// Bitmaps in the order of `state.epochs`.
    files: Vec<UsedFile>,
    /// What the newest epoch has promised on disk and not yet given out.
    promised: Option<IndexRange>,
    /// The next epoch's, unless one that is alive has it. Never that of the one made last, alive or
    /// not: else a bitmap could take the place of one that the ring on disk still names.
    next_id: u8,
    /// Made while the clock was in doubt, in this run.
    doubtful: Vec<u8>,
    /// The set of epochs is another than the ring on disk has.
    unsettled: bool,
    /// It is another than [`Self::rotate`] has told of.
    untold: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct State {
    boot_id: [u8; 16],
    /// After an orderly stop: SHA-256 over the bitmaps' own, in order.
    clean: Option<[u8; 32]>,
    /// Oldest first; only the last one issues.
    epochs: Vec<Epoch>,
}

#[derive(Deserialize, Serialize, Zeroize, ZeroizeOnDrop)]
struct Epoch {
    key_id: u8,
    root: [u8; 32],
    /// Unix times.
    issue_until: u64,
    accept_until: u64,
    /// Indexes below this may be out.
    reserved: u32,
}

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Epoch({})", self.key_id)
    }
}

impl Epoch {
    fn root(&self) -> Secret {
        Secret::from(self.root.as_slice())
    }

    // RFC 5723: N46, N51
    const fn issues(&self, now: u64) -> bool {
        now < self.issue_until && self.is_made_by(now) && self.reserved < INDEXES
    }

    /// Whether it is of no time to come: it would issue until then. The clock was wrong when it was made.
    const fn is_made_by(&self, now: u64) -> bool {
        self.issue_until <= now.saturating_add(ISSUE_SECONDS + SET_BACK_SECONDS)
    }
}

impl Ring {
    /// Opens the ring in `folder`, or makes one if there is none. `now` is Unix time.
    pub fn open(
        folder: &Path,
        options: RingOptions,
        boot_id: [u8; 16],
        now: u64,
    ) -> Result<(Self, Vec<Notice>), RingError> {
        let mut notices = Vec::new();
        let state = durable::read::<State>(&folder.join("ring"), MAGIC)?;
        let mut state = state.unwrap_or_else(|| {
            notices.push(Notice::Fresh);
            State {
                boot_id,
                clean: None,
                epochs: Vec::new(),
            }
        });
        let mut first = [0];
        draw(&mut first)?;
        let last = state.epochs.last();
        let next_id = last.map_or(first[0], |epoch| epoch.key_id.wrapping_add(1));
        let mut ring = Self {
            folder: folder.into(),
            options,
            promised: None,
            next_id,
            doubtful: Vec::new(),
            // Also when nothing else changes: from now on the stop is not clean.
            unsettled: true,
            untold: false,
            files: Vec::new(),
            state: State {
                boot_id,
                clean: None,
                epochs: Vec::new(),
            },
        };
        let power_loss =
            state.clean.is_none() && state.boot_id != boot_id && !state.epochs.is_empty();
        if power_loss {
            notices.push(Notice::PowerLoss);
        }
        for epoch in std::mem::take(&mut state.epochs) {
            let key_id = epoch.key_id;
            if power_loss && ring.options.strict_after_power_loss {
                notices.push(Notice::Retired(
                    key_id,
                    "power loss, and the strict rule for it",
                ));
                continue;
            }
            match UsedFile::open(folder, key_id, &epoch.root()) {
                Ok(file) => {
                    ring.files.push(file);
                    ring.state.epochs.push(epoch);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    notices.push(Notice::Retired(key_id, "its bitmap is missing"));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    notices.push(Notice::Retired(key_id, "its bitmap is damaged"));
                }
                Err(source) => return Err(ring.bitmap(key_id, source)),
            }
        }
        if let Some(sum) = state.clean
            && notices.is_empty()
            && ring.checksum()? != sum
        {
            for epoch in std::mem::take(&mut ring.state.epochs) {
                notices.push(Notice::Retired(epoch.key_id, "a bitmap fails its checksum"));
            }
            ring.files.clear();
        }
        // Tickets may live longer than when the issuing epoch began.
        if let Some(epoch) = ring.state.epochs.last_mut() {
            let accept_until = ring.options.accept_until(epoch.issue_until);
            epoch.accept_until = epoch.accept_until.max(accept_until);
        }
        match ring.advance(now.into()) {
            // There is no room for the next one. The first turn will say so.
            Err(RingError::Bitmap { .. }) if !ring.unsettled => {}
            done => done?,
        }
        ring.untold = false;
        Ok((ring, notices))
    }

    /// Starts a new epoch when the present one has issued for long enough or is full, and erases
    /// those whose last ticket has expired. `true` if the set of epochs changed, now or in a turn
    /// that failed: what could not be saved is saved by the next one.
    ///
    /// Without room for a new one what has expired goes all the same, and this fails in those turns
    /// that have nothing to tell of.
    pub fn rotate(&mut self, now: impl Into<UnixTime>) -> Result<bool, RingError> {
        let advanced = self.advance(now.into());
        if self.unsettled || !self.untold {
            return advanced.map(|()| false);
        }
        self.untold = false;
        Ok(true)
    }

    /// Gives out up to `count` fresh indexes of the newest epoch, which never come again.
    pub fn grant(&mut self, count: u32, now: impl Into<UnixTime>) -> Result<IndexRange, RingError> {
        let now = now.into();
        if self.promised.is_none_or(|range| range.first == range.end) {
            // Whoever rotates next tells of what changes here.
            self.advance(now)?;
            let issuing = |epoch: &&mut Epoch| epoch.issues(now.latest);
            let Some(epoch) = self.state.epochs.last_mut().filter(issuing) else {
                return Err(RingError::TooManyEpochs);
            };
            let first = epoch.reserved;
            let end = first.saturating_add(RESERVE).min(INDEXES);
            epoch.reserved = end;
            let key_id = epoch.key_id;
            if let Err(error) = self.save() {
                // Nobody has got any of these.
                if let Some(epoch) = self.state.epochs.last_mut() {
                    epoch.reserved = first;
                }
                return Err(error);
            }
            self.promised = Some(IndexRange { key_id, first, end });
        }
        let Some(promised) = &mut self.promised else {
            return Err(RingError::TooManyEpochs);
        };
        let end = promised.first.saturating_add(count).min(promised.end);
        let granted = IndexRange { end, ..*promised };
        promised.first = end;
        Ok(granted)
    }

    /// Starts a new epoch now, whatever the present one could still issue.
    pub fn force_epoch(&mut self, now: impl Into<UnixTime>) -> Result<(), RingError> {
        let now = now.into();
        self.retire(now.earliest);
        self.renew(now)?;
        self.untold = false;
        Ok(())
    }

    /// Retires every epoch and starts a new one: no ticket issued so far opens anything any more,
    /// also when this fails.
    pub fn revoke_all(&mut self, now: impl Into<UnixTime>) -> Result<(), RingError> {
        // While the old ones are still there, so that the new one gets none of their ids.
        self.next_id = self.free_id();
        self.state.epochs.clear();
        self.files.clear();
        self.promised = None;
        self.unsettled = true;
        self.untold = true;
        self.renew(now.into())?;
        self.untold = false;
        Ok(())
    }

    /// The times of every live epoch, oldest first.
    pub fn times(&self) -> impl Iterator<Item = EpochTimes> {
        self.state.epochs.iter().map(|epoch| EpochTimes {
            began: epoch.issue_until.saturating_sub(ISSUE_SECONDS),
            issue_until: epoch.issue_until,
            accept_until: epoch.accept_until,
        })
    }

    /// Every live epoch, oldest first: key id, root, and the descriptor of its bitmap.
    pub fn epochs(&self) -> impl Iterator<Item = (u8, Secret, &fs::File)> {
        let epochs = self.state.epochs.iter().zip(&self.files);
        epochs.map(|(epoch, file)| (epoch.key_id, epoch.root(), file.file()))
    }

    /// Marks an orderly stop. Nobody may set a bit any more.
    pub fn close(mut self) -> Result<(), RingError> {
        for (epoch, file) in self.state.epochs.iter().zip(&self.files) {
            file.sync()
                .map_err(|source| self.bitmap(epoch.key_id, source))?;
        }
        self.state.clean = Some(self.checksum()?);
        self.save()
    }

    fn advance(&mut self, now: UnixTime) -> Result<(), RingError> {
        self.cut_short(now);
        self.retire(now.earliest);
        let issuing = self
            .state
            .epochs
            .last()
            .is_some_and(|epoch| epoch.issues(now.latest));
        if issuing {
            return self.settle();
        }
        match self.renew(now) {
            // The old ones still open tickets; only new tickets have to wait.
            Err(RingError::TooManyEpochs) => Ok(()),
            result => result,
        }
    }

    /// Adds an epoch, once what has gone is gone from the disk: the new bitmap may need that room.
    fn renew(&mut self, now: UnixTime) -> Result<(), RingError> {
        self.settle()?;
        self.add_epoch(now.latest)?;
        if now.earliest != now.latest {
            self.doubtful
                .extend(self.state.epochs.last().map(|epoch| epoch.key_id));
        }
        self.settle()
    }

    /// Ends what was made while the clock was in doubt, and wrong: all that it has issued is of before
    /// now, and it would stay until a time that does not come.
    fn cut_short(&mut self, now: UnixTime) {
        if now.earliest != now.latest {
            return;
        }
        let now = now.latest;
        let accept_until = self.options.accept_until(now);
        let doubtful = std::mem::take(&mut self.doubtful);
        for epoch in &mut self.state.epochs {
            if doubtful.contains(&epoch.key_id) && !epoch.is_made_by(now) {
                (epoch.issue_until, epoch.accept_until) = (now, accept_until);
                self.unsettled = true;
                self.untold = true;
            }
        }
    }

    fn retire(&mut self, now: u64) {
        let before = self.state.epochs.len();
        let mut files = std::mem::take(&mut self.files).into_iter();
        self.state.epochs.retain(|epoch| {
            let keep = now < epoch.accept_until;
            let file = files.next();
            if keep {
                self.files.extend(file);
            }
            keep
        });
        let changed = self.state.epochs.len() != before;
        self.unsettled |= changed;
        self.untold |= changed;
        let epochs = &self.state.epochs;
        self.promised
            .take_if(|range| epochs.iter().all(|epoch| epoch.key_id != range.key_id));
    }

    fn add_epoch(&mut self, now: u64) -> Result<(), RingError> {
        if self.state.epochs.len() >= MAX_EPOCHS {
            return Err(RingError::TooManyEpochs);
        }
        let mut root = [0; 32];
        draw(&mut root)?;
        let key_id = self.free_id();
        let issue_until = now.saturating_add(ISSUE_SECONDS);
        let epoch = Epoch {
            key_id,
            root,
            issue_until,
            accept_until: self.options.accept_until(issue_until),
            reserved: 0,
        };
        root.zeroize();
        let file = UsedFile::create(&self.folder, key_id, &epoch.root())
            .map_err(|source| self.bitmap(key_id, source))?;
        self.next_id = key_id.wrapping_add(1);
        self.state.epochs.push(epoch);
        self.files.push(file);
        self.unsettled = true;
        self.untold = true;
        // What the old epoch had left is not given out any more.
        self.promised = None;
        Ok(())
    }

    fn free_id(&self) -> u8 {
        let alive: Vec<u8> = self.state.epochs.iter().map(|epoch| epoch.key_id).collect();
        let mut key_id = self.next_id;
        // Ends, since fewer are alive than there are ids.
        while alive.contains(&key_id) {
            key_id = key_id.wrapping_add(1);
        }
        key_id
    }

    fn checksum(&self) -> Result<[u8; 32], RingError> {
        let mut sums = Vec::new();
        for (epoch, file) in self.state.epochs.iter().zip(&self.files) {
            let sum = file
                .checksum()
                .map_err(|source| self.bitmap(epoch.key_id, source))?;
            sums.extend_from_slice(&sum);
        }
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, &sums).as_ref());
        Ok(sum)
    }

    /// Makes the set of epochs durable if it is not, and removes what belongs to none.
    fn settle(&mut self) -> Result<(), RingError> {
        if self.unsettled {
            if self.save().is_err() {
                // The room of what has gone may be all there is. An epoch that the ring on disk still
                // names is retired without its bitmap.
                self.sweep()?;
                self.save()?;
            }
            self.sweep()?;
            self.unsettled = false;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), RingError> {
        Ok(durable::write(
            &self.folder.join("ring"),
            MAGIC,
            &self.state,
        )?)
    }

    /// Removes bitmaps that no epoch of the saved ring names.
    fn sweep(&self) -> Result<(), RingError> {
        for key_id in 0..=u8::MAX {
            let path = UsedFile::path(&self.folder, key_id);
            let named = self.state.epochs.iter().any(|epoch| epoch.key_id == key_id);
            for path in [fresh_name(&path), path]
                .into_iter()
                .skip(usize::from(named))
            {
                if !named && path.is_file() {
                    durable::remove(&path).map_err(|source| RingError::Bitmap { path, source })?;
                }
            }
        }
        Ok(())
    }

    fn bitmap(&self, key_id: u8, source: io::Error) -> RingError {
        RingError::Bitmap {
            path: UsedFile::path(&self.folder, key_id),
            source,
        }
    }
}

fn draw(octets: &mut [u8]) -> Result<(), RingError> {
    let drawn = SystemRandom::new().fill(octets);
    drawn.map_err(|_| RingError::Random)
}

#[cfg(test)]
mod tests;
