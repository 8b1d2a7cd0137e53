//! The privileged parent. It holds what must outlive a crash of the protocol code (UDP sockets,
//! netlink, the gate, key and bitmap files), carries out typed requests, and starts the engine again
//! when it dies. It never parses a packet.
//!
//! SIGTERM and SIGINT say goodbye to every peer and take everything down. SIGQUIT leaves: states stay
//! in the kernel, the gate stays attached, sessions can be resumed. SIGKILL is the same without the
//! clean mark of the ring.

mod channel;
mod client;
mod engine;
mod epochs;
mod folder;
mod guard;
mod holders;
mod networks;
mod options;
mod pages;
pub mod protocol;
mod sandbox;
mod sockets;

use std::{
    collections::BTreeSet,
    fs::File,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use ike::{defence::cookie::CookieSecrets, kernel::Owner};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use tracing::{error, info, warn};

pub use self::{
    channel::ChannelError,
    client::{
        Client, ClientError, KeeperEvent, Listener, MAX_IN_FLIGHT,
        start::{EngineStart, WorkerStart},
    },
    options::{DataplaneKind, KeeperError, KeeperOptions},
    protocol::{
        ACCOUNT_OCTETS, BootInfo, BudgetStatus, FloodStatus, GateAttachment, GateCommand,
        GateCount, GateDrop, GateFill, GateRefused, GateStatus, LaneCount, ListedNetwork,
        RefusedNetwork, SpiKeys, USAGE_OCTETS,
    },
    sandbox::{Files, Sandbox},
};
use self::{
    engine::{BackOff, Engine},
    epochs::announce,
    guard::Guard,
    holders::Holders,
    pages::{orphan_page, traffic_page},
    protocol::{Answer, Ended, FromKeeper, Hello, Inlet, Operation, Request, ToKeeper},
    sockets::Sockets,
};
use crate::{
    kernel::{Dataplane, Happened, NoOp, ORPHAN_LIFE, Xfrm},
    tickets::{Node, Ring},
    udp::UdpSocket,
    wall::{LastKnown, WallClock, boot_clock, boot_id, since_epoch},
};

/// How long an engine has to end after [`Answer::Stop`].
pub const STOP_SECONDS: u64 = 5;
/// Heartbeat of the gate; everything else that is due waits for the next one.
const TICK: Duration = Duration::from_millis(200);
/// Sockets in one message.
const SOCKETS_AT_A_TIME: usize = 128;

/// Runs until a signal says otherwise. Must be called before any other thread exists, since it blocks
/// signals for all that come after.
pub fn run(options: KeeperOptions) -> Result<(), KeeperError> {
    Keeper::open(options)?.run()
}

struct Keeper {
    options: KeeperOptions,
    dataplane: Box<dyn Dataplane>,
    holders: Holders,
    sockets: Sockets,
    ring: Ring,
    node: Node,
    guard: Guard,
    wall: WallClock,
    /// Unless it cannot be kept.
    last_known: Option<LastKnown>,
    signals: SignalFd,
    boot_id: [u8; 16],
    engine: Option<Engine>,
    back_off: BackOff,
    start_engine_at: Duration,
    next_tick: Duration,
    next_rotation: Duration,
    /// What fails again is not told of again before.
    next_complaint: Duration,
    engines: u32,
    stopping: Option<Stopping>,
    /// Held for as long as the keeper lives.
    _locks: Vec<File>,
}

/// What has ended a sleep.
struct Woken {
    signalled: bool,
    /// By the engine.
    spoken: bool,
    /// In the kernel.
    happened: bool,
}

#[derive(Clone, Copy)]
struct Stopping {
    goodbye: bool,
    deadline: Duration,
}

impl Keeper {
    fn open(options: KeeperOptions) -> Result<Self, KeeperError> {
        let mut wanted = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
        ] {
            wanted.add(signal);
        }
        wanted.thread_block()?;
        let signals =
            SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        prctl::set_dumpable(false)?;

        folder::make(&options.state_dir, 0o700)?;
        folder::make(&options.run_dir, 0o755)?;
        let folders = BTreeSet::from([&options.state_dir, &options.run_dir]);
        for folder in folders.iter().filter(|one| folder::is_open_to_all(one)) {
            let folder = folder.display();
            warn!("{folder}: everybody may replace the files in it, keys too; chmod o-w {folder}");
        }
        // The gate's maps are pinned in the one, the keys are in the other.
        let locks = folders.into_iter().map(|one| folder::lock(one));
        let locks = locks.collect::<Result<Vec<_>, _>>()?;
        let (boot_id, now) = (boot_id(), boot_clock());
        let last_known = epochs::last_known(&options.state_dir, boot_id, now);
        let mut wall = WallClock::default();
        let offset = wall.offset(now, since_epoch());
        let unix = wall.believed(now);
        let (ring, notices) = Ring::open(&options.state_dir, options.ring.clone(), boot_id, unix)?;
        for notice in notices {
            announce(notice);
        }
        let node = Node::open(&options.state_dir, options.node, unix)?;
        let addresses: Vec<IpAddr> = options
            .listen
            .iter()
            .map(|listen| listen.address.ip())
            .collect();
        let mut guard = Guard::load(options.gate.clone(), &addresses, options.flood);
        guard.remember_networks(&options.state_dir, boot_id, now, since_epoch())?;
        guard.set_keys(&ring, &node);
        guard.set_cookies(CookieSecrets::new(&node.qcd_secret(), boot_id));
        let ipsec = options.dataplane == DataplaneKind::Xfrm;
        let around = ipsec && !options.xfrm_interfaces.is_empty();
        let (listen, workers) = (&options.listen, options.workers);
        let sockets = Sockets::open(listen, ipsec, workers, guard.lanes(), around)?;
        // Only now: a keeper that cannot have the ports is not to take over what their owner has.
        let dataplane: Box<dyn Dataplane> = match options.dataplane {
            DataplaneKind::Xfrm => Box::new(Xfrm::open(
                &options.state_dir,
                now + ORPHAN_LIFE,
                &options.vip_interface,
                &options.xfrm_interfaces,
            )?),
            DataplaneKind::None => {
                warn!("no data plane: SAs are negotiated, packets are not protected");
                Box::<NoOp>::default()
            }
        };
        guard.attach(&options.steer_cpus);
        guard.tick(now, offset);
        Ok(Self {
            options,
            dataplane,
            holders: Holders::default(),
            sockets,
            ring,
            node,
            guard,
            wall,
            last_known,
            signals,
            boot_id,
            engine: None,
            back_off: BackOff::new(),
            start_engine_at: now,
            next_tick: now,
            next_rotation: now,
            next_complaint: now,
            engines: 0,
            stopping: None,
            _locks: locks,
        })
    }

    fn run(mut self) -> Result<(), KeeperError> {
        loop {
            let now = boot_clock();
            // Not on every request: a login wakes us twice, and must not pay for the heartbeat.
            let ticks = now >= self.next_tick || self.engine.is_none();
            if ticks {
                self.timers(now);
                self.next_tick = now + TICK;
            }
            if let Some(stopping) = self.stopping
                && (self.engine.is_none() || now >= stopping.deadline)
            {
                self.reap(now);
                return self.close(stopping.goodbye);
            }
            let Woken {
                signalled,
                spoken,
                happened,
            } = self.wait()?;
            if signalled {
                self.signals()?;
            }
            if happened {
                self.pass_on();
            }
            if spoken {
                self.serve_next();
            }
            let may_have_ended = signalled || ticks;
            if may_have_ended && self.engine.as_mut().and_then(Engine::ended).is_some() {
                self.reap(boot_clock());
            }
        }
    }

    /// Sleeps until a signal, a request, something in the kernel, or the next tick.
    fn wait(&self) -> Result<Woken, KeeperError> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(self.signals.as_fd())];
        fds.extend(self.dataplane.events().map(readable));
        let kernel = fds.len() == 2;
        if let Some(engine) = &self.engine {
            fds.push(readable(engine.channel.as_fd()));
        }
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        Ok(Woken {
            signalled: fds.first().is_some_and(ready),
            happened: kernel && fds.get(1).is_some_and(ready),
            spoken: fds.get(1 + usize::from(kernel)).is_some_and(ready),
        })
    }

    /// Tells the engine what the kernel has done by itself.
    fn pass_on(&mut self) {
        for happened in self.dataplane.happened(boot_clock()) {
            let text = |owner: Owner| (*owner.0).to_owned();
            let answer = match happened {
                Happened::Wanted { owner } => Answer::Wanted { owner: text(owner) },
                Happened::Expired { owner, spi, hard } => Answer::Expired {
                    owner: text(owner),
                    spi,
                    hard,
                },
                Happened::Mapped { owner, spi, source } => Answer::Mapped {
                    owner: text(owner),
                    spi,
                    source,
                },
            };
            self.tell(0, answer);
        }
    }

    fn timers(&mut self, now: Duration) {
        let offset = self.wall.offset(now, since_epoch());
        self.guard.tick(now, offset);
        self.note_time(now);
        self.publish_networks();
        self.dataplane.drain(now);
        self.dataplane.mend(now);
        let lost = self.dataplane.expire_orphans(now);
        if lost > 0 {
            info!(
                owners = lost,
                "orphans have not been resumed in time and are gone"
            );
        }
        if now >= self.next_rotation {
            self.rotate(now);
        }
        if self.engine.is_none() && self.stopping.is_none() && now >= self.start_engine_at {
            match Engine::start(&self.options.engine, now) {
                Ok(engine) => {
                    info!(pid = engine.pid(), "engine started");
                    self.engine = Some(engine);
                }
                Err(error) => {
                    error!("the engine cannot be started: {error}");
                    self.start_engine_at = now + self.back_off.after(Duration::ZERO);
                }
            }
        }
    }

    fn signals(&mut self) -> Result<(), KeeperError> {
        let mut pending = Vec::new();
        while let Some(signal) = self.signals.read_signal()? {
            pending.push(Signal::try_from(signal.ssi_signo.cast_signed())?);
        }
        // Of two that wait SIGQUIT is read first, though it may have been sent last.
        let goodbye = [Signal::SIGTERM, Signal::SIGINT]
            .iter()
            .any(|one| pending.contains(one));
        if goodbye || pending.contains(&Signal::SIGQUIT) {
            self.stop(goodbye);
        }
        Ok(())
    }

    fn stop(&mut self, goodbye: bool) {
        if self.stopping.is_some() {
            return;
        }
        info!(goodbye, "stopping");
        self.stopping = Some(Stopping {
            goodbye,
            deadline: boot_clock() + Duration::from_secs(STOP_SECONDS),
        });
        self.tell(0, Answer::Stop { goodbye });
    }

    /// The engine is dead, or will be: what it had in the kernel carries on without an owner.
    fn reap(&mut self, now: Duration) {
        let Some(engine) = self.engine.take() else {
            return;
        };
        let pid = engine.pid();
        let (lived, status) = engine.finish(now);
        self.engines = self.engines.saturating_add(1);
        self.dataplane.orphan_all(now + ORPHAN_LIFE);
        self.holders.clear();
        if self.stopping.is_none() {
            let pause = self.back_off.after(lived);
            self.start_engine_at = now + pause;
            let status = status.map(|status| status.to_string()).unwrap_or_default();
            warn!(
                pid,
                status,
                ?pause,
                "the engine has ended; another one follows"
            );
        }
    }

    fn serve_next(&mut self) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        match engine.channel.receive::<ToKeeper>() {
            Ok(Some((message, _))) => self.serve(message),
            Ok(None) => self.reap(boot_clock()),
            Err(error) => {
                warn!("{error}");
                self.reap(boot_clock());
            }
        }
    }

    fn serve(&mut self, ToKeeper { id, request }: ToKeeper) {
        let answer = match request {
            Request::Hello => return self.hello(id),
            Request::Kernel(operations) => {
                let ended = operations.into_iter().map(|one| self.apply(&one));
                Answer::Done(ended.collect())
            }
            Request::Usage { owner } => Answer::Usage(self.dataplane.usage(&Owner(owner.into()))),
            Request::Account { owners } => {
                let owners = owners.into_iter().map(|owner| Owner(owner.into()));
                let used = owners.map(|owner| self.dataplane.account(&owner));
                Answer::Account(used.collect())
            }
            Request::Traffic { after } => traffic_page(self.dataplane.traffic(), &after),
            Request::NewEpoch { alone } => Answer::NewEpoch(self.new_epoch(alone)),
            Request::ReserveIndexes => Answer::Indexes(self.grant()),
            Request::Orphans { skip } => orphan_page(&self.dataplane.orphans(), skip as usize),
            Request::GateStatus => Answer::Gate(Box::new(GateStatus {
                no_lanes: self.sockets.trouble().map(str::to_owned),
                ..self.guard.status()
            })),
            Request::Gate(command) => {
                let done = self.guard.command(command, boot_clock());
                self.publish_networks();
                Answer::GateDone(done)
            }
        };
        self.tell(id, answer);
    }

    fn publish_networks(&mut self) {
        if let Some(networks) = self.guard.newly_listed() {
            self.tell(0, Answer::Networks(networks));
        }
    }

    fn apply(&mut self, operation: &Operation) -> Ended {
        let Operation { worker, op, what } = operation;
        let (worker, op) = (*worker, *op);
        let mut ended = Ended {
            worker,
            op,
            result: Ok(()),
            taken: None,
        };
        if !self.holders.is_void(worker, what) {
            match self.dataplane.apply(what) {
                Ok(()) => ended.taken = self.holders.changed(worker, what),
                Err(failed) => ended.result = Err(failed.text),
            }
        }
        ended
    }

    fn hello(&mut self, id: u64) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut pages = self.sockets.read().chunks(SOCKETS_AT_A_TIME);
        let sent = pages.try_for_each(|some| {
            let inlet = |(worker, socket): &(u8, UdpSocket)| Inlet {
                service: socket.listen().service,
                share: socket.share(),
                worker: *worker,
            };
            let answer = Answer::Sockets(some.iter().map(inlet).collect());
            let descriptors: Vec<_> = some.iter().map(|(_, socket)| socket.as_fd()).collect();
            engine
                .channel
                .send(&FromKeeper { id, answer }, &descriptors)
        });
        self.check(Some(sent));
        let orphans = u32::try_from(self.dataplane.orphans().len()).unwrap_or(u32::MAX);
        let hello = Answer::Hello(Hello {
            workers: self.options.workers,
            epochs: self.epoch_keys(),
            node: self.node.id(),
            spi_keys: SpiKeys(*self.node.spi_keys()),
            qcd: self.node.qcd_secret(),
            boot: BootInfo {
                boot_id: self.boot_id,
                engines_before: self.engines,
                orphans,
                floor: self.last_known.as_ref().and_then(LastKnown::floor),
            },
            board: self.guard.board().is_some(),
            networks: self.guard.networks(),
        });
        let bitmaps = self.ring.epochs().map(|(_, _, file)| file.as_fd());
        let descriptors: Vec<BorrowedFd<'_>> = bitmaps.chain(self.guard.board()).collect();
        let sent = self.engine.as_mut().map(|engine| {
            engine
                .channel
                .send(&FromKeeper { id, answer: hello }, &descriptors)
        });
        self.check(sent);
    }

    fn tell(&mut self, id: u64, answer: Answer) {
        let sent = self
            .engine
            .as_mut()
            .map(|engine| engine.channel.send(&FromKeeper { id, answer }, &[]));
        self.check(sent);
    }

    /// An engine that does not take its answers is replaced.
    fn check(&mut self, sent: Option<Result<(), ChannelError>>) {
        if let Some(Err(error)) = sent {
            warn!("{error}");
            self.reap(boot_clock());
        }
    }

    fn close(mut self, goodbye: bool) -> Result<(), KeeperError> {
        if goodbye {
            self.dataplane.clear();
            self.guard.detach();
        }
        self.ring.close()?;
        info!("stopped");
        Ok(())
    }
}
