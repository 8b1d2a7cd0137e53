//! IKE_SESSION_RESUME (RFC 5723, 4.3): a ticket instead of a key exchange. The gateway keeps one slot
//! for a ticket it can open, derives nothing, and marks nothing used: the ticket travels in clear,
//! and whoever replays it must not take it away from its owner.

use std::{sync::Arc, time::Duration};

use gate_abi::ticket::TAG_OFFSET;

use super::{
    MAX_ROUNDS, NONCE_LEN, Opening, chance_between,
    first::{cookie_first, new_cookie, offer_fragments, takes_fragments},
    nonce, notify_data, redirect,
};
use crate::{
    counters::Counter,
    crypto::keymat::KeyMaterial,
    defence::{
        budget::{Room, network},
        cookie::Bound,
    },
    endpoint::{CommandRefused, Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::{Event, Path},
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{HalfOpen, IkeSa, ResumeSent, Ripeness, State},
        nat::Nat,
        proposal::IkeSuite,
        table::FirstKey,
        window::{Datagrams, Outstanding},
    },
    ticket::{Opened, Reference, Refused, SessionRecord, state::TicketState},
    trust::{self, Hashes},
    view::Closed,
    wire::{
        encrypted,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

// RFC 5723: A6
/// After this much silence, by chance, a full exchange starts beside the resumption: the gateway may
/// not know exchange 38 at all. Once in each attempt.
const RACE_AFTER: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));

// RFC 5723: A5
/// After a TICKET_NACK, which anybody can send, a genuine answer may still come for this long.
const NACK_PATIENCE: Duration = Duration::from_secs(2);

// RFC 5723: A3
/// Half-open SAs of one ticket. The first is free; the others need a cookie.
const MAX_HALF_OPEN_PER_TICKET: usize = 8;

// RFC 5723: A4
/// Answers to refused tickets in one second, be they COOKIE or TICKET_NACK. A client that gets none
/// starts a full exchange all the same, later (A6); an address that never asked is not flooded in our
/// name.
pub(crate) const REFUSALS_PER_SECOND: u32 = 4000;

// RFC 5723: A4
/// Of these, TICKET_NACKs to addresses that have proved nothing. Clients of a gateway that has lost
/// its keys are served within them; more than that is a load, and meets COOKIE first.
pub(crate) const BLIND_REFUSALS_PER_SECOND: u32 = 1000;

/// A message of more octets than this is not kept for a retransmission; no ticket of ours needs it.
const MAX_REQUEST: usize = 2048;

impl Endpoint {
    // RFC 5723: N19, L1, T5, T7, T8
    /// Client: presents the ticket of the session record, for the first time or once more.
    pub(crate) fn start_resume(
        &mut self,
        slot: usize,
        record: SessionRecord,
        again: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), CommandRefused> {
        let (connection, configured) = self.dial(slot, None)?;
        let path = if connection.remote_hosts.is_empty() {
            where_it_is_known(&record, configured)
        } else {
            // Of several it was the first to be called.
            configured
        };
        let mut ni = vec![0; NONCE_LEN];
        cx.env.random(&mut ni);
        let sent = ResumeSent {
            connection,
            record,
            ni,
            cookie: Vec::new(),
            rounds: 0,
            again,
            race_at: Some(cx.now.boot + chance_between(RACE_AFTER, cx.env)),
            give_up_at: None,
            refused: None,
            redirected: false,
            out: Outstanding::new(Datagrams::none(), cx.now.boot),
        };
        let sa = self.initiator_sa(path, State::ResumeSent(Box::new(sent)), cx);
        self.send_resume(sa, cx);
        Ok(())
    }

    // RFC 5723: N22, L2, T6, T9, T20, X1, X2, A15
    /// (Re)builds the request from the state and sends it: COOKIE, Ni, ticket, then the rest.
    pub(super) fn send_resume(&mut self, mut sa: IkeSa, cx: &Context<'_>) {
        let header = sa.header(Exchange::IkeSessionResume, false, 0);
        let State::ResumeSent(sent) = &mut sa.state else {
            return self.check_in(sa);
        };
        let mut chain = ChainWriter::new();
        cookie_first(&mut chain, &sent.cookie);
        chain.octets(PayloadKind::NONCE, &sent.ni);
        chain.notify(NotifyKind::TICKET_OPAQUE, &sent.record.ticket);
        let spis = (header.spi_i, header.spi_r);
        Nat::announce(&mut chain, spis, &sa.path, sent.connection.encap);
        offer_fragments(&sent.connection, &mut chain);
        redirect::announce(&mut chain, &sent.connection, None);
        let message = encrypted::clear(&header, chain);
        sent.out = Outstanding::new(message.clone().into(), cx.now.boot);
        self.send(sa.path, message);
        self.check_in(sa);
    }

