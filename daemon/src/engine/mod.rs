//! The engine: one thread that feeds the core with datagrams, deadlines, the kernel's answers and the
//! operator's commands, and carries out what comes back. It has no privileges; what needs some, the
//! keeper does.

mod environment;
mod inlets;
mod logins;
mod operator;
mod posted;
mod stores;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, UdpSocket as StdUdpSocket},
    sync::Arc,
    time::Duration,
};

use gate_abi::{defence::Level, sip::SipKey};
use ike::{
    Context, Endpoint, NodeKeys, Settings,
    defence::cookie::CookieSecrets,
    io::{Command, Event, Input, Output, Path, Stamp, StoreId},
    view::SaState,
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use self::{
    environment::Environment, inlets::Inlets, logins::Logins, operator::Waiting, posted::Posted,
    stores::SessionDesk,
};
use crate::{
    config::Config,
    control::{self, ControlError, ControlRequest, QUEUE},
    gate::FloodMode,
    keeper::{Client, EngineStart, KeeperEvent, STOP_SECONDS},
    tickets::{EpochTimes, Ledger},
    udp::{MAX_DATAGRAM, UdpSocket},
};

/// How long the last DELETEs may take; the keeper waits a little longer.
const GOODBYE: Duration = Duration::from_secs(STOP_SECONDS - 1);
/// Before a connection that is to be up is tried again.
const RETRY_START: Duration = Duration::from_secs(5);
/// Between two looks for references whose time is over.
const PURGE_EVERY: Duration = Duration::from_mins(1);

/// Why an engine cannot run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The control socket could not be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The runtime or a socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The keeper is gone, and with it the sockets' owner and the kernel.
    #[error("the keeper is gone")]
    KeeperLost,
}

/// Runs until the keeper says otherwise.
pub fn run(start: EngineStart, config: Config) -> Result<(), EngineError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let control = control::bind(&config.daemon.run_dir.join("control.sock"))?;
        let (ask, requests) = mpsc::channel(QUEUE);
        let listener = control.listener()?;
        tokio::spawn(async move {
            let Err(error) = control::serve(listener, ask).await;
            warn!("control socket: {error}");
        });
        let mut engine = Engine::new(start, config)?;
        engine.adopt().await;
        engine.serve(requests).await
    })
}

struct Engine {
    endpoint: Endpoint,
    environment: Environment,
    ledger: Ledger,
    sessions: SessionDesk,
    purge_at: Duration,
    /// Of all live ticket epochs, oldest first.
    epochs: Vec<(u8, EpochTimes)>,
    client: Client,
    inlets: Inlets,
    buffer: Vec<u8>,
    waiting: Waiting,
    logins: Logins,
    posted: Posted,
    start_up: Vec<Arc<str>>,
    /// Connections to be started, and when.
    starts: Vec<(Duration, Arc<str>)>,
    /// Peers of connections without a local address of their own, which the routing table chooses.
    dialled: Vec<(Arc<str>, SocketAddr)>,
    events: mpsc::UnboundedReceiver<KeeperEvent>,
    /// What became of changes to the references.
    stored: mpsc::UnboundedReceiver<(StoreId, bool)>,
    stop_at: Option<Duration>,
    started: Duration,
}

