//! What the two exchanges that begin an IKE SA have in common, IKE_SA_INIT (RFC 7296, 1.2) and
//! IKE_SESSION_RESUME (RFC 5723, 4.3): whom to call from where, COOKIE on either side, and what is
//! said again.

use std::sync::Arc;

use super::{Detour, notify_data};
use crate::{
    counters::Counter,
    defence::{budget::Room, cookie::Bound},
    endpoint::{CommandRefused, Context, Endpoint},
    failure::{Cause, Failure, Standing},
    io::Path,
    peer::Connection,
    sa::{
        first::FirstExchange,
        ike_sa::{IkeSa, State},
        table::FirstKey,
        window::{Datagrams, Due},
    },
    view::Closed,
    wire::{
        header::Header,
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
    },
};

impl Endpoint {
    /// Addresses of a connection's first message.
    pub(crate) fn dial(
        &self,
        slot: usize,
        detour: Option<Detour>,
    ) -> Result<(Arc<Connection>, Path), CommandRefused> {
        let held = self.slots.get(slot).ok_or(CommandRefused::NoConnection)?;
        let config = Arc::clone(&held.config);
        if self.table.standing() >= self.settings.max_sas {
            return Err(CommandRefused::Full);
        }
        let local = config.local_addr.or(held.dial_from);
        let configured = local.zip(config.remote_addr.or(held.look_up.called));
        let way = detour.map(|detour| (detour.local, detour.gateway));
        let (local, remote) = way.or(configured).ok_or(if config.may_dial() {
            CommandRefused::NoRoute
        } else {
            CommandRefused::CannotInitiate
        })?;
        let path = Path {
            local: (local, self.settings.ike_port).into(),
            remote: (remote, config.remote_port).into(),
        };
        Ok((config, path))
    }

    /// An SA that we begin.
    pub(super) fn initiator_sa(&mut self, path: Path, state: State, cx: &Context<'_>) -> IkeSa {
        IkeSa {
            id: self.table.next_id(),
            spi_i: self.new_spi(),
            spi_r: [0; 8],
            initiator: true,
            path,
            started: cx.now.boot,
            state,
        }
    }

    /// Initiator: the first message may have waited long enough. Gives the SA back if it goes on as it
    /// is.
    pub(super) fn first_due(
        &mut self,
        sa: IkeSa,
        due: Due,
        message: &Datagrams,
        cx: &mut Context<'_>,
    ) -> Option<IkeSa> {
        match due {
            Due::Wait => Some(sa),
            Due::Resend => {
                let sa = self.try_elsewhere(sa, cx)?;
                self.send_all(sa.path, message);
                Some(sa)
            }
            Due::Dead => {
                self.close(sa, Closed::Timeout, cx);
                None
            }
        }
    }

    /// Answers the retransmission of a first message from memory, bit for bit (RFC 7296, 2.1).
    pub(crate) fn answer_again(&mut self, key: &FirstKey, path: Path) -> bool {
        let Some(sa) = self.table.by_first(key) else {
            return false;
        };
        if let State::HalfOpen(half) = &sa.state {
            let response = half.first.response.clone();
            self.send(path, response);
        }
        self.counters.add(Counter::Repeated);
        true
    }

    /// Lets a first message in, or asks it for a cookie, or turns it away when all is full.
    pub(crate) fn admit(
        &mut self,
        path: Path,
        header: &Header,
        chain: &Chain<'_>,
        bound: &Bound<'_>,
        free: bool,
        cx: &mut Context<'_>,
    ) -> bool {
        let room = self.room(&path);
        // Who is never asked for a cookie cannot show that another should give way to him.
        let asked = self.settings.cookie_from <= self.settings.max_half_open;
        let full = room == Room::Full && !asked;
        if full || self.table.standing() >= self.settings.max_sas {
            self.counters.add(Counter::Full);
            self.failed(Standing::Stranger, cx.now.boot, || {
                Failure::of_stranger(path.remote, header.exchange, Cause::Full)
            });
            return false;
        }
        if free && room == Room::Free {
            return true;
        }
        if let Some(cookie) = notify_data(chain, NotifyKind::COOKIE) {
            if self.cookies.is_good(cookie, bound, cx.now) {
                return true;
            }
            self.counters.add(Counter::CookieWrong);
        }
        // A wrong cookie counts as none (RFC 7296, 2.6).
        self.counters.add(Counter::CookieSent);
        let cookie = self.cookies.make(bound, cx.now);
        self.refuse_first(path, header, NotifyKind::COOKIE, &cookie);
        false
    }

    pub(crate) fn responder_sa(&mut self, path: Path, header: &Header, cx: &Context<'_>) -> IkeSa {
        IkeSa {
            id: self.table.next_id(),
            spi_i: header.spi_i,
            spi_r: self.new_spi(),
            initiator: false,
            path,
            started: cx.now.boot,
            state: State::Gone,
        }
    }

    /// The first message need not be recognised any more.
    pub(crate) fn forget_first(&mut self, path: &Path, first: &FirstExchange) {
        let key = FirstKey::new(&self.first_key, path, &first.request);
        self.table.forget_first(&key);
    }
}

/// COOKIE comes first, so that a responder finds it without reading on (RFC 7296, 2.6).
pub(super) fn cookie_first(chain: &mut ChainWriter, cookie: &[u8]) {
    if !cookie.is_empty() {
        chain.notify(NotifyKind::COOKIE, cookie);
    }
}

/// A COOKIE that the responder asks for and has not been brought (RFC 7296, 2.6).
pub(super) fn new_cookie(chain: &Chain<'_>, brought: &[u8]) -> Option<Vec<u8>> {
    notify_data(chain, NotifyKind::COOKIE)
        .filter(|cookie| (1..=64).contains(&cookie.len()) && *cookie != brought)
        .map(<[u8]>::to_vec)
}

// RFC 5723: X1
/// Says that fragments are taken, if that is wanted (RFC 7383, 2.3).
pub(super) fn offer_fragments(connection: &Connection, chain: &mut ChainWriter) {
    if connection.fragment_size.is_some() {
        chain.notify(NotifyKind::IKEV2_FRAGMENTATION_SUPPORTED, &[]);
    }
}

/// Whether the sender of a first message takes fragments.
pub(super) fn takes_fragments(chain: &Chain<'_>) -> bool {
    notify_data(chain, NotifyKind::IKEV2_FRAGMENTATION_SUPPORTED).is_some()
}
