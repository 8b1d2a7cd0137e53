//! Bringing connections up and taking them down: which first exchange to begin with, what to do when
//! one fails or two race, and what an SA's end means for kernel, ticket and operator.

use std::{sync::Arc, time::Duration};

use crate::{
    endpoint::{CommandRefused, Context, Endpoint},
    exchange::{Heir, bare, chance_between, owner},
    io::Event,
    kernel::KernelOp,
    peer::{Compat, Connection, Suspend},
    sa::ike_sa::{IkeSa, Installing, Lingering, Live, Purpose, State},
    view::Closed,
};

/// How long a half-open SA waits for its IKE_AUTH.
const HALF_OPEN_LIFE: Duration = Duration::from_secs(30);
/// A kernel that does not answer for so long will not.
const KERNEL_PATIENCE: Duration = Duration::from_secs(30);
/// Waits between attempts to bring a lost connection back: doubled each time, up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// All clients of a gateway that came back resume within this time.
const AFTER_CRASH: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

impl Endpoint {
    /// Brings a connection up on the operator's word.
    pub(crate) fn up(&mut self, slot: usize, cx: &mut Context<'_>) -> Result<(), CommandRefused> {
        let held = self.slots.get(slot).ok_or(CommandRefused::NoConnection)?;
        let connection = Arc::clone(&held.config);
        if !connection.may_dial() {
            return Err(CommandRefused::CannotInitiate);
        }
        if self.is_alive(&connection) {
            return self.up_missing(slot, cx);
        }
        // Stands until `down`, whatever becomes of the SA, or if there can be none yet: nothing leaves in
        // clear.
        self.block_wanted(&connection);
        self.begin(slot, cx)
    }

    // RFC 5723: N41, N42, L6
    /// Takes a connection down on the operator's word: DELETE, no ticket, no block policy.
    pub(crate) fn down(&mut self, at: usize, cx: &mut Context<'_>) -> Result<(), CommandRefused> {
        let retrying = self.retries.remove(&at).is_some() | self.end_look_up(at);
        let Some(slot) = self.slots.get_mut(at) else {
            return Err(CommandRefused::NoConnection);
        };
        let connection = Arc::clone(&slot.config);
        let asleep = slot.record.is_some() || slot.suspended || retrying;
        let slept_with = slot.record.as_ref().map(|record| record.id_r.clone());
        slot.leased.clear();
        slot.asked.clear();
        slot.detours.give_up();
        (slot.suspended, slot.wanted, slot.trapped) = (false, false, false);
        self.sleepers.remove(&at);
        self.set_record(&connection, None);
        let ids = self.ids_of(&connection);
        let found = !ids.is_empty();
        for sa in ids {
            let Some(sa) = self.table.check_out(sa) else {
                continue;
            };
            match sa.state {
                State::Up(_) => self.begin_delete(sa, Closed::Down, cx),
                _ => self.forget(&sa),
            }
        }
        let still_up = self.table.iter().any(|sa| of_connection(sa, &connection));
        let of_many = connection.remote.id.is_none();
        if !still_up || of_many {
            self.release_whole(&connection);
        }
        if let Some(peer) = slept_with.filter(|_| of_many) {
            for child in &connection.children {
                let owner = owner(&connection, &child.name, &peer, &[]);
                self.kernel(KernelOp::Release { owner });
            }
        }
        if found || asleep {
            Ok(())
        } else {
            Err(CommandRefused::NotUp)
        }
    }

    // RFC 5723: A9
    /// Client: drops the SA without a DELETE and keeps the ticket (RFC 5723, 3).
    pub(crate) fn suspend(
        &mut self,
        at: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let Some(slot) = self.slots.get_mut(at) else {
            return Err(CommandRefused::NoConnection);
        };
        let connection = Arc::clone(&slot.config);
        let has_ticket = slot
            .record
            .as_ref()
            .is_some_and(|record| record.left(cx.now).is_some());
        let sa = self.up_sa(at).ok_or(CommandRefused::NotUp)?;
        if !has_ticket {
            self.check_in(sa);
            return Err(CommandRefused::NoTicket);
        }
        if let Some(slot) = self.slot_mut(&connection) {
            (slot.suspended, slot.wanted) = (true, false);
            slot.detours.give_up();
        }
        if connection.resume.suspend == Suspend::Expire {
            self.sleepers.insert(at);
        }
        self.close(sa, Closed::Suspended, cx);
        while let Some(older) = self.up_sa(at) {
            self.close(older, Closed::Suspended, cx);
        }
        self.event(Event::Suspended {
            connection: Arc::clone(&connection.name),
        });
        Ok(())
    }

