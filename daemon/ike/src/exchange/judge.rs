//! What an IKE_AUTH message must show before anything is made of it: identities, proof, and terms for
//! the Child SA. Order of trust: shape, then proof, then what is asked for.

use std::{sync::Arc, time::Duration};

use super::{
    child::{self, ChildError, Exchanging, Terms, bare},
    choice::{Asking, Choice, Misfit, choose},
    configuration::{self, Grant},
    mobike::no_nat_in_between,
    notify_data,
    proof::{Claim, parse_auth, proven, resumption_holds, resumption_mic},
    qcd::token_in,
    redirect,
    ticket::{self, TicketAnswer},
};
use crate::{
    endpoint::{Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::Stamp,
    lease::Leased,
    peer::{Child, Connection, Unique},
    sa::{
        first::FirstExchange,
        ike_sa::{AuthSent, IkeSa, Ripe},
        mobike::Mobike,
        nat::Nat,
    },
    ticket::state::{AuthMethod, CertificateFacts},
    trust::{self, Culprit, Hashes},
    view::{Closed, Unproven},
    wire::{
        WireError,
        encrypted::Plain,
        header::Exchange,
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, PayloadKind},
    },
};

/// What an IKE_AUTH request builds on.
pub(super) struct Asked<'a> {
    pub first: FirstExchange,
    pub nat: Nat,
    pub peer_hashes: Hashes,
    /// Whether the client goes where it is sent.
    pub follows: bool,
    /// What a repetition of the request is known by.
    pub message: &'a [u8],
}

/// What an IKE_AUTH request came to.
pub(super) struct Accepted {
    pub connection: Arc<Connection>,
    pub peer: Identity,
    pub auth: AuthMethod,
    pub certificate: Option<CertificateFacts>,
    /// The Child SA if one is asked for, or why there is none. The IKE SA stands all the same (RFC 7296, 1.2
    /// and 2.21.2).
    pub child: Result<Option<Choice>, NotifyKind>,
    pub grant: Option<Grant>,
    pub wants_ticket: bool,
    /// The peer asks for our key without certificate.
    pub wants_bare_key: bool,
    pub mobike: Option<Mobike>,
    /// The peer says that it has no other SA with us.
    pub initial_contact: bool,
    pub token: Vec<u8>,
}

/// What an IKE_AUTH response came to.
pub(super) struct Agreed {
    pub peer: Identity,
    pub auth: AuthMethod,
    pub certificate: Option<CertificateFacts>,
    /// The Child SA if one was asked for, or why there is none.
    pub child: Result<Option<Terms>, Closed>,
    pub leased: Leased,
    pub ticket: TicketAnswer,
    pub mobike: Option<Mobike>,
    pub token: Vec<u8>,
    /// How long the gateway lets this authentication count.
    pub auth_lifetime: Duration,
}

/// Why an IKE_AUTH request is refused.
pub(super) struct Denied {
    /// What the peer is told.
    pub notify: NotifyKind,
    /// Type of the payload that we do not know and that it calls critical.
    pub unknown: Option<u8>,
    /// What we know.
    pub cause: Box<Cause>,
    /// Of this connection, if it got so far.
    pub connection: Option<Arc<Connection>>,
}

impl Denied {
    pub(super) fn new(notify: NotifyKind, cause: Cause) -> Self {
        Self {
            notify,
            unknown: None,
            cause: Box::new(cause),
            connection: None,
        }
    }
}

impl From<WireError> for Denied {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Critical(kind) => Self {
                unknown: Some(kind),
                ..NotifyKind::UNSUPPORTED_CRITICAL_PAYLOAD.into()
            },
            _ => NotifyKind::INVALID_SYNTAX.into(),
        }
    }
}

impl From<NotifyKind> for Denied {
    fn from(notify: NotifyKind) -> Self {
        let cause = match notify {
            NotifyKind::AUTHENTICATION_FAILED => Cause::NoProof,
            NotifyKind::FAILED_CP_REQUIRED => Cause::AddressRequired,
            NotifyKind::INTERNAL_ADDRESS_FAILURE => Cause::NoAddress,
            _ => Cause::Malformed,
        };
        Self::new(notify, cause)
    }
}

