//! IKE_AUTH (RFC 7296, 1.2; RFC 5723, 4.3.3): both sides prove who they are, and the first Child SA
//! is made. The answer waits until the kernel has taken the Child SA.

mod initiator;
mod responder;

use std::time::Duration;

pub(crate) use initiator::Opening;

use crate::{
    endpoint::{Context, Endpoint},
    io::Env,
    sa::{
        ike_sa::{IkeSa, Lingering, State},
        protection::Protection,
    },
    wire::{header::Header, payload::ChainWriter},
};

/// How long the last answer of a dead SA is kept for a retransmission of its request.
const LINGER: Duration = Duration::from_secs(30);

impl Endpoint {
    /// Answers a request that ends the SA, and keeps the answer for its retransmission.
    pub(crate) fn last_word(
        &mut self,
        sa: IkeSa,
        mut protection: Protection,
        header: &Header,
        request: &[u8],
        chain: ChainWriter,
        cx: &Context<'_>,
    ) {
        let header = sa.header(header.exchange, true, header.message_id);
        let response = protection.seal(&header, chain);
        self.send_all(sa.path, &response);
        let last = Lingering {
            request: request.to_vec(),
            response,
            until: cx.now.boot + LINGER,
        };
        self.linger(sa, last);
    }

    /// Keeps the last answer of an SA that is over, and returns what the SA was. Of too many the oldest
    /// is forgotten: who fails to log in again and again takes no SA's place.
    pub(crate) fn linger(&mut self, mut sa: IkeSa, last: Lingering) -> State {
        let state = std::mem::replace(&mut sa.state, State::Lingering(Box::new(last)));
        self.end_lease(sa.id);
        self.check_in(sa);
        if let Some(oldest) = self.table.superfluous(self.settings.max_lingering) {
            self.forget(&oldest);
        }
        state
    }
}

/// A time between two bounds, by chance.
pub(crate) fn chance_between((least, most): (Duration, Duration), env: &mut dyn Env) -> Duration {
    let mut octets = [0; 4];
    env.random(&mut octets);
    let share = f64::from(u32::from_be_bytes(octets)) / f64::from(u32::MAX);
    least + most.saturating_sub(least).mul_f64(share)
}

/// By chance between so many percent of a number.
pub(crate) fn share_of(whole: u64, (least, most): (u32, u32), env: &mut dyn Env) -> u64 {
    if whole == 0 {
        return 0;
    }
    let mut octets = [0; 2];
    env.random(&mut octets);
    let spread = u64::from(most - least) * u64::from(u16::from_be_bytes(octets));
    let share = (u64::from(least) << 16) + spread;
    (u128::from(whole) * u128::from(share) / (100 << 16)) as u64
}
