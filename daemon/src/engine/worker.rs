//! One worker: a thread that feeds its core with datagrams, deadlines, the kernel's answers and the
//! operator's commands, and carries out what comes back. It shares no state with the others but what the
//! gateway as a whole has one of (`docs/decisions/0006`).

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use gate_abi::{networks::Rule, sip::SipKey};
use ike::{
    CommandRefused, Context, Endpoint, NodeKeys,
    defence::{cookie::CookieSecrets, rules::Rules},
    io::{Command, Event, Input, Output, Path, Stamp, StoreId},
    kernel::Owner,
    view::SaState,
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    EngineError,
    accounts::{Accounts, Ended},
    dispatch::{Dispatch, HandedOn, HandsOn, home_of},
    environment::Environment,
    failures::Failures,
    inlets::Inlets,
    logins::{self, Logins},
    lookups::{Found, LookUps},
    operator::Question,
    parts::{Common, Part},
    posted::Posted,
    starts::Starts,
    stores::SessionDesk,
    waiting::Waiting,
    watching::Lines,
    ways::Ways,
};
use crate::{
    control::UpDone,
    keeper::{Client, KeeperEvent, STOP_SECONDS},
    kernel::ORPHAN_LIFE,
    leases::Leases,
    tickets::{EpochTimes, Ledger},
    udp::{BATCH, MAX_DATAGRAM, UdpSocket},
};

/// How long the last DELETEs may take; the keeper waits a little longer.
const GOODBYE: Duration = Duration::from_secs(STOP_SECONDS - 1);
/// Between two looks for references whose time is over.
const PURGE_EVERY: Duration = Duration::from_mins(1);

pub(super) struct Worker {
    pub(super) number: u8,
    pub(super) workers: u8,
    pub(super) endpoint: Endpoint,
    pub(super) environment: Environment,
    pub(super) ledger: Ledger,
    pub(super) leases: Leases,
    sessions: SessionDesk,
    purge_at: Duration,
    /// Of all live ticket epochs, oldest first.
    pub(super) epochs: Vec<(u8, EpochTimes)>,
    pub(super) client: Client,
    inlets: Inlets,
    dispatch: Dispatch,
    pub(super) hands_on: HandsOn,
    handed_on: mpsc::Receiver<HandedOn>,
    buffer: Vec<u8>,
    pub(super) waiting: Waiting,
    pub(super) logins: Logins,
    pub(super) failures: Failures,
    lines: Lines,
    accounts: Accounts,
    posted: Posted,
    rules: Arc<Rules>,
    pub(super) starts: Starts,
    pub(super) start_trap: Vec<Arc<str>>,
    pub(super) ways: Ways,
    look_ups: LookUps,
    /// How long clients may stay that have been told to go.
    pub(super) patience: Duration,
    events: mpsc::UnboundedReceiver<KeeperEvent>,
    stored: mpsc::UnboundedReceiver<(StoreId, bool)>,
    questions: mpsc::Receiver<Question>,
    stop_at: Option<Duration>,
    pub(super) started: Duration,
}

impl Worker {
    /// Must be called within the runtime that will run it.
    pub(super) fn new(common: &Common, part: Part) -> io::Result<Self> {
        let now = now();
        let Part {
            number,
            start,
            sessions,
            stored,
            questions,
            handed_on,
            hands_on,
        } = part;
        let Common {
            workers,
            connections,
            ..
        } = common;
        let is_home = |name: &Arc<str>| home_of(name, *workers) == number;
        let keys = NodeKeys {
            spi: common.spi_keys.0.map(SipKey::from_octets),
            cookies: CookieSecrets::new(&common.qcd, common.boot_id),
            qcd: common.qcd.duplicate(),
        };
        let mut environment = Environment::new(Arc::clone(&common.private_keys));
        let mut endpoint = Endpoint::new(
            common.settings.part_of(number, *workers),
            connections.clone(),
            keys,
            &common.epochs.roots,
            now,
            &mut environment,
        );
        endpoint.share_openings(Arc::clone(&common.openings));
        endpoint.share_presence(Arc::clone(&common.presence));
        endpoint.divert(common.redirect.to.clone());
        endpoint.set_rules(Arc::clone(&common.rules));
        let inlets = Inlets::new(start.sockets)?;
        let dispatch = Dispatch {
            worker: number,
            workers: *workers,
            node: common.settings.node,
            keys: common.spi_keys.0.map(SipKey::from_octets),
            spread: inlets.has_whole().then_some(common.spread),
        };
        let of_home = |names: &[Arc<str>]| -> Vec<Arc<str>> {
            let of_home = names.iter().filter(|name| is_home(name));
            of_home.cloned().collect()
        };
        Ok(Self {
            number,
            workers: *workers,
            endpoint,
            environment,
            ledger: start.ledger,
            leases: common.leases.clone(),
            sessions,
            purge_at: now.boot,
            epochs: common.epochs.times.clone(),
            client: start.client,
            inlets,
            dispatch,
            hands_on,
            handed_on,
            buffer: vec![0; MAX_DATAGRAM],
            waiting: Waiting::default(),
            logins: Logins::new(connections.len()),
            failures: Failures::new(),
            lines: Lines::new(),
            accounts: Accounts::new(),
            posted: Posted::new(common.notices.clone()),
            rules: Arc::clone(&common.rules),
            starts: Starts::new(of_home(&common.start_up).into_iter(), now.boot),
            start_trap: of_home(&common.start_trap),
            ways: Ways::new(connections),
            look_ups: LookUps::new(),
            patience: common.redirect.patience,
            events: start.events,
            stored,
            questions,
            stop_at: None,
            started: now.boot,
        })
    }