/// Why an IKE_AUTH response leads to no SA.
pub(super) struct Unwanted {
    pub reason: Closed,
    /// Whether the responder believes in an SA.
    pub believed: bool,
    pub cause: Box<Cause>,
}

impl From<(Closed, bool)> for Unwanted {
    fn from((reason, believed): (Closed, bool)) -> Self {
        let cause = match reason {
            Closed::NoAddress => Cause::NoAddress,
            Closed::AddressRequired => Cause::AddressRequired,
            Closed::AuthenticationFailed => Cause::TicketProof,
            _ => Cause::Malformed,
        };
        Self {
            reason,
            believed,
            cause: Box::new(cause),
        }
    }
}

impl Endpoint {
    // RFC 5723: N24, N25, N26, T1, T2, T3, T4, X5, A7, A8
    /// Everything an IKE_AUTH request must show, or the notification that says what it lacks.
    pub(super) fn judge_request(
        &mut self,
        sa: &IkeSa,
        ripe: &Ripe,
        asked: &Asked<'_>,
        plain: &Plain,
        cx: &mut Context<'_>,
    ) -> Result<Accepted, Denied> {
        let syntax = |_| NotifyKind::INVALID_SYNTAX;
        let refused = NotifyKind::AUTHENTICATION_FAILED;
        let chain = Chain::parse(plain.first, &plain.octets)?;
        let id = |kind| chain.one(kind).map(Identity::parse).transpose();
        let id_i = id(PayloadKind::ID_I)
            .map_err(syntax)?
            .ok_or(NotifyKind::INVALID_SYNTAX)?;
        let id_r = id(PayloadKind::ID_R).map_err(syntax)?;
        // No AUTH payload asks for EAP (RFC 7296, 2.16), which neither we nor a resumption have.
        let (method, proof) = chain
            .one(PayloadKind::AUTH)
            .and_then(parse_auth)
            .ok_or(refused)?;
        let octets = asked
            .first
            .initiator_octets(ripe.suite.prf, &ripe.keys, &id_i);
        let claim = Claim {
            id: &id_i,
            method,
            proof,
            octets: &octets,
        };
        let (connection, auth, certificate) = match &ripe.ticket {
            Some(ticket) => {
                let state = &ticket.state;
                let same = id_i == state.id_i && id_r.is_none_or(|id_r| id_r == state.id_r);
                let no_cert = chain.one(PayloadKind::CERT).is_none();
                let of_ticket = |why| Denied::new(refused, Cause::Ticket(why));
                let config = self.allowed(state, cx).map_err(of_ticket)?;
                let (compat, message) = (config.compat, &asked.first.request);
                let expected =
                    resumption_mic(ripe.suite, compat, &ripe.keys.sk_pi, &octets, message);
                if !(same && no_cert && resumption_holds(&claim, &expected)) {
                    return Err(Denied::new(refused, Cause::TicketProof));
                }
                (Arc::clone(config), state.auth, state.certificate.clone())
            }
            None => {
                let mut unproven = None;
                let mut candidates = self.slots_at(&sa.path).filter(|config| {
                    config.ike_suites.contains(&ripe.suite)
                        && id_r.as_ref().is_none_or(|id_r| id_r.is(&config.local.id))
                        && config.remote.accepts(&id_i)
                });
                let found = candidates.find_map(|config| {
                    match proven(config, ripe.suite, &claim, &chain, cx.now) {
                        Ok((auth, facts)) => Some((Arc::clone(config), auth, facts)),
                        Err(why) => {
                            // Of several connections the one whose method it used tells most.
                            if unproven.is_none() || why != Unproven::Method {
                                unproven = Some((Arc::clone(config), why));
                            }
                            None
                        }
                    }
                });
                found.ok_or_else(|| match unproven {
                    Some((config, why)) => Denied {
                        connection: Some(config),
                        ..Denied::new(refused, disbelieved(why, &chain, cx.now))
                    },
                    None => Denied::new(refused, Cause::NoIdentity { asked_for: id_r }),
                })?
            }
        };
        let within = |denied: Denied| Denied {
            connection: Some(Arc::clone(&connection)),
            ..denied
        };
        if ripe.ticket.is_none()
            && connection.unique == Unique::Keep
            && !is_initial_contact(&chain)
            && let peer = bare(&connection, &id_i, &[])
            && let Some(at) = self.table.presence.elsewhere(&peer, sa.path.remote)
        {
            return Err(within(Denied::new(refused, Cause::UpElsewhere { at })));
        }
        if !no_nat_in_between(&chain, &sa.path) {
            return Err(within(NotifyKind::UNEXPECTED_NAT_DETECTED.into()));
        }
        let mut ungranted = None;
        let (grant, child) = match configuration::grant(&connection, &id_i, &chain, cx) {
            Ok(grant) => {
                let granted = grant.as_ref().map(|grant| &*grant.granted.addresses);
                let asking = Asking {
                    connection: &connection,
                    peer: &id_i,
                    leased: granted.unwrap_or_default(),
                    live: None,
                };
                let child = if connection.childless && asks_for_no_child(&chain) {
                    Ok(None)
                } else {
                    choose(&asking, &chain, Exchanging::NEVER).map(Some)
                };
                if child.is_err() {
                    self.take_back(grant.as_ref());
                }
                (grant.filter(|_| child.is_ok()), child)
            }
            Err(denied) if denied.notify == NotifyKind::INVALID_SYNTAX => {
                return Err(within(denied));
            }
            Err(denied) => {
                ungranted = Some(denied.cause);
                (None, Err(Misfit::of(denied.notify)))
            }
        };
        let child = match child {
            Ok(choice) => Ok(choice),
            Err(misfit) if misfit.notify == NotifyKind::INVALID_SYNTAX => {
                return Err(within(NotifyKind::INVALID_SYNTAX.into()));
            }
            Err(Misfit { notify, error }) => {
                self.failed(Standing::Proven, cx.now.boot, || {
                    let cause = match (error, connection.children.first()) {
                        (Some(error), Some(child)) => Cause::of_child(error, child, Some(&chain)),
                        _ => *ungranted.unwrap_or_else(|| Denied::from(notify).cause),
                    };
                    Failure::of_stranger(sa.path.remote, Exchange::IkeAuth, cause)
                        .proven(id_i.clone(), &connection)
                        .sent(notify)
                });
                Err(notify)
            }
        };
        let says = |kind| chain.notifies().any(|notify| notify.kind == kind);
        let wants_ticket = says(NotifyKind::TICKET_REQUEST);
        let initial_contact = says(NotifyKind::INITIAL_CONTACT);
        Ok(Accepted {
            peer: id_i.clone(),
            auth,
            certificate,
            child,
            grant,
            wants_ticket,
            wants_bare_key: trust::wants_bare_key(&chain),
            mobike: Mobike::said_in(&chain).filter(|_| connection.mobike),
            connection,
            initial_contact,
            token: token_in(&chain).unwrap_or_default(),
        })
    }

