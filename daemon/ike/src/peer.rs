//! Who may connect, how each side proves itself, and what is protected: one [`Connection`] for each
//! `[connections.NAME]` of the configuration.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    crypto::{CertificateChain, RsaPadding, Secret, TrustAnchors},
    io::Path,
    kernel::Carriage,
    lease::Pool,
    sa::proposal::{EspProposal, IkeSuite},
    trust::PinnedKey,
    wire::{id::Identity, pattern::Pattern, redirect::GatewayId, ts::TrafficSelector},
};

/// Everything about one connection that the configuration fixes.
#[derive(Debug)]
pub struct Connection {
    /// Its name, printable and unique.
    pub name: Arc<str>,
    /// Our address; `None` takes the one the peer reaches us by, and cannot initiate.
    pub local_addr: Option<IpAddr>,
    /// Our other addresses, which a peer that knows MOBIKE is told of (RFC 4555, 3.4).
    pub more_addrs: Vec<IpAddr>,
    /// The peer's address; `None` for any, and cannot initiate.
    pub remote_addr: Option<IpAddr>,
    /// Instead of that one: where the peer is looked up for each attempt, and called in turn; at most
    /// [`Connection::MAX_HOSTS`].
    pub remote_hosts: Vec<Host>,
    /// The UDP port of the first message; 500 outside of tests.
    pub remote_port: u16,
    /// How we prove who we are.
    pub local: LocalAuth,
    /// Whom we accept, and by what proof.
    pub remote: RemoteAuth,
    /// IKE suites, best first.
    pub ike_suites: Vec<IkeSuite>,
    /// Longest IP datagram, in octets, in which a protected IKE message goes out whole; a longer one goes
    /// in fragments if the peer takes them (RFC 7383). `None`: fragments are neither sent nor offered.
    pub fragment_size: Option<u16>,
    /// The Child SAs it is for, best known first: at least one and at most [`Connection::MAX_CHILDREN`].
    pub children: Vec<Child>,
    /// Lifetime of an IKE SA without re-authentication.
    pub ike_lifetime: Duration,
    /// The IKE SA gets new keys at the latest after this long, by whichever side comes first; zero for
    /// never.
    pub rekey: Duration,
    /// The peer must authenticate in full again this long after it last did; no chain of resumptions
    /// gets around it. `None` for whenever the IKE SA's lifetime ends.
    pub reauth: Option<Duration>,
    /// After this much silence the peer is asked for a sign of life; zero for never.
    pub liveness: Duration,
    /// Whether its SAs may move to other addresses (RFC 4555).
    pub mobike: bool,
    /// Whether ESP goes in UDP, and the way is kept open, as if we were behind a NAT: for what lies between
    /// and lets no ESP through.
    pub encap: bool,
    /// Session resumption: ask for tickets as client, issue and honour them as gateway.
    pub resume: Resume,
    /// Gateway: what the peer's inner addresses are leased from. With any, the peer has to ask.
    pub pools: Vec<Arc<Pool>>,
    /// Client: inner addresses to ask for, at most one of each family; unspecified for any.
    pub vips: Vec<IpAddr>,
    /// Gateway: what becomes of the SA that an identity has when it logs in once more.
    pub unique: Unique,
    /// Gateway, with [`Unique::Never`]: addresses of each family that one identity may have in use.
    pub leases_per_identity: u16,
    /// Whether IKE_AUTH does without a Child SA: asked for so if the gateway takes it, and taken. All of
    /// them are then made by exchanges of their own, with keys of their own (RFC 6023).
    pub childless: bool,
    /// Client: whether it goes where a gateway sends it (RFC 5685).
    pub redirect: Redirection,
    /// Gateway: where its clients are sent once they have proved themselves; `None` for nowhere.
    pub redirect_to: Option<GatewayId>,
    /// What the peer does otherwise than the RFCs say.
    pub compat: Compat,
    /// SHA-256 over the connection's settings. A session record or ticket made under other settings is
    /// not resumed (RFC 5723 leaves policy changes open; our ruling is TICKET_NACK).
    pub digest: [u8; 32],
}

