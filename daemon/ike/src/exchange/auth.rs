//! IKE_AUTH (RFC 7296, 1.2; RFC 5723, 4.3.3): both sides prove who they are, and the first Child SA
//! is made. The answer waits until the kernel has taken the Child SA.

use std::{sync::Arc, time::Duration};

use super::{
    AFTER_RESUMPTION, Storing, configuration,
    judge::{Accepted, Agreed, Asked},
    proof::{SHARED_KEY_MIC, emit_auth, prove, resumption_mic},
};
use crate::{
    counters::Counter,
    crypto::keymat::KeyMaterial,
    endpoint::{Context, Endpoint},
    io::{Env, Past, Path},
    lease::Leased,
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{
            AuthSent, HalfOpen, IkeSa, Installing, Lingering, Live, Origin, Proven, Ripe, Ripeness,
            State,
        },
        nat::Nat,
        proposal::IkeSuite,
        protection::Protection,
        reassembly::Received,
        window::{Datagrams, Due, Outstanding, Window},
    },
    ticket::{Keyring, SessionRecord},
    trust::{self, Hashes},
    view::Closed,
    wire::{
        encrypted::OpenError,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{ChainWriter, PayloadKind},
    },
};

/// How long the last answer of a dead SA is kept for a retransmission of its request.
const LINGER: Duration = Duration::from_secs(30);

/// What a first exchange came to, on the initiator's side.
pub(crate) struct Opening {
    pub connection: Arc<Connection>,
    pub first: FirstExchange,
    pub suite: IkeSuite,
    pub keys: KeyMaterial,
    pub nat: Nat,
    /// What the peer can check signatures of RFC 7427 with.
    pub peer_hashes: Hashes,
    /// Whether both sides take fragments.
    pub fragments: bool,
    /// The record whose ticket was accepted.
    pub resumed: Option<SessionRecord>,
}

/// Wrong keys or changed octets do not end a half-open SA, or anybody could end it; but an IKE_AUTH
/// that opens and proves nothing does.
impl Endpoint {
    // RFC 5723: N1, N5, N22, N25, A7, A15
    /// Initiator: proves itself and asks for a Child SA.
    pub(crate) fn send_auth(&mut self, mut sa: IkeSa, opening: Opening, cx: &mut Context<'_>) {
        let Opening {
            connection,
            first,
            suite,
            keys,
            nat,
            resumed,
            peer_hashes,
            fragments,
        } = opening;
        let Some(mut protection) = Protection::new(suite, &keys, true, fragments) else {
            return self.attempt_failed(sa, &connection, Closed::Protocol, cx);
        };
        protection.fit_into(connection.fragment_size);
        if nat.found() {
            // RFC 7296, 2.23: the initiator floats, both ports.
            sa.path.local.set_port(self.settings.natt_port);
            sa.path.remote.set_port(self.settings.natt_port);
        }
        let id_i = &connection.local.id;
        let octets = first.initiator_octets(suite.prf, &keys, id_i);
        let mut chain = ChainWriter::new();
        chain.octets(PayloadKind::ID_I, &id_i.body());
        let proof = if resumed.is_some() {
            let compat = connection.compat;
            let mic = resumption_mic(suite, compat, &keys.sk_pi, &octets, &first.request);
            Some((SHARED_KEY_MIC, mic))
        } else {
            trust::emit_chain(&connection, &mut chain);
            trust::emit_request(std::iter::once(&*connection), &mut chain);
            prove(&connection, suite, &octets, peer_hashes, cx)
        };
        let Some((method, proof)) = proof else {
            return self.attempt_failed(sa, &connection, Closed::AuthenticationFailed, cx);
        };
        let id_r = resumed
            .as_ref()
            .map(|record| &record.id_r)
            .or(connection.remote.id.as_ref());
        if let Some(id_r) = id_r {
            chain.octets(PayloadKind::ID_R, &id_r.body());
        }
        emit_auth(&mut chain, method, &proof);
        if resumed.is_none() && self.is_first_contact(&connection) {
            chain.notify(NotifyKind::INITIAL_CONTACT, &[]);
        }
        if connection.resume.enabled {
            chain.notify(NotifyKind::TICKET_REQUEST, &[]);
        }
        chain.notify(NotifyKind::QCD_TOKEN, &self.token_of((sa.spi_i, sa.spi_r)));
        let former = self.slot_of(&connection.name);
        let former = former.and_then(|at| self.slots.get(at));
        let former = former.map_or(&[][..], |slot| &slot.leased);
        configuration::emit_request(&mut chain, &connection, former);
        let child_spi = self.new_esp_spi(cx.env);
        let terms = connection.child.with(&configuration::any(&connection.vips));
        super::child::emit_offer(&mut chain, &terms, child_spi);
        let message = protection.seal(&sa.header(Exchange::IkeAuth, false, 1), chain);
        self.send_all(sa.path, &message);
        let out = Outstanding::new(message, cx.now.boot);
        sa.state = State::AuthSent(Box::new(AuthSent {
            connection,
            first,
            suite,
            keys,
            protection,
            nat,
            child_spi,
            resumed,
            out,
        }));
        self.check_in(sa);
    }

