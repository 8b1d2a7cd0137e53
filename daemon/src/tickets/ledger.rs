//! The engine's side of the ring: fresh indexes at hand, used bits in mapped memory.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use ike::{
    io::{StoreId, TicketLedger, TicketRoot},
    ticket::{Kept, Reference},
    wire::id::Identity,
};
use tracing::error;

use super::{
    references::ReferenceQueue,
    revocations::Revocations,
    ring::{EpochTimes, IndexRange},
    used::UsedBits,
    wall_clock,
};
use crate::gate::Board;

/// Indexes that a worker takes from the common store at a time.
const BLOCK: u32 = 1024;
/// With fewer indexes than this in the store the keeper is asked for more: one block for every worker.
const LOW: u32 = BLOCK * ike::MAX_WORKERS as u32;

/// All live epochs, oldest first.
#[derive(Debug, Default)]
pub struct Epochs {
    /// For the core.
    pub roots: Vec<TicketRoot>,
    /// For the ledger.
    pub bits: Vec<(u8, Arc<UsedBits>)>,
    /// For the operator.
    pub times: Vec<(u8, EpochTimes)>,
}

impl Epochs {
    /// Maps the bitmaps that came with the roots. Each is copied into its slot of the gate's board,
    /// if it has one.
    pub fn map(
        epochs: Vec<(TicketRoot, OwnedFd, Option<u32>)>,
        board: Option<&Arc<Board>>,
    ) -> io::Result<Self> {
        let mut mapped = Self::default();
        for (root, file, slot) in epochs {
            let copy = board.cloned().zip(slot);
            mapped
                .bits
                .push((root.key_id, Arc::new(UsedBits::map(file, copy)?)));
            mapped.roots.push(root);
        }
        Ok(mapped)
    }
}

/// Where fresh indexes arrive while the engine works: filled by whoever listens to the keeper.
#[derive(Debug, Default)]
pub struct IndexSource {
    ranges: Mutex<VecDeque<IndexRange>>,
    asked: AtomicBool,
}

impl IndexSource {
    /// Puts an answer of the keeper into the store; `None` if it had none to give.
    pub fn deliver(&self, range: Option<IndexRange>) {
        if let Some(range) = range {
            self.ranges
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(range);
        }
        self.asked.store(false, Ordering::Release);
    }
}

/// Ticket indexes and used bits, as the core asks for them.
pub struct Ledger {
    source: Arc<IndexSource>,
    /// Taken from the store and not issued yet.
    block: Option<IndexRange>,
    ask: Box<dyn Fn() -> bool + Send>,
    bits: Vec<(u8, Arc<UsedBits>)>,
    /// Without it no ticket by reference is issued or honoured.
    references: Option<ReferenceQueue>,
    /// Without it nothing is revoked.
    revocations: Option<Revocations>,
    /// When the first of the epochs is over.
    honoured_until: Option<u64>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("bits", &self.bits)
            .field("references", &self.references)
            .field("revocations", &self.revocations)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// `ask` sends the keeper a request for indexes and does not wait; it returns whether that went.
    pub fn new(source: Arc<IndexSource>, ask: impl Fn() -> bool + Send + 'static) -> Self {
        Self {
            source,
            block: None,
            ask: Box::new(ask),
            bits: Vec::new(),
            references: None,
            revocations: None,
            honoured_until: None,
        }
    }

    /// Refuses what is revoked here.
    pub fn set_revocations(&mut self, mut revocations: Revocations) {
        revocations.set_honoured(self.honoured_until);
        self.revocations = Some(revocations);
    }

    /// Whose tickets are revoked; `None` if nobody keeps book of that.
    #[must_use]
    pub const fn revocations(&self) -> Option<&Revocations> {
        self.revocations.as_ref()
    }

    /// The same, to revoke some more.
    pub const fn revocations_mut(&mut self) -> Option<&mut Revocations> {
        self.revocations.as_mut()
    }

    /// Keeps what tickets by reference name in this store.
    pub fn set_references(&mut self, mut references: ReferenceQueue, epochs: &Epochs) {
        references.set_epochs(&epochs.roots);
        self.references = Some(references);
    }

    /// Clears expired references away, and revocations that are of no more use.
    pub fn purge(&mut self) {
        if let Some(revocations) = &mut self.revocations
            && let Err(error) = revocations.expire(wall_clock())
        {
            error!("{error}");
        }
        if let Some(references) = &mut self.references {
            references.purge();
        }
    }

