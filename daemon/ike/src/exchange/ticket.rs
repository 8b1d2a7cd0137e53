//! Tickets inside protected exchanges (RFC 5723, 4.1 and 4.2): the client asks, the gateway issues or
//! declines, and the exchange goes on as if nobody had asked. And what the operator can do to tickets.

use std::{sync::Arc, time::Duration};

use crate::{
    endpoint::{Context, Endpoint, Slot},
    failure::TooMuch,
    io::{Event, Path, Stamp, StoreId},
    peer::Compat,
    sa::ike_sa::{IkeSa, Issued, Live, State},
    ticket::{Kept, Label, Reference, SessionRecord, TicketName, TicketState},
    view::{self, HeldTicket},
    wire::{
        cursor::Cursor,
        header::{Exchange, Spi},
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
    },
};

/// Tickets we keep as a client are no longer than this; they must fit a datagram with the request
/// around them.
const MAX_TICKET: usize = 4096;

/// A client asks for a ticket again this long after the gateway had none to give.
const ASK_AGAIN: Duration = Duration::from_mins(1);

/// What the gateway said to a TICKET_REQUEST.
#[derive(Debug)]
pub(crate) enum TicketAnswer {
    /// A ticket, and how long it may be presented.
    Ticket(Vec<u8>, Duration),
    /// Not now: ask again (RFC 5723, 4.1).
    Later,
    /// Refused, or ignored.
    None,
}

impl TicketAnswer {
    /// When to ask for the one that has not come.
    fn ask_again_at(&self, cx: &Context<'_>) -> Option<Duration> {
        matches!(self, Self::Later).then(|| cx.now.boot + ASK_AGAIN)
    }
}

/// A ticket that may be given out once what it names is kept.
#[derive(Debug)]
pub(crate) struct Offer {
    ticket: Vec<u8>,
    /// How long the client may present it, in seconds.
    lifetime: u32,
    issued: Issued,
}

impl Endpoint {
    // RFC 5723: N4, N6, N8, N44, N45
    /// Gateway: answers TICKET_REQUEST with exactly one of LT_OPAQUE, NACK and ACK.
    pub(crate) fn answer_ticket_request(
        &mut self,
        spis: (Spi, Spi),
        live: &mut Live,
        path: Path,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) {
        let Some(lifetime) = lifetime_of_ticket(live, cx) else {
            answer.notify(NotifyKind::TICKET_NACK, &[]);
            return;
        };
        if !live.pace.tickets.take(cx.now.boot) {
            // One that it holds stays good, unless a rekey has voided it; it asks again later.
            let what = (TooMuch::Tickets, Some(NotifyKind::TICKET_ACK));
            self.too_fast(live, path, Exchange::Informational, what, cx.now.boot);
            answer.notify(NotifyKind::TICKET_ACK, &[]);
            return;
        }
        let offer = self.offer(spis, live, lifetime, cx);
        let kept = offer.and_then(|(offer, record)| {
            let keeps = |(reference, kept)| cx.ledger.keep(reference, offer.issued.expiry, kept);
            record.is_none_or(keeps).then_some(offer)
        });
        self.answer_offer(kept, live, answer, cx);
    }

    /// The same where the answer can wait for the store: the offer of a ticket by reference, until it
    /// is known whether that will be kept. With `None` all is said.
    pub(crate) fn begin_ticket(
        &mut self,
        spis: (Spi, Spi),
        live: &mut Live,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) -> Option<(StoreId, Offer)> {
        let Some(lifetime) = lifetime_of_ticket(live, cx) else {
            answer.notify(NotifyKind::TICKET_NACK, &[]);
            return None;
        };
        match self.offer(spis, live, lifetime, cx) {
            Some((offer, Some((reference, kept)))) => {
                let begun = cx.ledger.begin_keep(reference, offer.issued.expiry, kept);
                if let Some(id) = begun {
                    return Some((id, offer));
                }
                self.answer_offer(None, live, answer, cx);
            }
            Some((offer, None)) => self.answer_offer(Some(offer), live, answer, cx),
            None => self.answer_offer(None, live, answer, cx),
        }
        None
    }

