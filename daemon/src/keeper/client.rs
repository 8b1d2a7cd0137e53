//! The engine's side of the pair. One task listens and hands everything on; requests can be made
//! from any thread, and none of them waits for the keeper unless it is awaited.
//!
//! Kernel operations leave in batches, few of which are on their way at a time: what comes up
//! meanwhile goes with the next. Neither side can then wait for the other to read.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use ike::{
    crypto::Secret,
    io::TicketRoot,
    kernel::{KernelFailed, KernelOp, OpId, Owner},
};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{
    channel::{Channel, ChannelError, Received},
    protocol::{
        self, Answer, BootInfo, EpochKey, FromKeeper, GateStatus, Hello, Operation, Request,
        SpiKeys, ToKeeper,
    },
    sandbox::{self, SandboxError},
};
use crate::{
    gate::Board,
    kernel::{Orphan, Usage},
    tickets::{Epochs, IndexSource, Ledger, UsedBits},
    udp::{UdpError, UdpSocket},
};

/// Kernel operations under way; the engine answers no more logins than the keeper can follow.
pub const MAX_IN_FLIGHT: usize = 4096;
/// Batches of them on their way to the keeper.
const MAX_BATCHES: usize = 4;
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// What reaches the engine from the keeper by itself.
#[derive(Debug)]
pub enum KeeperEvent {
    /// Kernel operations have ended: feed each to the core as `Input::Kernel`.
    Kernel(Vec<(OpId, Result<(), KernelFailed>)>),
    /// The live epochs have changed: give the core their roots, then the ledger the whole.
    Epochs(Epochs),
    /// The SPI keys have changed: give them to the core.
    SpiKeys(SpiKeys),
    /// End soon, with or without DELETEs.
    Stop {
        /// Whether to say goodbye to the peers.
        goodbye: bool,
    },
    /// The keeper is gone: end now.
    Lost,
}

/// Everything an engine starts with.
#[derive(Debug)]
pub struct EngineStart {
    /// For requests.
    pub client: Client,
    /// To be run beside everything else: without it the keeper is not heard.
    pub listener: Listener,
    /// What the keeper says by itself.
    pub events: mpsc::UnboundedReceiver<KeeperEvent>,
    /// The UDP sockets, non-blocking.
    pub sockets: Vec<UdpSocket>,
    /// Roots for the core. The ledger knows these epochs already.
    pub epochs: Epochs,
    /// For the core, as its `TicketLedger`.
    pub ledger: Ledger,
    /// Our octet in SPIs and tickets.
    pub node: u8,
    /// The present `k_spi`, then the one before.
    pub spi_keys: SpiKeys,
    /// Secret of crash detection tokens, for the core.
    pub qcd: Secret,
    /// How this start came about.
    pub boot: BootInfo,
    /// The gate's board, if there is a gate.
    pub board: Option<Arc<Board>>,
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

/// Makes requests to the keeper.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// Takes in what the keeper says.
#[derive(Debug)]
pub struct Listener {
    shared: Arc<Shared>,
    channel: Channel,
    tell: mpsc::UnboundedSender<KeeperEvent>,
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

impl EngineStart {
    /// Gives up all privileges, then greets the keeper over the pair that is this process's standard
    /// input.
    pub fn from_keeper() -> Result<Self, ClientError> {
        let pair = io::stdin().as_fd().try_clone_to_owned()?;
        sandbox::enter()?;
        Self::greet(Channel::new(pair))
    }

