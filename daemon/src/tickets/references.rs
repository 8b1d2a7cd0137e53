//! The gateway's records behind tickets by reference: what such a ticket names, kept in one database
//! file that survives crashes and power cuts.
//!
//! Writes go through a thread of their own, which commits in one transaction whatever has queued while
//! it was busy with the one before.
//!
//! A record holds SK_d, so its state is sealed under a key of the ticket epoch: the file alone opens
//! nothing, and when the epoch's root is erased, whatever is left in old pages is lost with it.

mod queue;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ike::{
    crypto::Secret,
    io::TicketRoot,
    ticket::{Kept, Reference},
};
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroize;

pub use self::queue::ReferenceQueue;
use super::database::{self, MovedAside, Unopened};

/// Records at once, by default.
pub const MAX_REFERENCES: u64 = 1_000_000;
/// Octets of all records together, by default. The file's pages take up to three times as much.
pub const MAX_REFERENCE_OCTETS: u64 = 512 << 20;
/// Longest state; those of tickets by value are shorter.
const MAX_STATE: usize = 2 << 10;
/// Expired records that one new one clears away; more than one, so that they never pile up.
const PURGE_WITH_EACH: usize = 16;
/// Expired records cleared away in one turn without a new one.
const PURGE_BATCH: usize = 1024;
/// Releases that may wait for the next write that is synced. A lost one costs nothing: the used bit of
/// its ticket is set.
const MAX_LAZY: u32 = 256;
/// What it means to begin anew.
const LOSS: &str =
    "tickets by reference given out before are void and their clients log in with a full exchange";
const CACHE_OCTETS: usize = 8 << 20;
const FILE: &str = "references";
const ENVELOPE: usize = 32;

/// By reference: expiry, envelope, nonce, sealed state.
const RECORDS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("records 1");
/// The same by expiry, for clearing away.
const EXPIRIES: TableDefinition<'_, (u64, u128), ()> = TableDefinition::new("expiries 1");

/// How much the store may hold.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceLimits {
    /// Records.
    pub records: u64,
    /// Octets of all records together.
    pub octets: u64,
}

impl Default for ReferenceLimits {
    fn default() -> Self {
        Self {
            records: MAX_REFERENCES,
            octets: MAX_REFERENCE_OCTETS,
        }
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A file could not be reached.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The database would not work.
    #[error("{path}: {source}", path = path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// In its own words.
        source: Box<redb::Error>,
    },
    /// The operating system has no randomness.
    #[error("no randomness from the operating system")]
    Random,
}

/// What to change in the store.
#[derive(Debug)]
pub(super) enum Change {
    /// Keep a state until then, in Unix seconds, unless the store is full, the state too long, or its
    /// epoch unknown.
    Keep(Reference, u64, Kept),
    /// Forget a reference for good; it need not be there.
    Consume(Reference),
    /// Forget a reference with some later write: its used bit is set.
    Release(Reference),
}

/// The open store, for whoever writes.
pub struct References {
    path: PathBuf,
    database: Arc<Database>,
    limits: ReferenceLimits,
    seals: Seals,
    random: SystemRandom,
    records: u64,
    octets: u64,
    lazy: u32,
}

impl fmt::Debug for References {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("References")
            .field("path", &self.path)
            .field("records", &self.records)
            .field("octets", &self.octets)
            .finish_non_exhaustive()
    }
}