    /// Gives the ticket out, or says that there is none right now.
    pub(crate) fn answer_offer(
        &mut self,
        offer: Option<Offer>,
        live: &mut Live,
        answer: &mut ChainWriter,
        cx: &mut Context<'_>,
    ) {
        let Some(offer) = offer else {
            // No index, or no room: ask again later.
            answer.notify(NotifyKind::TICKET_ACK, &[]);
            return;
        };
        if let Some(old) = live.issued.replace(offer.issued) {
            old.revoke(cx.ledger);
        }
        let mut data = offer.lifetime.to_be_bytes().to_vec();
        data.extend_from_slice(&offer.ticket);
        answer.notify(NotifyKind::TICKET_LT_OPAQUE, &data);
        let connection = Arc::clone(&live.connection.name);
        let octets = offer.ticket.len();
        self.event(Event::TicketIssued { connection, octets });
    }

    // RFC 5723: N30, N36, N39, X11
    /// A ticket, and by reference what is to be kept for it.
    fn offer(
        &self,
        spis: (Spi, Spi),
        live: &Live,
        lifetime: Duration,
        cx: &mut Context<'_>,
    ) -> Option<(Offer, Option<(Reference, Kept)>)> {
        let (key_id, index) = cx.ledger.next_index()?;
        let mut nonce = [0; 12];
        cx.env.random(&mut nonce);
        let connection = &live.connection;
        // After a revocation in this very second, it still counts as issued since.
        let revoked = cx.ledger.revoked_until(&live.peer);
        let issued = revoked.map_or(cx.now.wall, |until| cx.now.wall.max(until + 1));
        let state = TicketState {
            connection: Arc::clone(&connection.name),
            digest: *connection.digest.first_chunk()?,
            id_i: live.peer.clone(),
            id_r: connection.local.id.clone(),
            auth: live.origin.auth,
            certificate: live.origin.certificate.clone(),
            suite: live.suite,
            sk_d: live.sk_d.duplicate(),
            old_spis: spis,
            issued,
            full_auth: live.origin.full_auth.wall(),
            resume_count: live.origin.resume_count,
        };
        let name = TicketName { key_id, index };
        // The envelope counts whole minutes; rounding up keeps the promise made in LT_OPAQUE.
        let expiry = (cx.now.wall + lifetime.as_secs()).next_multiple_of(60);
        let label = Label {
            name,
            expiry,
            no_cookie: connection.compat == Compat::Libreswan,
        };
        let (ticket, record) = if connection.resume.by_reference {
            let mut reference = [0; 16];
            cx.env.random(&mut reference);
            let (ticket, kept) = self.keyring.refer(label, nonce, reference, &state)?;
            (ticket, Some((reference, kept)))
        } else {
            (self.keyring.seal(label, nonce, &state)?, None)
        };
        let offer = Offer {
            ticket,
            lifetime: lifetime.as_secs() as u32,
            issued: Issued {
                name,
                expiry,
                reference: record.as_ref().map(|(reference, _)| *reference),
            },
        };
        Some((offer, record))
    }

    /// Client: takes in what the gateway says to a request for another ticket. If that is none, the one in
    /// hand stays good.
    pub(super) fn renew_ticket(
        &mut self,
        live: &mut Live,
        answer: TicketAnswer,
        path: Path,
        cx: &Context<'_>,
    ) {
        match answer {
            TicketAnswer::Ticket(..) => self.take_ticket(live, answer, path, cx),
            TicketAnswer::Later | TicketAnswer::None => {
                live.ask_ticket_at = answer.ask_again_at(cx);
            }
        }
    }