    // RFC 5723: N18, N21, L1, L8, L12, A3, A4
    /// Gateway: honours a ticket with a nonce of its own, or refuses it.
    pub(crate) fn resume_request(
        &mut self,
        path: Path,
        header: &Header,
        message: &[u8],
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let mut tickets = chain
            .notifies()
            .filter(|notify| notify.kind == NotifyKind::TICKET_OPAQUE);
        let (Some(ni), Some(ticket), None) = (nonce(chain, 0), tickets.next(), tickets.next())
        else {
            return self.counters.add(Counter::BadPayloads);
        };
        if message.len() > MAX_REQUEST {
            return self.counters.add(Counter::BadPayloads);
        }
        let key = FirstKey::new(&self.first_key, &path, message);
        if self.answer_again(&key, path) {
            return;
        }
        let bound = Bound {
            path: &path,
            spi_i: header.spi_i,
            ni,
            exchange: header.exchange,
            ticket_tag: tag_of(ticket.data),
        };
        if self.sends_on(path, header, message, chain, &bound, cx) {
            return;
        }
        if !self.may_open(ticket.data, header, chain, &bound, cx) {
            return;
        }
        let opened = match self.judge(ticket.data, cx) {
            Ok(opened) if ni.len() * 2 >= opened.state.suite.prf.output_len() => opened,
            Ok(_) => return self.counters.add(Counter::BadPayloads),
            Err(why) => {
                self.counters.add(Counter::TicketRefused);
                let from = path.remote;
                self.event(Event::TicketRefused { from, why });
                let exchange = header.exchange;
                self.failed(Standing::Stranger, cx.now.boot, || {
                    Failure::of_stranger(from, exchange, Cause::Ticket(why))
                        .sent(NotifyKind::TICKET_NACK)
                });
                let no_cookie = self.keyring.is_no_cookie(ticket.data);
                return self.refuse_ticket(header, chain, &bound, no_cookie, cx);
            }
        };
        let rivals = self.table.of_ticket(opened.name);
        let free = rivals.is_empty() && self.room(&path) == Room::Free;
        if !free && opened.no_cookie {
            // The client would not understand COOKIE; a full exchange it can do.
            self.counters.add(Counter::TicketRefused);
            return self.refuse_ticket(header, chain, &bound, true, cx);
        }
        if !self.admit(path, header, chain, &bound, free, cx) {
            return;
        }
        if rivals.len() >= MAX_HALF_OPEN_PER_TICKET {
            let crowded = self.most_crowded(&rivals);
            if let Some(rival) = crowded.and_then(|id| self.table.check_out(id)) {
                self.close(rival, Closed::Limit, cx);
            }
        }
        let mut nr = [0; NONCE_LEN];
        cx.env.random(&mut nr);
        let mut sa = self.responder_sa(path, header, cx);
        let mut answer = ChainWriter::new();
        answer.octets(PayloadKind::NONCE, &nr);
        let config = self.config_of(&opened.state.connection);
        let encap = config.is_some_and(|c| c.encap);
        Nat::announce(&mut answer, (sa.spi_i, sa.spi_r), &path, encap);
        let fragments = takes_fragments(chain) && config.is_some_and(|c| c.fragment_size.is_some());
        if fragments {
            answer.notify(NotifyKind::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
        }
        let response = encrypted::clear(&sa.header(Exchange::IkeSessionResume, true, 0), answer);
        let first = FirstExchange {
            request: message.to_vec(),
            response: response.clone(),
        };
        sa.state = State::HalfOpen(Box::new(HalfOpen {
            first,
            nat: Nat::detect(chain, header, &path, encap),
            peer_hashes: Hashes::default(),
            fragments,
            follows: redirect::follows(chain),
            ripeness: Ripeness::Ticket {
                name: opened.name,
                at: cx.now.wall,
                kept: opened.kept.map(Box::new),
            },
        }));
        self.keep_half_open(sa, ni, key, response, cx);
    }

    /// Whether the ticket's body may be opened: its envelope alone can be sent again and again, with
    /// another body each time. One that is used, over or of another node is refused without that.
    fn may_open(
        &mut self,
        ticket: &[u8],
        header: &Header,
        chain: &Chain<'_>,
        bound: &Bound<'_>,
        cx: &mut Context<'_>,
    ) -> bool {
        let now = cx.now.boot;
        let live = self.keyring.live_name_of(ticket, cx.now.wall);
        let opened = live.is_some_and(|name| !cx.ledger.is_used(name.key_id, name.index));
        if !opened || self.openings.take(bound.ticket_tag, now) {
            return true;
        }
        self.counters.add(Counter::TicketHot);
        let path = *bound.path;
        if self.keyring.is_no_cookie(ticket) {
            self.refuse_ticket(header, chain, bound, true, cx);
            return false;
        }
        self.admit(path, header, chain, bound, false, cx)
            && self
                .openings
                .take_proven(bound.ticket_tag, path.remote.ip(), now)
    }

    /// The oldest, which has had the longest to prove itself, in the network with most of them: one
    /// attacker's many crowd out each other, not the client's one.
    fn most_crowded(&self, rivals: &[u64]) -> Option<u64> {
        let network_of = |id: &u64| self.table.get(*id).map(|sa| network(sa.path.remote.ip()));
        let neighbours = |id: &&u64| {
            let of = network_of(id);
            let apart = rivals
                .iter()
                .filter(|rival| network_of(rival) != of)
                .count();
            (apart, **id)
        };
        rivals.iter().min_by_key(neighbours).copied()
    }

    // RFC 5723: N18, A4
    /// TICKET_NACK; under load only to an address that has answered COOKIE, or whose client cannot.
    fn refuse_ticket(
        &mut self,
        header: &Header,
        chain: &Chain<'_>,
        bound: &Bound<'_>,
        no_cookie: bool,
        cx: &mut Context<'_>,
    ) {
        if !self.refusals.take(cx.now.boot) {
            return;
        }
        let path = *bound.path;
        let calm = self.room(&path) == Room::Free && self.blind_refusals.take(cx.now.boot);
        if calm || no_cookie || self.admit(path, header, chain, bound, false, cx) {
            self.refuse_first(path, header, NotifyKind::TICKET_NACK, &[]);
        }
    }

    // RFC 5723: N15, N20, N26, N55, L4, T10, A12, A21
    /// Opens a ticket and holds it against today's policy (RFC 5723, 4.3.2, and our rulings).
    fn judge(&self, ticket: &[u8], cx: &Context<'_>) -> Result<Opened, Refused> {
        let kept = |reference: &Reference| cx.ledger.kept(reference);
        // Before the body is opened: a captured ticket is cheap to send again and again.
        let name = self.keyring.name_of(ticket);
        if name.is_some_and(|name| cx.ledger.is_used(name.key_id, name.index)) {
            return Err(Refused::Used);
        }
        let opened = self.keyring.open(ticket, cx.now.wall, kept)?;
        self.allowed(&opened.state, cx)?;
        Ok(opened)
    }

    /// Holds a ticket's session against today's policy, and returns the connection it belongs to. Asked
    /// anew when the client proves itself: a reload or a list may have come in between.
    pub(super) fn allowed(
        &self,
        state: &TicketState,
        cx: &Context<'_>,
    ) -> Result<&Arc<Connection>, Refused> {
        if state.is_revoked(&*cx.ledger) {
            return Err(Refused::Revoked);
        }
        let config = self.config_of(&state.connection).ok_or(Refused::Policy)?;
        if trust::is_revoked(config, state.certificate.as_ref(), cx.now.wall) {
            return Err(Refused::Revoked);
        }
        // The last full authentication counts, not the last resumption.
        if config
            .reauth
            .is_some_and(|after| state.full_auth + after.as_secs() <= cx.now.wall)
        {
            return Err(Refused::Expired);
        }
        let unchanged = config.digest.starts_with(&state.digest);
        let suites = config.ike_suites.contains(&state.suite);
        if config.resume.enabled && unchanged && suites && config.local.id == state.id_r {
            Ok(config)
        } else {
            Err(Refused::Policy)
        }
    }

    // RFC 5723: N16, N23, L3, L14, T11, A5
    /// Client: goes on to IKE_AUTH, round again with a cookie, or over to a full exchange.
    pub(crate) fn resume_response(
        &mut self,
        mut sa: IkeSa,
        path: Path,
        header: &Header,
        message: &[u8],
        chain: &Chain<'_>,
        cx: &mut Context<'_>,
    ) {
        let State::ResumeSent(sent) = &mut sa.state else {
            return self.stray(sa);
        };
        let suite: IkeSuite = sent.record.suite;
        let nr = nonce(chain, suite.prf.output_len()).filter(|_| header.spi_r != [0; 8]);
        if nr.is_some() {
            if self.attempt_in_auth(&sent.connection.name, sa.id) {
                return self.abandon(sa);
            }
            let nat = Nat::detect(chain, header, &path, sent.connection.encap);
            let fragments = sent.connection.fragment_size.is_some() && takes_fragments(chain);
            let State::ResumeSent(sent) = std::mem::replace(&mut sa.state, State::Gone) else {
                return self.check_in(sa);
            };
            let ResumeSent {
                connection,
                record,
                out,
                refused,
                cookie,
                again,
                ..
            } = *sent;
            let answered = (Exchange::IkeSessionResume, refused);
            self.contradicted(&sa, &connection, answered, cx.now);
            let first = FirstExchange {
                request: out.message.into_message(),
                response: message.to_vec(),
            };
            sa.spi_r = header.spi_r;
            let exchanged = first.exchanged(sa.spi_i, sa.spi_r);
            let keys =
                KeyMaterial::from_ticket(suite.prf, suite.encryption, &record.sk_d, &exchanged);
            let opening = Opening {
                connection,
                first,
                suite,
                keys,
                nat,
                // No signatures follow a resumption.
                peer_hashes: Hashes::default(),
                bare_key: false,
                fragments,
                childless: false,
                resumed: Some(record),
                doubtful: !(cookie.is_empty() || again),
            };
            return self.send_auth(sa, opening, cx);
        }
        if let Some(cookie) = new_cookie(chain, &sent.cookie).filter(|_| sent.rounds < MAX_ROUNDS) {
            sent.cookie = cookie;
            sent.rounds += 1;
            if let Some(at) = &mut sent.race_at {
                // Somebody there knows our SPI: the wait begins anew.
                *at = cx.now.boot + chance_between(RACE_AFTER, cx.env);
            }
            return self.send_resume(sa, cx);
        }
        if let Some(to) = redirect::named_in_clear(chain, &sent.connection, &sent.ni)
            .filter(|_| sent.give_up_at.is_none())
        {
            // The ticket is no other gateway's. What was said in clear does not cost us the ticket,
            // though: a genuine answer may still come.
            let until = cx.now.boot + NACK_PATIENCE;
            (sent.give_up_at, sent.race_at) = (Some(until), None);
            sent.redirected = true;
            let connection = Arc::clone(&sent.connection);
            self.follow(&connection, to, path.remote.ip(), cx);
            return self.check_in(sa);
        }
        if notify_data(chain, NotifyKind::TICKET_NACK).is_some() && sent.give_up_at.is_none() {
            sent.give_up_at = Some(cx.now.boot + NACK_PATIENCE);
            sent.refused.get_or_insert(NotifyKind::TICKET_NACK);
            let race = sent.race_at.take().is_some();
            let connection = Arc::clone(&sent.connection);
            self.check_in(sa);
            if race {
                self.race(&connection, cx);
            }
            return;
        }
        let mut kinds = chain.notifies().map(|notify| notify.kind);
        if let Some(error) = kinds.find(|kind| kind.is_error()) {
            sent.refused.get_or_insert(error);
        }
        self.stray(sa);
    }

    // RFC 5723: L13, A6
    /// Client: time to send again, to race, or to give up.
    pub(crate) fn resume_due(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let State::ResumeSent(sent) = &mut sa.state else {
            return self.check_in(sa);
        };
        if sent.give_up_at.is_some_and(|at| at <= now) {
            let reason = if sent.redirected {
                Closed::Redirected
            } else {
                Closed::Timeout
            };
            return self.close(sa, reason, cx);
        }
        let race = sent.race_at.take_if(|at| *at <= now).is_some();
        let connection = Arc::clone(&sent.connection);
        let (due, message) = (sent.out.due(now), sent.out.message.clone());
        let Some(sa) = self.first_due(sa, due, &message, cx) else {
            return;
        };
        self.check_in(sa);
        if race {
            self.race(&connection, cx);
        }
    }
}

// RFC 5723: N17
/// A ticket goes to the gateway that has issued it, also when that is another one than is configured.
fn where_it_is_known(record: &SessionRecord, configured: Path) -> Path {
    let issuer = record.path.remote.ip();
    if issuer == configured.remote.ip() {
        return configured;
    }
    if issuer.is_ipv4() != configured.local.is_ipv4() {
        return configured;
    }
    Path {
        remote: (issuer, configured.remote.port()).into(),
        ..configured
    }
}

/// Envelope tag of a ticket, for the cookie; 0 if there is none.
fn tag_of(ticket: &[u8]) -> u64 {
    ticket
        .get(TAG_OFFSET..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |tag| u64::from_le_bytes(*tag))
}