    /// The established SA of a connection, checked out.
    pub(crate) fn up_sa(&mut self, slot: usize) -> Option<IkeSa> {
        let connection = Arc::clone(&self.slots.get(slot)?.config);
        let up = |sa: &IkeSa| match &sa.state {
            State::Up(live) if live.moved_until.is_none() && of_connection(sa, &connection) => {
                Some((live.heir.is_some(), sa.id))
            }
            _ => None,
        };
        // Rather the one that is to stay.
        let (_, id) = self.table.iter().filter_map(up).min()?;
        self.table.check_out(id)
    }

    // RFC 5723: N12, N17
    /// Resumes if there is something to resume, else starts from nothing.
    pub(crate) fn begin(
        &mut self,
        slot: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        // Before the record is touched: a connection that cannot be dialled keeps it.
        self.callable(slot)?;
        self.retries.remove(&slot);
        self.sleepers.remove(&slot);
        if let Some(held) = self.slots.get_mut(slot) {
            held.detours.give_up();
        }
        if self.look_up(slot) {
            return Ok(());
        }
        self.start(slot, cx)
    }

    /// The same, once it is known where the peer is.
    pub(crate) fn start(
        &mut self,
        slot: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let (config, _) = self.dial(slot, None)?;
        match self.take_record(&config, cx.now) {
            Some(record) => self.start_resume(slot, record, false, cx),
            None => self.start_full(slot, None, cx),
        }
    }

    /// Starts a full exchange beside a resumption that is not getting anywhere.
    pub(crate) fn race(&mut self, connection: &Connection, cx: &mut Context<'_>) {
        if let Some(slot) = self.slot_of(&connection.name) {
            // A full table just means no race; the resumption goes on alone.
            let _ = self.start_full(slot, None, cx);
        }
    }

    /// Whether another attempt of the connection has got as far as IKE_AUTH. Only one may: whichever
    /// IKE_AUTH the responder answers last would replace what the other set up.
    pub(crate) fn attempt_in_auth(&self, connection: &Arc<str>, but: u64) -> bool {
        let in_auth = |sa: &IkeSa| matches!(sa.state, State::AuthSent(_) | State::Installing(..));
        let others = self
            .table
            .attempts_at(connection)
            .into_iter()
            .filter(|id| *id != but);
        others.filter_map(|id| self.table.get(id)).any(in_auth)
    }

    /// Drops an attempt that another one has overtaken.
    pub(crate) fn abandon(&mut self, sa: IkeSa) {
        self.forget(&sa);
        if let State::ResumeSent(sent) = sa.state {
            self.give_back(&sent.connection, Some(sent.record));
        }
    }

    /// One attempt has failed. Others may still be on their way; a failed resumption leads to a full
    /// exchange, and only when nothing is left has the connection failed.
    pub(crate) fn attempt_failed(
        &mut self,
        sa: IkeSa,
        connection: &Arc<Connection>,
        reason: Closed,
        cx: &mut Context<'_>,
    ) {
        self.forget(&sa);
        self.attempt_over(connection, reason, false, cx);
    }

    // RFC 5723: A20
    /// Goes on to the next way of connecting, or gives the connection up for now.
    pub(crate) fn attempt_over(
        &mut self,
        connection: &Arc<Connection>,
        reason: Closed,
        was_resumption: bool,
        cx: &mut Context<'_>,
    ) {
        if !self.table.attempts_at(&connection.name).is_empty() {
            return;
        }
        let Some(slot) = self.slot_of(&connection.name) else {
            return;
        };
        let held = self.slots.get(slot);
        if held.is_some_and(|held| held.detours.is_searching(cx.now.boot)) {
            // Another gateway is looked for; what comes of it decides.
            return;
        }
        if was_resumption && self.start_full(slot, None, cx).is_ok() {
            return;
        }
        self.event(Event::UpFailed {
            connection: Arc::clone(&connection.name),
            reason,
        });
        self.retry_later(slot, cx);
    }

    /// A connection that has been up is to come up again by itself.
    fn retry_later(&mut self, slot: usize, cx: &mut Context<'_>) {
        if let Some(held) = self.slots.get_mut(slot).filter(|held| held.wanted) {
            self.retries
                .insert(slot, cx.now.boot + back_off(held.retries, cx));
            held.retries = held.retries.saturating_add(1);
        }
    }