impl Connection {
    /// [`Connection::leases_per_identity`] unless said otherwise.
    pub const LEASES_PER_IDENTITY: u16 = 16;

    /// Child SAs of one configuration, and of one IKE SA.
    pub const MAX_CHILDREN: usize = 16;
    /// Names and addresses of one peer.
    pub const MAX_HOSTS: usize = 8;

    /// Whether another one of its name says the same.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let Self {
            name: _,
            more_addrs,
            local,
            fragment_size,
            children,
            rekey,
            mobike,
            encap,
            resume,
            pools,
            vips,
            unique,
            leases_per_identity,
            childless,
            redirect,
            redirect_to,
            digest,
            // The digest is over these.
            local_addr: _,
            remote_addr: _,
            remote_hosts: _,
            remote_port: _,
            remote: _,
            ike_suites: _,
            ike_lifetime: _,
            reauth: _,
            liveness: _,
            compat: _,
        } = self;
        *digest == other.digest
            && *more_addrs == other.more_addrs
            && local.rsa_padding == other.local.rsa_padding
            && *fragment_size == other.fragment_size
            && *children == other.children
            && *rekey == other.rekey
            && *mobike == other.mobike
            && *encap == other.encap
            && *resume == other.resume
            && *pools == other.pools
            && *vips == other.vips
            && *unique == other.unique
            && *leases_per_identity == other.leases_per_identity
            && *childless == other.childless
            && *redirect == other.redirect
            && *redirect_to == other.redirect_to
    }

    /// What it says of a Child SA.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Child> {
        self.children.iter().find(|child| *child.name == *name)
    }

    /// Whether the peer may come by these addresses.
    pub(crate) fn accepts(&self, path: &Path) -> bool {
        let (ours, theirs) = (path.local.ip(), path.remote.ip());
        let here = self.local_addr.is_none_or(|local| local == ours);
        // A name says where to call. Who may come under it, its proof decides.
        let theirs_fits = |host: &Host| match host {
            Host::Address(address) => *address == theirs,
            Host::Name(_) => true,
        };
        (here || self.more_addrs.contains(&ours))
            && self.remote_addr.is_none_or(|remote| remote == theirs)
            && (self.remote_hosts.is_empty() || self.remote_hosts.iter().any(theirs_fits))
    }
}

/// Where a peer is, as the configuration has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// There.
    Address(IpAddr),
    /// Wherever this name leads at the time.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What a second login of one identity does to the SA of the first. A resumption is no login: it always
/// takes the place of the SA that its ticket came with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Unique {
    /// It takes its place.
    #[default]
    Replace,
    /// It is refused, unless the peer says that it knows of no other (INITIAL_CONTACT, RFC 7296, 2.4), or
    /// comes from where the first one is: so it authenticates anew.
    Keep,
    /// Nothing, whatever the peer says: they stand side by side, each with inner addresses of its own.
    Never,
}

/// What a client does when a gateway names another one (RFC 5685). Whichever it calls has to prove the
/// same identity in the same way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Redirection {
    /// It goes there.
    #[default]
    Follow,
    /// It calls the configured address only, and says nothing of redirections.
    Ignore,
}

/// Deviations of a peer from the RFCs that a connection goes along with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Compat {
    /// None.
    #[default]
    Rfc,
    /// libreswan 5.2 and later: AUTH after a resumption covers the sender's first message alone, a
    /// suspend sends DELETE, and a COOKIE ends the client's attempt.
    Libreswan,
}

/// Session resumption of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Resume {
    /// Whether it is used at all.
    pub enabled: bool,
    /// Client: what holds a session that sleeps.
    pub suspend: Suspend,
    /// Gateway: tickets name a record of ours instead of carrying the state.
    pub by_reference: bool,
    /// Lifetime of an issued ticket; the IKE SA's lifetime bounds it (RFC 5723, 6.2).
    pub ticket_lifetime: Duration,
}

