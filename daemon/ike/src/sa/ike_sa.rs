//! The states of one IKE SA. Each variant holds only what is valid then: an SA whose peer has proved
//! nothing has no Child SA to lose, and an established one no longer has its first messages.

use std::{collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

pub(crate) use super::{children::ChildSa, origin::Origin};
use super::{
    children::{Beside, ChildRekeying, PendingChild, WantedChild},
    first::FirstExchange,
    mobike::Mobike,
    nat::Nat,
    proposal::IkeSuite,
    protection::Protection,
    window::{Datagrams, Outstanding, Window},
};
use crate::{
    crypto::{Group, KeyShare, Secret, keymat::KeyMaterial},
    defence::pace::Paces,
    exchange::{Ends, Heir, Storing, TicketAnswer, bare, owner},
    io::{Path, Session, Stamp, TicketLedger},
    kernel::Owner,
    lease::Leased,
    peer::{Child, Connection, Unique},
    ticket::{Kept, Opened, Reference, SessionRecord, TicketName},
    trust::Hashes,
    view::Closed,
    wire::{
        header::{Exchange, Header, Spi},
        id::Identity,
        notify::NotifyKind,
        payload::{ChainWriter, PayloadKind},
        redirect::GatewayId,
    },
};

/// One IKE SA, from its first message to its last.
#[derive(Debug)]
pub(crate) struct IkeSa {
    /// Our number of it.
    pub id: u64,
    pub spi_i: Spi,
    pub spi_r: Spi,
    /// Whether we sent the first message; fixed for the SA's life.
    pub initiator: bool,
    pub path: Path,
    pub started: Duration,
    pub state: State,
}

/// Where an IKE SA stands.
#[derive(Debug)]
pub(crate) enum State {
    /// Initiator: IKE_SA_INIT is on its way.
    InitSent(Box<InitSent>),
    /// Initiator: IKE_SESSION_RESUME is on its way.
    ResumeSent(Box<ResumeSent>),
    /// Initiator: IKE_AUTH is on its way.
    AuthSent(Box<AuthSent>),
    /// Responder: the first message is answered, nothing is proved.
    HalfOpen(Box<HalfOpen>),
    /// Both sides have proved themselves; the kernel has not answered yet.
    Installing(Box<Live>, Box<Installing>),
    /// In use.
    Up(Box<Live>),
    /// Over, but its last answer may have been lost and be asked for again.
    Lingering(Box<Lingering>),
    /// Taken apart by the step that is under way.
    Gone,
}

#[derive(Debug)]
pub(crate) struct InitSent {
    pub connection: Arc<Connection>,
    pub ni: Vec<u8>,
    pub key_share: Box<dyn KeyShare>,
    pub cookie: Vec<u8>,
    /// It goes where the configuration does not say.
    pub is_detour: bool,
    /// The gateway that has sent us to this one.
    pub redirected_from: Option<IpAddr>,
    /// Rounds of COOKIE and INVALID_KE_PAYLOAD so far.
    pub rounds: u8,
    /// An unauthenticated error, and when to believe it (RFC 7296, 2.21.1).
    pub hint: Option<(Closed, Duration)>,
    pub out: Outstanding,
    /// The first notification in clear that refused it: a hint, until somebody answers otherwise.
    pub refused: Option<NotifyKind>,
}

impl InitSent {
    /// Whether an answer has named another gateway already.
    pub(crate) const fn is_redirected(&self) -> bool {
        matches!(
            self.hint,
            Some((Closed::Redirected | Closed::RedirectLoop, _))
        )
    }
}

#[derive(Debug)]
pub(crate) struct ResumeSent {
    pub connection: Arc<Connection>,
    pub record: SessionRecord,
    pub ni: Vec<u8>,
    pub cookie: Vec<u8>,
    pub rounds: u8,
    /// Whether the ticket is presented once more.
    pub again: bool,
    /// When a full exchange starts beside this one; `None` once it has.
    pub race_at: Option<Duration>,
    /// After a TICKET_NACK or a REDIRECT: how long a genuine answer may still come.
    pub give_up_at: Option<Duration>,
    /// Whether it was a REDIRECT.
    pub redirected: bool,
    pub out: Outstanding,
    /// As in [`InitSent`].
    pub refused: Option<NotifyKind>,
}

#[derive(Debug)]
pub(crate) struct AuthSent {
    pub connection: Arc<Connection>,
    pub first: FirstExchange,
    pub suite: IkeSuite,
    pub keys: KeyMaterial,
    pub protection: Protection,
    pub nat: Nat,
    /// The child that is asked for, if one is, and the SPI of its inbound side.
    pub child: Option<(Arc<str>, u32)>,
    /// The record whose ticket was accepted; not used up before IKE_AUTH succeeds (RFC 5723, 4.3.1).
    pub resumed: Option<SessionRecord>,
    /// Whether a COOKIE came in between: the answer may be to a request before the last.
    pub doubtful: bool,
    pub out: Outstanding,
}

#[derive(Debug)]
pub(crate) struct HalfOpen {
    pub first: FirstExchange,
    pub nat: Nat,
    /// What the peer can check signatures of RFC 7427 with.
    pub peer_hashes: Hashes,
    /// Whether both sides have said that they take fragments (RFC 7383).
    pub fragments: bool,
    /// Whether the client goes where it is sent (RFC 5685).
    pub follows: bool,
    pub ripeness: Ripeness,
}

/// How far the keys of a half-open SA are: nothing is derived before IKE_AUTH arrives.
#[derive(Debug)]
pub(crate) enum Ripeness {
    /// After IKE_SA_INIT.
    Exchanged {
        key_share: Box<dyn KeyShare>,
        peer_public: Box<[u8]>,
        suite: IkeSuite,
    },
    /// After IKE_SESSION_RESUME. The ticket is in the request, and is opened once more when there is
    /// a reason to: what it says would take as much room again.
    Ticket {
        name: TicketName,
        /// When it was found good, Unix seconds.
        at: u64,
        /// By reference: what it names, or the second of two racers could not even be answered.
        kept: Option<Box<Kept>>,
    },
    /// Keys derived, waiting for an IKE_AUTH that opens.
    Ripe(Box<Ripe>),
    /// The peer's public value was no good: nothing can ever open.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Ripe {
    pub keys: KeyMaterial,
    pub protection: Protection,
    pub suite: IkeSuite,
    pub ticket: Option<Box<Opened>>,
}

/// The answer that waits for the kernel.
#[derive(Debug)]
pub(crate) enum Installing {
    /// We initiated: nothing to send, but a ticket to keep if all goes well.
    Initiator { ticket: TicketAnswer },
    /// We respond: what to say if it works, and if not.
    Responder {
        works: ChainWriter,
        fails: ChainWriter,
        request: Vec<u8>,
    },
    /// We respond, and the kernel is asked when the store has done its part.
    Storing(Box<Storing>),
}

#[derive(Debug)]
pub(crate) struct Live {
    pub connection: Arc<Connection>,
    pub peer: Identity,
    /// Whether we hold tickets of the peer, and not the peer of us. A gateway's rekey turns the
    /// header's I flag around, but not this (RFC 5723, 2).
    pub client: bool,
    pub suite: IkeSuite,
    pub sk_d: Secret,
    pub protection: Protection,
    pub window: Window,
    pub outstanding: Option<(Purpose, Outstanding)>,
    /// A DELETE waits for the outstanding request to be answered.
    pub delete_next: Option<Closed>,
    /// Child SAs that carry traffic, at most one of an owner.
    pub children: Vec<ChildSa>,
    /// What the client has on the inside.
    pub leased: Leased,
    pub nat: Nat,
    /// If both sides know MOBIKE.
    pub mobike: Option<Mobike>,
    pub origin: Origin,
    /// Gateway: the ticket issued on this SA.
    pub issued: Option<Issued>,
    /// Gateway: whether the client goes where it is sent (RFC 5685).
    pub follows: bool,
    /// Gateway: where the client is to be sent, and how long it has to go.
    pub redirect_next: Option<(GatewayId, Duration)>,
    /// The peer's token, by which it can prove that it has lost this SA (RFC 6290).
    pub token: Vec<u8>,
    pub established: Duration,
    /// When its session began, which new keys do not end.
    pub session_since: Duration,
    /// When the peer must have authenticated again.
    pub end: Duration,
    /// Until when the last full authentication counts, by our settings or the gateway's AUTH_LIFETIME.
    pub auth_until: Duration,
    /// What the peer may ask for.
    pub pace: Paces,
    /// Client: when to authenticate anew.
    pub reauth_at: Option<Duration>,
    /// Gateway: the client says that it has no other SA with us.
    pub alone: bool,
    /// The SA between the same two sides beside which this one comes up.
    pub beside_of: Option<u64>,
    /// What stands beside this one to take its place.
    pub heir: Option<Heir>,
    /// When the peer last proved to be there.
    pub heard: Duration,
    pub last_keepalive: Duration,
    /// When to ask for new keys.
    pub rekey_at: Option<Duration>,
    /// Child SAs that we are to ask for.
    pub wanted: Vec<WantedChild>,
    /// New Child SAs that wait for the kernel, in the order in which it was asked.
    pub pending: VecDeque<PendingChild>,
    /// Child SAs in the kernel that we do not send on.
    pub beside: Vec<Beside>,
    /// Since when the peer has put us off, and when it did last.
    pub put_off: Option<(Duration, Duration)>,
    /// Client: when to ask for a ticket.
    pub ask_ticket_at: Option<Duration>,
    /// It carries nothing: a rekey has moved the Child SAs to another IKE SA, or may have made this one
    /// in vain. It is to go by then.
    pub moved_until: Option<Duration>,
}

/// A ticket that the gateway has issued on an SA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Issued {
    pub name: TicketName,
    /// When it ends, Unix seconds.
    pub expiry: u64,
    pub reference: Option<Reference>,
}