    /// An attempt has come to an SA: the others are not needed any more.
    pub(crate) fn attempt_succeeded(&mut self, connection: &Connection, id: u64) {
        for rival in self.table.attempts_at(&connection.name) {
            if let Some(sa) = self.table.check_out(rival).filter(|sa| sa.id != id) {
                self.forget(&sa);
            }
        }
        let Some(slot) = self.slot_of(&connection.name) else {
            return;
        };
        self.retries.remove(&slot);
        if let Some(slot) = self.slots.get_mut(slot) {
            (slot.wanted, slot.suspended, slot.retries) = (true, false, 0);
        }
    }

    /// Brings back a connection that was lost.
    pub(crate) fn retry(&mut self, slot: usize, cx: &mut Context<'_>) {
        let Some(connection) = self.slots.get(slot).map(|held| Arc::clone(&held.config)) else {
            return;
        };
        if !self.is_alive(&connection) && self.begin(slot, cx).is_err() {
            // A full table, or no route to the peer at the moment.
            self.retries.insert(slot, cx.now.boot + LONGEST_RETRY);
        }
    }

    /// Something about the way to its peer has changed: a pause ends here.
    pub(crate) fn retry_now(&mut self, slot: usize, now: Duration) {
        if let Some(at) = self.retries.get_mut(&slot) {
            *at = now;
        }
    }

    /// Whether the connection is up or on its way.
    pub(crate) fn is_alive(&self, connection: &Connection) -> bool {
        self.is_looked_up(connection)
            || !self.table.attempts_at(&connection.name).is_empty()
            || match &connection.remote.id {
                Some(peer) => {
                    let children = connection.children.iter();
                    let owners = children.map(|child| owner(connection, &child.name, peer, &[]));
                    let mut owners = owners.chain([bare(connection, peer, &[])]);
                    owners.any(|owner| !self.table.of_owner(&owner).is_empty())
                }
                None => !self.ids_of(connection).is_empty(),
            }
    }

    /// Whether no SA stands between a connection's two identities, so that whatever the peer still has
    /// is left over from before we lost our memory (RFC 7296, 2.4).
    pub(crate) fn is_first_contact(&self, connection: &Connection) -> bool {
        let same = |live: &Live| {
            let peer = connection.remote.id.as_ref();
            live.connection.local.id == connection.local.id
                && peer.is_none_or(|peer| *peer == live.peer)
        };
        let mut all = self.table.iter();
        !all.any(|sa| matches!(&sa.state, State::Up(live) if same(live)))
    }

    /// Ends an SA and everything that hangs on it.
    pub(crate) fn close(&mut self, sa: IkeSa, reason: Closed, cx: &mut Context<'_>) {
        self.failed_at_close(&sa, reason, cx.now);
        self.forget(&sa);
        let IkeSa {
            id, path, state, ..
        } = sa;
        match state {
            State::HalfOpen(half) => {
                self.budget.give_back(path.remote.ip());
                self.forget_first(&path, &half.first);
            }
            State::InitSent(sent) => self.attempt_over(&sent.connection, reason, false, cx),
            State::ResumeSent(sent) => {
                self.give_back(&sent.connection, Some(sent.record));
                self.attempt_over(&sent.connection, reason, true, cx);
            }
            State::AuthSent(sent) => {
                let was_resumption = sent.resumed.is_some();
                self.give_back(&sent.connection, sent.resumed);
                self.attempt_over(&sent.connection, reason, was_resumption, cx);
            }
            State::Installing(live, waiting) => {
                if matches!(*waiting, Installing::Initiator { .. }) {
                    self.attempt_over(&live.connection, reason, false, cx);
                }
            }
            State::Up(live) => self.closed(id, *live, reason, cx),
            State::Lingering(_) | State::Gone => {}
        }
    }

    /// Ends an established SA but keeps its last answer for a retransmission.
    pub(crate) fn close_lingering(
        &mut self,
        sa: IkeSa,
        reason: Closed,
        lingering: Lingering,
        cx: &mut Context<'_>,
    ) {
        let id = sa.id;
        let state = self.linger(sa, lingering);
        if let State::Up(live) = state {
            self.closed(id, *live, reason, cx);
        }
    }

