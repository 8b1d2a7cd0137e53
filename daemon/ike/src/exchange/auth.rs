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
        mut sa: IkeSa,
        mut protection: Protection,
        header: &Header,
        request: &[u8],
        chain: ChainWriter,
        cx: &Context<'_>,
    ) {
        let header = sa.header(header.exchange, true, header.message_id);
        let response = protection.seal(&header, chain);
        self.end_lease(sa.id);
        self.send_all(sa.path, &response);
        let until = cx.now.boot + LINGER;
        sa.state = State::Lingering(Box::new(Lingering {
            request: request.to_vec(),
            response,
            until,
        }));
        self.check_in(sa);
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