impl References {
    /// Whether there is a file, and with it tickets that may come back.
    #[must_use]
    pub fn exist(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    // RFC 5723: N34
    /// Opens the store or makes one. All of it is checked: what was altered behind our back is moved
    /// aside, and said so. An error of the file system moves nothing.
    pub fn open(
        folder: &Path,
        limits: ReferenceLimits,
    ) -> Result<(Self, Option<MovedAside>), ReferenceError> {
        let path = folder.join(FILE);
        let io = |source| ReferenceError::Io {
            path: path.clone(),
            source,
        };
        let failed = |source: redb::Error| ReferenceError::Store {
            path: path.clone(),
            source: Box::new(source),
        };
        let opened = database::open(&path, CACHE_OCTETS, LOSS);
        let (database, moved) = opened.map_err(|error| match error {
            Unopened::Io(error) => io(error),
            Unopened::Database(error) => failed(error.into()),
        })?;
        Ok((Self::over(database, path, limits)?, moved))
    }

    fn over(
        database: Database,
        path: PathBuf,
        limits: ReferenceLimits,
    ) -> Result<Self, ReferenceError> {
        let mut store = Self {
            path,
            database: Arc::new(database),
            limits,
            seals: Seals::default(),
            random: SystemRandom::new(),
            records: 0,
            octets: 0,
            lazy: 0,
        };
        store.take_stock().map_err(|source| store.failed(source))?;
        Ok(store)
    }

    /// The live epochs. A record of another one cannot be opened any more.
    pub fn set_epochs(&mut self, roots: &[TicketRoot]) {
        self.set_seals(Seals::of(roots));
    }

    pub(super) fn set_seals(&mut self, seals: Seals) {
        self.seals = seals;
    }

    /// Reads what is committed, from any thread.
    pub(super) fn reader(&self) -> Reader {
        Reader {
            path: self.path.clone(),
            database: Arc::clone(&self.database),
            seals: Seals::default(),
        }
    }

    /// Records now.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.records
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Octets of all records now.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Makes changes in one transaction, and says of each whether it was made. All are on disk when this
    /// returns, but for releases alone. After an error none was made. `now` is Unix time.
    pub(super) fn commit(
        &mut self,
        changes: &[Change],
        now: u64,
    ) -> Result<Vec<bool>, ReferenceError> {
        let mut records_to_keep = Vec::with_capacity(changes.len());
        for change in changes {
            records_to_keep.push(match change {
                Change::Keep(reference, expiry, kept) => self.sealed(reference, *expiry, kept)?,
                Change::Consume(_) | Change::Release(_) => None,
            });
        }
        let releases = |change: &&Change| matches!(change, Change::Release(_));
        let released = changes.iter().filter(releases).count();
        let lazy = self.lazy.saturating_add(released as u32);
        let durability = if released < changes.len() || lazy > MAX_LAZY {
            Durability::Immediate
        } else {
            Durability::None
        };
        let keeps = records_to_keep.iter().flatten().count();
        let limits = self.limits;
        let (mut records, mut octets) = (self.records, self.octets);
        let done = self.write(durability, |transaction| {
            let (gone, freed) = clear_expired(transaction, now, keeps * PURGE_WITH_EACH)?;
            (records, octets) = (records - gone, octets.saturating_sub(freed));
            let mut table = transaction.open_table(RECORDS)?;
            let mut expiries = transaction.open_table(EXPIRIES)?;
            let mut done = Vec::with_capacity(changes.len());
            for (change, record) in changes.iter().zip(&records_to_keep) {
                done.push(match (change, record) {
                    (Change::Keep(reference, expiry, _), Some(record)) => {
                        let (reference, size) = (u128::from_be_bytes(*reference), size_of(record));
                        let room = records < limits.records && octets + size <= limits.octets;
                        let fits = room && table.get(reference)?.is_none();
                        if fits {
                            table.insert(reference, record.as_slice())?;
                            expiries.insert((*expiry, reference), ())?;
                            (records, octets) = (records + 1, octets + size);
                        }
                        fits
                    }
                    (Change::Keep(..), None) => false,
                    (Change::Consume(reference) | Change::Release(reference), _) => {
                        let reference = u128::from_be_bytes(*reference);
                        if let Some(record) = table.remove(reference)? {
                            let expiry = expiry_of(record.value());
                            expiries.remove((expiry, reference))?;
                            records = records.saturating_sub(1);
                            octets = octets.saturating_sub(size_of(record.value()));
                        }
                        true
                    }
                });
            }
            Ok(done)
        })?;
        (self.records, self.octets) = (records, octets);
        if matches!(durability, Durability::None) {
            self.lazy = lazy;
        }
        Ok(done)
    }

    /// Clears one batch of expired records away; `true` if there may be more.
    pub fn purge(&mut self, now: u64) -> Result<bool, ReferenceError> {
        let due = || -> Result<bool, redb::Error> {
            let table = self.database.begin_read()?.open_table(EXPIRIES)?;
            Ok(table.first()?.is_some_and(|(key, _)| key.value().0 <= now))
        };
        if !due().map_err(|source| self.failed(source))? {
            return Ok(false);
        }
        let (gone, freed) = self.write(Durability::Immediate, |transaction| {
            clear_expired(transaction, now, PURGE_BATCH)
        })?;
        self.records = self.records.saturating_sub(gone);
        self.octets = self.octets.saturating_sub(freed);
        Ok(gone == PURGE_BATCH as u64)
    }

    /// Makes the tables and counts what is in them.
    fn take_stock(&mut self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let table = transaction.open_table(RECORDS)?;
            self.records = table.len()?;
            self.octets = table.stats()?.stored_bytes();
            transaction.open_table(EXPIRIES)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// One transaction, all or nothing.
    fn write<T>(
        &mut self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, ReferenceError> {
        let run = || -> Result<T, redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(durability)?;
            let done = change(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        let done = run().map_err(|source| self.failed(source))?;
        if matches!(durability, Durability::Immediate) {
            self.lazy = 0;
        }
        Ok(done)
    }

    fn sealed(
        &self,
        reference: &Reference,
        expiry: u64,
        kept: &Kept,
    ) -> Result<Option<Vec<u8>>, ReferenceError> {
        let seal = self.seals.seal(&kept.envelope);
        let Some(seal) = seal.filter(|_| kept.state.len() <= MAX_STATE) else {
            return Ok(None);
        };
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| ReferenceError::Random)?;
        let mut record = expiry.to_be_bytes().to_vec();
        record.extend_from_slice(&kept.envelope);
        let bound = Aad::from([&reference[..], &record].concat());
        record.extend_from_slice(&nonce);
        let mut state = kept.state.expose().to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        if seal
            .seal_in_place_append_tag(nonce, bound, &mut state)
            .is_err()
        {
            state.zeroize();
            return Ok(None);
        }
        record.append(&mut state);
        Ok(Some(record))
    }

    fn failed(&self, source: redb::Error) -> ReferenceError {
        ReferenceError::Store {
            path: self.path.clone(),
            source: Box::new(source),
        }
    }
}

/// What is committed, for whoever only reads.
pub(super) struct Reader {
    path: PathBuf,
    database: Arc<Database>,
    seals: Seals,
}

impl Reader {
    /// Another one of the same store.
    pub(super) fn without_seals(&self) -> Self {
        Self {
            path: self.path.clone(),
            database: Arc::clone(&self.database),
            seals: Seals::default(),
        }
    }

    pub(super) fn set_seals(&mut self, seals: Seals) {
        self.seals = seals;
    }

    /// What is kept under a reference and can still be opened.
    pub(super) fn kept(&self, reference: &Reference) -> Result<Option<Kept>, ReferenceError> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(RECORDS)?;
            let record = table.get(u128::from_be_bytes(*reference))?;
            Ok(record.map(|record| record.value().to_vec()))
        };
        let record = read().map_err(|source| ReferenceError::Store {
            path: self.path.clone(),
            source: Box::new(source),
        })?;
        Ok(record.and_then(|record| self.unsealed(reference, record)))
    }

    fn unsealed(&self, reference: &Reference, mut record: Vec<u8>) -> Option<Kept> {
        const HEAD: usize = 8 + ENVELOPE;
        let (head, rest) = record.split_at_mut_checked(HEAD)?;
        let (nonce, state) = rest.split_first_chunk_mut::<NONCE_LEN>()?;
        let envelope: [u8; ENVELOPE] = head.get(8..)?.try_into().ok()?;
        let bound = Aad::from([&reference[..], head].concat());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let seal = self.seals.seal(&envelope)?;
        let plain = seal.open_in_place(nonce, bound, state).ok()?;
        let state = Secret::from(&*plain);
        plain.zeroize();
        Some(Kept { envelope, state })
    }
}

/// The keys of the live epochs.
#[derive(Default)]
pub(super) struct Seals(Vec<(u8, LessSafeKey)>);

impl Seals {
    pub(super) fn of(roots: &[TicketRoot]) -> Self {
        let seal = |root: &TicketRoot| Some((root.key_id, seal_of(root)?));
        Self(roots.iter().filter_map(seal).collect())
    }

