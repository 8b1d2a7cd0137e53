//! What goes into the core and what comes out of it. The caller owns sockets, clocks and the
//! kernel: it feeds [`Input`]s with the time and a source of randomness, then carries out every
//! [`Output`] in order.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    crypto::{Group, KeyShare, Secret, SignError, SignatureScheme},
    failure::Failure,
    kernel::{KernelFailed, KernelOp, OpId, Owner},
    lease::LeaseId,
    look_up::Way,
    ticket::{Kept, Reference, Refused},
    view::Closed,
    watch::Overheard,
    wire::{header::Spi, id::Identity, redirect::GatewayId},
};

/// A moment, on both clocks that IKE needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Time since boot, counting suspend. All deadlines are on this clock.
    pub boot: Duration,
    /// Unix time in seconds; only for what outlives a boot, such as a ticket's expiry.
    pub wall: u64,
}

/// A moment that is over, maybe since before this boot. Its age grows with the boot clock, which no step
/// of the wall clock moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Past {
    wall: u64,
    /// On the boot clock, or its beginning.
    boot: Duration,
    /// How much older it is than the boot.
    before_boot: Duration,
}

impl Past {
    /// A moment of which only the Unix time in seconds is known.
    #[must_use]
    pub const fn at_wall(wall: u64, now: Stamp) -> Self {
        let age = Duration::from_secs(now.wall.saturating_sub(wall));
        Self {
            wall,
            boot: now.boot.saturating_sub(age),
            before_boot: age.saturating_sub(now.boot),
        }
    }

    /// Its Unix time in seconds.
    #[must_use]
    pub const fn wall(self) -> u64 {
        self.wall
    }

    /// How long it has been.
    #[must_use]
    pub const fn age(self, now: Stamp) -> Duration {
        let since = now.boot.saturating_sub(self.boot);
        since.saturating_add(self.before_boot)
    }

    /// So long after it, on the boot clock; its beginning if that was before.
    #[must_use]
    pub const fn after(self, span: Duration) -> Duration {
        let at = self.boot.saturating_add(span);
        at.saturating_sub(self.before_boot)
    }
}

impl From<Stamp> for Past {
    fn from(now: Stamp) -> Self {
        Self {
            wall: now.wall,
            boot: now.boot,
            before_boot: Duration::ZERO,
        }
    }
}

/// The two ends of a datagram.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Path {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
}

/// What the caller tells the core.
#[derive(Debug)]
pub enum Input<'a> {
    /// An IKE message, without the four zero octets of port 4500 (RFC 7296, 2.23).
    Datagram {
        /// Where it came from and where it arrived.
        path: Path,
        /// The message from its first SPI octet on.
        message: &'a [u8],
    },
    /// A deadline may have passed.
    Deadline,
    /// The kernel has carried out an [`Output::Kernel`], or could not.
    Kernel {
        /// The operation's number.
        op: OpId,
        /// How it went.
        result: Result<(), KernelFailed>,
    },
    /// The kernel says of itself that a state has carried so much that new keys are due, or has ended it.
    Expired {
        /// Whose.
        owner: Owner,
        /// The state's SPI, whoever has chosen it.
        spi: u32,
        /// Whether it is gone.
        hard: bool,
    },
    /// The kernel says that an authenticated packet of ESP in UDP has come to a state from elsewhere than
    /// the state has its peer. It says so again for as long as such packets come.
    Mapped {
        /// Whose state.
        owner: Owner,
        /// The state's SPI, which is ours.
        spi: u32,
        /// From where.
        source: SocketAddr,
    },
    /// What [`TicketLedger::begin_keep`], [`TicketLedger::begin_consume`] or
    /// [`crate::lease::LeaseBook::grant`] began is done, and outlives a power cut; or it has failed.
    Stored {
        /// Its number.
        id: StoreId,
        /// Whether it is done.
        done: bool,
    },
    /// What [`Output::LookUp`] asked for.
    LookedUp {
        /// The connection's name.
        connection: Arc<str>,
        /// As it was asked for.
        elsewhere: Option<GatewayId>,
        /// Ways to the peer, best first, or why there is none.
        found: Result<Vec<Way>, String>,
    },
}

/// Number of a change of the gateway's store, unique within one run.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StoreId(pub u64);

/// What an operator can ask of a connection, by its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Bring it up: resume if a ticket is at hand, else a full exchange.
    Up(Arc<str>),
    /// Delete its SA with the peer's knowledge, and forget its ticket (RFC 5723, 6.2).
    Down(Arc<str>),
    /// Drop the SA without a DELETE and keep the ticket.
    Suspend(Arc<str>),
    /// Have the kernel report the first packet that belongs into it; nothing of its flow leaves in clear.
    Trap(Arc<str>),
    /// New keys for its IKE SA, with a key exchange of their own (RFC 7296, 1.3.2).
    Rekey(Arc<str>),
    /// New keys for one of its Child SAs, or for each (RFC 7296, 1.3.3).
    RekeyChild(Arc<str>, Option<Arc<str>>),
    /// Bring one of its Child SAs up, and the connection first if it is not (RFC 7296, 1.3.1).
    UpChild(Arc<str>, Arc<str>),
    /// Delete one of its Child SAs, and nothing else (RFC 7296, 1.4.1).
    DownChild(Arc<str>, Arc<str>),
}