    // RFC 5723: N25, N26, T2
    /// The response's proof and terms; on failure why, and whether the responder believes in an SA.
    pub(super) fn judge_response(
        &self,
        sent: &AuthSent,
        plain: &Plain,
        now: Stamp,
    ) -> Result<Agreed, Unwanted> {
        let broken = (Closed::Protocol, false);
        let chain = Chain::parse(plain.first, &plain.octets).map_err(|_| broken)?;
        let error = chain
            .notifies()
            .map(|notify| notify.kind)
            .find(|kind| kind.is_error());
        let Some(auth) = chain.one(PayloadKind::AUTH) else {
            return Err(match error {
                Some(error) => turned_down(sent, error, false),
                None => broken.into(),
            });
        };
        // Who sends AUTH has accepted ours, and has an SA by now, whatever his own is worth.
        let broken = (Closed::Protocol, true);
        let (method, proof) = parse_auth(auth).ok_or(broken)?;
        let id_r = chain
            .one(PayloadKind::ID_R)
            .and_then(|body| Identity::parse(body).ok());
        let id_r = id_r.ok_or(broken)?;
        let octets = sent
            .first
            .responder_octets(sent.suite.prf, &sent.keys, &id_r);
        let refused = (Closed::AuthenticationFailed, true);
        let claim = Claim {
            id: &id_r,
            method,
            proof,
            octets: &octets,
        };
        let (auth, certificate) = match &sent.resumed {
            Some(record) => {
                let (compat, message) = (sent.connection.compat, &sent.first.response);
                let expected =
                    resumption_mic(sent.suite, compat, &sent.keys.sk_pr, &octets, message);
                let no_cert = chain.one(PayloadKind::CERT).is_none();
                if !resumption_holds(&claim, &expected) || id_r != record.id_r || !no_cert {
                    return Err(refused.into());
                }
                (record.auth, None)
            }
            None => {
                let remote = &sent.connection.remote;
                if !remote.accepts(&id_r) {
                    let wanted = remote.wanted();
                    return Err(Unwanted {
                        cause: Box::new(Cause::OtherIdentity { wanted }),
                        ..refused.into()
                    });
                }
                proven(&sent.connection, sent.suite, &claim, &chain, now).map_err(|why| {
                    Unwanted {
                        cause: Box::new(disbelieved(why, &chain, now)),
                        ..refused.into()
                    }
                })?
            }
        };
        if error.is_none() && redirect::is_sent_on(&chain, &sent.connection) {
            return Err((Closed::Redirected, true).into());
        }
        let connection = &sent.connection;
        let asked = sent.child.as_ref().map(|(name, _)| &**name);
        let wants_others = |asked| self.wants_others(connection, asked);
        let (leased, child) = match error {
            // What else the IKE SA is for may go on without it.
            Some(error) if is_about_child(error) && asked.is_some_and(wants_others) => {
                (Leased::default(), Err(reason_of(error)))
            }
            Some(error) => return Err(turned_down(sent, error, true)),
            None => {
                let leased = configuration::received(&chain, &connection.vips)
                    .ok_or((Closed::NoAddress, true))?;
                let child = match asked {
                    Some(asked) => {
                        let child = connection.child(asked).ok_or(broken)?;
                        Some(confirmed(&child.with(&leased.addresses), &chain)?)
                    }
                    None => None,
                };
                (leased, Ok(child))
            }
        };
        let ticket = if sent.connection.resume.enabled {
            ticket::received(&chain)
        } else {
            TicketAnswer::None
        };
        Ok(Agreed {
            peer: id_r.clone(),
            auth,
            certificate,
            child,
            leased,
            ticket,
            mobike: Mobike::said_in(&chain).filter(|_| sent.connection.mobike),
            token: token_in(&chain).unwrap_or_default(),
            auth_lifetime: auth_lifetime(&chain).unwrap_or(Duration::MAX),
        })
    }