    /// Responder: derives the keys now that there is a reason to, and judges the peer's proof.
    pub(crate) fn auth_request(
        &mut self,
        mut sa: IkeSa,
        path: Path,
        header: &Header,
        message: &[u8],
        cx: &mut Context<'_>,
    ) {
        if header.message_id != 1 {
            return self.stray(sa);
        }
        let State::HalfOpen(mut half) = std::mem::replace(&mut sa.state, State::Gone) else {
            return self.stray(sa);
        };
        if header.next == PayloadKind::SKF && !half.fragments {
            sa.state = State::HalfOpen(half);
            return self.stray(sa);
        }
        half.ripen(&sa, &self.keyring);
        let opened = match &mut half.ripeness {
            Ripeness::Ripe(ripe) => ripe.protection.open(header, message, cx.now.boot),
            _ => Err(OpenError::Corrupt),
        };
        let Received { plain, known_by } = match opened {
            Ok(Some(received)) => received,
            Ok(None) => {
                sa.state = State::HalfOpen(half);
                self.check_in(sa);
                return self.bound_fragments(cx);
            }
            Err(error) => {
                self.counters.add(Counter::of(error));
                sa.state = State::HalfOpen(half);
                return match error {
                    // RFC 7383, 5: whoever sends so much is not to be waited for.
                    OpenError::TooLong => self.close(sa, Closed::Limit, cx),
                    _ => self.check_in(sa),
                };
            }
        };
        // Whoever holds the keys is the peer; its address counts from here on (RFC 7296, 2.23).
        let from = sa.path.remote.ip();
        self.budget.give_back(from);
        self.forget_first(&sa.path, &half.first);
        sa.path = path;
        let HalfOpen {
            first,
            nat,
            peer_hashes,
            ripeness,
            ..
        } = *half;
        let Ripeness::Ripe(ripe) = ripeness else {
            return self.forget(&sa);
        };
        let message = &*known_by;
        let asked = Asked {
            first,
            nat,
            peer_hashes,
            message,
        };
        match self.judge_request(&sa, &ripe, &asked, &plain, cx) {
            Ok(accepted) => self.accept(sa, *ripe, asked, accepted, cx),
            Err(notify) => {
                if notify == NotifyKind::AUTHENTICATION_FAILED {
                    self.counters.add(Counter::AuthFailed);
                }
                let mut chain = ChainWriter::new();
                chain.notify(notify, &[]);
                self.last_word(sa, ripe.protection, header, message, chain, cx);
            }
        }
    }