impl Engine {
    fn new(start: EngineStart, config: Config) -> io::Result<Self> {
        let now = now();
        tokio::spawn(start.listener.run());
        let sessions = SessionDesk::open(&config);
        let mut ledger = start.ledger;
        // The queue in front of the store bounds this one.
        let (tell, stored) = mpsc::unbounded_channel();
        let tell = move |id, done| {
            // Fails if the engine is ending.
            let _ = tell.send((id, done));
        };
        if let Some(references) = stores::open_references(&config, tell) {
            ledger.set_references(references, &start.epochs);
        }
        ledger.set_revocations(stores::open_revocations(&config, now));
        let Config {
            daemon,
            flood,
            connections,
            private_keys,
            start_up,
            ..
        } = config;
        let (cookie_from, cookie_from_network) = match flood.mode {
            // Without a gate to ask for cookies, the core does.
            FloodMode::Fixed(Level::Attack) => (0, 0),
            FloodMode::Off => (usize::MAX, u32::MAX),
            FloodMode::Auto | FloodMode::Fixed(Level::Calm | Level::Guarded) => {
                let usual = Settings::default();
                (usual.cookie_from, usual.cookie_from_network)
            }
        };
        let settings = Settings {
            node: start.node,
            ike_port: daemon.ike_port,
            natt_port: daemon.natt_port,
            cookie_from,
            cookie_from_network,
            ..Settings::default()
        };
        let dialled = connections
            .iter()
            .filter(|connection| connection.local_addr.is_none())
            .filter_map(|connection| {
                let remote = SocketAddr::new(connection.remote_addr?, connection.remote_port);
                Some((Arc::clone(&connection.name), remote))
            })
            .collect();
        let mut environment = Environment::new(private_keys);
        let keys = NodeKeys {
            spi: start.spi_keys.0.map(SipKey::from_octets),
            cookies: CookieSecrets::new(&start.qcd, start.boot.boot_id),
            qcd: start.qcd,
        };
        let logins = Logins::new(connections.len());
        let roots = &start.epochs.roots;
        let endpoint = Endpoint::new(settings, connections, keys, roots, now, &mut environment);
        let inlets = Inlets::new(start.sockets)?;
        info!(
            sockets = inlets.len(),
            epochs = roots.len(),
            orphans = start.boot.orphans,
            engines_before = start.boot.engines_before,
            "engine started"
        );
        Ok(Self {
            endpoint,
            environment,
            ledger,
            sessions,
            purge_at: now.boot,
            epochs: start.epochs.times,
            client: start.client,
            inlets,
            buffer: vec![0; MAX_DATAGRAM],
            waiting: Waiting::default(),
            logins,
            posted: Posted::new(start.board),
            starts: start_up
                .iter()
                .map(|name| (now.boot, Arc::clone(name)))
                .collect(),
            start_up,
            dialled,
            events: start.events,
            stored,
            stop_at: None,
            started: now.boot,
        })
    }

    /// Takes back what an earlier engine left: the sessions that slept on disk, and what it had blocked,
    /// for its operator has not said `down`.
    async fn adopt(&mut self) {
        self.sessions.restore(&mut self.endpoint, now());
        self.carry_out();
        match self.client.orphans().await {
            Ok(orphans) => {
                let owners: Vec<_> = orphans.into_iter().map(|orphan| orphan.owner).collect();
                self.endpoint.keep_blocked(&owners);
                self.carry_out();
            }
            Err(error) => warn!("what is in the kernel could not be asked: {error}"),
        }
    }

