//! What an operator sees of the core: plain copies of its state, without keys.

pub mod connection;
pub mod origin;

use std::{
    fmt::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;

use crate::{
    endpoint::{Endpoint, Slot},
    io::{Path, Stamp},
    kernel::Mode,
    lease::Leased,
    peer::Suspend,
    sa::ike_sa::{ChildSa, IkeSa, Issued, Live, Purpose, State},
    ticket::{SessionRecord, TicketName},
    trust::TrustError,
    wire::{id::Identity, ts::TrafficSelector},
};

/// One IKE SA, or a connection that sleeps on a ticket.
#[derive(Clone, Debug)]
pub struct SaView {
    /// Our number of it; 0 for a suspended connection, which has no SA.
    pub id: u64,
    /// The connection's name, once known.
    pub connection: Option<Arc<str>>,
    /// Where it stands.
    pub state: SaState,
    /// Whether we sent the first message.
    pub initiator: bool,
    /// SPIi and SPIr.
    pub spis: ([u8; 8], [u8; 8]),
    /// Addresses in use.
    pub path: Option<Path>,
    /// Our identity.
    pub local_id: Option<Identity>,
    /// The peer's identity, proven if established.
    pub remote_id: Option<Identity>,
    /// Suite of the IKE SA, as both Swans write it.
    pub suite: Option<String>,
    /// NAT between us.
    pub nat: bool,
    /// Whether a ticket opened it.
    pub resumed: bool,
    /// Resumptions since the last full authentication.
    pub resume_count: u32,
    /// Since it was established.
    pub age: Option<Duration>,
    /// Since the last full authentication.
    pub full_auth_age: Option<Duration>,
    /// The ticket we hold (client) or issued (gateway): what is left of its lifetime.
    pub ticket_left: Option<Duration>,
    /// What holds the session of a suspended connection.
    pub held_in: Option<Suspend>,
    /// Gateway: the name of that ticket, which only the gateway can read.
    pub ticket_name: Option<TicketName>,
    /// Whether a key exchange of its own is behind the present keys. Not so after a resumption, until
    /// the rekey that follows it.
    pub fresh_keys: Option<bool>,
    /// Who of the two is the client.
    pub client: Side,
    /// What the client has on the inside.
    pub leased: Leased,
    /// What is to come of it; nothing unless it is established.
    pub plans: Plans,
    /// Its Child SAs.
    pub children: Vec<ChildView>,
}

/// How long until something is done about an SA, unless something else comes before it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Plans {
    /// We ask for new keys.
    pub rekey: Option<Duration>,
    /// Client: we log in anew, beside it.
    pub reauth: Option<Duration>,
    /// We ask for a sign of life, if nothing is heard until then.
    pub liveness: Option<Duration>,
    /// It ends.
    pub end: Option<Duration>,
}

/// A session that a client can resume.
#[derive(Clone, Debug)]
pub struct HeldTicket {
    /// The connection's name.
    pub connection: Arc<str>,
    /// Whether the connection sleeps on it.
    pub suspended: bool,
    /// The gateway that issued it.
    pub gateway: Identity,
    /// Where the gateway was reached then.
    pub path: Path,
    /// The ticket's length in octets.
    pub octets: usize,
    /// Since it came.
    pub age: Duration,
    /// What is left of its lifetime; `None` if that is over.
    pub left: Option<Duration>,
    /// Resumptions since the last full authentication.
    pub resume_count: u32,
}

/// One Child SA.
#[derive(Clone, Debug)]
pub struct ChildView {
    /// Its name within the connection.
    pub name: Arc<str>,
    /// Whose kernel state it is, to ask the kernel for its counters.
    pub owner: Arc<str>,
    /// Our inbound SPI.
    pub spi_in: u32,
    /// Our outbound SPI.
    pub spi_out: u32,
    /// What ESP protects.
    pub mode: Mode,
    /// ESP in UDP.
    pub udp_encap: bool,
    /// ESP cipher, and the group of a key exchange of its own, as both Swans write it.
    pub proposal: String,
    /// Selectors of our side.
    pub local_ts: Vec<TrafficSelector>,
    /// Selectors of the peer's side.
    pub remote_ts: Vec<TrafficSelector>,
    /// How long until we ask for new keys.
    pub rekey_in: Option<Duration>,
    /// How long until the kernel ends it.
    pub ends_in: Duration,
}

/// One end of an SA.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Ours.
    Local,
    /// The peer's.
    Remote,
}