    // RFC 5723: N14, N27, A3, A18
    /// Responder: the peer is who it says. Prepares the answer, asks the store, then the kernel.
    fn accept(
        &mut self,
        sa: IkeSa,
        ripe: Ripe,
        asked: Asked<'_>,
        accepted: Accepted,
        cx: &mut Context<'_>,
    ) {
        let Ripe {
            keys,
            mut protection,
            suite,
            ticket,
        } = ripe;
        let Accepted {
            connection,
            peer,
            auth,
            certificate,
            child,
            grant,
            wants_ticket,
            token,
        } = accepted;
        if let Some(grant) = &grant {
            self.held_leases.insert(sa.id, grant.granted.id);
        }
        let (now, first) = (cx.now, &asked.first);
        protection.fit_into(connection.fragment_size);
        let header = sa.header(Exchange::IkeAuth, true, 1);
        let mut consume = None;
        if let Some(ticket) = &ticket {
            // Consumed before the answer leaves; of two racers with a right AUTH one comes second.
            let mut first = cx.ledger.mark_used(ticket.name.key_id, ticket.name.index);
            if let Some(reference) = ticket.reference.as_ref().filter(|_| first) {
                consume = cx.ledger.begin_consume(reference);
                first = consume.is_some();
            }
            if !first {
                self.counters.add(Counter::AuthFailed);
                let mut chain = ChainWriter::new();
                chain.notify(NotifyKind::AUTHENTICATION_FAILED, &[]);
                return self.last_word(sa, protection, &header, asked.message, chain, cx);
            }
        }
        let id_r = &connection.local.id;
        let octets = first.responder_octets(suite.prf, &keys, id_r);
        let mut proof_chain = ChainWriter::new();
        proof_chain.octets(PayloadKind::ID_R, &id_r.body());
        let proof = if ticket.is_some() {
            let compat = connection.compat;
            let mic = resumption_mic(suite, compat, &keys.sk_pr, &octets, &first.response);
            Some((SHARED_KEY_MIC, mic))
        } else {
            trust::emit_chain(&connection, &mut proof_chain);
            prove(&connection, suite, &octets, asked.peer_hashes, cx)
        };
        let Some((method, proof)) = proof else {
            let mut chain = ChainWriter::new();
            chain.notify(NotifyKind::AUTHENTICATION_FAILED, &[]);
            return self.last_word(sa, protection, &header, asked.message, chain, cx);
        };
        emit_auth(&mut proof_chain, method, &proof);
        let mut fails = proof_chain.clone();
        fails.notify(NotifyKind::TEMPORARY_FAILURE, &[]);
        let mut works = proof_chain;
        let origin = match &ticket {
            Some(ticket) => Origin {
                resumed: true,
                resume_count: ticket.state.resume_count.saturating_add(1),
                full_auth: Past::at_wall(ticket.state.full_auth, now),
                auth,
                certificate,
                fresh_keys: false,
                ticket_issued: Some(ticket.state.issued),
            },
            None => Origin {
                resumed: false,
                resume_count: 0,
                full_auth: now.into(),
                auth,
                certificate,
                fresh_keys: true,
                ticket_issued: None,
            },
        };
        let spi_in = self.new_esp_spi(cx.env);
        let (child, install) = super::child::agreed(
            &connection,
            &peer,
            &child,
            &super::child::Keying {
                suite,
                sk_d: &keys.sk_d,
                shared: None,
                ni: first.ni(),
                nr: first.nr(),
                initiator: false,
                spi_in,
            },
            sa.path,
            asked.nat,
        );
        let proven = Proven {
            connection,
            peer,
            client: false,
            suite,
            sk_d: keys.sk_d.duplicate(),
            protection,
            window: Window {
                next_request: 0,
                expected: 1,
                last_response: Datagrams::none(),
            },
            child: Some(child),
            leased: Leased {
                addresses: grant
                    .as_ref()
                    .map(|grant| grant.granted.addresses.clone())
                    .unwrap_or_default(),
                ..Leased::default()
            },
            nat: asked.nat,
            origin,
        };
        let mut live = Live::new(proven, now);
        let mut offer = None;
        if wants_ticket {
            offer = self.begin_ticket((sa.spi_i, sa.spi_r), &mut live, &mut works, cx);
        }
        live.token = token;
        if live.connection.reauth.is_some() {
            let left = live.end.saturating_sub(now.boot).as_secs() as u32;
            works.notify(NotifyKind::AUTH_LIFETIME, &left.to_be_bytes());
        }
        works.notify(NotifyKind::QCD_TOKEN, &self.token_of((sa.spi_i, sa.spi_r)));
        if let Some(grant) = &grant {
            configuration::emit_reply(&mut works, &live.connection, grant);
        }
        super::child::emit_answer(&mut works, live.child.as_ref());
        let storing = Storing {
            consume,
            lease: grant.and_then(|grant| grant.granted.stored),
            offer,
            install,
            works,
            fails,
            request: asked.message.to_vec(),
        };
        self.install_when_stored(sa, live, storing);
    }

