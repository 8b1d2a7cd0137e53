//! The gateway's inner addresses: the book of leases that the core asks, and its copy on disk, so that a
//! client that comes back after a restart finds its address. The engine owns both.

mod store;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ike::{
    io::{Stamp, StoreId},
    lease::{Book, Granted, LeaseBook, LeaseId, LeaseRequest, LeaseView, NoLease, PoolView},
};
use tracing::{error, info, warn};

use self::store::LeaseQueue;
pub use self::store::{LeaseError, LeaseStore};
use crate::{config::Config, kernel::Orphan};

const NOT_KEPT: &str = "leases are good until the next restart only";

/// All leases of a gateway. Its workers have them in common: asked at a login that wants addresses, when its
/// peer has proved itself, and never for longer than one answer.
#[derive(Clone, Debug)]
pub struct Leases(Arc<Mutex<Kept>>);

/// The book, with its copy on disk as far as there is one.
#[derive(Debug)]
struct Kept {
    book: Book,
    queue: Option<LeaseQueue>,
}

impl Leases {
    /// Opens the book of the configured pools, with the leases of earlier runs. Without pools no file is
    /// touched. `tell` gets the outcome of every lease that is being kept.
    pub fn open(config: &Config, tell: impl Fn(StoreId, bool) + Send + 'static) -> Self {
        let mut book = Book::new(config.pools.iter().cloned());
        if config.pools.is_empty() {
            return Self::of(Kept { book, queue: None });
        }
        let queue = Self::restore(&mut book, &config.daemon.state_dir)
            .and_then(|store| LeaseQueue::start(store, tell).map_err(LeaseError::from))
            .inspect_err(|error| error!("{error}; {NOT_KEPT} until this is mended"))
            .ok();
        Self::of(Kept { book, queue })
    }

    fn of(kept: Kept) -> Self {
        Self(Arc::new(Mutex::new(kept)))
    }

    /// A worker that panicked has left no lease half made.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restore(book: &mut Book, folder: &Path) -> Result<LeaseStore, LeaseError> {
        let (mut store, moved) = LeaseStore::open(folder)?;
        if let Some(moved) = moved {
            warn!("{moved}");
        }
        let records = store.load()?;
        let known = records.len();
        let gone: Vec<_> = records
            .into_iter()
            .filter(|record| !book.restore(record.clone()))
            .map(|record| record.address)
            .collect();
        store.forget(&gone)?;
        info!(
            leases = known - gone.len(),
            without_pool = gone.len(),
            "inner addresses"
        );
        Ok(store)
    }

    /// What an earlier run left in the kernel is in use until `deadline`, time since boot.
    pub fn speak_for(&self, orphans: &[Orphan], deadline: Duration) {
        let states = orphans.iter().filter(|orphan| !orphan.spis.is_empty());
        for selector in states.flat_map(|orphan| &orphan.remote_ts) {
            if selector.start == selector.end {
                self.kept().book.speak_for(selector.start, deadline);
            }
        }
    }

    /// An SA has let its addresses go.
    pub fn end(&self, lease: LeaseId, now: Stamp) {
        let mut kept = self.kept();
        let idle = kept.book.end(lease, now);
        if let Some(queue) = kept.queue.as_mut().filter(|_| !idle.is_empty()) {
            queue.note(idle);
        }
    }

    /// Every pool, by name.
    #[must_use]
    pub fn pools(&self) -> Vec<PoolView> {
        self.kept().book.pools()
    }

    /// Every lease, by address.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseView> {
        self.kept().book.leases()
    }
}

impl LeaseBook for Leases {
    fn grant(&mut self, request: &LeaseRequest<'_>) -> Result<Granted, NoLease> {
        let mut kept = self.kept();
        // What one identity may not have the log says once, as `why` does.
        let (mut granted, new) = kept.book.lease(request).inspect_err(|why| {
            if *why == NoLease::Exhausted {
                warn!(
                    connection = &*request.connection.name,
                    peer = %request.peer,
                    "every address of the connection's pools is in use; add some, or look at ikectl pool"
                );
            }
        })?;
        if !new.is_empty() {
            let queue = kept.queue.as_mut();
            granted.stored = queue.and_then(|queue| queue.begin(new));
        }
        Ok(granted)
    }
}
