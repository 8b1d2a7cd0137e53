//! What goes wrong with a peer, in either role: typed where it happens, bounded in size and number, and
//! put into words for the log and for whoever asks why a peer has no tunnel.

mod at_close;
mod cause;
mod words;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use self::cause::{Cause, TooMuch};
use crate::{
    counters::Counter,
    defence::allowance::Allowance,
    endpoint::Endpoint,
    io::{Event, Path, Stamp},
    peer::Connection,
    sa::ike_sa::{IkeSa, Live, State},
    wire::{
        encrypted::OpenError,
        header::{Exchange, Header},
        id::Identity,
        notify::NotifyKind,
    },
};

/// Failures told in one second of whoever has not shown yet that he is where he says: their source may be
/// forged. What is beyond is counted, and not told.
const OF_STRANGERS_PER_SECOND: u32 = 20;
/// The same of peers that have answered us.
const OF_PEERS_PER_SECOND: u32 = 100;

/// Something that went wrong with a peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Where the peer is, or says it is.
    pub from: SocketAddr,
    /// How much of that and of its identity is true.
    pub standing: Standing,
    /// Who it says it is, or who it is.
    pub peer: Option<Identity>,
    /// The connection, where it is known.
    pub connection: Option<Arc<str>>,
    /// Whether we had sent the request that came to nothing.
    pub ours: bool,
    /// Where it happened.
    pub exchange: Exchange,
    /// What went wrong.
    pub cause: Cause,
    /// What the wire has shown of it.
    pub told: Option<Told>,
}

/// How much a peer has shown of itself.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    /// Nothing: its address may be forged.
    Stranger,
    /// It is where it says, or where we have called it.
    Reached,
    /// Who it is.
    Proven,
}

impl Standing {
    /// Lower-case word for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Reached => "reached",
            Self::Proven => "proven",
        }
    }
}

/// The notification that went with a failure.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Told {
    /// We sent it.
    Sent(NotifyKind),
    /// The peer sent it.
    Received(NotifyKind),
}

/// What may be told in a second.
#[derive(Debug)]
pub(crate) struct Telling {
    strangers: Allowance,
    peers: Allowance,
}

impl Telling {
    /// For one of so many workers.
    pub(crate) const fn new(workers: u32) -> Self {
        Self {
            strangers: Allowance::new(OF_STRANGERS_PER_SECOND.div_ceil(workers)),
            peers: Allowance::new(OF_PEERS_PER_SECOND.div_ceil(workers)),
        }
    }

    const fn may(&mut self, standing: Standing, now: Duration) -> bool {
        match standing {
            Standing::Stranger => self.strangers.take(now),
            Standing::Reached | Standing::Proven => self.peers.take(now),
        }
    }
}

impl Failure {
    /// Of a peer of which only the address is known.
    #[must_use]
    pub const fn of_stranger(from: SocketAddr, exchange: Exchange, cause: Cause) -> Self {
        Self {
            from,
            standing: Standing::Stranger,
            peer: None,
            connection: None,
            ours: false,
            exchange,
            cause,
            told: None,
        }
    }

    /// Of the peer of an SA, or of an attempt at one.
    pub(crate) fn of_sa(sa: &IkeSa, exchange: Exchange, cause: Cause) -> Self {
        let (standing, peer) = match &sa.state {
            State::Up(live) | State::Installing(live, _) => {
                (Standing::Proven, Some(live.peer.clone()))
            }
            _ => (Standing::Reached, None),
        };
        Self {
            standing,
            peer,
            connection: sa.connection().map(|config| Arc::clone(&config.name)),
            ours: sa.initiator,
            ..Self::of_stranger(sa.path.remote, exchange, cause)
        }
    }

