//! What an operator sees of a configured connection, whether it is up or not.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::is_going;
use crate::{endpoint::Endpoint, io::Stamp, sa::ike_sa::State};

/// A configured connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectionView {
    /// Its name.
    pub name: Arc<str>,
    /// Where its peer is, as configured; `None` for anywhere.
    pub peer: Option<String>,
    /// Whether we can call the peer.
    pub may_dial: bool,
    /// IKE SAs with both sides authenticated.
    pub established: u64,
    /// Put to sleep by the operator.
    pub suspended: bool,
    /// What is being done to bring it up.
    pub attempt: Attempt,
}

/// An attempt of ours at an SA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attempt {
    /// It is looked up, or has been called.
    UnderWay,
    /// It was lost, and is to come back after this time.
    In(Duration),
    /// There is none.
    None,
}

impl Endpoint {
    /// Every configured connection, in the order of the configuration.
    #[must_use]
    pub fn connection_views(&self, now: Stamp) -> Vec<ConnectionView> {
        let mut established: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
        for sa in self.table.iter() {
            if let State::Up(live) = &sa.state
                && !is_going(live)
            {
                *established.entry(&live.connection.name).or_default() += 1;
            }
        }
        let view = |(at, slot): (usize, &crate::endpoint::Slot)| {
            let config = &slot.config;
            let under_way =
                self.is_looked_up(config) || !self.table.attempts_at(&config.name).is_empty();
            let hosts = || {
                let named = config.remote_hosts.iter().map(ToString::to_string);
                let named: Vec<_> = named.collect();
                (!named.is_empty()).then(|| named.join(" "))
            };
            ConnectionView {
                name: Arc::clone(&config.name),
                peer: config.remote_addr.map(|at| at.to_string()).or_else(hosts),
                may_dial: config.may_dial(),
                established: established.get(&config.name).copied().unwrap_or(0),
                suspended: slot.suspended,
                attempt: match self.retries.get(&at) {
                    _ if under_way => Attempt::UnderWay,
                    Some(at) => Attempt::In(at.saturating_sub(now.boot)),
                    None => Attempt::None,
                },
            }
        };
        self.slots.entries().map(view).collect()
    }
}
