//! What the engine keeps on disk by itself: a client's sleeping sessions, the records behind tickets by
//! reference, and whose tickets are revoked. Each store can be out of order without keeping the engine
//! from its work; what that costs is full exchanges.

use std::{collections::VecDeque, env, path::PathBuf, sync::Arc};

use ike::{
    Endpoint,
    crypto::Secret,
    io::{Stamp, StoreId},
    peer::Suspend,
};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    tickets::{ReferenceLimits, ReferenceQueue, References, Revocations, Sessions},
};

/// Attempts that are remembered for not presenting their ticket.
const MAX_WITHHELD: usize = 256;
const IKE_SESSION_RESUME: u8 = 38;
/// Flags of an IKE header: a response.
const RESPONSE: u8 = 0x20;

const NO_REFERENCES: &str = "no ticket by reference is given out or honoured until this is mended";

/// Opens the store of references where one is wanted, or tickets of an earlier run may come back.
/// `tell` gets the outcome of every change that is begun there.
pub(super) fn open_references(
    config: &Config,
    tell: impl Fn(StoreId, bool) + Send + 'static,
) -> Option<ReferenceQueue> {
    let folder = &config.daemon.state_dir;
    let wanted = |one: &ike::peer::Connection| one.resume.enabled && one.resume.by_reference;
    if !config.connections.iter().any(wanted) && !References::exist(folder) {
        return None;
    }
    match References::open(folder, ReferenceLimits::default()) {
        Ok((store, moved)) => {
            if let Some(moved) = moved {
                warn!("{moved}");
            }
            info!(records = store.len(), "tickets by reference");
            ReferenceQueue::start(store, tell)
                .inspect_err(|error| error!("{error}; {NO_REFERENCES}"))
                .ok()
        }
        Err(error) => {
            error!("{error}; {NO_REFERENCES}");
            None
        }
    }
}

/// Opens the list of peers whose tickets are revoked.
pub(super) fn open_revocations(config: &Config, now: Stamp) -> Revocations {
    let revocations = Revocations::open(&config.daemon.state_dir, now.wall);
    if let Some(trouble) = revocations.trouble() {
        error!("{trouble}");
    }
    revocations
}

/// A client's sessions on disk, and what to do when they will not go from there.
#[derive(Clone, Debug, Default)]
pub(super) struct SessionDesk {
    store: Option<Arc<Sessions>>,
    /// A session of this turn could not be erased.
    stuck: bool,
    /// SPIi of attempts whose RESUME must not leave: a crash would present the ticket once more.
    withheld: VecDeque<[u8; 8]>,
}

impl SessionDesk {
    pub(super) fn open(config: &Config) -> Self {
        let folder = &config.daemon.state_dir;
        let on_disk = |one: &ike::peer::Connection| one.resume.suspend == Suspend::Disk;
        if !config.connections.iter().any(on_disk) && !Sessions::exist(folder) {
            return Self::default();
        }
        let credentials = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let store = Sessions::open(folder, credentials.as_deref())
            .inspect_err(|error| {
                error!("{error}; suspended sessions are kept in memory only until this is mended");
            })
            .ok();
        Self {
            store: store.map(Arc::new),
            ..Self::default()
        }
    }

    /// Gives the core every session of an earlier run whose connection is the worker's, and erases those it
    /// has no use for.
    pub(super) fn restore(
        &self,
        endpoint: &mut Endpoint,
        is_home: impl Fn(&str) -> bool,
        now: Stamp,
    ) {
        let Some(store) = &self.store else {
            return;
        };
        let sessions = match store.load() {
            Ok(sessions) => sessions,
            Err(error) => return error!("suspended sessions could not be read: {error}"),
        };
        for (connection, record) in sessions {
            if !is_home(&connection) {
                continue;
            }
            let name = connection.escape_debug();
            let refused = match record {
                Ok(record) => endpoint
                    .restore(&connection, record.expose(), now)
                    .map_err(|refused| refused.to_string()),
                Err(unsealed) => Err(unsealed.to_string()),
            };
            let Err(why) = refused else {
                info!("{name}: a suspended session is back from disk");
                continue;
            };
            warn!("{name}: a suspended session is discarded: {why}");
            if let Err(error) = store.erase(&connection) {
                error!("{name}: and could not be erased: {error}");
            }
        }
    }

    /// Keeps or erases a session, durably, before anything else of this turn is carried out.
    pub(super) fn carry_out(&mut self, connection: &str, record: Option<&Secret>) {
        let Some(store) = &self.store else {
            return;
        };
        if let Some(record) = record {
            let Err(error) = store.keep(connection, record) else {
                return;
            };
            // Whatever an older file holds is void now.
            warn!(
                "{connection}: the session is not on disk, it will not outlive a restart: {error}"
            );
        }
        if let Err(error) = store.erase(connection) {
            error!("{connection}: its session cannot be erased, its ticket is not used: {error}");
            self.stuck = true;
        }
    }

    /// Whether a message may be sent. A ticket that a crash would bring back is not presented; the core
    /// turns to a full exchange when nobody answers.
    pub(super) fn may_leave(&mut self, message: &[u8]) -> bool {
        if !self.stuck && self.withheld.is_empty() {
            return true;
        }
        let Some(spi) = presenting(message) else {
            return true;
        };
        if self.stuck && !self.withheld.contains(&spi) {
            self.withheld.truncate(MAX_WITHHELD - 1);
            self.withheld.push_front(spi);
        }
        !self.withheld.contains(&spi)
    }

    /// Everything of this turn has been carried out.
    pub(super) fn turn_over(&mut self) {
        self.stuck = false;
    }
}

/// SPIi of an IKE_SESSION_RESUME request.
fn presenting(message: &[u8]) -> Option<[u8; 8]> {
    let (exchange, flags) = (*message.get(18)?, *message.get(19)?);
    let request = exchange == IKE_SESSION_RESUME && flags & RESPONSE == 0;
    message.first_chunk().copied().filter(|_| request)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn message(spi: u8, exchange: u8, flags: u8) -> Vec<u8> {
        let mut message = vec![spi; 28];
        (message[18], message[19]) = (exchange, flags);
        message
    }

    #[test]
    fn a_ticket_that_cannot_be_taken_off_the_disk_is_not_presented() {
        let state = tempfile::tempdir().expect("folder");
        let mut desk = SessionDesk {
            store: Some(Arc::new(Sessions::open(state.path(), None).expect("open"))),
            ..SessionDesk::default()
        };
        let resume = |spi| message(spi, IKE_SESSION_RESUME, 0x08);
        let record = Secret::new(vec![1; 50]);
        desk.carry_out("home", Some(&record));
        desk.carry_out("home", None);
        assert!(desk.may_leave(&resume(1)), "erased");
        desk.turn_over();

        let folder = state.path().join("sessions");
        fs::remove_dir_all(&folder).expect("remove");
        fs::write(&folder, "").expect("a file where the folder was");
        desk.carry_out("home", None);
        assert!(desk.may_leave(&message(2, 34, 0x08)), "a full exchange");
        assert!(
            desk.may_leave(&message(2, IKE_SESSION_RESUME, 0x20)),
            "an answer"
        );
        assert!(!desk.may_leave(&resume(2)));
        desk.turn_over();
        assert!(!desk.may_leave(&resume(2)), "nor its repetition");
        assert!(desk.may_leave(&resume(3)), "another attempt's");
        assert!(desk.may_leave(&[2; 5]));
    }
}