    // RFC 5723: N41, L4, A9
    fn closed(&mut self, id: u64, mut live: Live, reason: Closed, cx: &mut Context<'_>) {
        if reason != Closed::Replaced {
            self.hand_over(&mut live, Duration::ZERO, cx);
        }
        for remove in live.other_removals() {
            self.kernel(remove);
        }
        // Whatever ends an SA whose Child SAs have moved on, or that never had one, ends nothing else.
        let moved = live.moved_until.is_some();
        let alone = live.heir.is_none();
        let superseded = moved || matches!(live.heir, Some(Heir::Leads));
        let reason = match &live.outstanding {
            _ if moved => Closed::Rekeyed,
            // A newer SA has what this one had in the kernel, also if it was being deleted.
            _ if reason == Closed::Replaced => reason,
            // However a deletion of ours ends, it was a deletion.
            Some((Purpose::Delete(ours), _)) => *ours,
            _ => live.delete_next.unwrap_or(reason),
        };
        let client = live.client;
        let session = (reason != Closed::Rekeyed).then(|| Box::new(live.session(cx.now)));
        let Live {
            connection,
            children,
            leased,
            issued,
            ..
        } = live;
        let inside = if client { &leased.addresses[..] } else { &[] };
        for child in children {
            match reason {
                Closed::Rekeyed => {}
                // The newer SA's installation has replaced what the kernel had.
                Closed::Replaced if alone && !self.table.of_owner(&child.owner).is_empty() => {}
                // Another SA between the same two sides goes on.
                _ if !self.table.of_owner(&child.owner).is_empty() => self.kernel(child.removal()),
                Closed::Down => {
                    let owner = child.owner;
                    self.kernel(KernelOp::Release { owner });
                }
                // A client's operator has not said `down`: its flow stays blocked.
                Closed::PeerDeleted if !client => {
                    let owner = child.owner;
                    self.kernel(KernelOp::Release { owner });
                }
                _ => self.lost(&connection, inside, child),
            }
        }
        let deleted = matches!(reason, Closed::Down | Closed::PeerDeleted);
        // libreswan suspends by DELETE and means to come back with its ticket.
        let keeps = connection.compat == Compat::Libreswan && reason == Closed::PeerDeleted;
        if let Some(issued) = issued.filter(|_| superseded || deleted && !keeps) {
            issued.revoke(cx.ledger);
        }
        if client {
            if deleted && !superseded {
                // RFC 5723, 6.2: the ticket goes with its SA, whoever deletes it.
                self.set_record(&connection, None);
            }
            let over = matches!(
                reason,
                Closed::Down | Closed::Suspended | Closed::Replaced | Closed::Rekeyed
            );
            if let Some(slot) = self.slot_of(&connection.name).filter(|_| !over) {
                self.retry_later(slot, cx);
                if reason == Closed::Crashed && self.retries.contains_key(&slot) {
                    // The gateway is back, and everybody knows: spread by chance alone.
                    let wait = chance_between((Duration::ZERO, AFTER_CRASH), cx.env);
                    self.retries.insert(slot, cx.now.boot + wait);
                }
                if matches!(reason, Closed::Moved | Closed::Reconfigured) {
                    // The way is there already.
                    self.retry_now(slot, cx.now.boot);
                }
            }
        }
        self.event(Event::Closed {
            sa: id,
            connection: Arc::clone(&connection.name),
            reason,
            session,
        });
    }

    pub(crate) fn ids_of(&self, connection: &Connection) -> Vec<u64> {
        self.table
            .iter()
            .filter(|sa| of_connection(sa, connection))
            .map(|sa| sa.id)
            .collect()
    }
}

impl IkeSa {
    /// When the SA's state wants to be woken.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        match &self.state {
            State::InitSent(sent) => {
                let hint = sent.hint.map(|(_, at)| at);
                hint.into_iter().chain([sent.out.deadline()]).min()
            }
            State::ResumeSent(sent) => {
                let waits = [sent.race_at, sent.give_up_at, Some(sent.out.deadline())];
                waits.into_iter().flatten().min()
            }
            State::AuthSent(sent) => Some(sent.out.deadline()),
            State::HalfOpen(_) => Some(self.started + HALF_OPEN_LIFE),
            State::Installing(live, _) => Some(live.established + KERNEL_PATIENCE),
            State::Up(live) => live.deadline(),
            State::Lingering(lingering) => Some(lingering.until),
            State::Gone => None,
        }
    }
}

fn of_connection(sa: &IkeSa, connection: &Connection) -> bool {
    sa.connection()
        .is_some_and(|config| config.name == connection.name)
}

/// Doubling, with up to a quarter more by chance, so that clients of one gateway do not come in step.
fn back_off(retries: u32, cx: &mut Context<'_>) -> Duration {
    let base = FIRST_RETRY
        .saturating_mul(1 << retries.min(8))
        .min(LONGEST_RETRY);
    let mut chance = [0];
    cx.env.random(&mut chance);
    let [chance] = chance;
    base + base.mul_f64(f64::from(chance) / 1024.0)
}
