//! Counts and log lines of what the core reports: one line for each outcome, none for each packet.

use std::collections::BTreeMap;

use ike::io::Event;
use tracing::{info, warn};

/// Totals since the engine's start.
#[derive(Clone, Debug, Default)]
pub(super) struct Logins {
    pub(super) connections: u64,
    pub(super) full: u64,
    pub(super) resumed: u64,
    pub(super) failed: u64,
    pub(super) tickets_issued: u64,
    pub(super) tickets_honoured: u64,
    pub(super) tickets_refused: u64,
    /// By reason, of which there are a handful.
    pub(super) refused: BTreeMap<&'static str, u64>,
}

impl Logins {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections: connections as u64,
            ..Self::default()
        }
    }

    /// So many are configured now.
    pub(super) const fn set_connections(&mut self, connections: usize) {
        self.connections = connections as u64;
    }

    pub(super) fn count(&mut self, event: &Event) {
        match event {
            Event::Established {
                resumed: true,
                initiator,
                ..
            } => {
                self.resumed += 1;
                self.tickets_honoured += u64::from(!initiator);
            }
            Event::Established { resumed: false, .. } => self.full += 1,
            Event::UpFailed { .. } => self.failed += 1,
            Event::TicketIssued { .. } => self.tickets_issued += 1,
            Event::TicketRefused { why, .. } => {
                self.tickets_refused += 1;
                *self.refused.entry(why.word()).or_default() += 1;
            }
            Event::Closed { .. }
            | Event::Suspended { .. }
            | Event::SessionEnded { .. }
            | Event::Rekeyed { .. }
            | Event::ChildRekeyed { .. }
            | Event::ChildUp { .. }
            | Event::ChildClosed { .. }
            | Event::ChildFailed { .. }
            | Event::Failed(_)
            | Event::Moved { .. }
            | Event::Redirected { .. }
            | Event::TicketReceived { .. }
            | Event::KernelFailed { .. } => {}
        }
    }
}

pub(super) fn log(event: &Event) {
    match event {
        Event::Established {
            sa,
            connection,
            peer,
            resumed,
            took,
            ..
        } => {
            let how = if *resumed { "resumed" } else { "full" };
            info!(
                "{connection}[{sa}] {peer}: established ({how}, {} ms)",
                took.as_millis()
            );
        }
        Event::Closed {
            sa,
            connection,
            reason,
        } => info!("{connection}[{sa}]: closed ({reason})"),
        Event::ChildRekeyed { connection, child } => {
            info!("{connection}/{child}: new keys for ESP");
        }
        Event::ChildUp { connection, child } => info!("{connection}/{child}: up"),
        Event::ChildClosed {
            connection,
            child,
            reason,
        } => info!("{connection}/{child}: closed ({reason})"),
        Event::ChildFailed {
            connection,
            child,
            reason,
        } => warn!("{connection}/{child}: not up ({reason})"),
        Event::Rekeyed {
            old,
            sa,
            connection,
        } => info!("{connection}[{old}]: new keys, now [{sa}]"),
        Event::Moved { connection, path } => {
            info!("{connection}: now from {} to {}", path.local, path.remote);
        }
        Event::Redirected {
            connection,
            gateway,
            by,
        } => info!("{connection}: {by} sends us to {gateway}"),
        Event::Suspended { connection } => info!("{connection}: suspended"),
        Event::SessionEnded { connection } => {
            info!("{connection}: its suspended session has expired");
        }
        Event::UpFailed { connection, reason } => warn!("{connection}: not up ({reason})"),
        // Of these a few have lines of their own, see `failures`.
        Event::Failed(_) => {}
        Event::TicketReceived {
            connection,
            octets,
            lifetime,
        } => {
            info!(
                "{connection}: ticket of {octets} octets, good for {} s",
                lifetime.as_secs()
            );
        }
        Event::TicketIssued { connection, octets } => {
            tracing::debug!("{connection}: issued a ticket of {octets} octets");
        }
        // Anybody can cause these, as often as he likes: counted, and seen at debug only.
        Event::TicketRefused { from, why } => {
            tracing::debug!("{from}: ticket refused ({})", why.word());
        }
        Event::KernelFailed { connection, text } => warn!("{connection}: kernel: {text}"),
    }
}
