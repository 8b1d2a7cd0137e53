//! One IKEv2 endpoint: all its connections and IKE SAs, in both roles. Inputs are routed to the
//! exchange they belong to; outputs queue up until the caller takes them.

mod settings;
mod slot;
mod spi;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use gate_abi::{networks::Rule, sip::SipKey};

pub(crate) use self::slot::{Slot, Slots};
pub use self::{settings::Settings, slot::CommandRefused, spi::MAX_WORKERS};
use crate::{
    counters::{Counter, Counters},
    crypto::Secret,
    defence::{
        allowance::Allowance,
        budget::{HalfOpenBudget, Room},
        cookie::{CookieJar, CookieSecrets},
        openings::Openings,
        rules::Rules,
    },
    exchange::{BLIND_REFUSALS_PER_SECOND, Diversion, REFUSALS_PER_SECOND, TOKENS_PER_SECOND},
    failure::Telling,
    io::{Command, Env, Event, Input, Output, Path, Stamp, TicketLedger, TicketRoot},
    kernel::{KernelFailed, KernelOp, OpId},
    lease::{LeaseBook, LeaseId},
    peer::Connection,
    sa::{
        ike_sa::{IkeSa, State},
        presence::Presence,
        table::SaTable,
        window::Datagrams,
    },
    ticket::{Keyring, SessionRecord},
    view::{Closed, SaView},
    watch::Watched,
    wire::{
        WireError, encrypted,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Octets of a notification with one octet of data in it.
const NOTIFICATION: usize = 9;

/// What a node keeps over restarts besides its ticket roots, so that it knows its own SPIs again.
#[derive(Debug)]
pub struct NodeKeys {
    /// The present `k_spi`, which tags every SPI of ours, then the one before.
    pub spi: [SipKey; 2],
    /// 32 octets from which quick crash detection tokens are made (RFC 6290, 5.1).
    pub qcd: Secret,
    /// Behind the cookies; the gate has the same.
    pub cookies: CookieSecrets,
}

/// Time, chance, the ticket ledger and the book of leases, for the length of one step.
pub struct Context<'a> {
    /// Now.
    pub now: Stamp,
    /// Randomness and private keys.
    pub env: &'a mut dyn Env,
    /// Ticket indexes and used bits.
    pub ledger: &'a mut dyn TicketLedger,
    /// Inner addresses.
    pub leases: &'a mut dyn LeaseBook,
}

/// All IKE SAs of one worker.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) settings: Settings,
    pub(crate) slots: Slots,
    /// Slots whose session ends by itself (the form `expire`).
    pub(crate) sleepers: BTreeSet<usize>,
    /// Lost connections that are to come back, and when.
    pub(crate) retries: BTreeMap<usize, Duration>,
    pub(crate) table: SaTable,
    /// Gateway: what SAs hold of the pools, by their numbers.
    pub(crate) held_leases: HashMap<u64, LeaseId>,
    pub(crate) keyring: Keyring,
    pub(crate) cookies: CookieJar,
    pub(crate) budget: HalfOpenBudget,
    rules: Arc<Rules>,
    pub(crate) counters: Counters,
    outputs: VecDeque<Output>,
    /// The present `k_spi`, then the one before.
    pub(crate) spi_keys: [SipKey; 2],
    pub(crate) qcd_secret: Secret,
    /// Crash detection tokens for strangers.
    pub(crate) confessions: Allowance,
    /// Answers to refused tickets.
    pub(crate) refusals: Allowance,
    /// Of these, to addresses that have proved nothing.
    pub(crate) blind_refusals: Allowance,
    pub(crate) openings: Arc<Openings>,
    /// What is told of failures.
    pub(crate) telling: Telling,
    /// Whose messages are told.
    pub(crate) watched: Vec<Watched>,
    /// Whether the first of the outputs has been told already.
    is_told: bool,
    pub(crate) diversion: Diversion,
    spi_order: SipKey,
    spi_count: u32,
    pub(crate) first_key: SipKey,
}

