//! What the engine is asked, and what it answers, in its own types.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ike::{
    Told,
    failure::Failure,
    lease::{LeaseView, PoolView},
    view::{Closed, HeldTicket, SaView, origin::SaOrigin},
    wire::redirect::GatewayId,
};
use tokio::sync::oneshot;

use crate::{
    config::LogLevel,
    engine::ReloadDone,
    keeper::{
        FloodStatus, GateAttachment, GateCommand, GateDrop, GateFill, GateRefused, LaneCount,
        ListedNetwork,
    },
    log::LogState,
};

/// One question to the engine. A `reply` whose receiver is gone belongs to a client that no longer
/// waits; dropping a `reply` unanswered tells the client that the command failed.
#[derive(Debug)]
pub enum ControlRequest {
    /// Counts and health.
    Status {
        /// Answer at once.
        reply: oneshot::Sender<StatusReport>,
    },
    /// Every IKE SA and suspended connection, or the one with the given number.
    Sas {
        /// Only this one.
        id: Option<u64>,
        /// Answer at once, or when the kernel's counters are there.
        reply: oneshot::Sender<Vec<SaReport>>,
    },
    /// [`ike::io::Command::Up`].
    Up {
        /// The connection.
        connection: Arc<str>,
        /// Answer on `Established` or `UpFailed` of the connection. A connection that is up already
        /// is answered at once with its present SA.
        reply: oneshot::Sender<Result<UpDone, CommandError>>,
    },
    /// [`ike::io::Command::Down`].
    Down {
        /// The connection.
        connection: Arc<str>,
        /// Answer on `Closed`, or at once if there is nothing but a ticket to forget.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// [`ike::io::Command::Suspend`].
    Suspend {
        /// The connection.
        connection: Arc<str>,
        /// Answer on `Suspended`.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// [`ike::io::Command::Rekey`].
    Rekey {
        /// The connection.
        connection: Arc<str>,
        /// Answer on `Rekeyed` of the connection, or when it has ended instead.
        reply: oneshot::Sender<Result<RekeyDone, CommandError>>,
    },
    /// What is to become of one Child SA, or of each.
    Child {
        /// The connection.
        connection: Arc<str>,
        /// The Child SA within it; new keys may be for each of them.
        child: Option<Arc<str>>,
        /// What.
        what: ChildCommand,
        /// Answer on the event of each that is meant, or when it has ended otherwise.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
    /// [`ike::Endpoint::redirect`].
    Redirect {
        /// Only clients of this connection.
        connection: Option<Arc<str>>,
        /// Where they are to go.
        gateway: GatewayId,
        /// Answer when all are told, or told as soon as their SA has room for it.
        reply: oneshot::Sender<Result<Told, CommandError>>,
    },
    /// [`ike::Endpoint::sa_origin`].
    Origin {
        /// The IKE SA.
        id: u64,
        /// Answer at once; `None` if no established SA has the number.
        reply: oneshot::Sender<Option<SaOrigin>>,
    },
    /// Ticket keys, counts, and tickets held.
    Tickets {
        /// Answer at once.
        reply: oneshot::Sender<TicketReport>,
    },
    /// What Child SAs have carried by connection.
    Traffic {
        /// Answer when the kernel's counters are there.
        reply: oneshot::Sender<Vec<(String, Traffic)>>,
    },
    /// How much is logged.
    Log {
        /// What of it.
        command: LogCommand,
        /// Answer when it counts; an error is for people.
        reply: oneshot::Sender<Result<LogReport, String>>,
    },
    /// The configuration, from its files.
    Reload {
        /// Answer when they count; an error is for people, and then nothing has changed.
        reply: oneshot::Sender<Result<ReloadDone, String>>,
    },
    /// A new ticket key.
    NewEpoch {
        /// Retire all others: their tickets are void.
        alone: bool,
        /// Answer with its id when it is in use; an error is for people.
        reply: oneshot::Sender<Result<u8, String>>,
    },
    /// [`ike::Endpoint::revoke`], and whatever the peer holds of SAs that are gone.
    Revoke {
        /// Whose tickets: an identity as it is shown, or as it is configured.
        peer: String,
        /// Answer at once; an error is for people.
        reply: oneshot::Sender<Result<RevokeDone, String>>,
    },
    /// Pools of inner addresses.
    Pools {
        /// Answer at once.
        reply: oneshot::Sender<Vec<PoolView>>,
    },
    /// Leases of all pools.
    Leases {
        /// Answer at once.
        reply: oneshot::Sender<Vec<LeaseView>>,
    },
    /// Every configured connection.
    Connections {
        /// Answer at once.
        reply: oneshot::Sender<Vec<ConnectionReport>>,
    },
    /// The level of defence and why.
    Flood {
        /// Where the answer goes.
        reply: oneshot::Sender<FloodReport>,
    },
    /// The gate's state and counters.
    Gate {
        /// Answer at once.
        reply: oneshot::Sender<GateReport>,
    },
    /// What an operator wants of the gate.
    GateCommand {
        /// What.
        command: GateCommand,
        /// Answer when it is so.
        reply: oneshot::Sender<Result<(), GateRefused>>,
    },
    /// The last failures of peers.
    Why {
        /// Only of this one: an address, an identity, or the name of a connection.
        peer: Option<Arc<str>>,
        /// Answer at once.
        reply: oneshot::Sender<Vec<FailureReport>>,
    },
    /// End the daemon.
    Shutdown {
        /// Say goodbye to all peers first.
        delete: bool,
        /// Answer when the end has begun, before the socket goes.
        reply: oneshot::Sender<Result<(), CommandError>>,
    },
}

/// What an operator wants with a Child SA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChildCommand {
    /// [`ike::io::Command::UpChild`].
    Up,
    /// [`ike::io::Command::DownChild`].
    Down,
    /// [`ike::io::Command::RekeyChild`].
    Rekey,
}

/// Why a command came to nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CommandError {
    /// No connection, or no child of it, has this name.
    UnknownConnection,
    /// The connection has no peer address, so only the peer can bring it up.
    NoPeerAddress,
    /// No address of ours leads to its peer.
    NoRoute,
    /// There is no established SA to do this to.
    NotUp,
    /// There is no ticket, so suspending would be deleting.
    NoTicket,
    /// The attempt ended so.
    Ended(Closed),
    /// The kernel refused; in its words.
    Kernel(String),
}

/// An `up` that succeeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpDone {
    /// The IKE SA's number.
    pub sa: u64,
    /// Whether a ticket opened it.
    pub resumed: bool,
    /// How long it took; `None` if it was up already.
    pub took: Option<Duration>,
}