    /// Initiator: judges the responder's proof and asks the kernel for what it agreed to.
    pub(crate) fn auth_response(
        &mut self,
        mut sa: IkeSa,
        header: &Header,
        message: &[u8],
        cx: &mut Context<'_>,
    ) {
        let State::AuthSent(sent) = &mut sa.state else {
            return self.stray(sa);
        };
        if header.message_id != 1 {
            return self.stray(sa);
        }
        let plain = match sent.protection.open(header, message, cx.now.boot) {
            Ok(Some(received)) => received.plain,
            Ok(None) => return self.check_in(sa),
            Err(error) => {
                self.counters.add(Counter::of(error));
                return self.check_in(sa);
            }
        };
        let judged = self.judge_response(sa.path, sent, &plain, cx.now);
        let State::AuthSent(sent) = std::mem::replace(&mut sa.state, State::Gone) else {
            return self.forget(&sa);
        };
        match judged {
            Ok(agreed) => self.agreed(sa, *sent, agreed, cx),
            Err((reason, believed)) => {
                let AuthSent {
                    connection,
                    protection,
                    resumed,
                    ..
                } = *sent;
                // The gateway holds SK_d and still says no: the ticket goes, a full exchange follows.
                let was_resumption = resumed.is_some();
                if believed {
                    // The responder has an SA that we do not want (RFC 7296, 2.21.2).
                    self.goodbye(&sa, protection);
                }
                self.forget(&sa);
                self.attempt_over(&connection, reason, was_resumption, cx);
            }
        }
    }

    // RFC 5723: T12, A13, A14
    fn agreed(&mut self, mut sa: IkeSa, sent: AuthSent, agreed: Agreed, cx: &mut Context<'_>) {
        let AuthSent {
            connection,
            first,
            suite,
            keys,
            protection,
            nat,
            child_spi,
            resumed,
            ..
        } = sent;
        let Agreed {
            peer,
            auth,
            certificate,
            child,
            leased,
            ticket,
            token,
            auth_lifetime,
        } = agreed;
        if let Some(slot) = self.slot_mut(&connection) {
            slot.leased.clone_from(&leased.addresses);
        }
        let now = cx.now;
        let origin = match &resumed {
            Some(record) => Origin {
                resumed: true,
                resume_count: record.resume_count.saturating_add(1),
                full_auth: record.full_auth,
                auth: record.auth,
                certificate: None,
                fresh_keys: false,
                ticket_issued: Some(record.received.wall()),
            },
            None => Origin {
                resumed: false,
                resume_count: 0,
                full_auth: now.into(),
                auth,
                certificate,
                fresh_keys: true,
                ticket_issued: None,
            },
        };
        let keying = super::child::Keying {
            suite,
            sk_d: &keys.sk_d,
            shared: None,
            ni: first.ni(),
            nr: first.nr(),
            initiator: true,
            spi_in: child_spi,
        };
        let (child, install) =
            super::child::agreed(&connection, &peer, &child, &keying, sa.path, nat);
        let proven = Proven {
            connection,
            peer,
            client: true,
            suite,
            sk_d: keys.sk_d.duplicate(),
            protection,
            window: Window {
                next_request: 2,
                expected: 0,
                last_response: Datagrams::none(),
            },
            child: Some(child),
            leased,
            nat,
            origin,
        };
        let mut live = Live::new(proven, now);
        live.token = token;
        // The gateway knows when it wants to see us authenticate again (RFC 4478, 3).
        live.auth_until = now.boot.saturating_add(auth_lifetime);
        live.end = live.end.min(live.auth_until);
        if live.origin.resumed {
            live.rekey_at = Some(now.boot + chance_between(AFTER_RESUMPTION, cx.env));
        }
        sa.state = State::Installing(live, Box::new(Installing::Initiator { ticket }));
        self.install(sa, install);
    }