    // RFC 5723: N3, N7, N11, L5
    /// Client: takes the gateway's answer in. A ticket replaces any older one, which is used,
    /// overtaken or void; without one, the next request is planned.
    pub(crate) fn take_ticket(
        &mut self,
        live: &mut Live,
        answer: TicketAnswer,
        path: Path,
        cx: &Context<'_>,
    ) {
        let connection = Arc::clone(&live.connection);
        let (ticket, lifetime) = match answer {
            TicketAnswer::Ticket(ticket, lifetime) => (ticket, lifetime),
            TicketAnswer::Later | TicketAnswer::None => {
                live.ask_ticket_at = answer.ask_again_at(cx);
                return self.set_record(&connection, None);
            }
        };
        // Well before its end, so that there is always one to come back with.
        live.ask_ticket_at = Some(cx.now.boot + lifetime * 3 / 4);
        let octets = ticket.len();
        let record = SessionRecord {
            ticket,
            received: cx.now.into(),
            lifetime,
            digest: connection.digest,
            id_i: connection.local.id.clone(),
            id_r: live.peer.clone(),
            auth: live.origin.auth,
            suite: live.suite,
            sk_d: live.sk_d.duplicate(),
            path,
            full_auth: live.origin.full_auth,
            resume_count: live.origin.resume_count,
            leased: live.leased.addresses.clone(),
        };
        self.set_record(&connection, Some(record));
        let connection = Arc::clone(&connection.name);
        self.event(Event::TicketReceived {
            connection,
            octets,
            lifetime,
        });
    }
}

impl Endpoint {
    /// Gateway: makes the tickets worthless that such peers got on the SAs they have, and returns how
    /// many those were. The SAs stay up. Of a peer without an SA nothing is known here: what it holds
    /// is for [`crate::io::TicketLedger::revoked_until`] to refuse.
    pub fn revoke(&mut self, peer: impl Fn(&Identity) -> bool, cx: &mut Context<'_>) -> usize {
        let of_peer = |sa: &&IkeSa| match &sa.state {
            State::Up(live) | State::Installing(live, _) => {
                live.issued.is_some() && peer(&live.peer)
            }
            _ => false,
        };
        let ids: Vec<u64> = self.table.iter().filter(of_peer).map(|sa| sa.id).collect();
        let mut revoked = 0;
        for id in ids {
            let Some(mut sa) = self.table.check_out(id) else {
                continue;
            };
            if let State::Up(live) | State::Installing(live, _) = &mut sa.state
                && let Some(issued) = live.issued.take()
            {
                revoked += usize::from(issued.revoke(cx.ledger));
            }
            self.check_in(sa);
        }
        revoked
    }

    /// Client: every session that can be resumed, or could until its time was over.
    #[must_use]
    pub fn held_tickets(&self, now: Stamp) -> Vec<HeldTicket> {
        let held = |slot: &Slot| Some(view::held_ticket(slot, slot.record.as_ref()?, now));
        self.slots.iter().filter_map(held).collect()
    }
}

// RFC 5723: N44, N45
/// How long a ticket of this SA may live; `None` if it gets none. Never longer than the SA, which the
/// last full authentication bounds: a chain of resumptions must not get around it (RFC 5723, 6.2). Nor
/// longer than the certificate is valid that this was done with.
fn lifetime_of_ticket(live: &Live, cx: &Context<'_>) -> Option<Duration> {
    let left = live.end.saturating_sub(cx.now.boot);
    let certificate = live.origin.certificate.as_ref();
    let validity = certificate.map_or(Duration::MAX, |facts| {
        Duration::from_secs(facts.not_after.saturating_sub(cx.now.wall))
    });
    let resume = live.connection.resume;
    let lifetime = resume.ticket_lifetime.min(left).min(validity);
    let issues = resume.enabled && !live.client && lifetime.as_secs() != 0;
    issues.then_some(lifetime)
}

// RFC 5723: N6, L5
/// Client: what a protected response says to a TICKET_REQUEST of ours.
pub(super) fn received(chain: &Chain<'_>) -> TicketAnswer {
    if super::notify_data(chain, NotifyKind::TICKET_ACK).is_some() {
        return TicketAnswer::Later;
    }
    let read = |data| {
        let mut cursor = Cursor::new(data);
        let lifetime = Duration::from_secs(u64::from(cursor.u32().ok()?));
        let ticket = cursor.rest();
        let usable = !lifetime.is_zero() && (1..=MAX_TICKET).contains(&ticket.len());
        usable.then(|| TicketAnswer::Ticket(ticket.to_vec(), lifetime))
    };
    super::notify_data(chain, NotifyKind::TICKET_LT_OPAQUE)
        .and_then(read)
        .unwrap_or(TicketAnswer::None)
}