/// What an operator wants of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LogCommand {
    /// To know how it is.
    Show,
    /// Another level.
    Level {
        /// Which.
        level: LogLevel,
        /// How long; until the engine ends if that is not said.
        lasting: Option<Duration>,
    },
    /// The configured level again.
    Configured,
    /// The messages of one peer.
    Watch {
        /// Its address, its identity, or the name of a connection.
        peer: String,
        /// How long.
        lasting: Duration,
    },
    /// No longer.
    Unwatch {
        /// As it was given.
        peer: String,
    },
}

/// How much is logged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogReport {
    /// The level.
    pub state: LogState,
    /// Whose messages are, and for how much longer.
    pub watched: Vec<(String, Duration)>,
}

/// A rekey that succeeded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RekeyDone {
    /// The old IKE SA's number.
    pub old: u64,
    /// The new one's.
    pub sa: u64,
}

/// A revocation that is in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RevokeDone {
    /// Tickets that the peer got on SAs that are here.
    pub tickets: u64,
    /// How long whatever else it may hold will be refused: until that has expired.
    pub refused_for: Duration,
}

/// What the daemon knows of tickets; totals count from its start.
#[derive(Clone, Debug, Default)]
pub struct TicketReport {
    /// Live ticket keys, oldest first.
    pub epochs: Vec<EpochReport>,
    /// Tickets issued.
    pub issued: u64,
    /// Presented tickets that opened an SA.
    pub honoured: u64,
    /// Presented tickets that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// SAs whose peer can resume them with a ticket of ours.
    pub outstanding: u64,
    /// Sessions that we can resume.
    pub held: Vec<HeldTicket>,
    /// Peers whose tickets are revoked.
    pub revocations: Vec<RevocationReport>,
}

/// A peer whose tickets are revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RevocationReport {
    /// Its identity, as the operator gave it.
    pub peer: String,
    /// Since then; what was issued before is refused.
    pub age: Duration,
    /// How long there may be something to refuse.
    pub refused_for: Duration,
}

/// One ticket key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EpochReport {
    /// Its id.
    pub key_id: u8,
    /// Since it began to issue.
    pub age: Duration,
    /// How long it will issue; `None` if it does not any more.
    pub issues_for: Option<Duration>,
    /// How long its tickets are honoured at most.
    pub accepted_for: Duration,
}

/// One SA, with what the kernel has counted for its Child SAs.
#[derive(Clone, Debug)]
pub struct SaReport {
    /// The core's view.
    pub view: SaView,
    /// The kernel's counts in the same order; `None` where one was not to be had.
    pub traffic: Vec<Option<Traffic>>,
}