/// What holds a client's session while it has no SA.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Suspend {
    /// Memory, until the operator takes the connection up or down.
    #[default]
    Memory,
    /// Memory, cleaned up when the ticket expires.
    Expire,
    /// Memory and disk, so that it outlives a reboot.
    Disk,
}

impl Suspend {
    /// Lower-case word for configuration, JSON and metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Expire => "expire",
            Self::Disk => "disk",
        }
    }
}

/// How we authenticate ourselves.
#[derive(Debug)]
pub struct LocalAuth {
    /// Our identity.
    pub id: Identity,
    /// Our proof.
    pub credential: Credential,
    /// How we sign where that is an RSA key.
    pub rsa_padding: RsaPadding,
}

/// Our own proof.
#[derive(Debug)]
pub enum Credential {
    /// A key both sides know.
    PreShared(Secret),
    /// A certificate; [`crate::io::Env::sign`] has the private key.
    Certificate(CertificateChain),
    /// A key that the peer knows by itself (RFC 7670); the private one is there too.
    PublicKey(PinnedKey),
}

/// Whom we accept.
#[derive(Debug)]
pub struct RemoteAuth {
    /// The identity the peer must prove; `None` for any that its proof covers.
    pub id: Option<Identity>,
    /// Where that is open, what it must look like.
    pub pattern: Option<Pattern>,
    /// The proof we ask for.
    pub proof: Proof,
}

impl RemoteAuth {
    /// Whether a peer of this identity may be the connection's.
    #[must_use]
    pub fn accepts(&self, id: &Identity) -> bool {
        let one = self.id.as_ref().is_none_or(|wanted| wanted.is(id));
        one && self.pattern.as_ref().is_none_or(|pattern| pattern.fits(id))
    }

    /// Whom it accepts, for people.
    #[must_use]
    pub fn wanted(&self) -> String {
        match (&self.id, &self.pattern) {
            (Some(id), _) => id.to_string(),
            (None, Some(pattern)) => pattern.to_string(),
            (None, None) => "anybody".to_owned(),
        }
    }
}

/// The peer's proof.
#[derive(Debug)]
pub enum Proof {
    /// A key both sides know.
    PreShared(Secret),
    /// A certificate under one of these authorities.
    Certificate(TrustAnchors),
    /// This key, whatever certificates may say of it.
    PublicKey(PinnedKey),
}

/// When a Child SA of a connection is made by our own doing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Start {
    /// With the connection.
    #[default]
    Up,
    /// On the operator's word alone.
    None,
}

/// A Child SA of a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Child {
    /// Its name within the connection.
    pub name: Arc<str>,
    /// When we ask for it. A peer may at any time.
    pub start: Start,
    /// Our side's networks.
    pub local_ts: Vec<TrafficSelector>,
    /// Whether the addresses leased to us are on our side too.
    pub local_dynamic: bool,
    /// The peer's networks.
    pub remote_ts: Vec<TrafficSelector>,
    /// Whether the addresses leased to the peer are on its side too.
    pub remote_dynamic: bool,
    /// How it is carried; of its mode, which one we want.
    pub carriage: Carriage,
    /// What is proposed for it, best first.
    pub proposals: Vec<EspProposal>,
    /// Lifetime of its states in the kernel.
    pub lifetime: Duration,
    /// It gets new keys at the latest after this long; zero for never.
    pub rekey: Duration,
}

impl Child {
    /// The same, with what is dynamic made out: these addresses, or any where one is unspecified.
    #[must_use]
    pub fn with(&self, leased: &[IpAddr]) -> Self {
        let mut child = self.clone();
        for address in leased {
            let prefix = match address {
                _ if address.is_unspecified() => 0,
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            let selector = TrafficSelector::network(*address, prefix);
            child
                .local_ts
                .extend(self.local_dynamic.then_some(selector));
            child
                .remote_ts
                .extend(self.remote_dynamic.then_some(selector));
        }
        child
    }
}
