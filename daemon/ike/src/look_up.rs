//! Where to call a peer that is configured by names, or by several addresses: it is looked up for every
//! attempt, and what was found is tried in turn. An SA that is up takes no notice of later answers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    endpoint::{CommandRefused, Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::Output,
    peer::{Connection, Host},
    sa::ike_sa::{IkeSa, State},
    view::Closed,
    wire::header::Exchange,
};

/// Unanswered tries, 3.5 s, after which the next address is called, while there is one.
const TRIES_OF_ONE_ADDRESS: usize = 3;

/// A way to a peer: our address and its.
pub type Way = (IpAddr, IpAddr);

/// What is known of the ways to a peer.
#[derive(Debug, Default)]
pub(crate) struct LookUp {
    /// Whether an answer is awaited.
    asked: bool,
    /// The peer's address that is called.
    pub called: Option<IpAddr>,
    /// What else was found, the next one first.
    others: Vec<Way>,
}

impl Connection {
    /// Addresses of its peer that one attempt tries.
    pub const MAX_WAYS: usize = 8;

    /// Whether it says where the peer can be called.
    #[must_use]
    pub fn may_dial(&self) -> bool {
        self.remote_addr.is_some() || !self.remote_hosts.is_empty()
    }
}

impl Endpoint {
    /// Whether the configuration says where the connection's peer is.
    #[must_use]
    pub fn may_dial(&self, connection: &str) -> bool {
        let config = self.config_of(connection);
        config.is_some_and(|config| config.may_dial())
    }

    /// Where the peer of a connection that has to be looked up was called last.
    #[must_use]
    pub fn called(&self, connection: &str) -> Option<IpAddr> {
        let slot = self.slots.get(self.slot_of(connection)?)?;
        slot.look_up.called
    }

    /// The address to dial from, for a connection whose configuration leaves it to the routing table.
    pub fn set_local_address(&mut self, connection: &str, address: IpAddr) {
        let slot = self.slot_of(connection);
        if let Some(slot) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            slot.dial_from = Some(address);
        }
    }

    /// Whether a connection can be begun now.
    pub(crate) fn callable(&self, slot: usize) -> Result<(), CommandRefused> {
        let held = self.slots.get(slot).ok_or(CommandRefused::NoConnection)?;
        if held.config.remote_hosts.is_empty() {
            return self.dial(slot, None).map(drop);
        }
        if self.table.standing() >= self.settings.max_sas {
            return Err(CommandRefused::Full);
        }
        Ok(())
    }

    /// Asks where the peer is, unless that is fixed. `false` if it is.
    pub(crate) fn look_up(&mut self, slot: usize) -> bool {
        let held = self.slots.get_mut(slot);
        let Some(held) = held.filter(|held| !held.config.remote_hosts.is_empty()) else {
            return false;
        };
        if !std::mem::replace(&mut held.look_up.asked, true) {
            let connection = Arc::clone(&held.config.name);
            self.output(Output::LookUp {
                connection,
                elsewhere: None,
            });
        }
        true
    }

    /// Whether a connection waits to learn where its peer is.
    pub(crate) fn is_looked_up(&self, connection: &Connection) -> bool {
        let slot = self.slot_of(&connection.name);
        slot.and_then(|slot| self.slots.get(slot))
            .is_some_and(|held| held.look_up.asked)
    }

    /// Takes no answer any more. `true` if one was awaited.
    pub(crate) fn end_look_up(&mut self, slot: usize) -> bool {
        let held = self.slots.get_mut(slot);
        held.is_some_and(|held| std::mem::take(&mut held.look_up).asked)
    }

    /// The answer: ways to the peer, best first, or why there is none.
    pub(crate) fn looked_up(
        &mut self,
        connection: &str,
        found: Result<Vec<Way>, String>,
        cx: &mut Context<'_>,
    ) {
        let Some(slot) = self.slot_of(connection) else {
            return;
        };
        if !self.end_look_up(slot) {
            return;
        }
        let Some(held) = self.slots.get_mut(slot) else {
            return;
        };
        let config = Arc::clone(&held.config);
        match found {
            Ok(mut ways) if !ways.is_empty() => {
                ways.truncate(Connection::MAX_WAYS);
                // Whoever has given a ticket is asked first to honour it.
                let record = held.record.as_ref();
                let gateway = record.map(|record| record.path.remote.ip());
                if let Some(at) = ways.iter().position(|(_, peer)| Some(*peer) == gateway) {
                    ways[..=at].rotate_right(1);
                }
                held.look_up.others = ways;
                self.call_next(slot);
                if self.start(slot, cx).is_err() {
                    self.attempt_over(&config, Closed::Limit, false, cx);
                }
            }
            found => {
                let why = found.err().unwrap_or_default();
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.remote_port));
                self.failed(Standing::Reached, cx.now.boot, || {
                    let cause = Cause::unresolved(&config, &why);
                    let failure = Failure::of_stranger(nowhere, Exchange::IkeSaInit, cause);
                    Failure {
                        standing: Standing::Reached,
                        ours: true,
                        ..failure.within(&config)
                    }
                });
                self.attempt_over(&config, Closed::Unresolved, false, cx);
            }
        }
    }

    /// Turns to the next address of the peer. `false` if all have been tried.
    fn call_next(&mut self, slot: usize) -> bool {
        let Some(held) = self.slots.get_mut(slot) else {
            return false;
        };
        if held.look_up.others.is_empty() {
            return false;
        }
        let (ours, peer) = held.look_up.others.remove(0);
        held.look_up.called = Some(peer);
        held.dial_from = Some(ours);
        true
    }

    /// A first message that nobody answers goes to the next address of the peer, with the ticket if it
    /// had one. Gives the SA back if there is none, or if somebody does answer.
    pub(crate) fn try_elsewhere(&mut self, sa: IkeSa, cx: &mut Context<'_>) -> Option<IkeSa> {
        let slot = sa
            .connection()
            .and_then(|config| self.slot_of(&config.name));
        let Some((slot, name)) = slot.zip(sa.connection().map(|one| Arc::clone(&one.name))) else {
            return Some(sa);
        };
        if sa.unanswered() <= TRIES_OF_ONE_ADDRESS || self.attempt_in_auth(&name, sa.id) {
            return Some(sa);
        }
        if !self.call_next(slot) {
            return Some(sa);
        }
        self.failed_at_close(&sa, Closed::Timeout, cx.now);
        // A full exchange that began beside a resumption has called the same address.
        for rival in self.table.attempts_at(&name) {
            if let Some(rival) = self.table.check_out(rival) {
                self.abandon(rival);
            }
        }
        self.abandon(sa);
        // Fails if the table is full, and then there is another try later.
        let _later = self.start(slot, cx);
        None
    }
}

impl IkeSa {
    /// How often the first message was sent, while nothing has come of it.
    fn unanswered(&self) -> usize {
        match &self.state {
            State::InitSent(sent) if sent.rounds == 0 && sent.hint.is_none() && !sent.is_detour => {
                sent.out.sent()
            }
            State::ResumeSent(sent) if sent.rounds == 0 && sent.give_up_at.is_none() => {
                sent.out.sent()
            }
            _ => 0,
        }
    }
}

/// Names and addresses as they are configured, for people.
pub(crate) fn listed(hosts: &[Host]) -> String {
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    hosts.join(" ")
}