impl Issued {
    /// Makes the ticket void: its SA is deleted or rekeyed, or has got another one. `false`
    /// if it was that already.
    pub(crate) fn revoke(self, ledger: &mut dyn TicketLedger) -> bool {
        let first = ledger.mark_used(self.name.key_id, self.name.index);
        if let Some(reference) = self.reference {
            ledger.release(&reference);
        }
        first
    }
}

/// What two sides know of each other once both have proved themselves.
pub(crate) struct Proven {
    pub connection: Arc<Connection>,
    pub peer: Identity,
    pub client: bool,
    pub suite: IkeSuite,
    pub sk_d: Secret,
    pub protection: Protection,
    pub window: Window,
    pub child: Option<ChildSa>,
    pub leased: Leased,
    pub nat: Nat,
    pub mobike: Option<Mobike>,
    pub origin: Origin,
}

impl Live {
    // RFC 5723: T12, A13
    /// An SA that begins its life now.
    pub(crate) fn new(proven: Proven, now: Stamp) -> Box<Self> {
        let Proven {
            connection,
            peer,
            client,
            suite,
            sk_d,
            protection,
            window,
            child,
            leased,
            nat,
            mobike,
            origin,
        } = proven;
        // No chain of resumptions and rekeys outlives the last full authentication by more than the
        // configuration allows.
        let reauth = connection.reauth.map(|after| origin.full_auth.after(after));
        let end = reauth
            .into_iter()
            .chain([now.boot + connection.ike_lifetime])
            .min();
        Box::new(Self {
            end: end.unwrap_or(now.boot),
            auth_until: reauth.unwrap_or(Duration::MAX),
            reauth_at: None,
            alone: false,
            beside_of: None,
            heir: None,
            connection,
            peer,
            client,
            suite,
            sk_d,
            protection,
            window,
            outstanding: None,
            delete_next: None,
            children: child.into_iter().collect(),
            leased,
            nat,
            mobike,
            origin,
            issued: None,
            follows: false,
            redirect_next: None,
            token: Vec::new(),
            established: now.boot,
            session_since: now.boot,
            pace: Paces::new(),
            heard: now.boot,
            last_keepalive: now.boot,
            rekey_at: None,
            wanted: Vec::new(),
            pending: VecDeque::new(),
            beside: Vec::new(),
            put_off: None,
            ask_ticket_at: None,
            moved_until: None,
        })
    }
}

