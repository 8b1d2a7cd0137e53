//! The engine: workers that serve peers, each a thread with a core of its own, and in front of them
//! whoever listens to the keeper and to operators. It has no privileges; what needs some, the keeper
//! does.
//!
//! The first worker's thread is the front's as well.

mod accounts;
mod connections;
mod dispatch;
mod environment;
mod failures;
mod front;
mod inlets;
mod lists;
mod logins;
mod lookups;
mod merged;
mod operator;
mod parts;
mod posted;
mod reload;
mod starts;
mod stores;
mod waiting;
mod watching;
mod ways;
mod worker;

use std::{io, path::Path, sync::Arc, thread};

use gate_abi::{defence::Level, sip::SipKey};
use ike::{Settings, defence::openings::Openings, io::Env};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tracing::{info, warn};

pub use self::reload::ReloadDone;
use self::{
    environment::Environment,
    front::Front,
    parts::{Common, Part},
    posted::Notices,
    reload::Desk,
    stores::SessionDesk,
    watching::Watching,
    worker::{Worker, now},
};
use crate::{
    config::{Config, Fixed},
    control::{self, QUEUE},
    gate::FloodMode,
    keeper::{EngineStart, Files, Listener},
    leases::Leases,
    log::Log,
    tickets::ReferenceQueue,
    wall,
};

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The runtime or a socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The keeper is gone, and with it the sockets' owner and the kernel.
    #[error("the keeper is gone")]
    KeeperLost,
    /// A thread has panicked, which has been reported there.
    #[error("a worker is gone")]
    WorkerLost,
}

/// Runs until the keeper says otherwise.
pub fn run(start: EngineStart, config: Config, file: &Path, log: Log) -> Result<(), EngineError> {
    let control = config.daemon.run_dir.join("control.sock");
    let Crew {
        front,
        listener,
        workers,
    } = assemble(start, config, file, Watching::new(log))?;
    let mut workers = workers.into_iter();
    let Some((runtime, first)) = workers.next() else {
        return Err(EngineError::WorkerLost);
    };
    runtime.block_on(async {
        let (ask, requests) = mpsc::channel(QUEUE);
        tokio::spawn(async move { control::listen(&control, ask).await });
        tokio::spawn(listener.run());
        tokio::spawn(front.serve(requests));
        // Bounded by the threads, each of which ends once.
        let (tell, mut ends) = mpsc::unbounded_channel();
        for (number, (runtime, worker)) in (1..).zip(workers) {
            let tell = tell.clone();
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            thread.spawn(move || {
                let mut end = End {
                    tell,
                    outcome: Err(EngineError::WorkerLost),
                };
                end.outcome = runtime.block_on(worker.serve());
            })?;
        }
        drop(tell);
        let others = async {
            while let Some(ended) = ends.recv().await {
                ended?;
            }
            Ok(())
        };
        tokio::try_join!(first.serve(), others)?;
        Ok(())
    })
}

/// Says how a worker has ended, also if it panics.
struct End {
    tell: mpsc::UnboundedSender<Result<(), EngineError>>,
    outcome: Result<(), EngineError>,
}

impl Drop for End {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Ok(()));
        // Fails if the engine is ending anyway.
        let _ = self.tell.send(outcome);
    }
}

/// All workers, each in a runtime of its own, and what stands in front of them.
struct Crew {
    front: Front,
    listener: Listener,
    workers: Vec<(Runtime, Worker)>,
}

