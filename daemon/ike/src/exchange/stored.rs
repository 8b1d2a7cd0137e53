//! Logins that wait for the gateway's store: the ticket by reference that one presents must be gone for
//! good, and what the ticket names that it gets must be kept, and so must its lease, before its answer
//! leaves. So no power cut brings a used ticket back or takes from a client what it has in hand.

use super::ticket::Offer;
use crate::{
    counters::Counter,
    endpoint::{Context, Endpoint},
    io::StoreId,
    kernel::ChildInstall,
    sa::ike_sa::{IkeSa, Installing, Live, State},
    wire::{header::Exchange, notify::NotifyKind, payload::ChainWriter},
};

/// An IKE_AUTH that is proven, and whose Child SA the kernel has not been asked for yet.
#[derive(Debug)]
pub(crate) struct Storing {
    /// The ticket that opens the SA is being forgotten.
    pub consume: Option<StoreId>,
    /// The client's lease is being kept.
    pub lease: Option<StoreId>,
    /// The ticket that the client gets is being kept.
    pub offer: Option<(StoreId, Offer)>,
    /// Of the Child SA, if there is to be one.
    pub install: Option<ChildInstall>,
    pub works: ChainWriter,
    pub fails: ChainWriter,
    pub request: Vec<u8>,
}

impl Endpoint {
    /// Responder: asks the kernel, at once or when the store has done its part.
    pub(super) fn install_when_stored(
        &mut self,
        mut sa: IkeSa,
        live: Box<Live>,
        storing: Storing,
        cx: &mut Context<'_>,
    ) {
        let offered = storing.offer.as_ref().map(|(id, _)| *id);
        let waits = [storing.consume, storing.lease, offered];
        let waits: Vec<_> = waits.into_iter().flatten().collect();
        if waits.is_empty() {
            let Storing {
                install,
                works,
                fails,
                request,
                ..
            } = storing;
            let answer = Installing::Responder {
                works,
                fails,
                request,
            };
            sa.state = State::Installing(live, Box::new(answer));
            return self.install_first(sa, install, cx);
        }
        for id in waits {
            self.table.await_store(id, sa.id);
        }
        let waiting = Installing::Storing(Box::new(storing));
        sa.state = State::Installing(live, Box::new(waiting));
        self.check_in(sa);
    }

    // RFC 5723: N8, N15
    /// Responder: the store has done something, or could not. Without a ticket the SA comes up all the
    /// same; with one that cannot be consumed it does not.
    pub(crate) fn stored(&mut self, id: StoreId, done: bool, cx: &mut Context<'_>) {
        let waiting = self.table.take_store(id);
        let Some(mut sa) = waiting.and_then(|sa| self.table.check_out(sa)) else {
            return;
        };
        let waits = matches!(&sa.state, State::Installing(_, waiting)
            if matches!(**waiting, Installing::Storing(_)));
        if !waits {
            return self.check_in(sa);
        }
        let State::Installing(mut live, waiting) = std::mem::replace(&mut sa.state, State::Gone)
        else {
            return self.stray(sa);
        };
        let Installing::Storing(mut storing) = *waiting else {
            return self.stray(sa);
        };
        if storing.consume == Some(id) {
            if !done {
                return self.not_consumed(sa, *live, *storing, cx);
            }
            storing.consume = None;
        }
        // A lease that could not be kept is good until the next restart.
        storing.lease.take_if(|lease| *lease == id);
        if let Some((_, offer)) = storing.offer.take_if(|(offer, _)| *offer == id) {
            let offer = Some(offer).filter(|_| done);
            self.answer_offer(offer, &mut live, &mut storing.works, cx);
        }
        self.install_when_stored(sa, live, *storing, cx);
    }

    fn not_consumed(&mut self, sa: IkeSa, live: Live, storing: Storing, cx: &Context<'_>) {
        self.counters.add(Counter::AuthFailed);
        let mut chain = ChainWriter::new();
        chain.notify(NotifyKind::AUTHENTICATION_FAILED, &[]);
        let header = sa.header(Exchange::IkeAuth, true, 1);
        self.last_word(sa, live.protection, &header, &storing.request, chain, cx);
    }
}
