//! What of the configuration stays as it is while the daemon runs. Connections, what they name and what proves
//! them may change; sockets, pools, interfaces and stores are made at the start.

use std::{sync::Arc, time::Duration};

use ike::{
    lease::Pool,
    peer::{Connection, Suspend},
};

use super::{Config, DaemonConfig, FloodConfig, GateConfig, LogConfig, RedirectConfig};
use crate::kernel::XfrmInterface;

/// The settings that a running daemon goes by until its end.
#[derive(Debug)]
pub struct Fixed {
    daemon: DaemonConfig,
    gate: GateConfig,
    flood: FloodConfig,
    redirect: RedirectConfig,
    log: LogConfig,
    pools: Vec<Arc<Pool>>,
    interfaces: Vec<XfrmInterface>,
    strict_after_power_loss: bool,
    longest_ticket: Duration,
    by_reference: bool,
    on_disk: bool,
}

impl Fixed {
    /// Those of the configuration that it starts with.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            daemon: config.daemon.clone(),
            gate: config.gate.clone(),
            flood: config.flood,
            redirect: config.redirect.clone(),
            log: config.log,
            pools: config.pools.clone(),
            interfaces: config.interfaces.clone(),
            strict_after_power_loss: config.resume.strict_after_power_loss,
            longest_ticket: config.longest_ticket(),
            by_reference: config.connections.iter().any(by_reference),
            on_disk: config.connections.iter().any(on_disk),
        }
    }

    /// What another configuration has otherwise and would take a restart, by name.
    #[must_use]
    pub fn differing(&self, other: &Config) -> Vec<&'static str> {
        let differs = [
            ("[daemon]", self.daemon != other.daemon),
            ("[gate]", self.gate != other.gate),
            ("[flood]", self.flood != other.flood),
            ("[redirect]", self.redirect != other.redirect),
            ("log.format", self.log.format != other.log.format),
            ("[pools]", self.pools != other.pools),
            // One that nobody names any more does no harm.
            (
                "interface, one that there was not,",
                !other
                    .interfaces
                    .iter()
                    .all(|one| self.interfaces.contains(one)),
            ),
            (
                "resume.strict_after_power_loss",
                self.strict_after_power_loss != other.resume.strict_after_power_loss,
            ),
            // Keys live as long as the tickets that they have sealed.
            (
                "resume.ticket_lifetime, which is longer than before,",
                self.longest_ticket < other.longest_ticket(),
            ),
            (
                "tickets by reference, which no connection had,",
                !self.by_reference && other.connections.iter().any(by_reference),
            ),
            (
                "suspend on disk, which no connection had,",
                !self.on_disk && other.connections.iter().any(on_disk),
            ),
        ];
        let differs = differs.into_iter().filter(|(_, differs)| *differs);
        differs.map(|(what, _)| what).collect()
    }
}

fn by_reference(connection: &Connection) -> bool {
    connection.resume.enabled && connection.resume.by_reference
}

fn on_disk(connection: &Connection) -> bool {
    connection.resume.suspend == Suspend::Disk
}