    /// The loop. Order of trust: what the keeper says, what the operator says, then the network.
    async fn serve(
        mut self,
        mut requests: mpsc::Receiver<ControlRequest>,
    ) -> Result<(), EngineError> {
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(KeeperEvent::Lost) | None => return Err(EngineError::KeeperLost),
                    Some(event) => self.keeper_says(event),
                },
                Some((id, done)) = self.stored.recv() => self.feed(Input::Stored { id, done }),
                Some(request) = requests.recv() => self.operator_says(request),
                () = tokio::time::sleep(wake) => self.deadlines(),
                () = self.inlets.ready() => self.receive()?,
            }
            self.carry_out();
            if self.may_leave() {
                return Ok(());
            }
            // What is ready is asked of the kernel only while nobody runs. Without this pause, a lane
            // that never ends would keep the lanes before it from being noticed.
            tokio::task::yield_now().await;
        }
    }

    fn next_wake(&self) -> Duration {
        let starts = self.starts.iter().map(|(at, _)| *at);
        let next = self
            .endpoint
            .next_deadline()
            .into_iter()
            .chain(starts)
            .chain(self.stop_at);
        // Once a second at the latest, so that a clock that jumps costs no more than that.
        let longest = Duration::from_secs(1);
        next.min()
            .map_or(longest, |at| at.saturating_sub(now().boot).min(longest))
    }

    fn receive(&mut self) -> io::Result<()> {
        let Self {
            endpoint,
            environment,
            ledger,
            inlets,
            buffer,
            ..
        } = self;
        let stamp = now();
        inlets.turn(buffer, |path, message| {
            let mut cx = Context {
                now: stamp,
                env: environment,
                ledger,
            };
            endpoint.handle(Input::Datagram { path, message }, &mut cx);
        })
    }

    fn deadlines(&mut self) {
        self.feed(Input::Deadline);
        let now = now().boot;
        let due: Vec<_> = self.starts.extract_if(.., |(at, _)| *at <= now).collect();
        for (_, connection) in due {
            self.command(Command::Up(connection))
                .unwrap_or_else(|refused| debug!("{refused}"));
        }
        if self.purge_at <= now {
            self.ledger.purge();
            self.purge_at = now + PURGE_EVERY;
        }
    }

    fn keeper_says(&mut self, event: KeeperEvent) {
        match event {
            KeeperEvent::Kernel(ended) => {
                for (op, result) in ended {
                    self.feed(Input::Kernel { op, result });
                }
            }
            KeeperEvent::Epochs(epochs) => {
                let live: Vec<u8> = epochs.roots.iter().map(|root| root.key_id).collect();
                for root in &epochs.roots {
                    self.endpoint.add_ticket_root(root);
                }
                self.endpoint.retain_ticket_roots(&live);
                self.ledger.set_epochs(&epochs);
                self.epochs = epochs.times;
            }
            KeeperEvent::SpiKeys(keys) => {
                self.endpoint.set_spi_keys(keys.0.map(SipKey::from_octets));
            }
            KeeperEvent::Stop { goodbye } => {
                let now = now().boot;
                self.starts.clear();
                self.start_up.clear();
                self.stop_at = Some(if goodbye { now + GOODBYE } else { now });
                if goodbye {
                    self.say_goodbye();
                }
            }
            KeeperEvent::Lost => {}
        }
    }

    fn say_goodbye(&mut self) {
        // One that sleeps has no SA to delete. What it sleeps on stays: a reboot starts like this too.
        let views = self.endpoint.sas(now());
        let awake = views.iter().filter(|view| view.state != SaState::Suspended);
        let names: BTreeSet<_> = awake.filter_map(|view| view.connection.clone()).collect();
        for connection in names {
            // Refused for whatever is not up.
            let _not_up = self.command(Command::Down(connection));
        }
    }

    fn may_leave(&self) -> bool {
        self.stop_at
            .is_some_and(|at| at <= now().boot || self.endpoint.is_idle())
    }

    fn feed(&mut self, input: Input<'_>) {
        let (env, ledger) = (&mut self.environment, &mut self.ledger);
        self.endpoint.handle(
            input,
            &mut Context {
                now: now(),
                env,
                ledger,
            },
        );
    }

    fn command(&mut self, command: Command) -> Result<(), ike::CommandRefused> {
        if let Command::Up(name) = &command {
            self.choose_local_address(&name.clone());
        }
        let (env, ledger) = (&mut self.environment, &mut self.ledger);
        self.endpoint.command(
            &command,
            &mut Context {
                now: now(),
                env,
                ledger,
            },
        )
    }

    /// Asks the routing table which of our addresses the peer would see. Nothing is sent.
    fn choose_local_address(&mut self, name: &Arc<str>) {
        let Some((_, remote)) = self.dialled.iter().find(|(dialled, _)| dialled == name) else {
            return;
        };
        if let Ok(local) = source_address(*remote) {
            self.endpoint.set_local_address(name, local);
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.endpoint.poll_output() {
            match output {
                Output::Datagram { path, message } => {
                    if self.sessions.may_leave(&message) {
                        self.send(&path, |socket, path| {
                            socket.send(path, &message);
                        });
                    }
                }
                Output::Session { connection, record } => {
                    self.sessions.carry_out(&connection, record.as_ref());
                }
                Output::OwnSpi { spi, live } => self.posted.own_spi(spi, live),
                Output::Admitted {
                    spi_i,
                    source,
                    nonce_head,
                } => {
                    self.posted.admitted(spi_i, source, nonce_head, now().boot);
                }
                Output::Keepalive { path } => self.send(&path, UdpSocket::send_keepalive),
                Output::Kernel { op, what } => {
                    if let Err(error) = self.client.kernel(op, what) {
                        let result = Err(ike::kernel::KernelFailed {
                            text: error.to_string(),
                        });
                        self.feed(Input::Kernel { op, result });
                    }
                }
                Output::Event(event) => self.happened(event),
            }
        }
        self.posted.half_open(self.endpoint.half_open());
        if let Err(error) = self.client.flush() {
            // The listener meets the same end, and says so.
            debug!("{error}");
        }
        self.sessions.turn_over();
    }

    fn send(&self, path: &Path, how: impl Fn(&UdpSocket, &Path)) {
        match self.inlets.outlet(&path.local) {
            Some(socket) => how(socket, path),
            None => debug!(local = %path.local, "no socket for this address"),
        }
    }

    fn happened(&mut self, event: Event) {
        self.logins.count(&event);
        logins::log(&event);
        if let Event::UpFailed { connection, .. } = &event
            && self.start_up.contains(connection)
        {
            self.starts
                .push((now().boot + RETRY_START, Arc::clone(connection)));
        }
        self.waiting.resolve(&event);
    }
}

fn source_address(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = StdUdpSocket::bind((any, 0))?;
    probe.connect(remote)?;
    Ok(probe.local_addr()?.ip())
}

/// Both clocks, now.
fn now() -> Stamp {
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Stamp {
        boot: crate::gate::boot_clock(),
        wall: wall.map_or(0, |wall| wall.as_secs()),
    }
}