    /// Tells of an IKE_AUTH request that was refused.
    pub(super) fn denied(&mut self, sa: &IkeSa, plain: &Plain, denied: Denied, now: Stamp) {
        self.failed(Standing::Reached, now.boot, || {
            let failure = Failure::of_sa(sa, Exchange::IkeAuth, *denied.cause)
                .sent(denied.notify)
                .claimed(claimed(plain, PayloadKind::ID_I));
            match &denied.connection {
                Some(connection) => failure.within(connection),
                None => failure,
            }
        });
    }

    /// Tells of an IKE_AUTH response that led to no SA.
    pub(super) fn unwanted(
        &mut self,
        sa: &IkeSa,
        connection: &Connection,
        plain: &Plain,
        cause: Cause,
        now: Stamp,
    ) {
        self.failed(Standing::Reached, now.boot, || {
            let failure = Failure::of_sa(sa, Exchange::IkeAuth, cause)
                .within(connection)
                .claimed(claimed(plain, PayloadKind::ID_R));
            let chain = Chain::parse(plain.first, &plain.octets).ok();
            let mut kinds = chain.iter().flat_map(Chain::notifies).map(|one| one.kind);
            match kinds.find(|kind| kind.is_error()) {
                Some(kind) => failure.received(kind),
                None => failure,
            }
        });
    }
}

/// Whom the sender of an IKE_AUTH message says to be.
fn claimed(plain: &Plain, kind: PayloadKind) -> Option<Identity> {
    let chain = Chain::parse(plain.first, &plain.octets).ok()?;
    Identity::parse(chain.one(kind)?).ok()
}

