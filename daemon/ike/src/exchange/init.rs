//! IKE_SA_INIT (RFC 7296, 1.2): keys are exchanged, nobody is authenticated. The responder derives
//! nothing yet; that waits for an IKE_AUTH worth the arithmetic.

use std::{sync::Arc, time::Duration};

use super::{
    Detour, MAX_ROUNDS, NONCE_LEN, Opening,
    first::{cookie_first, new_cookie, offer_fragments, takes_fragments},
    nonce, notify_data, redirect,
};
use crate::{
    counters::Counter,
    crypto::{Group, KeyShare, Secret, keymat::KeyMaterial},
    defence::{budget::Room, cookie::Bound},
    endpoint::{CommandRefused, Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::Path,
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{HalfOpen, IkeSa, InitSent, Ripeness, State},
        nat::Nat,
        proposal::{IkeSuite, answer_ike, choose_ike, offer_ike},
        table::FirstKey,
        window::{Datagrams, Outstanding},
    },
    trust::{self, Hashes},
    view::Closed,
    wire::{
        WireError, encrypted,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// How long an unauthenticated error may be contradicted by a genuine answer.
const HINT_PATIENCE: Duration = Duration::from_secs(2);

impl Endpoint {
    /// Initiator: sends the first message of a full exchange, to where the configuration says or by a
    /// detour.
    pub(crate) fn start_full(
        &mut self,
        slot: usize,
        detour: Option<Detour>,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let (connection, path) = self.dial(slot, detour)?;
        let group = connection.ike_suites.first().map(|suite| suite.group);
        let key_share = group.and_then(|group| cx.env.new_key_share(group));
        let key_share = key_share.ok_or(CommandRefused::CannotInitiate)?;
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let out = Outstanding::new(Datagrams::none(), cx.now.boot);
        let (cookie, rounds, hint, refused) = (Vec::new(), 0, None, None);
        let sent = InitSent {
            connection,
            ni,
            key_share,
            cookie,
            is_detour: detour.is_some(),
            redirected_from: detour.and_then(|detour| detour.from),
            rounds,
            hint,
            out,
            refused,
        };
        let sa = self.initiator_sa(path, State::InitSent(Box::new(sent)), cx);
        self.send_init(sa, cx);
        Ok(())
    }

    /// (Re)builds the request from the state and sends it.
    pub(super) fn send_init(&mut self, mut sa: IkeSa, cx: &Context<'_>) {
        let header = sa.header(Exchange::IkeSaInit, false, 0);
        let State::InitSent(sent) = &mut sa.state else {
            return self.check_in(sa);
        };
        let mut chain = ChainWriter::new();
        cookie_first(&mut chain, &sent.cookie);
        chain.payload(PayloadKind::SA, |out| {
            offer_ike(&sent.connection.ike_suites, &[], out);
        });
        chain.payload(PayloadKind::KE, |out| emit_ke(sent.key_share.as_ref(), out));
        chain.octets(PayloadKind::NONCE, &sent.ni);
        let spis = (header.spi_i, header.spi_r);
        Nat::announce(&mut chain, spis, &sa.path, sent.connection.encap);
        chain.notify(NotifyKind::SIGNATURE_HASH_ALGORITHMS, &Hashes::OURS);
        offer_fragments(&sent.connection, &mut chain);
        redirect::announce(&mut chain, &sent.connection, sent.redirected_from);
        let message = encrypted::clear(&header, chain);
        sent.out = Outstanding::new(message.clone().into(), cx.now.boot);
        self.send(sa.path, message);
        self.check_in(sa);
    }

    /// Responder: answers a first message, and remembers as little of it as will do.
    pub(crate) fn init_request(
        &mut self,
        path: Path,
        header: &Header,
        message: &[u8],
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let ke = chain.one(PayloadKind::KE).and_then(parse_ke);
        let (Some(offer), Some((group, peer_public)), Some(ni)) =
            (chain.one(PayloadKind::SA), ke, nonce(chain, 0))
        else {
            return self.counters.add(Counter::BadPayloads);
        };
        let key = FirstKey::new(&self.first_key, &path, message);
        if self.answer_again(&key, path) {
            return;
        }
        let bound = Bound {
            path: &path,
            spi_i: header.spi_i,
            ni,
            exchange: header.exchange,
            ticket_tag: 0,
        };
        if self.sends_on(path, header, message, chain, &bound, cx) {
            return;
        }
        let free = self.room(&path) == Room::Free;
        if !self.admit(path, header, chain, &bound, free, cx) {
            return;
        }
        let group = Group::from_number(group);
        let suites = self.suites_at(&path);
        let chosen = match choose_ike(offer, &suites, group) {
            Ok(Some(chosen)) => chosen,
            // Whoever offers more than is read may offer less.
            Ok(None) | Err(WireError::TooMany { .. }) => {
                self.counters.add(Counter::NoProposal);
                let within: Vec<_> = self.slots_at(&path).take(2).cloned().collect();
                self.failed(Standing::Stranger, cx.now.boot, || {
                    let cause = match &suites[..] {
                        [] => Cause::NoConnection,
                        ours => Cause::proposals(ours, Some(offer)),
                    };
                    let failure = Failure::of_stranger(path.remote, header.exchange, cause)
                        .sent(NotifyKind::NO_PROPOSAL_CHOSEN);
                    match &within[..] {
                        [only] => failure.within(only),
                        _ => failure,
                    }
                });
                return self.refuse_first(path, header, NotifyKind::NO_PROPOSAL_CHOSEN, &[]);
            }
            Err(_) => {
                self.counters.add(Counter::BadPayloads);
                return self.failed(Standing::Stranger, cx.now.boot, || {
                    Failure::of_stranger(path.remote, header.exchange, Cause::Malformed)
                });
            }
        };
        let suite: IkeSuite = chosen.suite;
        if group != Some(suite.group) {
            self.counters.add(Counter::OtherGroup);
            let wanted = suite.group.number().to_be_bytes();
            return self.refuse_first(path, header, NotifyKind::INVALID_KE_PAYLOAD, &wanted);
        }
        let fits = peer_public.len() == suite.group.public_len();
        if !fits || nonce(chain, suite.prf.output_len()).is_none() {
            return self.counters.add(Counter::BadPayloads);
        }
        let Some(key_share) = cx.env.new_key_share(suite.group) else {
            return self.counters.add(Counter::Full);
        };
        let mut nr = [0; NONCE_LEN];
        cx.env.random(&mut nr);
        let mut sa = self.responder_sa(path, header, cx);
        let mut answer = ChainWriter::new();
        answer.payload(PayloadKind::SA, |out| answer_ike(chosen, &[], out));
        answer.payload(PayloadKind::KE, |out| emit_ke(key_share.as_ref(), out));
        answer.octets(PayloadKind::NONCE, &nr);
        // Who the peer turns out to be is not known yet, so any of them may want it.
        let encap = self.slots_at(&path).any(|c| c.encap);
        Nat::announce(&mut answer, (sa.spi_i, sa.spi_r), &path, encap);
        let candidates = self.slots_at(&path).map(|connection| &**connection);
        trust::emit_request(candidates, &mut answer);
        let hashes = notify_data(chain, NotifyKind::SIGNATURE_HASH_ALGORITHMS);
        if hashes.is_some() {
            answer.notify(NotifyKind::SIGNATURE_HASH_ALGORITHMS, &Hashes::OURS);
        }
        let fragments =
            takes_fragments(chain) && self.slots_at(&path).any(|c| c.fragment_size.is_some());
        if fragments {
            answer.notify(NotifyKind::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        if self.slots_at(&path).any(|c| c.childless) {
            answer.notify(NotifyKind::CHILDLESS_IKEV2_SUPPORTED, &[]);
        }
        let response = encrypted::clear(&sa.header(Exchange::IkeSaInit, true, 0), answer);
        let first = FirstExchange {
            request: message.to_vec(),
            response: response.clone(),
        };
        let peer_public = peer_public.into();
        sa.state = State::HalfOpen(Box::new(HalfOpen {
            first,
            nat: Nat::detect(chain, header, &path, encap),
            peer_hashes: Hashes::parse(hashes),
            fragments,
            follows: redirect::follows(chain),
            ripeness: Ripeness::Exchanged {
                key_share,
                peer_public,
                suite,
            },
        }));
        self.keep_half_open(sa, ni, key, response, cx);
    }

    /// Initiator: goes on to IKE_AUTH, or round again with a cookie or another group.
    pub(crate) fn init_response(
        &mut self,
        mut sa: IkeSa,
        path: Path,
        header: &Header,
        message: &[u8],
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let State::InitSent(sent) = &mut sa.state else {
            return self.stray(sa);
        };
        if sent.rounds < MAX_ROUNDS {
            if let Some(cookie) = new_cookie(chain, &sent.cookie) {
                sent.cookie = cookie;
                sent.rounds += 1;
                return self.send_init(sa, cx);
            }
            if let Some(key_share) = other_group(sent, chain).and_then(|g| cx.env.new_key_share(g))
            {
                sent.key_share = key_share;
                sent.rounds += 1;
                return self.send_init(sa, cx);
            }
        }
        if let Some(to) = redirect::named_in_clear(chain, &sent.connection, &sent.ni)
            .filter(|_| !sent.is_redirected())
        {
            // Unauthenticated as well: whoever only listens must not keep us from our gateway.
            let until = cx.now.boot + HINT_PATIENCE;
            let connection = Arc::clone(&sent.connection);
            let reason = self.follow(&connection, to, path.remote.ip(), cx);
            sent.hint = Some((reason, until));
            return self.check_in(sa);
        }
        if let Some(error) = chain
            .notifies()
            .map(|notify| notify.kind)
            .find(|kind| kind.is_error())
        {
            // Unauthenticated, so only a hint (RFC 7296, 2.21.1): a genuine answer may follow.
            sent.refused.get_or_insert(error);
            if error == NotifyKind::NO_PROPOSAL_CHOSEN && sent.hint.is_none() {
                sent.hint = Some((Closed::NoProposalChosen, cx.now.boot + HINT_PATIENCE));
            }
            return self.check_in(sa);
        }
        let ke = chain.one(PayloadKind::KE).and_then(parse_ke);
        let (Some(answer), Some((group, peer_public))) = (chain.one(PayloadKind::SA), ke) else {
            return self.stray(sa);
        };
        let ours = &sent.connection.ike_suites;
        let group = Group::from_number(group).filter(|group| *group == sent.key_share.group());
        let chosen = choose_ike(answer, ours, group)
            .ok()
            .flatten()
            .map(|chosen| chosen.suite);
        let Some(suite) = chosen.filter(|suite| Some(suite.group) == group) else {
            return self.stray(sa);
        };
        if nonce(chain, suite.prf.output_len()).is_none() || header.spi_r == [0; 8] {
            return self.stray(sa);
        }
        if self.attempt_in_auth(&sent.connection.name, sa.id) {
            return self.abandon(sa);
        }
        let peer_hashes = Hashes::parse(notify_data(chain, NotifyKind::SIGNATURE_HASH_ALGORITHMS));
        let bare_key = trust::wants_bare_key(chain);
        let nat = Nat::detect(chain, header, &path, sent.connection.encap);
        let fragments = sent.connection.fragment_size.is_some() && takes_fragments(chain);
        let childless = notify_data(chain, NotifyKind::CHILDLESS_IKEV2_SUPPORTED).is_some()
            && sent.connection.childless;
        let peer_public = peer_public.to_vec();
        let State::InitSent(sent) = std::mem::replace(&mut sa.state, State::Gone) else {
            return self.check_in(sa);
        };
        let InitSent {
            connection,
            key_share,
            out,
            refused,
            ..
        } = *sent;
        self.contradicted(&sa, &connection, (Exchange::IkeSaInit, refused), cx.now);
        let first = FirstExchange {
            request: out.message.into_message(),
            response: message.to_vec(),
        };
        sa.spi_r = header.spi_r;
        let Ok(shared) = key_share.agree(&peer_public) else {
            sa.state = State::Gone;
            return self.attempt_failed(sa, &connection, Closed::Protocol, cx);
        };
        let keys = derive(suite, &shared, &first, &sa);
        let opening = Opening {
            connection,
            first,
            suite,
            keys,
            nat,
            peer_hashes,
            bare_key,
            fragments,
            childless,
            resumed: None,
            doubtful: false,
        };
        self.send_auth(sa, opening, cx);
    }

    /// Initiator: the first message was not answered in time.
    pub(crate) fn init_due(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let State::InitSent(sent) = &mut sa.state else {
            return self.check_in(sa);
        };
        if let Some((reason, _)) = sent.hint.filter(|(_, at)| *at <= now) {
            return self.close(sa, reason, cx);
        }
        let (due, message) = (sent.out.due(now), sent.out.message.clone());
        if let Some(sa) = self.first_due(sa, due, &message, cx) {
            self.check_in(sa);
        }
    }

    /// Suites of all connections that a peer on this path may turn out to be.
    fn suites_at(&self, path: &Path) -> Vec<IkeSuite> {
        self.slots_at(path)
            .flat_map(|config| config.ike_suites.iter().copied())
            .collect()
    }

    /// Connections whose addresses fit a path.
    pub(crate) fn slots_at<'a>(
        &'a self,
        path: &'a Path,
    ) -> impl Iterator<Item = &'a Arc<Connection>> {
        let configs = self.slots.iter().map(|slot| &slot.config);
        configs.filter(|config| config.accepts(path))
    }
}

/// Keys of a full exchange.
pub(super) fn derive(
    suite: IkeSuite,
    shared: &Secret,
    first: &FirstExchange,
    sa: &IkeSa,
) -> KeyMaterial {
    let exchanged = first.exchanged(sa.spi_i, sa.spi_r);
    KeyMaterial::from_exchange(suite.prf, suite.encryption, shared, &exchanged)
}

/// The group an INVALID_KE_PAYLOAD asks for, if it is one of ours and not the one just tried.
fn other_group(sent: &InitSent, chain: &Chain<'_>) -> Option<Group> {
    let data = notify_data(chain, NotifyKind::INVALID_KE_PAYLOAD)?;
    let group = Group::from_number(u16::from_be_bytes(data.try_into().ok()?))?;
    let ours = sent
        .connection
        .ike_suites
        .iter()
        .any(|suite| suite.group == group);
    (ours && group != sent.key_share.group()).then_some(group)
}

/// KE payload (RFC 7296, 3.4): group, reserved, public value.
pub(super) fn emit_ke(key_share: &dyn KeyShare, out: &mut Vec<u8>) {
    out.extend_from_slice(&key_share.group().number().to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(key_share.public());
}

pub(super) fn parse_ke(body: &[u8]) -> Option<(u16, &[u8])> {
    let (&[g0, g1, _, _], public) = body.split_first_chunk()?;
    Some((u16::from_be_bytes([g0, g1]), public))
}