/// The kernel's counters of one Child SA.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Octets of the inbound state.
    pub in_bytes: u64,
    /// Packets of the inbound state.
    pub in_packets: u64,
    /// Octets of the outbound state.
    pub out_bytes: u64,
    /// Packets of the outbound state.
    pub out_packets: u64,
}

/// Counts and health; totals count from the start of the daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StatusReport {
    /// Since the start.
    pub uptime: Duration,
    /// Configured connections.
    pub connections: u64,
    /// IKE SAs with both sides authenticated.
    pub established: u64,
    /// IKE SAs whose peer has proved nothing yet.
    pub half_open: u64,
    /// Connections that sleep on a ticket.
    pub suspended: u64,
    /// Child SAs in the kernel.
    pub child_sas: u64,
    /// Full logins.
    pub full_logins: u64,
    /// Resumed logins.
    pub resumed_logins: u64,
    /// Logins that came to nothing.
    pub failed_logins: u64,
    /// Tickets issued.
    pub tickets_issued: u64,
    /// Tickets refused.
    pub tickets_refused: u64,
    /// Epoch that new tickets are sealed with.
    pub ticket_key_id: Option<u8>,
    /// Messages that took no SA further, by reason.
    pub counters: Vec<(&'static str, u64)>,
    /// `native`, `generic` or `none`.
    pub gate_mode: &'static str,
    /// What an operator should look at, a line each.
    pub attention: Vec<String>,
    /// Connections with an SA.
    pub up: Vec<Arc<str>>,
    /// Connections that are not up with whoever reports, and that wait for their next attempt there.
    pub waiting: Vec<Arc<str>>,
}

/// A failure of a peer, and the same again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FailureReport {
    /// What went wrong.
    pub failure: Failure,
    /// When it first did, Unix seconds.
    pub first: u64,
    /// When it last did, Unix seconds.
    pub last: u64,
    /// How often.
    pub times: u64,
}

/// The gate's state and counters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GateReport {
    /// `native`, `generic` or `none`.
    pub mode: &'static str,
    /// Why it is not native, if it is not.
    pub reason: Option<String>,
    /// How it stands on each interface.
    pub attachments: Vec<GateAttachment>,
    /// Verdicts by reason.
    pub verdicts: Vec<GateVerdict>,
    /// Packets that were dropped, a few of many, the latest first.
    pub dropped: Vec<GateDrop>,
    /// What came to the lanes.
    pub lanes: Vec<LaneCount>,
    /// Why there are none.
    pub no_lanes: Option<String>,
    /// Networks from which nobody is heard.
    pub denied: Vec<ListedNetwork>,
    /// How full its tables are.
    pub fill: Vec<GateFill>,
}

/// One counter of the gate, summed over CPUs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GateVerdict {
    /// `pass`, `drop` or `tx`.
    pub verdict: &'static str,
    /// Why, in lower case with underscores.
    pub reason: &'static str,
    /// How often.
    pub packets: u64,
    /// How often in a second, of late.
    pub per_second: u64,
}

/// A configured connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConnectionReport {
    /// Its name.
    pub name: Arc<str>,
    /// Where its peer is, as configured; `None` for anywhere.
    pub peer: Option<String>,
    /// IKE SAs with both sides authenticated.
    pub established: u64,
    /// Where it stands.
    pub state: ConnectionState,
    /// What brings it up.
    pub start: ConnectionStart,
    /// How long until it is tried again, if it waits.
    pub next_in: Option<Duration>,
    /// What last went wrong.
    pub last_failure: Option<FailureReport>,
}

/// Where a connection stands, the further along the greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ConnectionState {
    /// Only the peer can call.
    Listening,
    /// Nothing brings it up but the operator, or the peer.
    Down,
    /// The first packet for its peer's networks brings it up.
    Trap,
    /// It has a ticket and no SA.
    Suspended,
    /// It is tried again after a while.
    Waiting,
    /// Its peer is looked up, or has been called.
    Connecting,
    /// It has an IKE SA, or more.
    Up,
}

/// What brings a connection up.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ConnectionStart {
    /// The operator, or the peer.
    None,
    /// The start of the daemon.
    Up,
    /// A packet.
    Trap,
}

/// What stands against a flood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FloodReport {
    /// Half-open SAs now.
    pub half_open: u64,
    /// By the network that they come from, named by its first address.
    pub networks: BTreeMap<IpAddr, u64>,
    /// COOKIEs that the daemon itself has sent.
    pub cookies_sent: u64,
    /// Cookies that it has found wrong.
    pub cookies_wrong: u64,
    /// The gate's level; `None` without a gate.
    pub flood: Option<FloodStatus>,
    /// Networks whose first messages need no cookie.
    pub allowed: Vec<ListedNetwork>,
}
