//! Failures that show when an SA, or an attempt at one, is given up: by then only its state and the reason
//! are left to tell from.

use super::{Cause, Failure, Standing, cause};
use crate::{
    endpoint::Endpoint,
    io::Stamp,
    sa::ike_sa::{IkeSa, Ripeness, State},
    view::Closed,
    wire::{header::Exchange, notify::NotifyKind},
};

impl Endpoint {
    /// Tells why an SA is closed, if that is a failure that nobody has told of yet.
    pub(crate) fn failed_at_close(&mut self, sa: &IkeSa, reason: Closed, now: Stamp) {
        let failure = |exchange, cause| Failure::of_sa(sa, exchange, cause);
        let failure = match (&sa.state, reason) {
            (State::InitSent(_), Closed::Timeout) => failure(Exchange::IkeSaInit, Cause::NoAnswer),
            (State::InitSent(sent), Closed::NoProposalChosen) => {
                failure(Exchange::IkeSaInit, cause::ours(&sent.connection))
                    .received(NotifyKind::NO_PROPOSAL_CHOSEN)
            }
            (State::ResumeSent(sent), Closed::Timeout) if sent.give_up_at.is_some() => {
                failure(Exchange::IkeSessionResume, Cause::TicketNack)
                    .received(NotifyKind::TICKET_NACK)
            }
            (State::ResumeSent(_), Closed::Timeout) => {
                failure(Exchange::IkeSessionResume, Cause::NoAnswer)
            }
            (State::AuthSent(_), Closed::Timeout) => failure(Exchange::IkeAuth, Cause::NoAnswer),
            (State::HalfOpen(half), Closed::Timeout) => {
                // Whoever made us derive keys has answered; all else may come from anywhere.
                let corrupt = matches!(half.ripeness, Ripeness::Ripe(_) | Ripeness::Dead);
                let mut failure = failure(Exchange::IkeAuth, Cause::NotContinued { corrupt });
                failure.standing = Standing::Stranger;
                failure
            }
            (State::Up(_), Closed::Timeout) => failure(Exchange::Informational, Cause::Lost),
            _ => return,
        };
        self.failed(failure.standing, now.boot, || failure);
    }
}
