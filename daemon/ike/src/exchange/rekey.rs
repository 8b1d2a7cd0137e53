//! Rekeying an IKE SA by CREATE_CHILD_SA (RFC 7296, 1.3.2 and 2.18): a new key exchange under the
//! protection of the old SA. The Child SA moves over; the old SA is deleted by whoever began. Tickets
//! of the old SA are void with it (RFC 5723, 6.2). If both sides begin at once, both answer as usual; the
//! new SA that was made with the lowest of the four nonces is redundant, and the other one inherits the
//! Child SA (2.8.2).

use std::{sync::Arc, time::Duration};

use super::{
    NONCE_LEN,
    init::{emit_ke, parse_ke},
    nonce, notify_data,
    retry::Refusal,
    ticket,
    ticket::TicketAnswer,
};
use crate::{
    crypto::{
        Group,
        keymat::{Exchanged, KeyMaterial},
    },
    endpoint::{CommandRefused, Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Event, Path},
    sa::{
        ike_sa::{IkeSa, Live, Proven, Purpose, Rekeying, Rival, State},
        mobike::Mobike,
        proposal::{IkeSuite, answer_ike, choose_ike, offer_ike, rekey_spi},
        protection::Protection,
        window::{Datagrams, Window},
    },
    view::Closed,
    wire::{
        header::{Exchange, Spi},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Whoever answered a rekey deletes the old SA himself if the peer has not by then.
const MOVED_PATIENCE: Duration = Duration::from_secs(30);

/// How long it may stay open which of two new SAs is redundant: longer than a peer repeats itself.
const UNDECIDED: Duration = Duration::from_mins(1);

/// A fresh key exchange follows a resumption after a time in these bounds, by chance, so that what
/// the ticket's keys could open ends, and clients of one outage do not come in step.
pub(crate) const AFTER_RESUMPTION: (Duration, Duration) =
    (Duration::from_mins(5), Duration::from_mins(30));

impl Endpoint {
    /// Asks the peer for new keys, on the operator's word.
    pub(crate) fn rekey(
        &mut self,
        slot: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let sa = self.up_sa(slot).ok_or(CommandRefused::NotUp)?;
        self.begin_rekey(sa, None, cx);
        Ok(())
    }

    // RFC 5723: N2, N43
    /// Asks the peer for new keys; with the group it has asked for, if it has.
    pub(crate) fn begin_rekey(
        &mut self,
        mut sa: IkeSa,
        group: Option<Group>,
        cx: &mut Context<'_>,
    ) {
        let spi = self.new_spi();
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let idle = live.outstanding.is_none() && live.is_settled();
        let later = if idle {
            Refusal::Final
        } else {
            Refusal::NotYet
        };
        live.rekey_at = Some(cx.now.boot + later.wait(cx.env));
        let again = group.is_some();
        let group = group.unwrap_or(live.suite.group);
        let Some(key_share) = cx.env.new_key_share(group).filter(|_| idle) else {
            return self.check_in(sa);
        };
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let mut chain = ChainWriter::new();
        let suites = &live.connection.ike_suites;
        chain.payload(PayloadKind::SA, |out| offer_ike(suites, &spi, out));
        chain.octets(PayloadKind::NONCE, &ni);
        chain.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        if live.client && live.connection.resume.enabled {
            // RFC 5723, 4.1: only in a rekey that the client itself has begun.
            chain.notify(NotifyKind::TICKET_REQUEST, &[]);
        }
        let rekeying = Box::new(Rekeying {
            ni,
            key_share,
            spi,
            again,
            rival: None,
        });
        self.send_request(sa, Purpose::Rekey(rekeying), chain, cx);
    }

    // RFC 5723: N43, A10
    /// Responder: makes the new SA, or says why not. The answer still goes under the old keys.
    pub(crate) fn answer_rekey(
        &mut self,
        live: &mut Live,
        path: Path,
        request: &Chain<'_>,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) -> Option<IkeSa> {
        let refuse = |answer: &mut ChainWriter, kind| {
            answer.notify(kind, &[]);
            None
        };
        let Some(offer) = request.one(PayloadKind::SA) else {
            return refuse(answer, NotifyKind::INVALID_SYNTAX);
        };
        // RFC 7296, 2.25.1 and 2.25.2. A rekey of ours is no reason: both are answered as usual.
        let busy = match &live.outstanding {
            None | Some((Purpose::Liveness, _)) => live.delete_next.is_some(),
            Some((Purpose::Rekey(ours), _)) => ours.rival.is_some() || live.delete_next.is_some(),
            Some(_) => true,
        };
        if busy || !live.is_settled() {
            return refuse(answer, NotifyKind::TEMPORARY_FAILURE);
        }
        let ke = request.one(PayloadKind::KE).and_then(parse_ke);
        let Some((group, peer_public)) = ke else {
            return refuse(answer, NotifyKind::INVALID_SYNTAX);
        };
        let group = Group::from_number(group);
        let chosen = choose_ike(offer, &live.connection.ike_suites, group)
            .ok()
            .flatten();
        let Some(chosen) = chosen else {
            self.failed(Standing::Proven, cx.now.boot, || {
                let cause = Cause::proposals(&live.connection.ike_suites, Some(offer));
                Failure::of_live(live, path, Exchange::CreateChildSa, cause)
                    .sent(NotifyKind::NO_PROPOSAL_CHOSEN)
            });
            return refuse(answer, NotifyKind::NO_PROPOSAL_CHOSEN);
        };
        if group != Some(chosen.suite.group) {
            let wanted = chosen.suite.group.number().to_be_bytes();
            answer.notify(NotifyKind::INVALID_KE_PAYLOAD, &wanted);
            return None;
        }
        let ni = nonce(request, chosen.suite.prf.output_len());
        let (Some(ni), Some(spi_i)) = (ni, rekey_spi(offer, chosen.number)) else {
            return refuse(answer, NotifyKind::INVALID_SYNTAX);
        };
        let key_share = cx.env.new_key_share(chosen.suite.group)?;
        let mut nr = vec![0; NONCE_LEN];
        cx.env.random(&mut nr);
        let spi_r = self.new_spi();
        answer.payload(PayloadKind::SA, |out| answer_ike(chosen, &spi_r, out));
        answer.octets(PayloadKind::NONCE, &nr);
        answer.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        let exchanged = Exchanged {
            ni,
            nr: &nr,
            spi_i,
            spi_r,
        };
        let Ok(shared) = key_share.agree(peer_public) else {
            *answer = ChainWriter::new();
            return refuse(answer, NotifyKind::INVALID_SYNTAX);
        };
        let keys = KeyMaterial::from_rekey(
            (live.suite.prf, &live.sk_d),
            chosen.suite.prf,
            chosen.suite.encryption,
            &shared,
            &exchanged,
        );
        let spis = (spi_i, spi_r);
        let mut sa = self.successor(live, spis, false, path, chosen.suite, keys, cx)?;
        let id = sa.id;
        let State::Up(new) = &mut sa.state else {
            return None;
        };
        if notify_data(request, NotifyKind::TICKET_REQUEST).is_some() {
            self.answer_ticket_request(spis, new, path, answer, cx);
        }
        if let Some(ours) = live.rekeying() {
            // Which of the two stays, the peer's answer will tell.
            let lowest = ni.min(&nr).to_vec();
            ours.rival = Some(Rival { sa: id, lowest });
            new.moved_until = Some(cx.now.boot + UNDECIDED);
        } else {
            self.moves_to(live, new, path, cx);
        }
        answer.notify(NotifyKind::QCD_TOKEN, &self.token_of(spis));
        Some(sa)
    }

    /// Initiator: takes the new SA in use and says goodbye to the old one.
    pub(crate) fn rekey_response(
        &mut self,
        mut sa: IkeSa,
        rekeying: Rekeying,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let Rekeying {
            ni,
            key_share,
            spi,
            again,
            rival,
        } = rekeying;
        if let Some(data) = notify_data(chain, NotifyKind::INVALID_KE_PAYLOAD) {
            let group = data
                .try_into()
                .ok()
                .map(u16::from_be_bytes)
                .and_then(Group::from_number);
            // Nor is an SA rekeyed that is about to be deleted.
            let over = again || live.delete_next.is_some();
            let ours = |group: &Group| live.connection.ike_suites.iter().any(|s| s.group == *group);
            let group = group.filter(|group| !over && ours(group) && *group != key_share.group());
            return match (group, rival) {
                (Some(_), None) => self.begin_rekey(sa, group, cx),
                (_, rival) => self.rekey_refused(sa, rival, chain, cx),
            };
        }
        let offer = chain.one(PayloadKind::SA);
        let chosen = offer.and_then(|offer| {
            let group = Some(key_share.group());
            let chosen = choose_ike(offer, &live.connection.ike_suites, group).ok()??;
            Some((chosen.suite, rekey_spi(offer, chosen.number)?))
        });
        let ke = chain.one(PayloadKind::KE).and_then(parse_ke);
        let (Some((suite, spi_r)), Some((_, peer_public))) = (chosen, ke) else {
            return self.rekey_refused(sa, rival, chain, cx);
        };
        let Some(nr) = nonce(chain, suite.prf.output_len()) else {
            return self.rekey_refused(sa, rival, chain, cx);
        };
        let exchanged = Exchanged {
            ni: &ni,
            nr,
            spi_i: spi,
            spi_r,
        };
        let Ok(shared) = key_share.agree(peer_public) else {
            return self.rekey_refused(sa, rival, chain, cx);
        };
        let keys = KeyMaterial::from_rekey(
            (live.suite.prf, &live.sk_d),
            suite.prf,
            suite.encryption,
            &shared,
            &exchanged,
        );
        let path = sa.path;
        let Some(mut new) = self.successor(live, (spi, spi_r), true, path, suite, keys, cx) else {
            return self.check_in(sa);
        };
        // "Lowest" is octet by octet, and a nonce that ends first is lower (RFC 7296, 2.8.1).
        let lower = |theirs: &Rival| ni.as_slice().min(nr) < theirs.lowest.as_slice();
        let stays = rival
            .filter(lower)
            .and_then(|theirs| self.table.check_out(theirs.sa));
        let State::Up(made) = &mut new.state else {
            return self.check_in(sa);
        };
        if let Some(theirs) = stays {
            // Ours is redundant, and ours to delete; the old SA is the peer's (2.8.2).
            made.moved_until = Some(cx.now.boot + MOVED_PATIENCE);
            self.begin_delete(new, Closed::Rekeyed, cx);
            self.adopt(&mut sa, theirs, cx);
            return self.check_in(sa);
        }
        made.token = super::qcd::token_in(chain).unwrap_or_default();
        made.inherit(live, cx);
        live.moved_until = Some(cx.now.boot + MOVED_PATIENCE);
        // Not that of an SA that is to go at once: what the client has by then may be a newer one's.
        if made.client && made.delete_next.is_none() {
            self.take_ticket(made, ticket::received(chain), path, cx);
        }
        let made = new.id;
        self.succeeds(&sa, new);
        self.begin_delete(sa, Closed::Rekeyed, cx);
        self.tell_token(made, cx);
    }

    /// Initiator: the peer does not want to, or cannot. If it has begun itself, its new SA takes over.
    fn rekey_refused(
        &mut self,
        mut sa: IkeSa,
        rival: Option<Rival>,
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        if let Some(theirs) = rival.and_then(|rival| self.table.check_out(rival.sa)) {
            self.adopt(&mut sa, theirs, cx);
            return self.check_in(sa);
        }
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let refusal = Refusal::of(chain);
        live.rekey_at = Some(cx.now.boot + refusal.wait(cx.env));
        if live.delete_next.is_some() {
            return self.check_in(sa);
        }
        if refusal == Refusal::NoMore {
            return self.renew(sa, cx);
        }
        if live.is_out_of_sync(refusal, cx.now.boot) {
            return self.begin_delete(sa, Closed::Protocol, cx);
        }
        self.check_in(sa);
    }

    /// The peer deletes an SA that both have rekeyed, so it knows of its own rekey only (2.8.2).
    pub(crate) fn adopt_rival(&mut self, sa: &mut IkeSa, cx: &mut Context<'_>) {
        let State::Up(live) = &mut sa.state else {
            return;
        };
        let rival = live.rekeying().and_then(|ours| ours.rival.take());
        if let Some(theirs) = rival.and_then(|rival| self.table.check_out(rival.sa)) {
            self.adopt(sa, theirs, cx);
        }
    }

    /// The SA that the peer's rekey has made takes over after all.
    fn adopt(&mut self, old: &mut IkeSa, mut theirs: IkeSa, cx: &mut Context<'_>) {
        if let (State::Up(live), State::Up(new)) = (&mut old.state, &mut theirs.state) {
            if new.mobike.is_some() {
                // It may have been made before a move.
                theirs.path = old.path;
            }
            let path = theirs.path;
            new.moved_until = None;
            self.moves_to(live, new, path, cx);
        }
        self.succeeds(old, theirs);
    }

    /// What an SA carries goes to the one that the peer has made in its place.
    fn moves_to(&mut self, old: &mut Live, new: &mut Live, path: Path, cx: &mut Context<'_>) {
        new.inherit(old, cx);
        old.moved_until = Some(cx.now.boot + MOVED_PATIENCE);
        if new.client {
            // The gateway has begun: the ticket in hand is void, and asking is up to us.
            self.take_ticket(new, TicketAnswer::None, path, cx);
            new.ask_ticket_at = Some(cx.now.boot);
        }
    }

    /// The SA that may take over: identities and origin are those of the old one, message IDs begin anew,
    /// and tickets issued on the old SA are void.
    #[expect(
        clippy::too_many_arguments,
        reason = "both SAs, and everything between them"
    )]
    fn successor(
        &mut self,
        old: &mut Live,
        (spi_i, spi_r): (Spi, Spi),
        initiator: bool,
        path: Path,
        suite: IkeSuite,
        keys: KeyMaterial,
        cx: &mut Context<'_>,
    ) -> Option<IkeSa> {
        // What was agreed in the first exchange holds for all SAs that follow it (RFC 7296, 2.8).
        let fragments = old.protection.takes_fragments();
        let mut protection = Protection::new(suite, &keys, initiator, fragments)?;
        protection.fit_into(old.connection.fragment_size);
        let proven = Proven {
            connection: Arc::clone(&old.connection),
            peer: old.peer.clone(),
            client: old.client,
            suite,
            sk_d: keys.sk_d.duplicate(),
            protection,
            window: Window {
                next_request: 0,
                expected: 0,
                last_response: Datagrams::none(),
            },
            child: None,
            leased: old.leased.clone(),
            nat: old.nat,
            mobike: old.mobike.as_ref().map(Mobike::successor),
            origin: old.origin.clone(),
        };
        if let Some(issued) = old.issued.take() {
            issued.revoke(cx.ledger);
        }
        let mut live = Live::new(proven, cx.now);
        live.session_since = old.session_since;
        live.origin.fresh_keys = true;
        live.pace = old.pace;
        // What the peer allows this authentication, a rekey does not extend (RFC 4478, 3).
        live.auth_until = old.auth_until;
        live.follows = old.follows;
        live.redirect_next = old.redirect_next.take();
        live.end = live.end.min(old.auth_until);
        live.reauth_at = old.reauth_at;
        live.plan_rekey(cx);
        Some(IkeSa {
            id: self.table.next_id(),
            spi_i,
            spi_r,
            initiator,
            path,
            started: cx.now.boot,
            state: State::Up(live),
        })
    }

    // RFC 5723: N43, A10, A11
    /// Puts the successor in, and says so if it carries on: it may turn out to be redundant.
    pub(crate) fn succeeds(&mut self, old: &IkeSa, new: IkeSa) {
        let open = matches!(&new.state, State::Up(live) if live.moved_until.is_some());
        if open {
            self.check_in(new);
        } else if let Some(connection) = new.connection().map(|config| Arc::clone(&config.name)) {
            let (old, sa) = (old.id, new.id);
            self.hand_lease_on(old, sa);
            self.check_in(new);
            self.event(Event::Rekeyed {
                old,
                sa,
                connection,
            });
        }
    }
}