    /// Works with these epochs from now on. Give the core their roots first: an index of an epoch
    /// that is not set here is never handed out.
    pub fn set_epochs(&mut self, epochs: &Epochs) {
        let newest = |bits: &[(u8, Arc<UsedBits>)]| bits.last().map(|(key_id, _)| *key_id);
        let rotated = newest(&self.bits) != newest(&epochs.bits);
        self.bits.clone_from(&epochs.bits);
        let ends = epochs.times.iter().map(|(_, times)| times.accept_until);
        self.honoured_until = ends.min();
        if let Some(revocations) = &mut self.revocations {
            revocations.set_honoured(self.honoured_until);
        }
        if rotated {
            // Now, and not at the first login, which would get no ticket.
            self.ask_for_indexes();
        }
        if let Some(references) = &mut self.references {
            references.set_epochs(&epochs.roots);
        }
    }

    /// The bitmaps in use, for the thread that syncs them.
    #[must_use]
    pub fn bitmaps(&self) -> Vec<Arc<UsedBits>> {
        self.bits.iter().map(|(_, bits)| Arc::clone(bits)).collect()
    }

    /// Unless somebody has asked already.
    fn ask_for_indexes(&self) {
        if !self.source.asked.swap(true, Ordering::AcqRel) && !(self.ask)() {
            self.source.asked.store(false, Ordering::Release);
        }
    }

    /// Some indexes of the newest epoch, for this worker alone. Has the store filled up when there is little
    /// left for the others.
    fn take_block(&self, newest: u8) -> Option<IndexRange> {
        let (block, left) = {
            let mut ranges = self
                .source
                .ranges
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            ranges.retain(|range| {
                let known = self.bits.iter().any(|(key_id, _)| *key_id == range.key_id);
                range.first < range.end && (range.key_id == newest || !known)
            });
            let block = ranges
                .iter_mut()
                .find(|range| range.key_id == newest)
                .map(|range| {
                    let first = range.first;
                    range.first = first.saturating_add(BLOCK).min(range.end);
                    IndexRange {
                        end: range.first,
                        first,
                        ..*range
                    }
                });
            let left = ranges
                .iter()
                .map(|range| range.end - range.first)
                .fold(0_u32, u32::saturating_add);
            (block, left)
        };
        if left < LOW {
            self.ask_for_indexes();
        }
        block
    }

    fn bits(&self, key_id: u8) -> Option<&UsedBits> {
        let (_, bits) = self.bits.iter().find(|(id, _)| *id == key_id)?;
        Some(bits)
    }
}

impl TicketLedger for Ledger {
    fn next_index(&mut self) -> Option<(u8, u32)> {
        let newest = self.bits.last().map(|(key_id, _)| *key_id)?;
        // What an older epoch left over is not issued: its time to issue is over.
        let has_some = |block: &IndexRange| block.key_id == newest && block.first < block.end;
        if !self.block.as_ref().is_some_and(has_some) {
            self.block = self.take_block(newest);
        }
        let block = self.block.as_mut()?;
        let index = block.first;
        block.first += 1;
        Some((newest, index))
    }

    fn is_used(&self, key_id: u8, index: u32) -> bool {
        // Without its bitmap a ticket cannot be shown to be fresh.
        self.bits(key_id).is_none_or(|bits| bits.is_set(index))
    }

    fn mark_used(&mut self, key_id: u8, index: u32) -> bool {
        self.bits(key_id).is_some_and(|bits| bits.set(index))
    }

    fn revoked_until(&self, peer: &Identity) -> Option<u64> {
        self.revocations.as_ref()?.until(peer)
    }

    fn keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> bool {
        let references = self.references.as_mut();
        references.is_some_and(|references| references.keep(reference, expiry, kept))
    }

    fn begin_keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> Option<StoreId> {
        let references = self.references.as_mut()?;
        references.begin_keep(reference, expiry, kept)
    }

    fn begin_consume(&mut self, reference: &Reference) -> Option<StoreId> {
        self.references.as_mut()?.begin_consume(*reference)
    }

    fn kept(&self, reference: &Reference) -> Option<Kept> {
        let kept = self.references.as_ref()?.kept(reference);
        kept.unwrap_or_else(|error| {
            error!("{error}; a ticket is refused");
            None
        })
    }

