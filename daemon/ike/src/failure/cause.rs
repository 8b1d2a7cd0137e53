//! What can go wrong with a peer, and the step of its exchange at which it does.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use crate::{
    exchange::ChildError,
    look_up::listed,
    peer::{Child, Connection},
    sa::{
        offered,
        proposal::{IkeSuite, OwnExchange, offer_esp, offer_ike},
    },
    ticket::Refused,
    trust::Culprit,
    view::Unproven,
    wire::{
        header::Exchange,
        id::Identity,
        payload::{Chain, PayloadKind},
        sa::{PROTOCOL_ESP, PROTOCOL_IKE},
        ts::TrafficSelector,
    },
};

/// Selectors of one side that are named.
const MAX_SELECTORS_NAMED: usize = 8;
/// Octets of a text that is not ours.
const MAX_TEXT: usize = 200;

/// What went wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Cause {
    /// No suite in common for the IKE SA. What the peer would take is unknown to whoever asked.
    Proposals {
        /// What we offer or take.
        ours: String,
        /// What the peer offers.
        theirs: Option<String>,
    },
    /// The same for the Child SA.
    EspProposals {
        /// What we offer or take.
        ours: String,
        /// What the peer offers.
        theirs: Option<String>,
    },
    /// No common traffic.
    Selectors {
        /// Between which networks we would have it.
        ours: String,
        /// Between which the peer would.
        theirs: Option<String>,
    },
    /// No connection is for the peer's address, or for the one of ours that it has called.
    NoConnection,
    /// No connection takes the peer's identity, or the one it wants us to have.
    NoIdentity {
        /// Whom it wants us to be.
        asked_for: Option<Identity>,
    },
    /// We have called somebody else.
    OtherIdentity {
        /// Whom we wanted.
        wanted: String,
    },
    /// It is up already, and the connection keeps that.
    UpElsewhere {
        /// Where.
        at: SocketAddr,
    },
    /// It wants EAP, or it has forgotten to prove itself.
    NoProof,
    /// Its proof does not hold.
    Unproven {
        /// Why not.
        why: Unproven,
        /// The certificate that is to blame.
        certificate: Option<Culprit>,
    },
    /// We cannot prove ourselves by what the peer can check.
    OwnProof,
    /// Gateway: no address is left. Client: the gateway gives none.
    NoAddress,
    /// Gateway: the identity has as many addresses in use as one may.
    EnoughAddresses {
        /// How many.
        most: u16,
    },
    /// The client has to ask for an inner address.
    AddressRequired,
    /// A ticket is refused.
    Ticket(Refused),
    /// The gateway refuses our ticket.
    TicketNack,
    /// Whoever presented a ticket is not its owner.
    TicketProof,
    /// The kernel does not take the Child SA; in its words.
    Kernel(String),
    /// The kernel does not move the Child SA to other addresses; in its words.
    Unmoved(String),
    /// The names of the peer lead nowhere.
    Unresolved {
        /// What was looked up.
        hosts: String,
        /// What the resolver says, or the routing table.
        why: String,
    },
    /// The peer does not answer a request of ours.
    NoAnswer,
    /// The peer has called and has not gone on.
    NotContinued {
        /// Whether something came that did not open.
        corrupt: bool,
    },
    /// The peer has gone silent, and answers no sign of life.
    Lost,
    /// The peer refuses, and says no more than that.
    Refused,
    /// Our first message was refused in clear and answered all the same: one of the two is not the peer's.
    Contradicted,
    /// A message cannot be read, or says what its exchange does not allow.
    Malformed,
    /// A message in fragments, or the number of them, is beyond our bounds.
    TooLong,
    /// A table of ours is full.
    Full,
    /// The peer asks for more than one peer may have.
    TooMuch(TooMuch),
}

/// What a peer asks too much of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum TooMuch {
    /// Anything.
    Requests,
    /// New keys or Child SAs.
    Rekeys,
    /// Tickets.
    Tickets,
}

impl Cause {
    /// No common suite: the peer's offer against ours.
    #[must_use]
    pub fn proposals(ours: &[IkeSuite], theirs: Option<&[u8]>) -> Self {
        let mut body = Vec::new();
        offer_ike(ours, &[], &mut body);
        Self::Proposals {
            ours: offered::text(&body, PROTOCOL_IKE),
            theirs: theirs.map(|theirs| offered::text(theirs, PROTOCOL_IKE)),
        }
    }

    /// No terms for a Child SA. Of what the peer has sent, if it is that which we do not like.
    pub(crate) fn of_child(error: ChildError, child: &Child, theirs: Option<&Chain<'_>>) -> Self {
        let payload = |kind| theirs.and_then(|chain| chain.one(kind));
        match error {
            ChildError::NoProposal => {
                let mut body = Vec::new();
                offer_esp(&child.proposals, OwnExchange::Never, 0, &mut body);
                Self::EspProposals {
                    ours: offered::text(&body, PROTOCOL_ESP),
                    theirs: payload(PayloadKind::SA).map(|body| offered::text(body, PROTOCOL_ESP)),
                }
            }
            ChildError::NoSelectors => {
                let listed = |kind| {
                    let body = payload(kind)?;
                    TrafficSelector::parse_all(body).ok()
                };
                let sides = listed(PayloadKind::TS_I).zip(listed(PayloadKind::TS_R));
                Self::Selectors {
                    ours: between(&child.local_ts, &child.remote_ts),
                    theirs: sides.map(|(initiator, responder)| between(&initiator, &responder)),
                }
            }
            ChildError::Syntax => Self::Malformed,
        }
    }