/// Where an SA stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SaState {
    /// First message sent.
    Connecting,
    /// First message answered, the peer has proved nothing.
    HalfOpen,
    /// Both sides authenticated.
    Established,
    /// A DELETE is on its way.
    Deleting,
    /// No SA, but a ticket.
    Suspended,
}

impl SaState {
    /// Lower-case word for JSON and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::HalfOpen => "half_open",
            Self::Established => "established",
            Self::Deleting => "deleting",
            Self::Suspended => "suspended",
        }
    }
}

/// Why an SA or an attempt ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Closed {
    /// We deleted it on the operator's word.
    Down,
    /// The peer sent DELETE.
    PeerDeleted,
    /// No answer in the time RFC 7296, 2.4 leaves us.
    Timeout,
    /// The peer did not prove its identity, or would not believe ours.
    AuthenticationFailed,
    /// No suite both sides like.
    NoProposalChosen,
    /// No common traffic selectors.
    TsUnacceptable,
    /// The gateway has no inner address for us, or gave none.
    NoAddress,
    /// The gateway wants us to ask for an inner address.
    AddressRequired,
    /// The kernel would not take the Child SA.
    Kernel,
    /// The operator suspended it.
    Suspended,
    /// A resumed SA, or a new login of the same peer, took its place.
    Replaced,
    /// The peer broke the protocol after it was authenticated.
    Protocol,
    /// A table of ours was full.
    Limit,
    /// Its lifetime is over.
    Expired,
    /// Its Child SA has moved to a new IKE SA, by a rekey, or has been replaced there by a new login.
    Rekeyed,
    /// The gateway has sent us to another one (RFC 5685).
    Redirected,
    /// Gateways send us from one to the next (RFC 5685, 7).
    RedirectLoop,
    /// The peer has lost it, and has proved that by a token (RFC 6290).
    Crashed,
    /// We are at another address, where it cannot follow.
    Moved,
    /// Nobody knows where the peer is.
    Unresolved,
    /// Its connection has other settings now, by which it is to come up again.
    Reconfigured,
}

/// Octets in hexadecimal digits, two for each.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        let _infallible = write!(text, "{octet:02x}");
        text
    })
}

impl Closed {
    /// Lower-case word for JSON, logs and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::PeerDeleted => "peer_deleted",
            Self::Timeout => "timeout",
            Self::AuthenticationFailed => "peer_auth_failed",
            Self::NoProposalChosen => "proposal_mismatch",
            Self::TsUnacceptable => "ts_mismatch",
            Self::NoAddress => "no_address",
            Self::AddressRequired => "address_required",
            Self::Kernel => "kernel",
            Self::Suspended => "suspended",
            Self::Replaced => "replaced",
            Self::Protocol => "protocol_error",
            Self::Limit => "limit",
            Self::Expired => "expired",
            Self::Rekeyed => "rekeyed",
            Self::Redirected => "redirected",
            Self::RedirectLoop => "redirect_loop",
            Self::Crashed => "peer_crashed",
            Self::Moved => "moved",
            Self::Unresolved => "unresolved",
            Self::Reconfigured => "reconfigured",
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a peer that speaks IKE correctly did not prove who it is.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum Unproven {
    /// It proved itself in another way than the connection asks for.
    #[error("a pre-shared key where a certificate is wanted, or the reverse")]
    Method,
    /// Its key is not ours.
    #[error("another pre-shared key")]
    PreSharedKey,
    /// Its certificate or signature will not do.
    #[error(transparent)]
    Certificate(#[from] TrustError),
}

impl Unproven {
    /// Lower-case word for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Method => "auth_method_mismatch",
            Self::PreSharedKey => "peer_auth_failed",
            Self::Certificate(why) => why.word(),
        }
    }
}