/// Why a peer was not believed, with the certificate that is to blame.
fn disbelieved(why: Unproven, chain: &Chain<'_>, now: Stamp) -> Cause {
    let certificate = match why {
        Unproven::Certificate(why) => {
            let certificates: Vec<_> = chain.all(PayloadKind::CERT).collect();
            Culprit::find(&certificates, why, now.wall)
        }
        _ => None,
    };
    Cause::Unproven { why, certificate }
}

/// Whether an IKE_AUTH request is for the IKE SA alone (RFC 6023, 4).
fn asks_for_no_child(chain: &Chain<'_>) -> bool {
    let of_child = [PayloadKind::SA, PayloadKind::TS_I, PayloadKind::TS_R];
    of_child.iter().all(|kind| chain.one(*kind).is_none())
}

/// What the responder has made of the Child SA that it was asked for.
fn confirmed(terms: &Child, chain: &Chain<'_>) -> Result<Terms, Unwanted> {
    child::confirm(terms, chain, Exchanging::NEVER).map_err(|error| Unwanted {
        reason: match error {
            ChildError::NoProposal => Closed::NoProposalChosen,
            ChildError::NoSelectors => Closed::TsUnacceptable,
            ChildError::Syntax => Closed::Protocol,
        },
        believed: true,
        cause: Box::new(Cause::of_child(error, terms, Some(chain))),
    })
}

/// The responder says no.
fn turned_down(sent: &AuthSent, error: NotifyKind, believed: bool) -> Unwanted {
    let asked = sent.child.as_ref();
    let child = asked.and_then(|(asked, _)| sent.connection.child(asked));
    let of_child =
        |error| child.map_or(Cause::Refused, |child| Cause::of_child(error, child, None));
    let cause = match error {
        NotifyKind::NO_PROPOSAL_CHOSEN => of_child(ChildError::NoProposal),
        NotifyKind::TS_UNACCEPTABLE => of_child(ChildError::NoSelectors),
        NotifyKind::INTERNAL_ADDRESS_FAILURE => Cause::NoAddress,
        NotifyKind::FAILED_CP_REQUIRED => Cause::AddressRequired,
        _ => Cause::Refused,
    };
    Unwanted {
        reason: reason_of(error),
        believed,
        cause: Box::new(cause),
    }
}

// RFC 5723: T19
/// AUTH_LIFETIME of the gateway, in seconds (RFC 4478, 3).
pub(super) fn auth_lifetime(chain: &Chain<'_>) -> Option<Duration> {
    let data = notify_data(chain, NotifyKind::AUTH_LIFETIME)?;
    let seconds = u32::from_be_bytes(data.try_into().ok()?);
    Some(Duration::from_secs(u64::from(seconds)))
}

/// Whether it is the Child SA alone that the peer refuses.
const fn is_about_child(error: NotifyKind) -> bool {
    matches!(
        error,
        NotifyKind::NO_PROPOSAL_CHOSEN | NotifyKind::TS_UNACCEPTABLE
    )
}

/// Why the peer refuses what a message of ours has asked for.
pub(super) fn reason_in(chain: &Chain<'_>) -> Closed {
    let mut kinds = chain.notifies().map(|notify| notify.kind);
    let error = kinds.find(|kind| kind.is_error());
    error.map_or(Closed::Protocol, reason_of)
}

/// What an error notification means to us.
const fn reason_of(error: NotifyKind) -> Closed {
    match error {
        NotifyKind::AUTHENTICATION_FAILED => Closed::AuthenticationFailed,
        NotifyKind::NO_PROPOSAL_CHOSEN => Closed::NoProposalChosen,
        NotifyKind::TS_UNACCEPTABLE => Closed::TsUnacceptable,
        NotifyKind::INTERNAL_ADDRESS_FAILURE => Closed::NoAddress,
        NotifyKind::FAILED_CP_REQUIRED => Closed::AddressRequired,
        NotifyKind::NO_ADDITIONAL_SAS => Closed::Limit,
        NotifyKind::TEMPORARY_FAILURE => Closed::Kernel,
        _ => Closed::Protocol,
    }
}

/// Whether the peer says that it knows of no other SA between the two identities (RFC 7296, 2.4).
fn is_initial_contact(chain: &Chain<'_>) -> bool {
    let mut kinds = chain.notifies().map(|notify| notify.kind);
    kinds.any(|kind| kind == NotifyKind::INITIAL_CONTACT)
}
