//! Request and reply types of the control socket: one JSON object a line in each direction. Readers
//! ignore keys they do not know, and a key that is absent means that the value is unknown.

mod connection;
mod gate;
mod log;
mod pool;
mod reply;
mod request;
mod sa;
mod ticket;
mod why;

pub use connection::{Connection, ConnectionFailure, ConnectionState, ConnectionTraffic};
pub use gate::{
    AllowedNetwork, Flood, FloodLevel, Gate, GateAttachment, GateCounter, GateDenied, GateDrop,
    GateFill, GateLane, HalfOpenNetwork, RefusedNetwork, ReplyBudget,
};
pub use log::{Log, WatchedPeer};
pub use pool::{Lease, Pool};
pub use reply::{Attention, Done, ErrorCode, Failure, Outcome, Reply, Stamp, Status};
pub use request::Request;
pub use sa::{ChildSa, Endpoint, IkeSa, Pfs, SaState, Ticket};
pub use ticket::{
    HeldTicket, OriginItem, SaOrigin, TicketEpoch, TicketRefusals, TicketRevocation, Tickets,
};
pub use why::PeerFailure;

/// The number of these shapes. It grows when a key changes its meaning or goes.
pub const SCHEMA: u32 = 1;
/// Longest request line in octets, newline included.
pub const MAX_REQUEST: usize = 4096;
/// Longest reply line in octets, newline included.
pub const MAX_REPLY: usize = 64 << 20;
/// How long the daemon may take for any method but `up` and `down`.
pub const DEADLINE_SECONDS: u64 = 5;
/// How long `up` takes at most when the request does not say.
pub const UP_SECONDS: u64 = 30;
/// The same for a connection that is taken down: a peer that is silent is asked for that long.
pub const DOWN_SECONDS: u64 = 40;
/// The most that a request may give `up`.
pub const MAX_UP_SECONDS: u64 = 3600;
/// How long a network is denied when the request does not say.
pub const DENY_SECONDS: u64 = 600;
/// The longest that a request may deny one: 30 days. For good, there is the configuration.
pub const MAX_DENY_SECONDS: u64 = 30 * 86_400;
/// How long a peer is watched when the request does not say.
pub const WATCH_SECONDS: u64 = 600;
/// The longest that a request may have one watched, or another level of the log: a day.
pub const MAX_WATCH_SECONDS: u64 = 86_400;
/// Where the socket is unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/rekindle/control.sock";

#[cfg(test)]
mod tests;