/// What an operator sees of an SA; nothing of one that is only kept for a retransmission.
pub(crate) fn of_sa(sa: &IkeSa, endpoint: &Endpoint, now: Stamp) -> Option<SaView> {
    let mut view = SaView {
        id: sa.id,
        connection: sa.connection().map(|config| Arc::clone(&config.name)),
        state: SaState::Connecting,
        initiator: sa.initiator,
        spis: (sa.spi_i, sa.spi_r),
        path: Some(sa.path),
        local_id: sa.connection().map(|config| config.local.id.clone()),
        remote_id: None,
        suite: None,
        nat: false,
        resumed: false,
        resume_count: 0,
        age: None,
        full_auth_age: None,
        ticket_left: None,
        held_in: None,
        ticket_name: None,
        fresh_keys: None,
        client: Side::Remote,
        leased: Leased::default(),
        plans: Plans::default(),
        children: Vec::new(),
    };
    match &sa.state {
        State::InitSent(_) | State::ResumeSent(_) | State::AuthSent(_) => {}
        State::HalfOpen(_) => view.state = SaState::HalfOpen,
        State::Installing(live, _) => fill(&mut view, live, now),
        State::Up(live) => {
            fill(&mut view, live, now);
            view.state = if is_going(live) {
                SaState::Deleting
            } else {
                SaState::Established
            };
            view.age = Some(now.boot.saturating_sub(live.established));
            view.plans = plans(live, now.boot);
            if live.client {
                let record = endpoint.record_of(&live.connection.name);
                view.ticket_left = record.and_then(|record| record.left(now));
            } else if let Some(Issued { name, expiry, .. }) = live.issued
                && endpoint.keyring.knows(name.key_id)
            {
                let left = Duration::from_secs(expiry.saturating_sub(now.wall));
                (view.ticket_left, view.ticket_name) = (Some(left), Some(name));
            }
        }
        State::Lingering(_) | State::Gone => return None,
    }
    Some(view)
}

fn fill(view: &mut SaView, live: &Live, now: Stamp) {
    view.remote_id = Some(live.peer.clone());
    view.suite = Some(live.suite.to_string());
    view.nat = live.nat.found();
    view.resumed = live.origin.resumed;
    view.resume_count = u32::from(live.origin.resume_count);
    view.full_auth_age = Some(live.origin.full_auth.age(now));
    view.client = if live.client {
        Side::Local
    } else {
        Side::Remote
    };
    view.leased = live.leased.clone();
    let children_are_fresh = live.children.iter().all(|child| child.fresh_keys);
    view.fresh_keys = Some(live.origin.fresh_keys && children_are_fresh);
    let of_child = |child: &ChildSa| ChildView {
        name: Arc::clone(&child.name),
        owner: Arc::clone(&child.owner.0),
        spi_in: child.spi_in,
        spi_out: child.spi_out,
        mode: child.carriage.mode,
        udp_encap: live.nat.found(),
        proposal: match child.group {
            Some(group) => format!("{}-{}", child.cipher.name(), group.name()),
            None => child.cipher.name().to_owned(),
        },
        local_ts: child.local_ts.clone(),
        remote_ts: child.remote_ts.clone(),
        rekey_in: child.rekey_at.map(|at| at.saturating_sub(now.boot)),
        ends_in: child.end.saturating_sub(now.boot),
    };
    view.children = live.children.iter().map(of_child).collect();
}

/// Whether it is about to be gone.
fn is_going(live: &Live) -> bool {
    matches!(live.outstanding, Some((Purpose::Delete(_), _))) || live.moved_until.is_some()
}

fn plans(live: &Live, now: Duration) -> Plans {
    let until = |at: Duration| at.saturating_sub(now);
    Plans {
        rekey: live.rekey_at.map(until),
        reauth: live.reauth_at.map(until),
        liveness: live.liveness_due().map(until),
        end: Some(until(live.end)),
    }
}

/// What an operator sees of a connection that sleeps on a ticket.
pub(crate) fn of_slot(slot: &Slot, now: Stamp) -> Option<SaView> {
    let record = slot.record.as_ref().filter(|_| slot.suspended)?;
    Some(SaView {
        id: 0,
        connection: Some(Arc::clone(&slot.config.name)),
        state: SaState::Suspended,
        initiator: true,
        spis: ([0; 8], [0; 8]),
        path: Some(record.path),
        local_id: Some(record.id_i.clone()),
        remote_id: Some(record.id_r.clone()),
        suite: Some(record.suite.to_string()),
        nat: false,
        resumed: false,
        resume_count: u32::from(record.resume_count),
        age: None,
        full_auth_age: Some(record.full_auth.age(now)),
        ticket_left: record.left(now),
        held_in: Some(slot.config.resume.suspend),
        ticket_name: None,
        fresh_keys: None,
        client: Side::Local,
        leased: Leased {
            addresses: slot.leased.clone(),
            ..Leased::default()
        },
        plans: Plans::default(),
        children: Vec::new(),
    })
}

/// What an operator sees of the session that a connection can resume.
pub(crate) fn held_ticket(slot: &Slot, record: &SessionRecord, now: Stamp) -> HeldTicket {
    HeldTicket {
        connection: Arc::clone(&slot.config.name),
        suspended: slot.suspended,
        gateway: record.id_r.clone(),
        path: record.path,
        octets: record.ticket.len(),
        age: record.received.age(now),
        left: record.left(now),
        resume_count: u32::from(record.resume_count),
    }
}