    /// Of a request of the peer on an established SA.
    pub(crate) fn of_live(live: &Live, path: Path, exchange: Exchange, cause: Cause) -> Self {
        Self {
            standing: Standing::Proven,
            peer: Some(live.peer.clone()),
            connection: Some(Arc::clone(&live.connection.name)),
            ..Self::of_stranger(path.remote, exchange, cause)
        }
    }

    /// With the notification that we have answered.
    #[must_use]
    pub const fn sent(mut self, kind: NotifyKind) -> Self {
        self.told = Some(Told::Sent(kind));
        self
    }

    /// With the notification that the peer has sent.
    #[must_use]
    pub const fn received(mut self, kind: NotifyKind) -> Self {
        self.told = Some(Told::Received(kind));
        self
    }

    /// Whoever claims to be this peer, at the price of having answered us.
    #[must_use]
    pub fn claimed(mut self, peer: Option<Identity>) -> Self {
        self.standing = self.standing.max(Standing::Reached);
        self.peer = peer.or(self.peer);
        self
    }

    /// Of whoever has proved to be this peer of a connection.
    #[must_use]
    pub fn proven(self, peer: Identity, connection: &Connection) -> Self {
        Self {
            standing: Standing::Proven,
            peer: Some(peer),
            ..self.within(connection)
        }
    }

    /// In this connection.
    #[must_use]
    pub fn within(mut self, connection: &Connection) -> Self {
        self.connection = Some(Arc::clone(&connection.name));
        self
    }

    /// Whether it is the same as another: only the time differs.
    #[must_use]
    pub fn repeats(&self, other: &Self) -> bool {
        self.from.ip() == other.from.ip()
            && (self.exchange, self.ours, self.told) == (other.exchange, other.ours, other.told)
            && self.connection == other.connection
            && self.peer == other.peer
            && self.cause == other.cause
    }

    /// Octets it takes, more or less.
    #[must_use]
    pub fn octets(&self) -> usize {
        let peer = self.peer.as_ref().map_or(0, |peer| peer.data().len());
        size_of::<Self>() + peer + self.cause.octets()
    }
}

impl Endpoint {
    /// Tells of a failure, within what may be told in a second.
    pub(crate) fn failed(
        &mut self,
        standing: Standing,
        now: Duration,
        what: impl FnOnce() -> Failure,
    ) {
        if self.telling.may(standing, now) {
            self.event(Event::Failed(Box::new(what())));
        }
    }

    /// Initiator: a first message of ours was refused in clear, and has an answer all the same.
    pub(crate) fn contradicted(
        &mut self,
        sa: &IkeSa,
        connection: &Connection,
        (exchange, refused): (Exchange, Option<NotifyKind>),
        now: Stamp,
    ) {
        if let Some(kind) = refused {
            self.failed(Standing::Reached, now.boot, || {
                let failure = Failure::of_sa(sa, exchange, Cause::Contradicted);
                failure.received(kind).within(connection)
            });
        }
    }

    /// A message of an established peer that did not open: most of these anybody can send, and they are
    /// counted; one that is too long only the peer can.
    pub(crate) fn not_opened(
        &mut self,
        live: &Live,
        path: Path,
        header: &Header,
        error: OpenError,
        now: Duration,
    ) {
        self.counters.add(Counter::of(error));
        if error == OpenError::TooLong {
            self.failed(Standing::Proven, now, || Failure {
                ours: header.response,
                ..Failure::of_live(live, path, header.exchange, Cause::TooLong)
            });
        }
    }

    /// A request of an established peer that comes too soon after others.
    pub(crate) fn too_fast(
        &mut self,
        live: &Live,
        path: Path,
        exchange: Exchange,
        (what, told): (TooMuch, Option<NotifyKind>),
        now: Duration,
    ) {
        self.counters.add(Counter::TooFast);
        self.failed(Standing::Proven, now, || {
            let failure = Failure::of_live(live, path, exchange, Cause::TooMuch(what));
            told.map_or(failure.clone(), |kind| failure.sent(kind))
        });
    }
}
