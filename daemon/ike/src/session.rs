//! The client's sessions that can be resumed: where a record goes when it is received, presented,
//! given back, void or too old, and that whatever must outlive a reboot is told to the caller before
//! the ticket is used (RFC 5723, 4.2 and 6.2).

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    endpoint::{Context, Endpoint},
    io::{Event, Output, Stamp},
    peer::{Connection, Suspend},
    ticket::SessionRecord,
};

/// Why a record that outlived a reboot is of no use.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SessionRefused {
    /// No connection has this name any more, or it keeps no sessions on disk.
    #[error("the connection is gone, or does not keep its session on disk")]
    Connection,
    /// It was made under other settings.
    #[error("the connection's settings have changed")]
    Settings,
    /// Damaged, from the future, or past its lifetime.
    #[error("the record is damaged, from the future, or past its lifetime")]
    Record,
}

impl Endpoint {
    /// Takes a session back in that was kept over a restart or a reboot. The connection sleeps on it,
    /// its flow blocked, until the operator takes it up or down.
    pub fn restore(
        &mut self,
        connection: &str,
        octets: &[u8],
        now: Stamp,
    ) -> Result<(), SessionRefused> {
        let at = self.slot_of(connection).ok_or(SessionRefused::Connection)?;
        let slot = self.slots.get_mut(at).ok_or(SessionRefused::Connection)?;
        if slot.config.resume.suspend != Suspend::Disk {
            return Err(SessionRefused::Connection);
        }
        let record = SessionRecord::decode(octets, now).map_err(|_| SessionRefused::Record)?;
        if record.digest != slot.config.digest {
            return Err(SessionRefused::Settings);
        }
        slot.leased.clone_from(&record.leased);
        slot.record = Some(record);
        slot.suspended = true;
        let connection = Arc::clone(&slot.config);
        self.block_wanted(&connection);
        Ok(())
    }

    /// Puts a record in the place of whatever the connection had, on disk too where that is wanted.
    pub(crate) fn set_record(&mut self, connection: &Connection, record: Option<SessionRecord>) {
        let Some(slot) = self.slot_mut(connection) else {
            return;
        };
        let changed = slot.record.is_some() || record.is_some();
        let octets = record.as_ref().map(SessionRecord::encode);
        slot.record = record;
        if changed && connection.resume.suspend == Suspend::Disk {
            let connection = Arc::clone(&connection.name);
            self.output(Output::Session {
                connection,
                record: octets,
            });
        }
    }

    // RFC 5723: N13, N17, A21
    /// Takes the record out to present its ticket, if that may be presented: within its lifetime
    /// (RFC 5723, 4.3.1), under the settings it came under. It is off the disk before RESUME leaves,
    /// so that no crash leads to a second use; the worst that can follow is a full exchange.
    pub(crate) fn take_record(
        &mut self,
        connection: &Connection,
        now: Stamp,
    ) -> Option<SessionRecord> {
        let record = self.slot_mut(connection)?.record.take();
        if record.is_some() && connection.resume.suspend == Suspend::Disk {
            let connection = Arc::clone(&connection.name);
            self.output(Output::Session {
                connection,
                record: None,
            });
        }
        record.filter(|record| {
            connection.resume.enabled
                && record.left(now).is_some()
                && record.digest == connection.digest
                && connection.ike_suites.contains(&record.suite)
        })
    }

    // RFC 5723: N14
    /// A ticket that was presented but has not opened an SA may be presented again.
    pub(crate) fn give_back(&mut self, connection: &Connection, record: Option<SessionRecord>) {
        let empty = self
            .slot_mut(connection)
            .is_some_and(|slot| slot.record.is_none());
        if empty && record.is_some() {
            self.set_record(connection, record);
        }
    }

    /// When the next sleeping session ends that is to be cleaned up by itself.
    pub(crate) fn next_session_end(&self) -> Option<Duration> {
        self.sleepers
            .iter()
            .filter_map(|at| self.session_end(*at))
            .min()
    }

    /// Cleans up sleeping sessions whose time is over (the form `expire`).
    pub(crate) fn end_sessions(&mut self, cx: &Context<'_>) {
        let now = cx.now.boot;
        let over = |at: &usize| self.session_end(*at).is_some_and(|end| end <= now);
        let over: Vec<_> = self.sleepers.iter().copied().filter(over).collect();
        for at in over {
            self.sleepers.remove(&at);
            let Some(slot) = self.slots.get_mut(at) else {
                continue;
            };
            slot.record = None;
            slot.suspended = false;
            let connection = Arc::clone(&slot.config.name);
            self.event(Event::SessionEnded { connection });
        }
    }

    fn session_end(&self, at: usize) -> Option<Duration> {
        let record = self.slots.get(at)?.record.as_ref()?;
        Some(record.received.after(record.lifetime))
    }
}