    fn release(&mut self, reference: &Reference) {
        if let Some(references) = &mut self.references {
            references.release(*reference);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::atomic::AtomicU32};

    use super::*;
    use crate::tickets::{Ring, RingOptions};

    fn ring(folder: &Path) -> Ring {
        let options = RingOptions {
            ticket_seconds: 3600,
            strict_after_power_loss: false,
        };
        Ring::open(folder, options, [0; 16], 0).expect("open").0
    }

    fn epochs(ring: &Ring) -> Epochs {
        let epochs = ring
            .epochs()
            .map(|(key_id, root, file)| {
                (
                    TicketRoot { key_id, root },
                    file.try_clone().expect("clone").into(),
                    None,
                )
            })
            .collect();
        let mut epochs = Epochs::map(epochs, None).expect("map");
        let ids = epochs.roots.iter().map(|root| root.key_id);
        epochs.times = ids.zip(ring.times()).collect();
        epochs
    }

    // RFC 5723: L9, A21
    #[test]
    fn a_revocation_stays_as_long_as_an_epoch_that_it_concerns() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ring = ring(folder.path());
        let mut ledger = Ledger::new(Arc::default(), || true);
        ledger.set_epochs(&epochs(&ring));
        ledger.set_revocations(Revocations::open(folder.path(), 0));
        let last = ring.times().last().expect("an epoch").accept_until;
        let revoked = ledger
            .revocations_mut()
            .map(|list| list.revoke("a@b", 0, last));
        revoked.expect("a list").expect("revoke");
        let peer = Identity::from_text("a@b").expect("an identity");
        // To the clock of this machine all of this is long ago. The keeper does not believe it.
        ledger.purge();
        assert_eq!(ledger.revoked_until(&peer), Some(0));
        ring.rotate(last).expect("rotate");
        ledger.set_epochs(&epochs(&ring));
        ledger.purge();
        assert_eq!(ledger.revoked_until(&peer), None);
    }

    #[test]
    fn indexes_are_asked_for_before_they_run_out() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ring = ring(folder.path());
        let source = Arc::new(IndexSource::default());
        let asked = Arc::new(AtomicU32::new(0));
        let mut ledger = Ledger::new(Arc::clone(&source), {
            let asked = Arc::clone(&asked);
            move || asked.fetch_add(1, Ordering::Relaxed) < 100
        });
        ledger.set_epochs(&epochs(&ring));
        assert_eq!(ledger.next_index(), None);
        assert_eq!(ledger.next_index(), None);
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one question at a time");
        let range = ring.grant(LOW + BLOCK, 0).expect("grant");
        source.deliver(Some(range));
        for index in 0..BLOCK {
            assert_eq!(ledger.next_index(), Some((range.key_id, index)));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(ledger.next_index(), Some((range.key_id, BLOCK)));
        assert_eq!(asked.load(Ordering::Relaxed), 2, "little is left");
    }

    #[test]
    fn two_workers_never_issue_the_same_index() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ring = ring(folder.path());
        let source = Arc::new(IndexSource::default());
        let range = ring.grant(3 * BLOCK + 5, 0).expect("grant");
        source.deliver(Some(range));
        let mut workers: Vec<_> = (0..2)
            .map(|_| {
                let mut ledger = Ledger::new(Arc::clone(&source), || true);
                ledger.set_epochs(&epochs(&ring));
                ledger
            })
            .collect();
        let mut issued = std::collections::BTreeSet::new();
        let mut dry = 0;
        while dry < workers.len() {
            dry = 0;
            for ledger in &mut workers {
                match ledger.next_index() {
                    Some(name) => assert!(issued.insert(name), "{name:?}"),
                    None => dry += 1,
                }
            }
        }
        assert_eq!(issued.len(), 3 * BLOCK as usize + 5, "and none is lost");
    }

    #[test]
    fn only_the_newest_known_epoch_issues() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ring = ring(folder.path());
        let source = Arc::new(IndexSource::default());
        let mut ledger = Ledger::new(Arc::clone(&source), || true);
        ledger.set_epochs(&epochs(&ring));
        let old = ring.grant(10, 0).expect("grant");
        source.deliver(Some(old));
        assert_eq!(ledger.next_index(), Some((old.key_id, 0)));
        ring.force_epoch(0).expect("epoch");
        let new = ring.grant(10, 0).expect("grant");
        source.deliver(Some(new));
        assert_eq!(
            ledger.next_index(),
            Some((old.key_id, 1)),
            "the core lacks the new root"
        );
        ledger.set_epochs(&epochs(&ring));
        assert_eq!(ledger.next_index(), Some((new.key_id, 0)));
        assert!(
            ledger.mark_used(old.key_id, 0),
            "old tickets are still honoured"
        );
        assert!(!ledger.mark_used(old.key_id, 0) && ledger.is_used(old.key_id, 0));
        let stranger = new.key_id.wrapping_add(1);
        assert!(ledger.is_used(stranger, 0) && !ledger.mark_used(stranger, 0));
    }
}