    fn greet(mut channel: Channel) -> Result<Self, ClientError> {
        let hello = ToKeeper {
            id: 0,
            request: Request::Hello,
        };
        channel.send(&hello, &[])?;
        let Some((message, descriptors)) = channel.receive::<FromKeeper>()? else {
            return Err(ClientError::Unexpected);
        };
        let Answer::Hello(hello) = message.answer else {
            return Err(ClientError::Unexpected);
        };
        let Hello {
            sockets,
            epochs,
            node,
            spi_keys,
            qcd,
            boot,
            board,
        } = hello;
        let mut descriptors = descriptors;
        let board = if board { descriptors.pop() } else { None };
        if descriptors.len() != sockets.len() + epochs.len() {
            return Err(ClientError::Unexpected);
        }
        let board = board.map(Board::map).transpose()?.map(Arc::new);
        let mut descriptors = descriptors.into_iter();
        let sockets = sockets
            .into_iter()
            .zip(descriptors.by_ref())
            .map(|((service, share), fd)| UdpSocket::adopt(fd, service, share))
            .collect::<Result<_, _>>()?;
        let mut epochs = map_epochs(epochs, descriptors.collect(), board.as_ref())?;

        let indexes = Arc::new(IndexSource::default());
        let shared = Arc::new(Shared {
            sender: Mutex::new(channel.duplicate()?),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            operations: Mutex::default(),
            indexes: Arc::clone(&indexes),
            bitmaps: Mutex::default(),
            board: board.clone(),
        });
        shared.watch(&mut epochs);
        let client = Client { shared };
        let (tell, events) = mpsc::unbounded_channel();
        let listener = Listener {
            shared: Arc::clone(&client.shared),
            channel,
            tell,
        };
        thread::Builder::new().name("used-sync".into()).spawn({
            let shared = Arc::downgrade(&client.shared);
            move || sync_bitmaps(&shared)
        })?;

        let asker = client.clone();
        let mut ledger = Ledger::new(indexes, move || {
            asker.post(0, Request::ReserveIndexes).is_ok()
        });
        ledger.set_epochs(&epochs);
        // The first login should not be the one that finds the store empty.
        client.post(0, Request::ReserveIndexes)?;
        Ok(Self {
            client,
            listener,
            events,
            sockets,
            epochs,
            ledger,
            node,
            spi_keys,
            qcd,
            boot,
            board,
        })
    }
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
        operations.waiting.push_back(Operation { op: op.0, what });
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
            }));
            if !more || empty {
                return Ok(orphans);
            }
        }
    }

    /// Where the gate stands and what it counted.
    pub async fn gate_status(&self) -> Result<GateStatus, ClientError> {
        match self.request(Request::GateStatus).await? {
            Answer::Gate(status) => Ok(status),
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
        // Fails if the engine is ending already.
        let _ = tell.send(KeeperEvent::Lost);
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
            let size = protocol::batch(&operations.waiting);
            let batch = operations.waiting.drain(..size).collect();
            self.post(0, Request::Kernel(batch))?;
            operations.batches += 1;
        }
        Ok(())
    }

    async fn listen(
        &self,
        mut channel: Channel,
        tell: &mpsc::UnboundedSender<KeeperEvent>,
    ) -> Result<(), ClientError> {
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
            // The queue's bound is MAX_IN_FLIGHT: all but a handful of events answer an operation.
            let event = match message.answer {
                Answer::Done(results) => {
                    let mut operations = self.operations();
                    operations.in_flight = operations.in_flight.saturating_sub(results.len());
                    operations.batches = operations.batches.saturating_sub(1);
                    drop(operations);
                    self.flush()?;
                    let ended = |(op, result): (u64, Result<(), String>)| {
                        (OpId(op), result.map_err(|text| KernelFailed { text }))
                    };
                    KeeperEvent::Kernel(results.into_iter().map(ended).collect())
                }
                Answer::Epochs(epochs) => {
                    let mut epochs = map_epochs(epochs, descriptors, self.board.as_ref())?;
                    self.watch(&mut epochs);
                    KeeperEvent::Epochs(epochs)
                }
                Answer::SpiKeys(keys) => KeeperEvent::SpiKeys(keys),
                Answer::Stop { goodbye } => KeeperEvent::Stop { goodbye },
                Answer::Indexes(range) => {
                    self.indexes.deliver(range);
                    continue;
                }
                answer => {
                    if let Some(waiting) = self.waiting().remove(&message.id) {
                        // Whoever asked may have stopped waiting.
                        let _ = waiting.send(answer);
                    }
                    continue;
                }
            };
            if tell.send(event).is_err() {
                return Ok(());
            }
        }
    }
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
