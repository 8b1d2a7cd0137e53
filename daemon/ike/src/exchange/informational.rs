//! INFORMATIONAL exchanges on an established SA (RFC 7296, 1.4): signs of life and goodbyes; and the way
//! of every request and response on such an SA to what answers it.

use std::{sync::Arc, time::Duration};

use super::{Heir, notify_data, qcd::token_in, ticket};
use crate::{
    counters::Counter,
    endpoint::{Context, Endpoint},
    failure::TooMuch,
    io::Path,
    sa::{
        children::{Origin, PendingChild},
        ike_sa::{IkeSa, Lingering, Live, Purpose, State},
        nat::Nat,
        proposal::offers_ike,
        protection::Protection,
        reassembly::Received,
        window::{Arrival, Due, Outstanding},
    },
    view::Closed,
    wire::{
        WireError,
        delete::Delete,
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// NAT mappings for UDP are gone after half a minute on some boxes (RFC 3948, 4).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// How long the answer to a DELETE is kept for its retransmission.
const LINGER: Duration = Duration::from_secs(30);

impl Endpoint {
    /// Starts deleting an SA; a request that is still unanswered goes first (the window is one).
    pub(crate) fn begin_delete(&mut self, mut sa: IkeSa, reason: Closed, cx: &Context<'_>) {
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        match &live.outstanding {
            Some((Purpose::Delete(_), _)) => self.check_in(sa),
            Some(_) => {
                live.delete_next = Some(reason);
                self.check_in(sa);
            }
            None => {
                let mut chain = ChainWriter::new();
                chain.payload(PayloadKind::DELETE, |out| Delete::IkeSa.emit(out));
                self.send_request(sa, Purpose::Delete(reason), chain, cx);
            }
        }
    }

    /// Sends a request on an established SA. INFORMATIONAL, but for a rekey.
    pub(crate) fn send_request(
        &mut self,
        mut sa: IkeSa,
        purpose: Purpose,
        chain: ChainWriter,
        cx: &Context<'_>,
    ) {
        let exchange = match purpose {
            Purpose::Rekey(_) | Purpose::ChildRekey(_) => Exchange::CreateChildSa,
            _ => Exchange::Informational,
        };
        let header = sa.header(exchange, false, 0);
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        let header = Header {
            message_id: live.window.next_request,
            ..header
        };
        let message = live.protection.seal(&header, chain);
        self.send_all(sa.path, &message);
        live.outstanding = Some((purpose, Outstanding::new(message, cx.now.boot)));
        self.check_in(sa);
    }

    // RFC 5723: N3, N4
    /// A request of the peer on an established SA.
    pub(crate) fn request(
        &mut self,
        mut sa: IkeSa,
        path: Path,
        header: &Header,
        message: &[u8],
        cx: &mut Context<'_>,
    ) {
        let spis = (sa.spi_i, sa.spi_r);
        let answer_header = sa.header(header.exchange, true, header.message_id);
        let State::Up(live) = &mut sa.state else {
            return self.stray(sa);
        };
        let arrival = live.window.arrival(header.message_id);
        if arrival == Arrival::Stray {
            return self.stray(sa);
        }
        if arrival == Arrival::Repeated || live.answers_later(header.message_id) {
            return self.repeated(sa, path, header, message);
        }
        let Received { plain, known_by } = match live.protection.open(header, message, cx.now.boot)
        {
            Ok(Some(received)) => received,
            // A part of a message is no sign of life: given up, it can be sent again.
            Ok(None) => return self.check_in(sa),
            Err(error) => {
                self.not_opened(live, path, header, error, cx.now.boot);
                return self.check_in(sa);
            }
        };
        live.heard = cx.now.boot;
        if !live.pace.requests.take(cx.now.boot) {
            let what = (TooMuch::Requests, None);
            self.too_fast(live, path, header.exchange, what, cx.now.boot);
            return self.check_in(sa);
        }
        if live.follows_nat() && sa.path != path {
            // A repeated one may have been repeated by anybody.
            self.follow_nat((&mut sa.path, live), path, cx);
        }
        let ike_path = if live.mobike.is_some() { sa.path } else { path };
        let mut chain = ChainWriter::new();
        let mut gone = false;
        let mut successor = None;
        match Chain::parse(plain.first, &plain.octets) {
            Err(error) => {
                self.counters.add(Counter::BadPayloads);
                match error {
                    WireError::Critical(kind) => {
                        chain.notify(NotifyKind::UNSUPPORTED_CRITICAL_PAYLOAD, &[kind]);
                    }
                    _ => {
                        chain.notify(NotifyKind::INVALID_SYNTAX, &[]);
                    }
                }
            }
            Ok(request)
                if header.exchange == Exchange::CreateChildSa
                    && !live.pace.exchanges.take(cx.now.boot) =>
            {
                let kind = put_off(&request);
                let what = (TooMuch::Rekeys, Some(kind));
                self.too_fast(live, path, header.exchange, what, cx.now.boot);
                chain.notify(kind, &[]);
            }
            Ok(request) if header.exchange == Exchange::CreateChildSa => {
                let offer = request.one(PayloadKind::SA);
                if offer.is_some_and(offers_ike) {
                    successor = self.answer_rekey(live, ike_path, &request, &mut chain, cx);
                } else if let Some((child, install)) =
                    self.answer_child_rekey(live, ike_path, &request, &mut chain, cx)
                {
                    let origin = Origin::Theirs {
                        message_id: header.message_id,
                        answer: chain,
                    };
                    live.pending.push_back(PendingChild { child, origin });
                    return self.add(sa, install);
                }
            }
            Ok(request) if header.exchange == Exchange::Informational => {
                for delete in request
                    .all(PayloadKind::DELETE)
                    .filter_map(|d| Delete::parse(d).ok())
                {
                    match delete {
                        Delete::IkeSa => gone = true,
                        Delete::Esp(spis) => self.delete_children(live, &spis, &mut chain, cx),
                    }
                }
                if notify_data(&request, NotifyKind::TICKET_REQUEST).is_some() {
                    self.answer_ticket_request(spis, live, path, &mut chain, cx);
                }
                if let Some(token) = token_in(&request) {
                    live.token = token;
                }
                let ends = (&mut sa.path, path);
                self.answer_addresses(live, ends, header, &request, &mut chain);
                self.follow_later(live, path.remote.ip(), &request, cx);
                live.take_auth_lifetime(&request, cx);
            }
            Ok(_) => return self.stray(sa),
        }
        let response = live.protection.seal(&answer_header, chain);
        self.send_all(path, &response);
        if gone {
            // A rekey of the peer that was answered holds, ours is forgotten (RFC 7296, 2.25.2).
            self.adopt_rival(&mut sa, cx);
            let lingering = Lingering {
                request: known_by.into_owned(),
                response,
                until: cx.now.boot + LINGER,
            };
            return self.close_lingering(sa, Closed::PeerDeleted, lingering, cx);
        }
        live.window.answered(response);
        if let Some(successor) = successor {
            self.succeeds(&sa, successor);
        }
        self.check_in(sa);
    }

    /// A request that we have answered, or whose answer waits for the kernel.
    fn repeated(&mut self, mut sa: IkeSa, path: Path, header: &Header, message: &[u8]) {
        let State::Up(live) = &mut sa.state else {
            return self.stray(sa);
        };
        match live.protection.asks_again(header, message) {
            Err(error) => self.counters.add(Counter::of(error)),
            Ok(asks) => {
                // No sign of life: anybody may have kept it.
                self.counters.add(Counter::Repeated);
                if asks && !live.answers_later(header.message_id) {
                    let response = live.window.last_response.clone();
                    self.send_all(path, &response);
                }
            }
        }
        self.check_in(sa);
    }

    /// An answer to a request of ours on an established SA, which came by this path.
    pub(crate) fn response(
        &mut self,
        mut sa: IkeSa,
        came: Path,
        header: &Header,
        message: &[u8],
        cx: &mut Context<'_>,
    ) {
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.stray(sa);
        };
        if live.outstanding.is_none() || header.message_id != live.window.next_request {
            return self.stray(sa);
        }
        let plain = match live.protection.open(header, message, cx.now.boot) {
            Ok(Some(received)) => received.plain,
            Ok(None) => return self.check_in(sa),
            Err(error) => {
                self.not_opened(live, path, header, error, cx.now.boot);
                return self.check_in(sa);
            }
        };
        live.heard = cx.now.boot;
        live.window.next_request = live.window.next_request.wrapping_add(1);
        let delete_next = live.delete_next.take();
        let purpose = live.outstanding.take().map(|(purpose, _)| purpose);
        let Ok(chain) = Chain::parse(plain.first, &plain.octets) else {
            self.counters.add(Counter::BadPayloads);
            if let Some(Purpose::Delete(reason)) = purpose {
                return self.close(sa, reason, cx);
            }
            live.delete_next = delete_next;
            return self.check_in(sa);
        };
        live.path_answers(&mut sa.path, (came, purpose.as_ref()), &chain);
        match (purpose, delete_next) {
            (Some(Purpose::Delete(reason)), _) => self.close(sa, reason, cx),
            (Some(Purpose::Rekey(rekeying)), reason) => {
                // What is to be deleted is the new SA then: it has the Child SAs.
                live.delete_next = reason;
                self.rekey_response(sa, *rekeying, &chain, cx);
            }
            (_, Some(reason)) => self.begin_delete(sa, reason, cx),
            (Some(Purpose::ChildRekey(rekeying)), None) => {
                self.child_rekey_response(sa, *rekeying, &chain, cx);
            }
            (Some(Purpose::Ticket), None) => {
                self.renew_ticket(live, ticket::received(&chain), path, cx);
                self.check_in(sa);
            }
            (Some(Purpose::DeleteChild { spi_in, unheard }), None) => {
                self.child_deleted(live, (spi_in, unheard), &chain, cx);
                self.check_in(sa);
            }
            (Some(Purpose::Update(asked)), None) => {
                self.update_response(sa, (asked, came), header, &chain, cx);
            }
            (Some(Purpose::Check { cookie, path }), None) => {
                self.check_response(sa, (&cookie, path), &chain, cx);
            }
            (Some(Purpose::Liveness | Purpose::Redirect) | None, None) => self.check_in(sa),
        }
    }

    /// An established SA's deadline: retransmission, liveness, keepalive, or the end of its life.
    pub(crate) fn live_due(&mut self, mut sa: IkeSa, cx: &mut Context<'_>) {
        let now = cx.now.boot;
        let path = sa.path;
        let State::Up(live) = &mut sa.state else {
            return self.check_in(sa);
        };
        if live.nat.wants_keepalives() && live.last_keepalive + KEEPALIVE_EVERY <= now {
            live.last_keepalive = now;
            self.keepalive(path);
        }
        live.protection.forget_incomplete(now);
        if live.heir_at().is_some_and(|at| at <= now) {
            return self.heir_due(sa, cx);
        }
        if let Some((purpose, out)) = &mut live.outstanding {
            match out.due(now) {
                Due::Wait => {}
                Due::Resend => {
                    let (message, tries) = (out.message.clone(), out.sent());
                    sa.path = live.other_path(path, tries);
                    self.send_all(sa.path, &message);
                }
                Due::Dead => {
                    let reason = match purpose {
                        Purpose::Delete(reason) => *reason,
                        _ => Closed::Timeout,
                    };
                    return self.close(sa, reason, cx);
                }
            }
            return self.check_in(sa);
        }
        if !live.pending.is_empty() {
            // What the kernel says comes first.
            return self.check_in(sa);
        }
        if let Some(reason) = live.delete_next.take() {
            return self.begin_delete(sa, reason, cx);
        }
        match live.has_moved() {
            true if live.client => return self.send_update(sa, cx),
            true => return self.send_check(sa, cx),
            false => {}
        }
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if due(live.moved_until) {
            return self.begin_delete(sa, Closed::Rekeyed, cx);
        }
        if live.end <= now {
            return self.begin_delete(sa, Closed::Expired, cx);
        }
        if let Some(over) = live.children.iter().find(|child| child.end <= now) {
            let spi_in = over.spi_in;
            return self.child_expired(sa, spi_in, cx);
        }
        if live.redirect_next.is_some() {
            return self.redirect_now(sa, cx);
        }
        if due(live.tidy_at()) {
            return self.tidy_children(sa, cx);
        }
        if due(live.reauth_at) {
            return self.begin_reauth(sa, cx);
        }
        if due(live.rekey_at) {
            return self.begin_rekey(sa, None, cx);
        }
        if let Some(old) = live.children.iter().find(|child| due(child.rekey_at)) {
            let spi_in = old.spi_in;
            return self.begin_child_rekey(sa, spi_in, None, cx);
        }
        if let Some(wanted) = live.wanted.iter().find(|wanted| wanted.at <= now) {
            let name = Arc::clone(&wanted.name);
            return self.begin_child(sa, &name, None, cx);
        }
        if due(live.ask_ticket_at) {
            live.ask_ticket_at = None;
            let mut chain = ChainWriter::new();
            chain.notify(NotifyKind::TICKET_REQUEST, &[]);
            return self.send_request(sa, Purpose::Ticket, chain, cx);
        }
        if due(live.liveness_due()) {
            let mut chain = ChainWriter::new();
            if live.client && live.mobike.is_some() && live.nat.is_translated() {
                // The answer says where we are seen (RFC 4555, 3.8).
                let spis = (sa.spi_i, sa.spi_r);
                Nat::announce(&mut chain, spis, &path, live.connection.encap);
            }
            return self.send_request(sa, Purpose::Liveness, chain, cx);
        }
        self.check_in(sa);
    }

    /// Tells a responder that an SA it believes in is not wanted. Sent once: if it is lost, the
    /// responder's liveness check finds out.
    pub(crate) fn goodbye(&mut self, sa: &IkeSa, mut protection: Protection) {
        let mut chain = ChainWriter::new();
        chain.payload(PayloadKind::DELETE, |out| Delete::IkeSa.emit(out));
        let message = protection.seal(&sa.header(Exchange::Informational, false, 2), chain);
        self.send_all(sa.path, &message);
    }

    /// Tells the peer once that an SA is gone, if the window has room for that. If it is lost, the peer's
    /// own liveness check finds out.
    pub(super) fn farewell(&mut self, sa: &mut IkeSa) {
        let header = sa.header(Exchange::Informational, false, 0);
        let path = sa.path;
        if let State::Up(live) = &mut sa.state
            && live.outstanding.is_none()
        {
            let mut chain = ChainWriter::new();
            chain.payload(PayloadKind::DELETE, |out| Delete::IkeSa.emit(out));
            let header = Header {
                message_id: live.window.next_request,
                ..header
            };
            let message = live.protection.seal(&header, chain);
            self.send_all(path, &message);
        }
    }
}

/// What a peer is told that asks for new keys too often, or for more Child SAs (RFC 8019, 5).
fn put_off(request: &Chain<'_>) -> NotifyKind {
    let rekeys_ike = request.one(PayloadKind::SA).is_some_and(offers_ike);
    if rekeys_ike || notify_data(request, NotifyKind::REKEY_SA).is_some() {
        NotifyKind::TEMPORARY_FAILURE
    } else {
        NotifyKind::NO_ADDITIONAL_SAS
    }
}

impl Live {
    /// When the SA beside this one takes over; or when this one goes after that, if it is the gateway's.
    fn heir_at(&self) -> Option<Duration> {
        match self.heir? {
            Heir::Waits(by) => Some(by),
            Heir::Leads => self.moved_until.filter(|_| !self.client),
            Heir::Elsewhere => None,
        }
    }

    /// When to ask the peer for a sign of life, unless it gives one before.
    pub(crate) fn liveness_due(&self) -> Option<Duration> {
        let after = self.connection.liveness;
        (!after.is_zero()).then(|| self.heard + after)
    }

    /// When an established SA has something to do.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        let work = match &self.outstanding {
            Some((_, out)) => Some(out.deadline()),
            None if !self.pending.is_empty() => None,
            None if self.delete_next.is_some() || self.has_moved() => Some(Duration::ZERO),
            None => {
                let redirect = self.redirect_next.as_ref().map(|_| Duration::ZERO);
                let plans = [
                    self.children_at(),
                    redirect,
                    self.reauth_at,
                    self.moved_until,
                    self.rekey_at,
                    self.ask_ticket_at,
                ];
                let plans = plans.into_iter().flatten().chain(self.liveness_due());
                plans.chain([self.end]).min()
            }
        };
        let keepalive = self
            .nat
            .wants_keepalives()
            .then_some(self.last_keepalive + KEEPALIVE_EVERY);
        let incomplete = self.protection.incomplete_until();
        let beside = [keepalive, incomplete, self.heir_at()];
        work.into_iter().chain(beside.into_iter().flatten()).min()
    }
}