    /// What comes of looking up where a connection's peer is.
    pub(crate) fn unresolved(connection: &Connection, why: &str) -> Self {
        Self::Unresolved {
            hosts: listed(&connection.remote_hosts),
            why: why.chars().take(MAX_TEXT).collect(),
        }
    }

    /// What the kernel says.
    #[must_use]
    pub fn kernel(text: &str) -> Self {
        Self::Kernel(text.chars().take(MAX_TEXT).collect())
    }

    /// The same of a move.
    #[must_use]
    pub fn unmoved(text: &str) -> Self {
        Self::Unmoved(text.chars().take(MAX_TEXT).collect())
    }

    /// Lower-case word for JSON; the one of vici's alerts where there is one, with underscores.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Proposals { .. } => "proposal_mismatch_ike",
            Self::EspProposals { .. } => "proposal_mismatch_child",
            Self::Selectors { .. } => "ts_mismatch",
            Self::NoConnection => "no_connection",
            Self::NoIdentity { .. } | Self::OtherIdentity { .. } => "identity_mismatch",
            Self::UpElsewhere { .. } => "up_already",
            Self::NoProof => "no_proof",
            Self::Unproven { why, .. } => why.word(),
            Self::OwnProof => "local_auth_failed",
            Self::NoAddress => "no_address",
            Self::EnoughAddresses { .. } => "enough_addresses",
            Self::AddressRequired => "address_required",
            Self::Ticket(_) | Self::TicketNack => "ticket_refused",
            Self::TicketProof => "ticket_unproven",
            Self::Kernel(_) => "install_child_sa_failed",
            Self::Unmoved(_) => "move_child_sa_failed",
            Self::Unresolved { .. } => "unresolved",
            Self::NoAnswer => "no_answer",
            Self::NotContinued { .. } => "half_open_timeout",
            Self::Lost => "peer_lost",
            Self::Refused => "peer_refused",
            Self::Contradicted => "forged_answer",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Full => "full",
            Self::TooMuch(_) => "too_much",
        }
    }

    /// The step of the exchange, for people.
    #[must_use]
    pub const fn step(&self, exchange: Exchange) -> &'static str {
        match self {
            Self::Proposals { .. } | Self::EspProposals { .. } => "choice of algorithms",
            Self::Selectors { .. } => "choice of traffic",
            Self::NoConnection | Self::NoIdentity { .. } | Self::OtherIdentity { .. } => {
                "choice of connection"
            }
            Self::NoProof | Self::Unproven { .. } | Self::OwnProof => "authentication",
            Self::NoAddress | Self::EnoughAddresses { .. } | Self::AddressRequired => {
                "inner addresses"
            }
            Self::Ticket(_) | Self::TicketNack | Self::TicketProof => "resumption",
            Self::Kernel(_) | Self::Unmoved(_) => "kernel",
            Self::Unresolved { .. } => "looking up the peer",
            Self::NoAnswer | Self::Lost => "waiting for an answer",
            Self::NotContinued { .. } => "waiting for the next request",
            Self::Contradicted | Self::Malformed | Self::TooLong => "reading",
            Self::UpElsewhere { .. } | Self::Full | Self::TooMuch(_) => "limits",
            Self::Refused => match exchange {
                Exchange::IkeAuth => "authentication",
                _ => "waiting for an answer",
            },
        }
    }

    pub(super) fn octets(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        match self {
            Self::Proposals { ours, theirs }
            | Self::EspProposals { ours, theirs }
            | Self::Selectors { ours, theirs } => ours.len() + text(theirs),
            Self::NoIdentity { asked_for } => asked_for.as_ref().map_or(0, |id| id.data().len()),
            Self::OtherIdentity { wanted } => wanted.len(),
            Self::Unproven { certificate, .. } => certificate.as_ref().map_or(0, Culprit::octets),
            Self::Unresolved { hosts, why } => hosts.len() + why.len(),
            Self::Kernel(text) | Self::Unmoved(text) => text.len(),
            _ => 0,
        }
    }
}

/// The connection of an attempt of ours, and what it offers.
pub(super) fn ours(connection: &Arc<Connection>) -> Cause {
    Cause::proposals(&connection.ike_suites, None)
}

/// Networks of two sides.
fn between(one: &[TrafficSelector], other: &[TrafficSelector]) -> String {
    let list = |all: &[TrafficSelector]| {
        let mut named: Vec<_> = all.iter().map(ToString::to_string).collect();
        let more = named.len().saturating_sub(MAX_SELECTORS_NAMED);
        named.truncate(MAX_SELECTORS_NAMED);
        let mut text = named.join(" ");
        if more > 0 {
            let _infallible = write!(text, " and {more} more");
        }
        if text.is_empty() {
            "nothing".to_owned()
        } else {
            text
        }
    };
    format!("{} to {}", list(one), list(other))
}
