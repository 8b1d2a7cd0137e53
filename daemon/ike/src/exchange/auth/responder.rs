//! IKE_AUTH on the responder's side: derives the keys now that there is a reason to, judges the peer,
//! and answers when store and kernel have done their part.

use crate::{
    counters::Counter,
    crypto::keymat::KeyMaterial,
    endpoint::{Context, Endpoint},
    exchange::{
        Storing, child,
        choice::Choice,
        configuration, init,
        judge::{Accepted, Asked},
        proof::{SHARED_KEY_MIC, emit_auth, prove, resumption_mic},
        redirect,
    },
    failure::{Cause, Failure, Standing},
    io::{Past, Path},
    lease::Leased,
    sa::{
        ike_sa::{HalfOpen, IkeSa, Live, Origin, Proven, Ripe, Ripeness, State},
        mobike::Mobike,
        proposal::IkeSuite,
        protection::Protection,
        reassembly::Received,
        window::{Datagrams, Window},
    },
    ticket::{Keyring, Opened, Refused},
    trust,
    view::Closed,
    wire::{
        encrypted::OpenError,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{ChainWriter, PayloadKind},
    },
};

/// Wrong keys or changed octets do not end a half-open SA, or anybody could end it; but an IKE_AUTH
/// that opens and proves nothing does.
impl Endpoint {
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
                    OpenError::TooLong => {
                        self.failed(Standing::Reached, cx.now.boot, || {
                            Failure::of_sa(&sa, Exchange::IkeAuth, Cause::TooLong)
                        });
                        self.close(sa, Closed::Limit, cx);
                    }
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
            follows,
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
            follows,
            message,
        };
        match self.judge_request(&sa, &ripe, &asked, &plain, cx) {
            Ok(accepted) => self.accept(sa, *ripe, asked, accepted, cx),
            Err(denied) => {
                let (notify, unknown) = (denied.notify, denied.unknown);
                self.denied(&sa, &plain, denied, cx.now);
                if notify == NotifyKind::AUTHENTICATION_FAILED {
                    self.counters.add(Counter::AuthFailed);
                }
                let mut chain = ChainWriter::new();
                chain.notify(notify, unknown.as_slice());
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
            wants_bare_key,
            mobike,
            initial_contact,
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
                self.failed(Standing::Proven, now.boot, || {
                    Failure::of_sa(&sa, Exchange::IkeAuth, Cause::Ticket(Refused::Used))
                        .sent(NotifyKind::AUTHENTICATION_FAILED)
                        .proven(peer, &connection)
                });
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
            trust::emit_chain(&connection, wants_bare_key, &mut proof_chain);
            prove(&connection, suite, &octets, asked.peer_hashes, cx)
        };
        let Some((method, proof)) = proof else {
            self.failed(Standing::Proven, now.boot, || {
                Failure::of_sa(&sa, Exchange::IkeAuth, Cause::OwnProof)
                    .sent(NotifyKind::AUTHENTICATION_FAILED)
                    .proven(peer, &connection)
            });
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
            None => Origin::full(now, auth, certificate),
        };
        let keying = child::Keying {
            suite,
            sk_d: &keys.sk_d,
            shared: None,
            ni: first.ni(),
            nr: first.nr(),
            initiator: false,
            spi_in: self.new_esp_spi(cx.env),
        };
        let ends = child::Ends {
            path: sa.path,
            nat: asked.nat,
            client: false,
            leased: &[],
        };
        let refused = child.as_ref().err().copied();
        let (child, install) = child
            .ok()
            .flatten()
            .map(|Choice { terms, owner }| {
                child::agreed(&connection, owner, &terms, &keying, &ends, cx.env)
            })
            .unzip();
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
            child,
            leased: Leased {
                addresses: grant
                    .as_ref()
                    .map(|grant| grant.granted.addresses.clone())
                    .unwrap_or_default(),
                ..Leased::default()
            },
            nat: asked.nat,
            mobike,
            origin,
        };
        let mut live = Live::new(proven, now);
        live.follows = asked.follows;
        live.alone = initial_contact;
        if let Some(to) = redirect::destination(&live, sa.path.local.ip()) {
            return self.send_on_proven(sa, live, works, &to, cx);
        }
        let mut offer = None;
        if wants_ticket {
            offer = self.begin_ticket((sa.spi_i, sa.spi_r), &mut live, &mut works, cx);
        }
        live.token = token;
        if live.connection.reauth.is_some() {
            let left = live.end.saturating_sub(now.boot).as_secs() as u32;
            works.notify(NotifyKind::AUTH_LIFETIME, &left.to_be_bytes());
        }
        if live.mobike.is_some() {
            Mobike::announce(&mut works, sa.path.local.ip(), &live.connection.more_addrs);
        }
        works.notify(NotifyKind::QCD_TOKEN, &self.token_of((sa.spi_i, sa.spi_r)));
        if let Some(grant) = &grant {
            configuration::emit_reply(&mut works, &live.connection, grant);
        }
        for child in &live.children {
            child::emit_answer(&mut works, child);
        }
        if let Some(refused) = refused {
            works.notify(refused, &[]);
        }
        let storing = Storing {
            consume,
            lease: grant.and_then(|grant| grant.granted.stored),
            offer,
            install,
            works,
            fails,
            request: asked.message.to_vec(),
        };
        self.install_when_stored(sa, live, storing, cx);
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
                    let keys = init::derive(suite, &shared, &self.first, sa);
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
        ticket: Option<Box<Opened>>,
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