fn assemble(
    start: EngineStart,
    config: Config,
    file: &Path,
    watching: Watching,
) -> Result<Crew, EngineError> {
    let EngineStart {
        workers: starts,
        listener,
        epochs,
        node,
        spi_keys,
        qcd,
        boot,
        board,
        rules,
        sandbox,
    } = start;
    if let Some(floor) = boot.floor {
        wall::hold(floor);
    }
    let workers = starts.len() as u8;
    let (tell, stored): (Vec<_>, Vec<_>) = starts.iter().map(|_| mpsc::unbounded_channel()).unzip();
    let everybody = tell.clone();
    let leases = Leases::open(&config, move |id, done| {
        // Only whoever began it knows the number.
        for tell in &everybody {
            // Fails if the worker is ending.
            let _ended = tell.send((id, done));
        }
    });
    // The queue in front of the store bounds these.
    let tell = move |id, done| {
        let tell = tell.get(usize::from(ReferenceQueue::worker_of(id)));
        // Fails if the worker is ending.
        let _ended = tell.map(|tell| tell.send((id, done)));
    };
    let references = stores::open_references(&config, tell);
    let revocations = stores::open_revocations(&config, now());
    let sessions = SessionDesk::open(&config);
    let settings = settings(&config, node);
    let fixed = Fixed::of(&config);
    let list_files = Arc::new(config.list_files);
    lists::follow(&list_files)?;
    let mut chance = Environment::new(Arc::default());
    let mut key = || {
        let mut octets = [0; 16];
        chance.random(&mut octets);
        SipKey::from_octets(octets)
    };
    let common = Common {
        workers,
        settings,
        connections: config.connections.into_iter().map(Arc::new).collect(),
        private_keys: Arc::new(config.private_keys),
        start_up: config.start_up,
        start_trap: config.start_trap,
        spi_keys,
        qcd,
        boot_id: boot.boot_id,
        epochs,
        openings: Arc::new(Openings::new(key())),
        presence: Arc::default(),
        spread: key(),
        notices: board.map(Notices::begin),
        rules,
        leases,
        redirect: config.redirect,
    };
    info!(
        workers,
        sockets = starts.iter().map(|one| one.sockets.len()).sum::<usize>(),
        epochs = common.epochs.roots.len(),
        orphans = boot.orphans,
        engines_before = boot.engines_before,
        bounds_on_files = %sandbox.files,
        bounds_on_calls = sandbox.calls,
        "engine started"
    );
    if sandbox.files == Files::None || !sandbox.calls {
        warn!("this kernel bounds the engine less than others would: no Landlock, or no seccomp");
    }
    let (mut asks, mut workers) = (Vec::new(), Vec::new());
    let queues = dispatch::between(usize::from(common.workers));
    for (((number, mut start), stored), (hands_on, handed_on)) in
        (0_u8..).zip(starts).zip(stored).zip(queues)
    {
        if let Some(references) = &references {
            let own = references.for_worker(number);
            start.ledger.set_references(own, &common.epochs);
        }
        start.ledger.set_revocations(revocations.for_worker(number));
        let (ask, questions) = mpsc::channel(QUEUE);
        asks.push(ask);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let worker = {
            let _inside = runtime.enter();
            let part = Part {
                number,
                start,
                sessions: sessions.clone(),
                stored,
                questions,
                handed_on,
                hands_on,
            };
            Worker::new(&common, part)?
        };
        workers.push((runtime, worker));
    }
    Ok(Crew {
        front: Front::new(
            asks,
            Desk::new(file, fixed, common.connections, list_files),
            watching,
        ),
        listener,
        workers,
    })
}

fn settings(config: &Config, node: u8) -> Settings {
    let (cookie_from, cookie_from_network) = match config.flood.mode {
        // Without a gate to ask for cookies, the core does.
        FloodMode::Fixed(Level::Attack) => (0, 0),
        FloodMode::Off => (usize::MAX, u32::MAX),
        FloodMode::Auto | FloodMode::Fixed(Level::Calm | Level::Guarded) => {
            let usual = Settings::default();
            (usual.cookie_from, usual.cookie_from_network)
        }
    };
    Settings {
        node,
        ike_port: config.daemon.ike_port,
        natt_port: config.daemon.natt_port,
        cookie_from,
        cookie_from_network,
        ..Settings::default()
    }
}