/// What the caller has to do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// An SPI of ours has come into use or gone out of it, which helps to turn away packets that
    /// belong to no SA.
    OwnSpi {
        /// The SPI.
        spi: Spi,
        /// Whether it is in use now.
        live: bool,
    },
    /// A first message was taken. Its repetition is not to be asked for a cookie.
    Admitted {
        /// The initiator's SPI.
        spi_i: Spi,
        /// Where it came from.
        source: IpAddr,
        /// The first octets of Ni, which has no fewer.
        nonce_head: [u8; 16],
    },
    /// Send an IKE message.
    Datagram {
        /// From where, to where.
        path: Path,
        /// The message, without non-ESP marker.
        message: Vec<u8>,
    },
    /// Look up where the connection's peer is and which addresses of ours lead there, then report with
    /// [`Input::LookedUp`].
    LookUp {
        /// The connection's name.
        connection: Arc<str>,
        /// The gateway that a client has been sent to; `None` for those of
        /// [`Connection::remote_hosts`](crate::peer::Connection::remote_hosts).
        elsewhere: Option<GatewayId>,
    },
    /// Send one octet 0xFF to keep a NAT mapping alive (RFC 3948, 2.3).
    Keepalive {
        /// From where, to where.
        path: Path,
    },
    /// Change the kernel's SAs or policies, then report with [`Input::Kernel`].
    Kernel {
        /// Number to report with.
        op: OpId,
        /// What to do.
        what: KernelOp,
    },
    /// Keep a client's session where it outlives a reboot, or erase it there. Durable before the next
    /// output is carried out: what follows may be the use of the ticket.
    Session {
        /// The connection's name.
        connection: Arc<str>,
        /// The record's octets, to be sealed; `None` to erase.
        record: Option<Secret>,
    },
    /// An SA has let go of the addresses that were granted to its peer.
    LeaseEnded(LeaseId),
    /// Something an operator, a log or a test wants to know.
    Event(Event),
}

/// A session that is over: from a login or a resumption, over any number of new keys, to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The authenticated peer.
    pub peer: Identity,
    /// How long it was.
    pub lasted: Duration,
    /// Resumptions since the last full authentication, this one's included.
    pub resumptions: u32,
    /// How long that authentication was ago.
    pub since_login: Duration,
    /// Whose states have carried its traffic.
    pub owners: Vec<Owner>,
}

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// An IKE SA is up, and the Child SA that came with it, in the kernel too.
    Established {
        /// Our number of the IKE SA.
        sa: u64,
        /// The connection's name.
        connection: Arc<str>,
        /// The authenticated peer.
        peer: Identity,
        /// Whether a ticket replaced the full exchange (RFC 5723).
        resumed: bool,
        /// Whether we sent the first message.
        initiator: bool,
        /// From the first message to this event.
        took: Duration,
    },
    /// An IKE SA is gone.
    Closed {
        /// Our number of the IKE SA.
        sa: u64,
        /// The connection's name.
        connection: Arc<str>,
        /// Why.
        reason: Closed,
        /// What it was; nothing if its session goes on with other keys.
        session: Option<Box<Session>>,
    },
    /// An IKE SA has new keys and a new number.
    Rekeyed {
        /// Our number of the old IKE SA.
        old: u64,
        /// Our number of the new one.
        sa: u64,
        /// The connection's name.
        connection: Arc<str>,
    },
    /// A Child SA has new keys.
    ChildRekeyed {
        /// The connection's name.
        connection: Arc<str>,
        /// The Child SA's, within the connection.
        child: Arc<str>,
    },
    /// Another Child SA is up on an IKE SA, in the kernel too.
    ChildUp {
        /// The connection's name.
        connection: Arc<str>,
        /// The Child SA's, within the connection.
        child: Arc<str>,
    },
    /// A Child SA is gone, but not its IKE SA.
    ChildClosed {
        /// The connection's name.
        connection: Arc<str>,
        /// The Child SA's, within the connection.
        child: Arc<str>,
        /// Why.
        reason: Closed,
    },
    /// A Child SA that we have asked for is not to be had now. It is asked for again.
    ChildFailed {
        /// The connection's name.
        connection: Arc<str>,
        /// The Child SA's, within the connection.
        child: Arc<str>,
        /// Why.
        reason: Closed,
    },
    /// A connection's SAs have moved to other addresses, or have been confirmed where they are
    /// (RFC 4555); or they follow a peer whose NAT has moved it (RFC 7296, 2.23).
    Moved {
        /// The connection's name.
        connection: Arc<str>,
        /// Where they are now.
        path: Path,
    },
    /// A gateway has sent us to another one, which is called if it can be found (RFC 5685).
    Redirected {
        /// The connection's name.
        connection: Arc<str>,
        /// Where we are to go.
        gateway: GatewayId,
        /// Who has sent us.
        by: IpAddr,
    },
    /// A connection holds a ticket instead of an SA now.
    Suspended {
        /// The connection's name.
        connection: Arc<str>,
    },
    /// A session that slept has come to the end of its ticket's life.
    SessionEnded {
        /// The connection's name.
        connection: Arc<str>,
    },
    /// An attempt to bring a connection up has ended without an SA.
    UpFailed {
        /// The connection's name.
        connection: Arc<str>,
        /// Why.
        reason: Closed,
    },
    /// Something went wrong with a peer. Of these there are so many in a second at most; who asks for
    /// counts has [`crate::counters`].
    Failed(Box<Failure>),
    /// The gateway has given a ticket to a client.
    TicketIssued {
        /// The connection's name.
        connection: Arc<str>,
        /// The ticket's length in octets.
        octets: usize,
    },
    /// A client has received a ticket.
    TicketReceived {
        /// The connection's name.
        connection: Arc<str>,
        /// The ticket's length in octets.
        octets: usize,
        /// How long it may be presented.
        lifetime: Duration,
    },
    /// A presented ticket was refused with TICKET_NACK.
    TicketRefused {
        /// Where the request came from.
        from: SocketAddr,
        /// Why.
        why: Refused,
    },
    /// A message of somebody who is watched.
    Overheard(Box<Overheard>),
    /// An operation on the kernel failed; the SA it was for has been taken back.
    KernelFailed {
        /// The connection's name.
        connection: Arc<str>,
        /// The kernel's own words.
        text: String,
    },
}