impl Endpoint {
    /// An endpoint without SAs.
    #[must_use]
    pub fn new(
        settings: Settings,
        connections: Vec<impl Into<Arc<Connection>>>,
        keys: NodeKeys,
        roots: &[TicketRoot],
        now: Stamp,
        env: &mut dyn Env,
    ) -> Self {
        let mut keyring = Keyring::new(settings.node);
        for root in roots {
            keyring.add(root);
        }
        let workers = u32::from(settings.workers.max(1));
        let allowance = |whole: u32| Allowance::new(whole.div_ceil(workers));
        Self {
            slots: Slots::new(connections.into_iter().map(Into::into)),
            sleepers: BTreeSet::new(),
            retries: BTreeMap::new(),
            table: SaTable::new(settings.worker, settings.workers),
            held_leases: HashMap::new(),
            keyring,
            cookies: CookieJar::new(keys.cookies, now),
            budget: HalfOpenBudget::new(
                settings.max_half_open,
                settings.cookie_from,
                settings.cookie_from_network,
            ),
            rules: Arc::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            spi_keys: keys.spi,
            qcd_secret: keys.qcd,
            confessions: allowance(TOKENS_PER_SECOND),
            refusals: allowance(REFUSALS_PER_SECOND),
            blind_refusals: allowance(BLIND_REFUSALS_PER_SECOND),
            openings: Arc::new(Openings::new(sip_key(env))),
            telling: Telling::new(workers),
            watched: Vec::new(),
            is_told: false,
            diversion: Diversion::new(workers),
            spi_order: sip_key(env),
            spi_count: 0,
            first_key: sip_key(env),
            settings,
        }
    }