impl Live {
    /// Its session, as an account of it begins.
    pub(crate) fn session(&self, now: Stamp) -> Session {
        // Also of those that have come and gone.
        let children = self.connection.children.iter();
        let inside = &self.leased.addresses;
        let owner = |child: &Child| owner(&self.connection, &child.name, &self.peer, inside);
        let mut owners: Vec<_> = children.map(owner).collect();
        for child in &self.children {
            if !owners.contains(&child.owner) {
                owners.push(child.owner.clone());
            }
        }
        Session {
            peer: self.peer.clone(),
            lasted: now.boot.saturating_sub(self.session_since),
            resumptions: u32::from(self.origin.resume_count),
            since_login: self.origin.full_auth.age(now),
            owners,
        }
    }

    /// Groups that a Child SA may have a key exchange of its own in, if its proposals name none.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let suites = self.connection.ike_suites.iter();
        suites.map(|suite| suite.group).collect()
    }

    /// Where its Child SAs begin and end.
    pub(crate) fn ends(&self, path: Path) -> Ends<'_> {
        let leased = if self.client {
            &self.leased.addresses[..]
        } else {
            &[]
        };
        Ends {
            path,
            nat: self.nat,
            client: self.client,
            leased,
        }
    }

    /// What the configuration says of a Child SA, with the addresses of this client.
    pub(crate) fn child_terms(&self, name: &str) -> Option<Child> {
        let child = self.connection.child(name)?;
        Some(child.with(&self.leased.addresses))
    }
}

