//! Group commit: changes of the store queue up for a thread that makes all of them durable with one
//! sync of the disk, and tells of each when that is done. The engine goes on meanwhile; what must not
//! be said before its commit, the core holds back.
//!
//! The queue is bounded. While it is full nothing can be begun: a client goes without a ticket, and a
//! resumption by reference is refused. The same happens, after the fact, when the disk fails.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use ike::{
    io::{StoreId, TicketRoot},
    ticket::{Kept, Reference},
};
use tracing::{error, warn};

use super::{Change, Reader, ReferenceError, References, Seals};
use crate::wall::{WallClock, boot_clock, since_epoch};

/// Changes that wait for their commit.
const MAX_QUEUED: usize = 4096;
/// Changes in one commit; more would make the first of them wait for the last.
const MAX_BATCH: usize = 512;

/// Where a change's number says whose it is.
const WORKER_SHIFT: u32 = 56;

/// One worker's side: reads at once, and queues what is to be written.
pub struct ReferenceQueue {
    reader: Reader,
    last: u64,
    sender: SyncSender<Order>,
    /// Goes after the sender: the last of them waits until what has queued is on disk.
    thread: Arc<Joined>,
}

/// A thread that ends when nobody can send to it any more, and is waited for.
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Its panic, if any, has been reported there.
            let _ = thread.join();
        }
    }
}

/// For the thread.
enum Order {
    Change(Change, Whom),
    Epochs(Seals),
    Purge,
}

/// Who wants to know what became of a change.
enum Whom {
    Nobody,
    /// Whoever listens to the outcomes.
    Later(StoreId),
    /// The engine, which waits.
    Waiting(SyncSender<bool>),
}

impl std::fmt::Debug for ReferenceQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReferenceQueue").finish_non_exhaustive()
    }
}

impl ReferenceQueue {
    /// Gives the store to a thread. `tell` is called there with the outcome of every change that was
    /// begun, in their order.
    pub fn start(
        store: References,
        tell: impl Fn(StoreId, bool) + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, orders) = sync_channel(MAX_QUEUED);
        let reader = store.reader();
        let thread = thread::Builder::new()
            .name("references".into())
            .spawn(move || Committer::new(store, tell).run(&orders))?;
        Ok(Self {
            reader,
            last: 0,
            sender,
            thread: Arc::new(Joined(Some(thread))),
        })
    }

    /// The same for another worker, without epochs yet.
    #[must_use]
    pub fn for_worker(&self, worker: u8) -> Self {
        Self {
            reader: self.reader.without_seals(),
            last: u64::from(worker) << WORKER_SHIFT,
            sender: self.sender.clone(),
            thread: Arc::clone(&self.thread),
        }
    }

    /// The worker that began a change.
    #[must_use]
    pub const fn worker_of(change: StoreId) -> u8 {
        (change.0 >> WORKER_SHIFT) as u8
    }

    /// The live epochs. A record of another one cannot be opened any more.
    pub fn set_epochs(&mut self, roots: &[TicketRoot]) {
        self.reader.set_seals(Seals::of(roots));
        // Waits for room: without it no record could be sealed. Fails if the thread has died.
        let _ = self.sender.send(Order::Epochs(Seals::of(roots)));
    }

    /// Begins to keep a state; `None` if the queue is full. `expiry` is in Unix seconds.
    pub fn begin_keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> Option<StoreId> {
        self.begin(Change::Keep(reference, expiry, kept))
    }

    /// Begins to forget a reference for good; `None` if the queue is full.
    pub fn begin_consume(&mut self, reference: Reference) -> Option<StoreId> {
        self.begin(Change::Consume(reference))
    }

    /// Keeps a state, and waits until it is on disk.
    pub fn keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> bool {
        let (reply, outcome) = sync_channel(1);
        let change = Change::Keep(reference, expiry, kept);
        self.order(Order::Change(change, Whom::Waiting(reply))) && outcome.recv().unwrap_or(false)
    }

    /// Forgets a reference some time; its used bit is set.
    pub fn release(&mut self, reference: Reference) {
        // With a full queue the record stays until it expires.
        self.order(Order::Change(Change::Release(reference), Whom::Nobody));
    }

    /// Clears expired records away, in batches between other work.
    pub fn purge(&mut self) {
        self.order(Order::Purge);
    }

    /// What is kept under a reference and can still be opened.
    pub fn kept(&self, reference: &Reference) -> Result<Option<Kept>, ReferenceError> {
        self.reader.kept(reference)
    }

    fn begin(&mut self, change: Change) -> Option<StoreId> {
        self.last += 1;
        let id = StoreId(self.last);
        self.order(Order::Change(change, Whom::Later(id)))
            .then_some(id)
    }

    fn order(&self, order: Order) -> bool {
        match self.sender.try_send(order) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                warn!("{MAX_QUEUED} changes of the references wait for the disk: no more for now");
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

/// The thread's side.
struct Committer<T> {
    store: References,
    tell: T,
    /// There are expired records left.
    purging: bool,
    clock: WallClock,
}

impl<T: Fn(StoreId, bool)> Committer<T> {
    fn new(store: References, tell: T) -> Self {
        let mut clock = WallClock::default();
        clock.offset(boot_clock(), since_epoch());
        Self {
            store,
            tell,
            purging: false,
            clock,
        }
    }

    fn run(mut self, orders: &Receiver<Order>) {
        loop {
            let first = if self.purging {
                match orders.try_recv() {
                    Ok(order) => order,
                    Err(TryRecvError::Empty) => {
                        self.purge();
                        continue;
                    }
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                match orders.recv() {
                    Ok(order) => order,
                    Err(_) => return,
                }
            };
            let rest = orders.try_iter().take(MAX_BATCH - 1);
            self.commit(std::iter::once(first).chain(rest));
        }
    }

    fn commit(&mut self, orders: impl Iterator<Item = Order>) {
        let (mut changes, mut whom) = (Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Change(change, who) => {
                    changes.push(change);
                    whom.push(who);
                }
                Order::Epochs(seals) => self.store.set_seals(seals),
                Order::Purge => self.purging = true,
            }
        }
        if changes.is_empty() {
            return;
        }
        let now = self.now();
        let done = self.store.commit(&changes, now);
        let done = done.unwrap_or_else(|error| {
            error!(
                "{error}; no ticket by reference is given out or used up by what was to be written"
            );
            vec![false; changes.len()]
        });
        let full = |(change, done): (&Change, &bool)| matches!(change, Change::Keep(..)) && !done;
        let without = changes.iter().zip(&done).filter(|one| full(*one)).count();
        if without > 0 {
            warn!(
                records = self.store.len(),
                octets = self.store.octets(),
                "no room for another ticket by reference: {without} clients go without"
            );
        }
        for (whom, done) in whom.into_iter().zip(done) {
            match whom {
                Whom::Nobody => {}
                Whom::Later(id) => (self.tell)(id, done),
                // Fails if nobody waits any more.
                Whom::Waiting(reply) => drop(reply.send(done)),
            }
        }
    }

    fn purge(&mut self) {
        let now = self.now();
        self.purging = self.store.purge(now).unwrap_or_else(|error| {
            error!("{error}");
            false
        });
    }

    /// Unix time, for what has expired. Of a leap of the clock the earlier side: what is cleared
    /// away would be missing when the clock is set right.
    fn now(&mut self) -> u64 {
        let boot = boot_clock();
        self.clock.offset(boot, since_epoch());
        self.clock.between(boot).earliest
    }
}

#[cfg(test)]
mod tests;
