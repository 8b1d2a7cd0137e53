//! The engine's side of the pair. One task listens and hands everything on to the workers; requests can be
//! made from any thread, and none of them waits for the keeper unless it is awaited.
//!
//! Kernel operations leave in batches, few of which are on their way at a time: what comes up
//! meanwhile goes with the next. Neither side can then wait for the other to read.

pub(super) mod start;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use ike::{
    defence::rules::Rules,
    io::TicketRoot,
    kernel::{KernelFailed, KernelOp, OpId, Owner},
};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{
    channel::{Channel, ChannelError, Received},
    protocol::{
        Answer, Ended, EpochKey, FromKeeper, GateCommand, GateRefused, GateStatus, Operation,
        Request, SpiKeys, Taken, ToKeeper, batch,
    },
    sandbox::SandboxError,
};
use crate::{
    gate::Board,
    kernel::{Orphan, Usage},
    tickets::{Epochs, IndexSource, UsedBits},
    udp::UdpError,
};

/// Kernel operations under way; the engine answers no more logins than the keeper can follow.
pub const MAX_IN_FLIGHT: usize = 4096;
/// Batches of them on their way to the keeper.
const MAX_BATCHES: usize = 4;
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What reaches a worker from the keeper by itself.
#[derive(Debug)]
pub enum KeeperEvent {
    /// Kernel operations have ended: feed each to the core as `Input::Kernel`.
    Kernel(Vec<(OpId, Result<(), KernelFailed>)>),
    /// Another worker has installed a Child SA of this owner, in the place of the one with this inbound SPI.
    Taken {
        /// Whose.
        owner: Owner,
        /// Which.
        inbound: u32,
    },
    /// A packet waits for this owner's connection. Every worker hears of it.
    Wanted {
        /// Whose.
        owner: Owner,
    },
    /// A state of this owner's has carried so much that new keys are due, or is gone. Every worker hears
    /// of it.
    Expired {
        /// Whose.
        owner: Owner,
        /// Its SPI.
        spi: u32,
        /// Whether it is gone.
        hard: bool,
    },
    /// The peer of this owner sends through its NAT from elsewhere. Every worker hears of it.
    Mapped {
        /// Whose.
        owner: Owner,
        /// The SPI that it sends to.
        spi: u32,
        /// From where.
        source: SocketAddr,
    },
    /// The live epochs have changed: give the core their roots, then the ledger the whole.
    Epochs(Arc<Epochs>),
    /// The SPI keys have changed: give them to the core.
    SpiKeys(SpiKeys),
    /// Networks from which nobody is heard, all of them.
    Rules(Arc<Rules>),
    /// End soon, with or without DELETEs.
    Stop {
        /// Whether to say goodbye to the peers.
        goodbye: bool,
    },
    /// The keeper is gone: end now.
    Lost,
}

/// Why the engine and its keeper cannot work together.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The pair failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The keeper said something else than was asked.
    #[error("the keeper's answer does not fit the question")]
    Unexpected,
    /// Too many kernel operations wait for the keeper.
    #[error("{MAX_IN_FLIGHT} kernel operations wait for the keeper")]
    Busy,
    /// Privileges could not be dropped.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A socket that was handed over is not what it should be.
    #[error(transparent)]
    Socket(#[from] UdpError),
    /// A thread could not be started, or a bitmap not mapped.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes requests to the keeper, in the name of a worker.
#[derive(Clone, Debug)]
pub struct Client {
    worker: u8,
    shared: Arc<Shared>,
}

/// Takes in what the keeper says.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    channel: Channel,
    tell: Vec<mpsc::UnboundedSender<KeeperEvent>>,
}

#[derive(Debug)]
struct Shared {
    sender: Mutex<Channel>,
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    operations: Mutex<Operations>,
    indexes: Arc<IndexSource>,
    bitmaps: Mutex<Vec<(u8, Arc<UsedBits>)>>,
    board: Option<Arc<Board>>,
}

/// Kernel operations that have not ended.
#[derive(Debug, Default)]
struct Operations {
    /// Not sent yet.
    waiting: VecDeque<Operation>,
    /// With those that are on their way.
    in_flight: usize,
    batches: usize,
}

impl Client {
    /// Takes a kernel operation for the next [`Self::flush`]. Its result comes in a
    /// [`KeeperEvent::Kernel`]; after an error here none will come.
    pub fn kernel(&self, op: OpId, what: KernelOp) -> Result<(), ClientError> {
        let mut operations = self.shared.operations();
        if operations.in_flight >= MAX_IN_FLIGHT {
            return Err(ClientError::Busy);
        }
        operations.in_flight += 1;
        operations.waiting.push_back(Operation {
            worker: self.worker,
            op: op.0,
            what,
        });
        Ok(())
    }

    /// Sends kernel operations on their way, unless enough are: then the rest follows them.
    pub fn flush(&self) -> Result<(), ClientError> {
        self.shared.flush()
    }