    /// Takes back what an earlier engine left: the sessions that slept on disk, each worker its own, and what
    /// it had blocked, for its operator has not said `down`.
    async fn adopt(&mut self) {
        let (number, workers) = (self.number, self.workers);
        let is_home = |name: &str| home_of(name, workers) == number;
        self.sessions.restore(&mut self.endpoint, is_home, now());
        for connection in self.start_trap.clone() {
            self.command(Command::Trap(connection))
                .unwrap_or_else(|refused| debug!("{refused}"));
        }
        self.carry_out();
        if self.number != 0 {
            return;
        }
        match self.client.orphans().await {
            Ok(orphans) => {
                self.leases.speak_for(&orphans, now().boot + ORPHAN_LIFE);
                let owners: Vec<_> = orphans
                    .into_iter()
                    .map(|orphan| (orphan.owner, orphan.leased))
                    .collect();
                self.endpoint.keep_blocked(&owners);
                self.carry_out();
            }
            Err(error) => warn!("what is in the kernel could not be asked: {error}"),
        }
    }

    /// The loop. Order of trust: what the keeper says, what the operator says, then the network.
    pub(super) async fn serve(mut self) -> Result<(), EngineError> {
        self.adopt().await;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(KeeperEvent::Lost) | None => return Err(EngineError::KeeperLost),
                    Some(event) => self.keeper_says(event),
                },
                Some((id, done)) = self.stored.recv() => self.feed(Input::Stored { id, done }),
                Some(question) = self.questions.recv() => self.asked(question),
                Some(Found { connection, elsewhere, ways: found }) = self.look_ups.done() => {
                    self.feed(Input::LookedUp { connection, elsewhere, found });
                }
                Some(counted) = self.accounts.counted() => self.accounts.write(counted),
                () = self.ways.changed() => self.ways.note(now().boot),
                () = tokio::time::sleep(wake) => self.deadlines(),
                Some(handed_on) = self.handed_on.recv() => {
                    self.take_in(handed_on);
                    self.receive()?;
                }
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
        let next = self
            .endpoint
            .next_deadline()
            .into_iter()
            .chain(self.starts.next())
            .chain(self.ways.look_at())
            .chain(self.accounts.next())
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
            leases,
            inlets,
            dispatch,
            hands_on,
            buffer,
            rules,
            ..
        } = self;
        let stamp = now();
        inlets.turn(buffer, |path, message| {
            if rules.of(path.remote.ip()) == Some(Rule::Deny) {
                return;
            }
            if let Some(worker) = dispatch.elsewhere(&path, message) {
                return hands_on.send(worker, path, message);
            }
            let mut cx = Context {
                now: stamp,
                env: environment,
                ledger,
                leases,
            };
            endpoint.handle(Input::Datagram { path, message }, &mut cx);
        })?;
        self.posted.queue_delay(self.inlets.delay());
        Ok(())
    }

    /// What other workers have read for this one, no more of it than of the network in one turn.
    fn take_in(&mut self, first: HandedOn) {
        let mut next = Some(first);
        for left in (0..BATCH).rev() {
            let Some(HandedOn { path, message }) = next else {
                break;
            };
            self.feed(Input::Datagram {
                path,
                message: &message,
            });
            next = (left > 0).then(|| self.handed_on.try_recv().ok()).flatten();
        }
    }

    fn deadlines(&mut self) {
        self.feed(Input::Deadline);
        let now = now().boot;
        for connection in self.starts.take(now) {
            match self.command(Command::Up(Arc::clone(&connection))) {
                Ok(()) | Err(CommandRefused::UpAlready) => {}
                Err(refused) => {
                    warn!("{connection}: not up ({refused})");
                    self.starts.failed(&connection, now, &mut self.environment);
                }
            }
        }
        let called = |connection: &str| self.endpoint.called(connection);
        for (connection, local) in self.ways.look(now, called) {
            self.starts.hurry(&connection, now);
            self.relocate(&connection, local);
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
            KeeperEvent::Taken { owner, inbound } => {
                debug!(
                    worker = self.number,
                    "an SA has been resumed on another worker"
                );
                let cx = &mut Context {
                    now: now(),
                    env: &mut self.environment,
                    ledger: &mut self.ledger,
                    leases: &mut self.leases,
                };
                self.endpoint.taken_over(&owner, inbound, cx);
            }
            KeeperEvent::Wanted { owner } => self.wanted(&owner),
            KeeperEvent::Expired { owner, spi, hard } => {
                self.feed(Input::Expired { owner, spi, hard });
            }
            KeeperEvent::Mapped { owner, spi, source } => {
                self.feed(Input::Mapped { owner, spi, source });
            }
            KeeperEvent::Epochs(epochs) => {
                let live: Vec<u8> = epochs.roots.iter().map(|root| root.key_id).collect();
                for root in &epochs.roots {
                    self.endpoint.add_ticket_root(root);
                }
                self.endpoint.retain_ticket_roots(&live);
                self.ledger.set_epochs(&epochs);
                self.epochs.clone_from(&epochs.times);
            }
            KeeperEvent::SpiKeys(keys) => {
                self.dispatch.keys = keys.0.map(SipKey::from_octets);
                self.endpoint.set_spi_keys(self.dispatch.keys);
            }
            KeeperEvent::Rules(rules) => {
                self.endpoint.set_rules(Arc::clone(&rules));
                self.rules = rules;
            }
            KeeperEvent::Stop { goodbye } => {
                let now = now().boot;
                self.starts.clear();
                self.stop_at = Some(if goodbye { now + GOODBYE } else { now });
                if goodbye {
                    self.say_goodbye();
                }
            }
            KeeperEvent::Lost => {}
        }
    }

    /// A packet waits for a connection: it comes up, or resumes, where its home is. A client that sleeps is
    /// woken by what it sends.
    fn wanted(&mut self, owner: &Owner) {
        let connection: Arc<str> = Arc::from(owner.connection());
        if self.stop_at.is_some() || !self.start_trap.contains(&connection) {
            return;
        }
        info!("{connection}: wanted by a packet");
        self.starts.want(&connection, now().boot);
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
        self.stop_at.is_some_and(|at| {
            at <= now().boot || self.endpoint.is_idle() && self.accounts.is_empty()
        })
    }

    fn feed(&mut self, input: Input<'_>) {
        let cx = &mut Context {
            now: now(),
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        self.endpoint.handle(input, cx);
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), CommandRefused> {
        if let Command::Down(name) = &command {
            self.starts.forget(name);
        }
        if let Command::Up(name) = &command
            && let Some(local) = self.ways.source_of(name)
        {
            self.endpoint.set_local_address(name, local);
        }
        let cx = &mut Context {
            now: now(),
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        self.endpoint.command(&command, cx)
    }

    /// Packets to the connection's peer leave from this address now.
    fn relocate(&mut self, connection: &str, local: IpAddr) {
        let cx = &mut Context {
            now: now(),
            env: &mut self.environment,
            ledger: &mut self.ledger,
            leases: &mut self.leases,
        };
        self.endpoint.relocate(connection, local, cx);
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
                Output::LookUp {
                    connection,
                    elsewhere,
                } => {
                    if let Some(config) = self.endpoint.config_of(&connection) {
                        self.look_ups.begin(Arc::clone(config), elsewhere);
                    }
                }
                Output::LeaseEnded(lease) => self.leases.end(lease, now()),
                Output::Event(event) => self.happened(event),
            }
        }
        self.posted.half_open(self.endpoint.half_open());
        if let Err(error) = self.client.flush() {
            // The listener meets the same end, and says so.
            debug!("{error}");
        }
        self.accounts.ask(&self.client, now().boot);
        self.sessions.turn_over();
    }

    fn send(&self, path: &Path, how: impl Fn(&UdpSocket, &Path)) {
        match self.inlets.outlet(&path.local) {
            Some(socket) => how(socket, path),
            None => debug!(local = %path.local, "no socket for this address"),
        }
    }

    fn happened(&mut self, event: Event) {
        if let Event::Overheard(overheard) = &event {
            return self.lines.say(overheard, now().boot);
        }
        self.logins.count(&event);
        logins::log(&event);
        match &event {
            Event::UpFailed { connection, .. } => {
                let env = &mut self.environment;
                self.starts.failed(connection, now().boot, env);
            }
            Event::Established { connection, .. } => self.starts.succeeded(connection),
            _ => {}
        }
        if let Event::Established {
            sa,
            connection,
            resumed,
            took,
            ..
        } = &event
            && self.endpoint.is_bare(*sa)
        {
            let done = UpDone {
                sa: *sa,
                resumed: *resumed,
                took: Some(*took),
            };
            self.waiting.bare(connection, done);
        }
        self.waiting.resolve(&event);
        match event {
            Event::Failed(failure) => self.failures.happened(*failure, now()),
            Event::Closed {
                sa,
                connection,
                reason,
                session: Some(session),
            } => {
                let ended = Ended {
                    sa,
                    connection,
                    reason,
                    session,
                };
                self.accounts.add(ended, now().boot);
            }
            _ => {}
        }
    }
}

/// Both clocks, now.
pub(super) fn now() -> Stamp {
    Stamp {
        boot: crate::gate::boot_clock(),
        wall: crate::wall::since_epoch().as_secs(),
    }
}
