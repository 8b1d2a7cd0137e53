//! What an IKE_AUTH message must show before anything is made of it: identities, proof, and terms for
//! the Child SA. Order of trust: shape, then proof, then what is asked for.

use std::{sync::Arc, time::Duration};

use super::{
    child::{self, ChildError, Terms},
    configuration::{self, Grant},
    notify_data,
    proof::{Claim, parse_auth, proven, resumption_holds, resumption_mic},
    qcd::token_in,
    ticket::{self, TicketAnswer},
};
use crate::{
    endpoint::{Context, Endpoint},
    io::{Event, Path, Stamp},
    lease::Leased,
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{AuthSent, IkeSa, Ripe},
        nat::Nat,
    },
    ticket::state::{AuthMethod, CertificateFacts},
    trust::Hashes,
    view::{Closed, Unproven},
    wire::{
        encrypted::Plain,
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
    /// What a repetition of the request is known by.
    pub message: &'a [u8],
}

/// What an IKE_AUTH request came to.
pub(super) struct Accepted {
    pub connection: Arc<Connection>,
    pub peer: Identity,
    pub auth: AuthMethod,
    pub certificate: Option<CertificateFacts>,
    pub child: Terms,
    pub grant: Option<Grant>,
    pub wants_ticket: bool,
    pub token: Vec<u8>,
}