    /// Initiator: the proof was not answered in time.
    pub(crate) fn auth_due(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let State::AuthSent(sent) = &mut sa.state else {
            return self.check_in(sa);
        };
        match sent.out.due(cx.now.boot) {
            Due::Wait => {}
            Due::Resend => {
                let message = sent.out.message.clone();
                self.send_all(sa.path, &message);
            }
            Due::Dead => return self.close(sa, Closed::Timeout, cx),
        }
        self.check_in(sa);
    }

    /// Answers a request that ends the SA, and keeps the answer for its retransmission.
    pub(crate) fn last_word(
        &mut self,
        mut sa: IkeSa,
        mut protection: Protection,
        header: &Header,
        request: &[u8],
        chain: ChainWriter,
        cx: &Context<'_>,
    ) {
        let header = sa.header(header.exchange, true, header.message_id);
        let response = protection.seal(&header, chain);
        self.end_lease(sa.id);
        self.send_all(sa.path, &response);
        let until = cx.now.boot + LINGER;
        sa.state = State::Lingering(Box::new(Lingering {
            request: request.to_vec(),
            response,
            until,
        }));
        self.check_in(sa);
    }
}

impl HalfOpen {
    /// Derives the keys on the first IKE_AUTH, or the first fragment of it; the next one finds them.
    fn ripen(&mut self, sa: &IkeSa, keyring: &Keyring) {
        let raw = std::mem::replace(&mut self.ripeness, Ripeness::Dead);
        self.ripeness = match raw {
            Ripeness::Exchanged {
                key_share,
                peer_public,
                suite,
            } => key_share
                .agree(&peer_public)
                .ok()
                .map_or(Ripeness::Dead, |shared| {
                    let keys = super::init::derive(suite, &shared, &self.first, sa);
                    Ripeness::ripe(suite, keys, self.fragments, None)
                }),
            Ripeness::Ticket { at, kept, .. } => {
                let ticket = self.first.ticket().unwrap_or_default();
                let opened = keyring.open(ticket, at, |_| kept.map(|kept| *kept));
                // Its epoch may have been retired since.
                opened.map_or(Ripeness::Dead, |opened| {
                    let suite = opened.state.suite;
                    let exchanged = self.first.exchanged(sa.spi_i, sa.spi_r);
                    let old = &opened.state.sk_d;
                    let keys =
                        KeyMaterial::from_ticket(suite.prf, suite.encryption, old, &exchanged);
                    Ripeness::ripe(suite, keys, self.fragments, Some(Box::new(opened)))
                })
            }
            ripe @ (Ripeness::Ripe(_) | Ripeness::Dead) => ripe,
        };
    }
}

impl Ripeness {
    fn ripe(
        suite: IkeSuite,
        keys: KeyMaterial,
        fragments: bool,
        ticket: Option<Box<crate::ticket::Opened>>,
    ) -> Self {
        Protection::new(suite, &keys, false, fragments).map_or(Self::Dead, |protection| {
            Self::Ripe(Box::new(Ripe {
                keys,
                protection,
                suite,
                ticket,
            }))
        })
    }
}

/// A time between two bounds, by chance.
pub(crate) fn chance_between((least, most): (Duration, Duration), env: &mut dyn Env) -> Duration {
    let mut octets = [0; 4];
    env.random(&mut octets);
    let share = f64::from(u32::from_be_bytes(octets)) / f64::from(u32::MAX);
    least + most.saturating_sub(least).mul_f64(share)
}