    fn seal(&self, envelope: &[u8; ENVELOPE]) -> Option<&LessSafeKey> {
        let key_id = gate_abi::ticket::key_id_of(envelope);
        let (_, seal) = self.0.iter().find(|(id, _)| *id == key_id)?;
        Some(seal)
    }
}

fn clear_expired(
    transaction: &WriteTransaction,
    now: u64,
    most: usize,
) -> Result<(u64, u64), redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut expiries = transaction.open_table(EXPIRIES)?;
    let (mut gone, mut freed) = (0, 0);
    for _ in 0..most {
        let first = expiries.first()?.map(|(key, _)| key.value());
        let Some(key) = first.filter(|(expiry, _)| *expiry <= now) else {
            break;
        };
        expiries.remove(key)?;
        if let Some(record) = records.remove(key.1)? {
            (gone, freed) = (gone + 1, freed + size_of(record.value()));
        }
    }
    Ok((gone, freed))
}

/// What a record counts for: its key and value, as the table's own statistics have it.
fn size_of(record: &[u8]) -> u64 {
    (size_of_val(&0_u128) + record.len()) as u64
}

fn expiry_of(record: &[u8]) -> u64 {
    record.first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// The key that seals the states of one epoch: HKDF-SHA-256 of its root (RFC 5869).
fn seal_of(root: &TicketRoot) -> Option<LessSafeKey> {
    let prk = Salt::new(HKDF_SHA256, b"rekindle ticket root").extract(root.root.expose());
    let okm = prk
        .expand(&[b"rekindle reference store"], &AES_256_GCM)
        .ok()?;
    Some(LessSafeKey::new(UnboundKey::from(okm)))
}

#[cfg(test)]
mod tests;