/// What an IKE_AUTH response came to.
pub(super) struct Agreed {
    pub peer: Identity,
    pub auth: AuthMethod,
    pub certificate: Option<CertificateFacts>,
    pub child: Terms,
    pub leased: Leased,
    pub ticket: TicketAnswer,
    pub token: Vec<u8>,
    /// How long the gateway lets this authentication count.
    pub auth_lifetime: Duration,
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
    ) -> Result<Accepted, NotifyKind> {
        let syntax = |_| NotifyKind::INVALID_SYNTAX;
        let refused = NotifyKind::AUTHENTICATION_FAILED;
        let chain = Chain::parse(plain.first, &plain.octets).map_err(syntax)?;
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
                let config = self.config_of(&state.connection).ok_or(refused)?;
                let (compat, message) = (config.compat, &asked.first.request);
                let expected =
                    resumption_mic(ripe.suite, compat, &ripe.keys.sk_pi, &octets, message);
                // Between the two messages, that is.
                let revoked = state.is_revoked(&*cx.ledger);
                if revoked || !(same && no_cert && resumption_holds(&claim, &expected)) {
                    return Err(refused);
                }
                (Arc::clone(config), state.auth, state.certificate.clone())
            }
            None => {
                let mut unproven = None;
                let mut candidates = self.slots_at(&sa.path).filter(|config| {
                    config.ike_suites.contains(&ripe.suite)
                        && id_r.as_ref().is_none_or(|id_r| id_r.is(&config.local.id))
                        && config.remote.id.as_ref().is_none_or(|id| id.is(&id_i))
                });
                let found = candidates.find_map(|config| {
                    match proven(config, ripe.suite, &claim, &chain, cx.now) {
                        Ok((auth, facts)) => Some((Arc::clone(config), auth, facts)),
                        Err(why) => {
                            // Of several connections the one whose method it used tells most.
                            if unproven.is_none() || why != Unproven::Method {
                                unproven = Some(why);
                            }
                            None
                        }
                    }
                });
                drop(candidates);
                if let (None, Some(why)) = (&found, unproven) {
                    self.unproven(sa.path, &id_i, why);
                }
                found.ok_or(refused)?
            }
        };
        let grant = configuration::grant(&connection, &id_i, &chain, cx)?;
        let granted = grant.as_ref().map(|grant| &*grant.granted.addresses);
        let terms = connection.child.with(granted.unwrap_or_default());
        let child = child::negotiate(&terms, &chain, &[None]).map_err(|error| {
            self.take_back(grant.as_ref());
            match error {
                ChildError::NoProposal => NotifyKind::NO_PROPOSAL_CHOSEN,
                ChildError::NoSelectors => NotifyKind::TS_UNACCEPTABLE,
                ChildError::Syntax => NotifyKind::INVALID_SYNTAX,
            }
        })?;
        let wants_ticket = chain
            .notifies()
            .any(|notify| notify.kind == NotifyKind::TICKET_REQUEST);
        Ok(Accepted {
            connection,
            peer: id_i.clone(),
            auth,
            certificate,
            child,
            grant,
            wants_ticket,
            token: token_in(&chain).unwrap_or_default(),
        })
    }

    // RFC 5723: N25, N26, T2
    /// The response's proof and terms; on failure why, and whether the responder believes in an SA.
    pub(super) fn judge_response(
        &mut self,
        path: Path,
        sent: &AuthSent,
        plain: &Plain,
        now: Stamp,
    ) -> Result<Agreed, (Closed, bool)> {
        let broken = (Closed::Protocol, false);
        let chain = Chain::parse(plain.first, &plain.octets).map_err(|_| broken)?;
        let error = chain
            .notifies()
            .map(|notify| notify.kind)
            .find(|kind| kind.is_error());
        let Some(auth) = chain.one(PayloadKind::AUTH) else {
            return Err((error.map_or(Closed::Protocol, reason_of), false));
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
                    return Err(refused);
                }
                (record.auth, None)
            }
            None => {
                if sent
                    .connection
                    .remote
                    .id
                    .as_ref()
                    .is_some_and(|id| !id.is(&id_r))
                {
                    return Err(refused);
                }
                proven(&sent.connection, sent.suite, &claim, &chain, now).map_err(|why| {
                    self.unproven(path, &id_r, why);
                    refused
                })?
            }
        };
        if let Some(error) = error {
            return Err((reason_of(error), true));
        }
        let leased = configuration::received(&chain, &sent.connection.vips)
            .ok_or((Closed::NoAddress, true))?;
        let terms = sent.connection.child.with(&leased.addresses);
        let child = child::confirm(&terms, &chain, &[None]).map_err(|error| {
            let reason = match error {
                ChildError::NoProposal => Closed::NoProposalChosen,
                ChildError::NoSelectors => Closed::TsUnacceptable,
                ChildError::Syntax => Closed::Protocol,
            };
            (reason, true)
        })?;
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
            token: token_in(&chain).unwrap_or_default(),
            auth_lifetime: auth_lifetime(&chain).unwrap_or(Duration::MAX),
        })
    }

    fn unproven(&mut self, path: Path, peer: &Identity, why: Unproven) {
        let (from, peer) = (path.remote, peer.clone());
        self.event(Event::Unproven { from, peer, why });
    }
}

// RFC 5723: T19
/// AUTH_LIFETIME of the gateway, in seconds (RFC 4478, 3).
fn auth_lifetime(chain: &Chain<'_>) -> Option<Duration> {
    let data = notify_data(chain, NotifyKind::AUTH_LIFETIME)?;
    let seconds = u32::from_be_bytes(data.try_into().ok()?);
    Some(Duration::from_secs(u64::from(seconds)))
}

/// What an error notification in IKE_AUTH means to us.
const fn reason_of(error: NotifyKind) -> Closed {
    match error {
        NotifyKind::AUTHENTICATION_FAILED => Closed::AuthenticationFailed,
        NotifyKind::NO_PROPOSAL_CHOSEN => Closed::NoProposalChosen,
        NotifyKind::TS_UNACCEPTABLE => Closed::TsUnacceptable,
        NotifyKind::INTERNAL_ADDRESS_FAILURE => Closed::NoAddress,
        NotifyKind::FAILED_CP_REQUIRED => Closed::AddressRequired,
        NotifyKind::TEMPORARY_FAILURE | NotifyKind::NO_ADDITIONAL_SAS => Closed::Kernel,
        _ => Closed::Protocol,
    }
}