    /// Takes one input in. Everything it leads to is in [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, input: Input<'_>, cx: &mut Context<'_>) {
        match input {
            Input::Datagram { path, message } if self.watched.is_empty() => {
                self.take(path, message, cx);
            }
            Input::Datagram { path, message } => self.overhear(path, message, cx),
            Input::Deadline => self.deadlines(cx),
            Input::Kernel { op, result } => self.kernel_answered(op, result, cx),
            Input::Expired { owner, spi, hard } => self.expired(&owner, spi, hard, cx),
            Input::Mapped { owner, spi, source } => self.mapped(&owner, spi, source, cx),
            Input::Stored { id, done } => self.stored(id, done, cx),
            Input::LookedUp {
                connection,
                elsewhere,
                found,
            } => match elsewhere {
                Some(gateway) => self.located(&connection, &gateway, found, cx),
                None => self.looked_up(&connection, found, cx),
            },
        }
    }

    /// Carries out an operator's command, or says why not.
    pub fn command(
        &mut self,
        command: &Command,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let (Command::Up(name)
        | Command::Down(name)
        | Command::Suspend(name)
        | Command::Trap(name)
        | Command::Rekey(name)
        | Command::UpChild(name, _)
        | Command::DownChild(name, _)
        | Command::RekeyChild(name, _)) = command;
        let slot = self.slot_of(name).ok_or(CommandRefused::NoConnection)?;
        match command {
            Command::Up(_) => self.up(slot, cx),
            Command::Down(_) => self.down(slot, cx),
            Command::Suspend(_) => self.suspend(slot, cx),
            Command::Trap(_) => self.trap(slot),
            Command::Rekey(_) => self.rekey(slot, cx),
            Command::UpChild(_, child) => self.up_child(slot, child, cx),
            Command::DownChild(_, child) => self.down_child(slot, child, cx),
            Command::RekeyChild(_, child) => self.rekey_child(slot, child.as_deref(), cx),
        }
    }

    /// The next thing the caller has to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if !self.watched.is_empty() && !std::mem::take(&mut self.is_told) {
            let leaving = self.about_to_leave(self.outputs.front());
            self.is_told = leaving.is_some();
            if let Some(told) = leaving {
                return Some(Output::Event(told));
            }
        }
        self.outputs.pop_front()
    }

    /// When to call with [`Input::Deadline`] at the latest, on the boot clock.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let retries = self.retries.values().copied();
        let sessions = self.next_session_end();
        let others = retries.chain(sessions);
        self.table.next_deadline().into_iter().chain(others).min()
    }

    /// Counts the openings of each ticket together with whoever has the same: a captured ticket comes to
    /// whichever worker it likes.
    pub fn share_openings(&mut self, openings: Arc<Openings>) {
        self.openings = openings;
    }

    /// Knows of the peers that are up with others of the same gateway.
    pub fn share_presence(&mut self, presence: Arc<Presence>) {
        self.table.presence = presence;
    }

    /// Networks that are judged beforehand, from now on.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
    }

    /// What a first message from there meets. Who is allowed is not asked for a cookie as long as there is
    /// room.
    pub(crate) fn room(&self, path: &Path) -> Room {
        let from = path.remote.ip();
        match self.budget.room(from) {
            Room::CookieFirst if self.rules.of(from) == Some(Rule::Allow) => Room::Free,
            room => room,
        }
    }

    /// A new epoch of ticket keys.
    pub fn add_ticket_root(&mut self, root: &TicketRoot) {
        self.keyring.add(root);
    }

    /// Forgets every epoch that is not among these: their last tickets have expired.
    pub fn retain_ticket_roots(&mut self, live: &[u8]) {
        self.keyring.retain(live);
    }

    /// The epoch added last, which new tickets are sealed with.
    #[must_use]
    pub fn newest_ticket_root(&self) -> Option<u8> {
        self.keyring.newest()
    }

    /// Names of all connections.
    #[must_use]
    pub fn connections(&self) -> Vec<Arc<str>> {
        self.slots
            .iter()
            .map(|slot| Arc::clone(&slot.config.name))
            .collect()
    }

    /// Whether there is no IKE SA that anybody would miss.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.table
            .iter()
            .all(|sa| matches!(sa.state, State::Lingering(_)))
    }

    /// Counts of what came in and was not acted on.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Half-open IKE SAs now.
    #[must_use]
    pub const fn half_open(&self) -> usize {
        self.budget.total()
    }

    /// Every IKE SA and every sleeping connection.
    #[must_use]
    pub fn sas(&self, now: Stamp) -> Vec<SaView> {
        let live = self
            .table
            .iter()
            .filter_map(|sa| crate::view::of_sa(sa, self, now));
        let asleep = self
            .slots
            .iter()
            .filter_map(|slot| crate::view::of_slot(slot, now));
        live.chain(asleep).collect()
    }

    pub(crate) fn take(&mut self, path: Path, message: &[u8], cx: &mut Context<'_>) {
        let Ok((header, payloads)) = Header::parse(message) else {
            return self.counters.add(Counter::BadHeader);
        };
        let first = header.spi_r == [0; 8] && !header.response && header.from_initiator;
        if !first {
            return self.on_sa_message(path, &header, message, payloads, cx);
        }
        if header.message_id != 0 {
            return self.counters.add(Counter::BadHeader);
        }
        let chain = match Chain::parse(header.next, payloads) {
            Ok(chain) => chain,
            Err(error) => {
                self.counters.add(Counter::BadPayloads);
                // RFC 7296, 2.5; but nobody gets more than he has sent.
                if let WireError::Critical(kind) = error
                    && payloads.len() > NOTIFICATION
                {
                    let notify = NotifyKind::UNSUPPORTED_CRITICAL_PAYLOAD;
                    self.refuse_first(path, &header, notify, &[kind]);
                }
                return;
            }
        };
        match header.exchange {
            Exchange::IkeSaInit => self.init_request(path, &header, message, &chain, cx),
            Exchange::IkeSessionResume => self.resume_request(path, &header, message, &chain, cx),
            _ => self.counters.add(Counter::BadHeader),
        }
    }

    fn on_sa_message(
        &mut self,
        path: Path,
        header: &Header,
        message: &[u8],
        payloads: &[u8],
        cx: &mut Context<'_>,
    ) {
        let ours = if header.from_initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        let id = self.table.by_spi(ours);
        let Some(sa) = id.and_then(|id| self.table.check_out(id)) else {
            return self.confess(path, header, cx);
        };
        let first_sent = matches!(sa.state, State::InitSent(_) | State::ResumeSent(_));
        let spi_r_fits = first_sent || header.spi_r == sa.spi_r;
        if header.spi_i != sa.spi_i || !spi_r_fits || header.from_initiator == sa.initiator {
            self.counters.add(Counter::UnknownSpi);
            return self.check_in(sa);
        }
        match &sa.state {
            State::InitSent(_) | State::ResumeSent(_) => {
                let fits = header.response && header.message_id == 0;
                match Chain::parse(header.next, payloads) {
                    Ok(chain) if fits && header.exchange == Exchange::IkeSaInit => {
                        self.init_response(sa, path, header, message, &chain, cx);
                    }
                    Ok(chain) if fits && header.exchange == Exchange::IkeSessionResume => {
                        self.resume_response(sa, path, header, message, &chain, cx);
                    }
                    Ok(_) => self.stray(sa),
                    Err(_) => {
                        self.counters.add(Counter::BadPayloads);
                        self.check_in(sa);
                    }
                }
            }
            State::AuthSent(_) if header.response && header.exchange == Exchange::IkeAuth => {
                self.auth_response(sa, header, message, cx);
            }
            State::HalfOpen(_) if !header.response && header.exchange == Exchange::IkeAuth => {
                self.auth_request(sa, path, header, message, cx);
            }
            State::Up(_) if header.response && !header.next.is_protected() => {
                match Chain::parse(header.next, payloads) {
                    Ok(chain) => self.unprotected(sa, &chain, cx),
                    Err(_) => self.stray(sa),
                }
            }
            State::Up(_) if header.response => self.response(sa, path, header, message, cx),
            State::Up(_) => self.request(sa, path, header, message, cx),
            State::Lingering(old) if old.request == message => {
                let (path, response) = (sa.path, old.response.clone());
                self.send_all(path, &response);
                self.check_in(sa);
            }
            _ => self.stray(sa),
        }
    }

    /// A message that fits no state: a late repetition, or noise.
    pub(crate) fn stray(&mut self, sa: IkeSa) {
        self.counters.add(Counter::Stray);
        self.check_in(sa);
    }

    fn deadlines(&mut self, cx: &mut Context<'_>) {
        // Every step moves its SA's deadline beyond now, so one turn per SA is enough.
        for _ in 0..=self.table.len() {
            let Some(sa) = self
                .table
                .due(cx.now.boot)
                .and_then(|id| self.table.check_out(id))
            else {
                break;
            };
            match sa.state {
                State::InitSent(_) => self.init_due(sa, cx),
                State::ResumeSent(_) => self.resume_due(sa, cx),
                State::AuthSent(_) => self.auth_due(sa, cx),
                State::Up(_) => self.live_due(sa, cx),
                State::HalfOpen(_) => {
                    self.counters.add(Counter::HalfOpenTimeout);
                    self.close(sa, Closed::Timeout, cx);
                }
                State::Installing(..) => self.close(sa, Closed::Kernel, cx),
                State::Lingering(_) | State::Gone => self.forget(&sa),
            }
        }
        self.end_sessions(cx);
        let now = cx.now.boot;
        for (slot, _) in self
            .retries
            .extract_if(.., |_, at| *at <= now)
            .collect::<Vec<_>>()
        {
            self.retry(slot, cx);
        }
    }

    fn kernel_answered(
        &mut self,
        op: OpId,
        result: Result<(), KernelFailed>,
        cx: &mut Context<'_>,
    ) {
        if let Some(moved) = self.table.take_move(op) {
            if let Err(KernelFailed { text }) = result {
                self.not_moved(&moved, &text, cx);
            }
            return;
        }
        match self
            .table
            .take_op(op)
            .and_then(|id| self.table.check_out(id))
        {
            Some(sa) => self.installed(sa, result, cx),
            None => {
                if let Err(failed) = result {
                    let (connection, text) = (Arc::from(""), failed.text);
                    self.event(Event::KernelFailed { connection, text });
                }
            }
        }
    }

    // What the exchanges build on.

    /// Puts an SA back with the deadline of its state.
    pub(crate) fn check_in(&mut self, sa: IkeSa) {
        let spi = sa.our_spi();
        if self.table.check_in(sa) {
            self.output(Output::OwnSpi { spi, live: true });
        }
    }

    /// Forgets a checked-out SA.
    pub(crate) fn forget(&mut self, sa: &IkeSa) {
        let spi = sa.our_spi();
        if self.table.forget(sa) {
            self.output(Output::OwnSpi { spi, live: false });
        }
        self.end_lease(sa.id);
    }

    pub(crate) fn send(&mut self, path: Path, message: Vec<u8>) {
        self.outputs.push_back(Output::Datagram { path, message });
    }

    /// Sends a message, whole or in its fragments.
    pub(crate) fn send_all(&mut self, path: Path, message: &Datagrams) {
        for datagram in message.iter() {
            self.send(path, datagram.to_vec());
        }
    }

    pub(crate) fn keepalive(&mut self, path: Path) {
        self.outputs.push_back(Output::Keepalive { path });
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// How many outputs wait.
    pub(crate) fn queued(&self) -> usize {
        self.outputs.len()
    }

    /// Tells of something before the outputs from this one on.
    pub(crate) fn tell_at(&mut self, at: usize, event: Event) {
        self.outputs.insert(at, Output::Event(event));
    }

    /// Asks the kernel for something nobody waits for.
    pub(crate) fn kernel(&mut self, what: KernelOp) {
        let op = self.table.next_op();
        self.outputs.push_back(Output::Kernel { op, what });
    }

    /// Asks the kernel for something the SA waits for.
    pub(crate) fn kernel_for(&mut self, id: u64, what: KernelOp) {
        let op = self.table.op_of(id);
        self.outputs.push_back(Output::Kernel { op, what });
    }

    /// Answers a first message in clear without keeping anything of it.
    pub(crate) fn refuse_first(
        &mut self,
        path: Path,
        header: &Header,
        notify: NotifyKind,
        data: &[u8],
    ) {
        let mut chain = ChainWriter::new();
        chain.notify(notify, data);
        let answer = Header {
            from_initiator: false,
            response: true,
            next: PayloadKind::NONE,
            ..*header
        };
        self.send(path, encrypted::clear(&answer, chain));
    }

    /// The slot of a connection, by name.
    pub(crate) fn slot_of(&self, name: &str) -> Option<usize> {
        self.slots.of(name)
    }

    /// Client: the session of a connection that can be resumed.
    pub(crate) fn record_of(&self, name: &str) -> Option<&SessionRecord> {
        self.slots.get(self.slot_of(name)?)?.record.as_ref()
    }

    /// The settings of a connection.
    #[must_use]
    pub fn config_of(&self, name: &str) -> Option<&Arc<Connection>> {
        self.slots.get(self.slot_of(name)?).map(|slot| &slot.config)
    }

    pub(crate) fn slot_mut(&mut self, connection: &Connection) -> Option<&mut Slot> {
        let slot = self.slot_of(&connection.name)?;
        self.slots.get_mut(slot)
    }
}

fn sip_key(env: &mut dyn Env) -> SipKey {
    let mut octets = [0; 16];
    env.random(&mut octets);
    SipKey::from_octets(octets)
}

#[cfg(test)]
mod tests;