/// What a request of ours was for.
#[derive(Debug)]
pub(crate) enum Purpose {
    Liveness,
    Delete(Closed),
    Ticket,
    Redirect,
    Rekey(Box<Rekeying>),
    ChildRekey(Box<ChildRekeying>),
    DeleteChild {
        /// Our inbound SPI of it.
        spi_in: u32,
        /// The peer may not have known of it when we asked.
        unheard: bool,
    },
    /// UPDATE_SA_ADDRESSES, with the addresses that it was sent on.
    Update(Path),
    /// Whether the peer is at its end of this path (RFC 4555, 3.7).
    Check {
        cookie: Vec<u8>,
        path: Path,
    },
}

/// Our half of a rekey that is under way.
#[derive(Debug)]
pub(crate) struct Rekeying {
    pub ni: Vec<u8>,
    pub key_share: Box<dyn KeyShare>,
    /// Our SPI of the SA to come.
    pub spi: Spi,
    /// The peer wanted this group: one that wants another yet is not asked for ever.
    pub again: bool,
    /// What the peer has made of a rekey of its own, meanwhile.
    pub rival: Option<Rival>,
}

/// The IKE SA that the peer's rekey has made while ours is under way: one of the two is redundant.
#[derive(Debug)]
pub(crate) struct Rival {
    /// Our number of it.
    pub sa: u64,
    /// The lower nonce of its exchange.
    pub lowest: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Lingering {
    /// What a repetition of the last request is known by.
    pub request: Vec<u8>,
    pub response: Datagrams,
    pub until: Duration,
}

impl IkeSa {
    /// The SPI the peer addresses us by.
    pub(crate) const fn our_spi(&self) -> Spi {
        if self.initiator {
            self.spi_i
        } else {
            self.spi_r
        }
    }

    pub(crate) const fn header(&self, exchange: Exchange, response: bool, id: u32) -> Header {
        Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            next: PayloadKind::NONE,
            exchange,
            from_initiator: self.initiator,
            response,
            message_id: id,
        }
    }

