//! Counts and log lines of what the core reports: one line for each outcome, none for each packet.

use std::collections::BTreeMap;

use ike::io::Event;
use tracing::{debug, info, warn};

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
            | Event::KernelFailed { .. }
            | Event::Overheard(_) => {}
        }
    }
}

/// The line of an outcome, with a field for each thing that it says: `event` is its name for programs.
pub(super) fn log(event: &Event) {
    match event {
        Event::Established {
            sa,
            connection,
            peer,
            resumed,
            initiator,
            took,
        } => {
            let how = if *resumed { "resumed" } else { "full" };
            let milliseconds = took.as_millis() as u64;
            info!(
                event = "established",
                connection = &**connection,
                sa,
                %peer,
                resumed,
                initiator,
                milliseconds,
                "{connection}[{sa}] {peer}: established ({how}, {milliseconds} ms)"
            );
        }
        Event::Closed {
            sa,
            connection,
            reason,
            ..
        } => info!(
            event = "closed",
            connection = &**connection,
            sa,
            %reason,
            "{connection}[{sa}]: closed ({reason})"
        ),
        Event::ChildRekeyed { connection, child } => info!(
            event = "child_rekeyed",
            connection = &**connection,
            child = &**child,
            "{connection}/{child}: new keys for ESP"
        ),
        Event::ChildUp { connection, child } => info!(
            event = "child_up",
            connection = &**connection,
            child = &**child,
            "{connection}/{child}: up"
        ),
        Event::ChildClosed {
            connection,
            child,
            reason,
        } => info!(
            event = "child_closed",
            connection = &**connection,
            child = &**child,
            %reason,
            "{connection}/{child}: closed ({reason})"
        ),
        Event::ChildFailed {
            connection,
            child,
            reason,
        } => warn!(
            event = "child_failed",
            connection = &**connection,
            child = &**child,
            %reason,
            "{connection}/{child}: not up ({reason})"
        ),
        Event::Rekeyed {
            old,
            sa,
            connection,
        } => info!(
            event = "rekeyed",
            connection = &**connection,
            old_sa = old,
            sa,
            "{connection}[{old}]: new keys, now [{sa}]"
        ),
        Event::Moved { connection, path } => info!(
            event = "moved",
            connection = &**connection,
            from = %path.remote,
            local = %path.local,
            "{connection}: now from {} to {}",
            path.local,
            path.remote
        ),
        Event::Redirected {
            connection,
            gateway,
            by,
        } => info!(
            event = "redirected",
            connection = &**connection,
            %gateway,
            from = %by,
            "{connection}: {by} sends us to {gateway}"
        ),
        Event::Suspended { connection } => info!(
            event = "suspended",
            connection = &**connection,
            "{connection}: suspended"
        ),
        Event::SessionEnded { connection } => info!(
            event = "session_expired",
            connection = &**connection,
            "{connection}: its suspended session has expired"
        ),
        Event::UpFailed { connection, reason } => warn!(
            event = "up_failed",
            connection = &**connection,
            %reason,
            "{connection}: not up ({reason})"
        ),
        Event::TicketReceived {
            connection,
            octets,
            lifetime,
        } => {
            let seconds = lifetime.as_secs();
            info!(
                event = "ticket_received",
                connection = &**connection,
                octets,
                seconds,
                "{connection}: ticket of {octets} octets, good for {seconds} s"
            );
        }
        Event::TicketIssued { connection, octets } => debug!(
            event = "ticket_issued",
            connection = &**connection,
            octets,
            "{connection}: issued a ticket of {octets} octets"
        ),
        // Anybody can cause these, as often as he likes: counted, and seen at debug only.
        Event::TicketRefused { from, why } => debug!(
            event = "ticket_refused",
            %from,
            reason = why.word(),
            "{from}: ticket refused ({})",
            why.word()
        ),
        Event::KernelFailed { connection, text } => warn!(
            event = "kernel_failed",
            connection = &**connection,
            reason = text,
            "{connection}: kernel: {text}"
        ),
        // These have lines of their own, see `failures` and `watching`.
        Event::Failed(_) | Event::Overheard(_) => {}
    }
}
