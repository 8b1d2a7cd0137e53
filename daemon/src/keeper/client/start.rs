//! What an engine begins with: the keeper's greeting, and from it a client, sockets and a ledger for each
//! worker.

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU64},
    thread,
};

use ike::{crypto::Secret, defence::rules::Rules};
use tokio::sync::mpsc;

use super::{Client, ClientError, KeeperEvent, Listener, Shared, map_epochs, sync_bitmaps};
use crate::{
    gate::Board,
    keeper::{
        channel::Channel,
        protocol::{Answer, BootInfo, FromKeeper, Hello, Inlet, Request, SpiKeys, ToKeeper},
        sandbox::{self, Sandbox},
    },
    tickets::{Epochs, IndexSource, Ledger},
    udp::{Share, UdpSocket},
};

/// Everything an engine starts with.
#[derive(Debug)]
pub struct EngineStart {
    /// What each worker has for itself, at least one.
    pub workers: Vec<WorkerStart>,
    /// To be run beside everything else: without it the keeper is not heard.
    pub listener: Listener,
    /// Roots for the core. The ledgers know these epochs already.
    pub epochs: Epochs,
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
    /// Networks that are judged beforehand.
    pub rules: Arc<Rules>,
    /// What bounds this process.
    pub sandbox: Sandbox,
}

/// What one worker starts with.
#[derive(Debug)]
pub struct WorkerStart {
    /// For requests.
    pub client: Client,
    /// What the keeper says by itself.
    pub events: mpsc::UnboundedReceiver<KeeperEvent>,
    /// The UDP sockets, non-blocking: those to be read, or outlets with the share of nobody.
    pub sockets: Vec<UdpSocket>,
    /// For the core, as its `TicketLedger`.
    pub ledger: Ledger,
}

impl EngineStart {
    /// Gives up all privileges, then greets the keeper over the pair that is this process's standard
    /// input.
    ///
    /// From here on the process writes beneath `folders` alone.
    pub fn from_keeper(folders: &[&Path]) -> Result<Self, ClientError> {
        let pair = io::stdin().as_fd().try_clone_to_owned()?;
        let sandbox = sandbox::enter(folders)?;
        Self::greet(Channel::new(pair), sandbox)
    }

    fn greet(mut channel: Channel, sandbox: Sandbox) -> Result<Self, ClientError> {
        let hello = ToKeeper {
            id: 0,
            request: Request::Hello,
        };
        channel.send(&hello, &[])?;
        let mut sockets = Vec::new();
        let (hello, mut descriptors) = loop {
            let Some((message, descriptors)) = channel.receive::<FromKeeper>()? else {
                return Err(ClientError::Unexpected);
            };
            match message.answer {
                Answer::Sockets(inlets) if inlets.len() == descriptors.len() => {
                    for (inlet, fd) in inlets.into_iter().zip(descriptors) {
                        let Inlet {
                            service,
                            share,
                            worker,
                        } = inlet;
                        sockets.push((worker, UdpSocket::adopt(fd, service, share)?));
                    }
                }
                Answer::Hello(hello) => break (hello, descriptors),
                _ => return Err(ClientError::Unexpected),
            }
        };
        let Hello {
            workers,
            epochs,
            node,
            spi_keys,
            qcd,
            boot,
            board,
            networks,
        } = hello;
        let board = if board { descriptors.pop() } else { None };
        let board = board.map(Board::map).transpose()?.map(Arc::new);
        let mut epochs = map_epochs(epochs, descriptors, board.as_ref())?;

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
        thread::Builder::new().name("used-sync".into()).spawn({
            let shared = Arc::downgrade(&shared);
            move || sync_bitmaps(&shared)
        })?;
        // The first login should not be the one that finds the store empty.
        shared.post(0, Request::ReserveIndexes)?;
        let (mut parts, mut tell) = (Vec::new(), Vec::new());
        let sockets = share_out(sockets, workers.max(1))?;
        for (worker, sockets) in (0_u8..).zip(sockets) {
            let client = Client {
                worker,
                shared: Arc::clone(&shared),
            };
            let asker = client.clone();
            let mut ledger = Ledger::new(Arc::clone(&indexes), move || {
                asker.post(0, Request::ReserveIndexes).is_ok()
            });
            ledger.set_epochs(&epochs);
            let (teller, events) = mpsc::unbounded_channel();
            tell.push(teller);
            parts.push(WorkerStart {
                client,
                events,
                sockets,
                ledger,
            });
        }
        let listener = Listener {
            shared,
            channel,
            tell,
        };
        Ok(Self {
            workers: parts,
            listener,
            epochs,
            node,
            spi_keys,
            qcd,
            boot,
            board,
            rules: Arc::new(Rules::new(networks.rules())),
            sandbox,
        })
    }
}

/// The sockets that each worker reads, and for what only one reads an outlet to all others.
fn share_out(
    sockets: Vec<(u8, UdpSocket)>,
    workers: u8,
) -> Result<Vec<Vec<UdpSocket>>, ClientError> {
    let mut parts: Vec<Vec<UdpSocket>> = (0..workers).map(|_| Vec::new()).collect();
    for (reader, socket) in sockets {
        if socket.share() == Share::Whole {
            for (_, part) in (0_u8..)
                .zip(&mut parts)
                .filter(|(worker, _)| *worker != reader)
            {
                part.push(socket.outlet()?);
            }
        }
        let part = parts.get_mut(usize::from(reader));
        part.ok_or(ClientError::Unexpected)?.push(socket);
    }
    Ok(parts)
}