    /// The connection, once one is known.
    pub(crate) fn connection(&self) -> Option<&Arc<Connection>> {
        match &self.state {
            State::InitSent(sent) => Some(&sent.connection),
            State::ResumeSent(sent) => Some(&sent.connection),
            State::AuthSent(sent) => Some(&sent.connection),
            State::Installing(live, _) | State::Up(live) => Some(&live.connection),
            State::HalfOpen(_) | State::Lingering(_) | State::Gone => None,
        }
    }

    fn children(&self) -> &[ChildSa] {
        match &self.state {
            State::Installing(live, _) | State::Up(live) => &live.children,
            _ => &[],
        }
    }

    /// Our inbound ESP SPIs, also while one is only offered.
    pub(crate) fn child_spis(&self) -> impl Iterator<Item = u32> {
        let offered = match &self.state {
            State::AuthSent(sent) => sent.child.as_ref().map(|(_, spi)| *spi),
            State::Up(live) => match &live.outstanding {
                Some((Purpose::ChildRekey(ours), _)) => Some(ours.spi_in),
                _ => None,
            },
            _ => None,
        };
        let others = match &self.state {
            State::Up(live) => Some(live),
            _ => None,
        };
        let others = others.into_iter().flat_map(|live| {
            let pending = live.pending.iter().map(|pending| pending.child.spi_in);
            pending.chain(live.beside.iter().map(|beside| beside.child.spi_in))
        });
        let present = self.children().iter().map(|child| child.spi_in);
        offered.into_iter().chain(present).chain(others)
    }

    /// Whose Child SAs it has, or is about to have. One that could have some and has none stands for its peer alone.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        let bare = match &self.state {
            State::Up(live) if live.children.is_empty() && live.moved_until.is_none() => {
                Some(bare(&live.connection, &live.peer, &live.leased.addresses))
            }
            _ => None,
        };
        let pending = match &self.state {
            State::Up(live) => Some(&live.pending),
            _ => None,
        };
        let pending = pending.into_iter().flatten().map(|pending| &pending.child);
        let owners = self.children().iter().chain(pending);
        owners.map(|child| child.owner.clone()).chain(bare)
    }

    /// The peer whose SA this is, if a second login of that peer is to leave it alone.
    pub(crate) fn kept_peer(&self) -> Option<Owner> {
        match &self.state {
            State::Up(live)
                if live.connection.unique == Unique::Keep
                    && !live.client
                    && live.heir.is_none() =>
            {
                Some(bare(&live.connection, &live.peer, &[]))
            }
            _ => None,
        }
    }

    /// The connection this is an attempt of ours at, until it has come to an SA.
    pub(crate) fn attempt_of(&self) -> Option<&Arc<str>> {
        let under_way = matches!(
            &self.state,
            State::InitSent(_) | State::ResumeSent(_) | State::AuthSent(_)
        );
        let under_way = under_way
            || matches!(&self.state, State::Installing(_, waiting)
                if matches!(**waiting, Installing::Initiator { .. }));
        self.connection()
            .filter(|_| under_way)
            .map(|connection| &connection.name)
    }

    /// Octets of fragments that a half-open SA waits with.
    pub(crate) fn half_open_octets(&self) -> usize {
        let State::HalfOpen(half) = &self.state else {
            return 0;
        };
        match &half.ripeness {
            Ripeness::Ripe(ripe) => ripe.protection.held_octets(),
            _ => 0,
        }
    }

    /// The ticket that a half-open SA was opened with.
    pub(crate) fn presented_ticket(&self) -> Option<TicketName> {
        let State::HalfOpen(half) = &self.state else {
            return None;
        };
        match &half.ripeness {
            Ripeness::Ticket { name, .. } => Some(*name),
            Ripeness::Ripe(ripe) => ripe.ticket.as_ref().map(|opened| opened.name),
            Ripeness::Exchanged { .. } | Ripeness::Dead => None,
        }
    }
}