    /// The kernel's counters for the owner's present Child SA.
    pub async fn usage(&self, owner: &str) -> Result<Option<Usage>, ClientError> {
        let owner = owner.to_owned();
        match self.request(Request::Usage { owner }).await? {
            Answer::Usage(usage) => Ok(usage),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// What sessions of these owners have carried that are over; with that an account is given.
    pub async fn account(&self, owners: Vec<String>) -> Result<Vec<Usage>, ClientError> {
        let asked = owners.len();
        match self.request(Request::Account { owners }).await? {
            Answer::Account(used) if used.len() == asked => Ok(used),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// What Child SAs have carried by connection; nothing if the kernel does not say.
    pub async fn traffic(&self) -> Result<Vec<(String, Usage)>, ClientError> {
        let mut all: Vec<(String, Usage)> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |(name, _)| name.clone());
            let Answer::Traffic { page, more } = self.request(Request::Traffic { after }).await?
            else {
                return Err(ClientError::Unexpected);
            };
            let empty = page.is_empty();
            all.extend(page);
            if !more || empty {
                return Ok(all);
            }
        }
    }

    /// What earlier engines left in the kernel: inner addresses in there are still in use.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, ClientError> {
        let mut orphans = Vec::new();
        loop {
            let skip = u32::try_from(orphans.len()).unwrap_or(u32::MAX);
            let Answer::Orphans { page, more } = self.request(Request::Orphans { skip }).await?
            else {
                return Err(ClientError::Unexpected);
            };
            let empty = page.is_empty();
            orphans.extend(page.into_iter().map(|orphan| Orphan {
                owner: Owner(Arc::from(orphan.owner)),
                spis: orphan.spis,
                remote_ts: orphan.remote_ts,
                leased: orphan.leased,
            }));
            if !more || empty {
                return Ok(orphans);
            }
        }
    }

    /// Where the gate stands and what it counted.
    pub async fn gate_status(&self) -> Result<GateStatus, ClientError> {
        match self.request(Request::GateStatus).await? {
            Answer::Gate(status) => Ok(*status),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Has the keeper do with the gate what an operator wants. The inner error is the keeper's.
    pub async fn gate(&self, command: GateCommand) -> Result<Result<(), GateRefused>, ClientError> {
        match self.request(Request::Gate(command)).await? {
            Answer::GateDone(done) => Ok(done),
            _ => Err(ClientError::Unexpected),
        }
    }

    /// Starts a new ticket epoch, which arrives as [`KeeperEvent::Epochs`], and returns its id;
    /// `alone` retires all others. The inner error is the keeper's own words.
    pub async fn new_epoch(&self, alone: bool) -> Result<Result<u8, String>, ClientError> {
        match self.request(Request::NewEpoch { alone }).await? {
            Answer::NewEpoch(made) => Ok(made),
            _ => Err(ClientError::Unexpected),
        }
    }

    async fn request(&self, request: Request) -> Result<Answer, ClientError> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.shared.waiting().insert(id, tell);
        if let Err(error) = self.post(id, request) {
            self.shared.waiting().remove(&id);
            return Err(error);
        }
        answer
            .await
            .map_err(|_| ChannelError::Socket(io::ErrorKind::ConnectionAborted.into()).into())
    }

    fn post(&self, id: u64, request: Request) -> Result<(), ClientError> {
        self.shared.post(id, request)
    }
}

impl Listener {
    /// Until the keeper is gone, or the engine does not want to hear any more.
    pub async fn run(self) {
        let Self {
            shared,
            channel,
            tell,
        } = self;
        if let Err(error) = shared.listen(channel, &tell).await {
            warn!("{error}");
        }
        shared.waiting().clear();
        for tell in &tell {
            // Fails if the worker is ending already.
            let _ = tell.send(KeeperEvent::Lost);
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has these bitmaps synced from now on. Of an epoch that is known already the old mapping stays,
    /// which may have bits to sync.
    fn watch(&self, epochs: &mut Epochs) {
        let mut watched = self.bitmaps.lock().unwrap_or_else(PoisonError::into_inner);
        for (key_id, bits) in &mut epochs.bits {
            if let Some((_, known)) = watched.iter().find(|(known, _)| known == key_id) {
                *bits = Arc::clone(known);
            }
        }
        watched.clone_from(&epochs.bits);
    }

    fn operations(&self) -> MutexGuard<'_, Operations> {
        self.operations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, id: u64, request: Request) -> Result<(), ClientError> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sender.send(&ToKeeper { id, request }, &[])?)
    }

    fn flush(&self) -> Result<(), ClientError> {
        let mut operations = self.operations();
        while operations.batches < MAX_BATCHES && !operations.waiting.is_empty() {
            let size = batch(&operations.waiting);
            let batch = operations.waiting.drain(..size).collect();
            self.post(0, Request::Kernel(batch))?;
            operations.batches += 1;
        }
        Ok(())
    }

    async fn listen(
        &self,
        mut channel: Channel,
        tell: &[mpsc::UnboundedSender<KeeperEvent>],
    ) -> Result<(), ClientError> {
        // A worker that is done hears nothing any more. The others may go on.
        let tell_all = |event: &dyn Fn() -> KeeperEvent| {
            for tell in tell {
                let _ended = tell.send(event());
            }
        };
        let readiness = channel.readiness()?;
        loop {
            // The guard comes before the read, or what arrives in between would be overlooked.
            let mut guard = readiness.readable().await?;
            let (message, descriptors) = match channel.receive_now::<FromKeeper>()? {
                Received::Message(message, descriptors) => (message, descriptors),
                Received::Nothing => {
                    guard.clear_ready();
                    continue;
                }
                Received::Closed => return Ok(()),
            };
            // The queues' bound is MAX_IN_FLIGHT: all but a handful of events answer an operation.
            match message.answer {
                Answer::Done(results) => {
                    let mut operations = self.operations();
                    operations.in_flight = operations.in_flight.saturating_sub(results.len());
                    operations.batches = operations.batches.saturating_sub(1);
                    drop(operations);
                    self.flush()?;
                    for (worker, event) in events_of(results) {
                        let _ended = tell.get(usize::from(worker)).map(|tell| tell.send(event));
                    }
                }
                Answer::Epochs(epochs) => {
                    let mut epochs = map_epochs(epochs, descriptors, self.board.as_ref())?;
                    self.watch(&mut epochs);
                    let epochs = Arc::new(epochs);
                    tell_all(&|| KeeperEvent::Epochs(Arc::clone(&epochs)));
                }
                Answer::SpiKeys(keys) => tell_all(&|| KeeperEvent::SpiKeys(keys.clone())),
                Answer::Networks(networks) => {
                    let rules = Arc::new(Rules::new(networks.rules()));
                    tell_all(&|| KeeperEvent::Rules(Arc::clone(&rules)));
                }
                Answer::Stop { goodbye } => tell_all(&|| KeeperEvent::Stop { goodbye }),
                Answer::Wanted { owner } => {
                    let owner = Owner(Arc::from(owner));
                    tell_all(&|| KeeperEvent::Wanted {
                        owner: owner.clone(),
                    });
                }
                Answer::Expired { owner, spi, hard } => {
                    let owner = Owner(Arc::from(owner));
                    tell_all(&|| KeeperEvent::Expired {
                        owner: owner.clone(),
                        spi,
                        hard,
                    });
                }
                Answer::Mapped { owner, spi, source } => {
                    let owner = Owner(Arc::from(owner));
                    tell_all(&|| KeeperEvent::Mapped {
                        owner: owner.clone(),
                        spi,
                        source,
                    });
                }
                Answer::Indexes(range) => self.indexes.deliver(range),
                answer => {
                    if let Some(waiting) = self.waiting().remove(&message.id) {
                        // Whoever asked may have stopped waiting.
                        let _ = waiting.send(answer);
                    }
                }
            }
        }
    }
}

/// What the workers have to know of ended operations, in their order: whoever has lost a Child SA to another
/// worker hears of its own operations on it first.
fn events_of(results: Vec<Ended>) -> Vec<(u8, KeeperEvent)> {
    let mut events: Vec<(u8, KeeperEvent)> = Vec::new();
    for ended in results {
        let result = ended.result.map_err(|text| KernelFailed { text });
        let ended_op = (OpId(ended.op), result);
        match events.last_mut() {
            Some((worker, KeeperEvent::Kernel(ops))) if *worker == ended.worker => {
                ops.push(ended_op);
            }
            _ => events.push((ended.worker, KeeperEvent::Kernel(vec![ended_op]))),
        }
        if let Some(Taken {
            worker,
            owner,
            inbound,
        }) = ended.taken
        {
            let owner = Owner(Arc::from(owner));
            events.push((worker, KeeperEvent::Taken { owner, inbound }));
        }
    }
    events
}

fn map_epochs(
    epochs: Vec<EpochKey>,
    descriptors: Vec<std::os::fd::OwnedFd>,
    board: Option<&Arc<Board>>,
) -> Result<Epochs, ClientError> {
    if epochs.len() != descriptors.len() {
        return Err(ClientError::Unexpected);
    }
    let times = epochs.iter().map(|epoch| (epoch.key_id, epoch.times));
    let times = times.collect();
    let parts = epochs.into_iter().zip(descriptors).map(|(epoch, bitmap)| {
        let EpochKey {
            key_id,
            root,
            used_slot,
            ..
        } = epoch;
        (TicketRoot { key_id, root }, bitmap, used_slot)
    });
    let mapped = Epochs::map(parts.collect(), board)?;
    Ok(Epochs { times, ..mapped })
}

/// Bounds what a power cut can take back to a second of used bits.
fn sync_bitmaps(shared: &Weak<Shared>) {
    loop {
        thread::sleep(SYNC_EVERY);
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let bitmaps = shared
            .bitmaps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (_, bits) in bitmaps {
            if let Err(error) = bits.sync() {
                warn!("used bits of tickets are not on disk: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests;