/// What the core may ask for in the middle of a step: chance, and the keys it never sees.
pub trait Env {
    /// Fills `out` with unpredictable octets.
    fn random(&mut self, out: &mut [u8]);

    /// A fresh key pair for one key exchange.
    fn new_key_share(&mut self, group: Group) -> Option<Box<dyn KeyShare>>;

    /// Signs `octets` with the private key of the named connection.
    fn sign(
        &mut self,
        connection: &str,
        scheme: SignatureScheme,
        octets: &[u8],
    ) -> Result<Vec<u8>, SignError>;
}

// RFC 5723: N55, L9
/// Where the gateway keeps what must outlive it: ticket keys, indexes and used bits
/// (the caller makes them durable before they count).
pub trait TicketLedger {
    /// The epoch that new tickets are sealed with, and a fresh index in it. `None` while none can be
    /// had; the exchange then goes on without a ticket (RFC 5723, 4.1).
    fn next_index(&mut self) -> Option<(u8, u32)>;

    /// Whether the ticket has opened an SA already.
    fn is_used(&self, key_id: u8, index: u32) -> bool;

    /// Marks the ticket used. `true` for whoever was first.
    fn mark_used(&mut self, key_id: u8, index: u32) -> bool;

    /// Up to when, Unix seconds, whatever was issued to this peer is void: the time at which its
    /// operator last revoked its tickets. `None` if none of them is revoked that could still be
    /// presented.
    fn revoked_until(&self, peer: &Identity) -> Option<u64>;

    /// Keeps the state of a ticket by reference until `expiry`, Unix seconds. `false` if it cannot be
    /// kept; the client then gets no ticket.
    fn keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> bool;

    /// Begins to do the same without waiting for the disk. The outcome follows as [`Input::Stored`];
    /// `None` if it cannot even begin, and the client gets no ticket.
    fn begin_keep(&mut self, reference: Reference, expiry: u64, kept: Kept) -> Option<StoreId>;

    /// Begins to forget a reference for good, for its ticket is about to open an SA. The outcome
    /// follows as [`Input::Stored`]; `None` if it cannot even begin, and the resumption is refused.
    fn begin_consume(&mut self, reference: &Reference) -> Option<StoreId>;

    /// What is kept under a reference.
    fn kept(&self, reference: &Reference) -> Option<Kept>;

    /// Forgets a reference whose ticket is void, some time: its used bit is set.
    fn release(&mut self, reference: &Reference);
}

/// The root of one epoch of ticket keys.
#[derive(Debug)]
pub struct TicketRoot {
    /// Epoch, the ticket's second octet.
    pub key_id: u8,
    /// 32 octets from which all ticket keys of the epoch are derived.
    pub root: Secret,
}
