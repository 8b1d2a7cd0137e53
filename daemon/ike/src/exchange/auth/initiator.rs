//! IKE_AUTH on the initiator's side: proves itself, asks for a Child SA, and judges the answer.

use std::sync::Arc;

use super::chance_between;
use crate::{
    counters::Counter,
    crypto::keymat::KeyMaterial,
    endpoint::{Context, Endpoint},
    exchange::{
        AFTER_RESUMPTION, Refusal, child, configuration,
        judge::{Agreed, Unwanted},
        mode,
        proof::{SHARED_KEY_MIC, emit_auth, prove, resumption_mic},
    },
    failure::{Cause, Failure, Standing},
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{AuthSent, IkeSa, Installing, Live, Origin, Proven, State},
        mobike::Mobike,
        nat::Nat,
        proposal::IkeSuite,
        protection::Protection,
        window::{Datagrams, Due, Outstanding, Window},
    },
    ticket::SessionRecord,
    trust::{self, Hashes},
    view::Closed,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{ChainWriter, PayloadKind},
    },
};

/// What a first exchange came to, on the initiator's side.
#[expect(
    clippy::struct_excessive_bools,
    reason = "what the peer said and did, each by itself"
)]
pub(crate) struct Opening {
    pub connection: Arc<Connection>,
    pub first: FirstExchange,
    pub suite: IkeSuite,
    pub keys: KeyMaterial,
    pub nat: Nat,
    /// What the peer can check signatures of RFC 7427 with.
    pub peer_hashes: Hashes,
    /// Whether the peer asks for our key without certificate.
    pub bare_key: bool,
    /// Whether both sides take fragments.
    pub fragments: bool,
    /// Whether to ask for no Child SA yet (RFC 6023).
    pub childless: bool,
    /// The record whose ticket was accepted.
    pub resumed: Option<SessionRecord>,
    /// Whether the answer may be to a request before the last.
    pub doubtful: bool,
}

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
            doubtful,
            peer_hashes,
            bare_key,
            fragments,
            childless,
        } = opening;
        let Some(mut protection) = Protection::new(suite, &keys, true, fragments) else {
            return self.attempt_failed(sa, &connection, Closed::Protocol, cx);
        };
        protection.fit_into(connection.fragment_size);
        if nat.found() || connection.mobike && nat.traversal {
            // RFC 7296, 2.23: the initiator floats, both ports. With MOBIKE also where there is no NAT
            // yet (RFC 4555, 3.3).
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
            trust::emit_chain(&connection, bare_key, &mut chain);
            trust::emit_request(std::iter::once(&*connection), &mut chain);
            prove(&connection, suite, &octets, peer_hashes, cx)
        };
        let Some((method, proof)) = proof else {
            self.failed(Standing::Reached, cx.now.boot, || {
                Failure::of_sa(&sa, Exchange::IkeAuth, Cause::OwnProof).within(&connection)
            });
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
        if connection.mobike {
            Mobike::announce(&mut chain, sa.path.local.ip(), &connection.more_addrs);
        }
        chain.notify(NotifyKind::QCD_TOKEN, &self.token_of((sa.spi_i, sa.spi_r)));
        let former = self.slot_of(&connection.name);
        let former = former.and_then(|at| self.slots.get(at));
        let former = former.map_or(&[][..], |slot| &slot.leased);
        configuration::emit_request(&mut chain, &connection, former);
        let child = self.first_child(&connection).filter(|_| !childless);
        if child.is_none() && !childless {
            return self.attempt_failed(sa, &connection, Closed::Protocol, cx);
        }
        let child = child.map(|child| {
            let terms = child.with(&configuration::any(&connection.vips));
            let spi = self.new_esp_spi(cx.env);
            mode::ask(&mut chain, &terms, &sa.path, nat);
            child::emit_offer(&mut chain, &terms, spi);
            (terms.name, spi)
        });
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
            child,
            resumed,
            doubtful,
            out,
        }));
        self.check_in(sa);
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
        let judged = self.judge_response(sent, &plain, cx.now);
        let State::AuthSent(sent) = std::mem::replace(&mut sa.state, State::Gone) else {
            return self.forget(&sa);
        };
        match judged {
            Ok(agreed) => self.agreed(sa, *sent, agreed, cx),
            Err(Unwanted {
                reason,
                believed,
                cause,
            }) => {
                let AuthSent {
                    connection,
                    protection,
                    resumed,
                    doubtful,
                    ..
                } = *sent;
                if doubtful && reason == Closed::AuthenticationFailed && !believed {
                    return self.resume_again(&sa, &connection, resumed, cx);
                }
                // The gateway holds SK_d and still says no: the ticket goes, a full exchange follows.
                let mut was_resumption = resumed.is_some();
                let mut reason = reason;
                if reason == Closed::Redirected {
                    let by = sa.path.remote.ip();
                    reason = self.follow_proven(&connection, &plain, by, cx);
                    was_resumption = false;
                } else {
                    self.unwanted(&sa, &connection, &plain, *cause, cx.now);
                }
                if believed {
                    // The responder has an SA that we do not want (RFC 7296, 2.21.2).
                    self.goodbye(&sa, protection);
                }
                self.forget(&sa);
                self.attempt_over(&connection, reason, was_resumption, cx);
            }
        }
    }

    // RFC 5723: N21
    /// Client: a COOKIE that anybody sent makes the last request another than the gateway has answered,
    /// and the proof is of the last. So the ticket is not to blame yet.
    fn resume_again(
        &mut self,
        sa: &IkeSa,
        connection: &Arc<Connection>,
        record: Option<SessionRecord>,
        cx: &mut Context<'_>,
    ) {
        self.forget(sa);
        let slot = self.slot_of(&connection.name);
        let again = slot
            .zip(record)
            .map(|(slot, record)| self.start_resume(slot, record, true, cx));
        if !matches!(again, Some(Ok(()))) {
            self.attempt_over(connection, Closed::AuthenticationFailed, true, cx);
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
            child: asked,
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
            mobike,
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
            None => Origin::full(now, auth, certificate),
        };
        let keying = child::Keying {
            suite,
            sk_d: &keys.sk_d,
            shared: None,
            ni: first.ni(),
            nr: first.nr(),
            initiator: true,
            spi_in: asked.as_ref().map_or(0, |(_, spi)| *spi),
        };
        let ends = child::Ends {
            path: sa.path,
            nat,
            client: true,
            leased: &leased.addresses,
        };
        let refused = child.as_ref().err().copied();
        let (child, install) = child
            .ok()
            .flatten()
            .map(|terms| {
                let owner = child::owner(&connection, &terms.name, &peer, &leased.addresses);
                child::agreed(&connection, owner, &terms, &keying, &ends, cx.env)
            })
            .unzip();
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
            child,
            leased,
            nat,
            mobike: mobike.map(|said| Mobike {
                called: Some(sa.path.remote.ip()),
                ..said
            }),
            origin,
        };
        let mut live = Live::new(proven, now);
        live.token = token;
        // The gateway knows when it wants to see us authenticate again (RFC 4478, 3).
        live.auth_until = now.boot.saturating_add(auth_lifetime).min(live.auth_until);
        live.end = live.end.min(live.auth_until);
        if live.origin.resumed {
            live.rekey_at = Some(now.boot + chance_between(AFTER_RESUMPTION, cx.env));
        }
        if let (Some(reason), Some((asked, _))) = (refused, asked) {
            self.child_failed(&live, &asked, reason);
            live.want_child(&asked, now.boot + Refusal::Final.wait(cx.env));
        }
        sa.state = State::Installing(live, Box::new(Installing::Initiator { ticket }));
        self.install_first(sa, install, cx);
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
}
