//! Quick crash detection (RFC 6290), as maker and taker: each side gives the other a token for their
//! SA; whoever has lost the SA can show its token later, and the other may believe that, where an
//! unprotected INVALID_IKE_SPI alone says nothing (RFC 5723, 9.4).

use crate::{
    counters::Counter,
    crypto::{Prf, prf::prf, secret::equal},
    endpoint::{Context, Endpoint},
    io::Path,
    sa::ike_sa::{IkeSa, Purpose, State},
    view::Closed,
    wire::{
        encrypted,
        header::{Header, Spi},
        notify::NotifyKind,
        payload::{Chain, ChainWriter},
    },
};
use gate_abi::spi::OurSpi;

/// Tokens looked at in one message (RFC 6290, 4.5).
const MAX_TOKENS: usize = 4;

/// Answers with a token in one second; they are longer than the shortest message that asks for them.
pub(crate) const TOKENS_PER_SECOND: u32 = 4000;

impl Endpoint {
    // RFC 5723: X6, A17
    /// Our token for an SA: whoever holds the secret can make it again after a crash.
    pub(crate) fn token_of(&self, (spi_i, spi_r): (Spi, Spi)) -> Vec<u8> {
        prf(Prf::HmacSha256, self.qcd_secret.expose(), &[&spi_i, &spi_r])
            .expose()
            .to_vec()
    }

    /// Maker: a protected request names an SPI that we have handed out and know no more. Says so, and
    /// proves it.
    pub(crate) fn confess(&mut self, path: Path, header: &Header, cx: &Context<'_>) {
        let ours = if header.from_initiator {
            header.spi_r
        } else {
            header.spi_i
        };
        let asks = !header.response && header.next.is_protected();
        let spi = OurSpi::from_wire(ours);
        let made_here = spi.node() == self.settings.node
            && self.spi_keys.iter().any(|key| spi.check_is_right(key));
        if !asks || !made_here || !self.confessions.take(cx.now.boot) {
            return self.counters.add(Counter::UnknownSpi);
        }
        self.counters.add(Counter::TokenSent);
        let mut chain = ChainWriter::new();
        chain.notify(NotifyKind::INVALID_IKE_SPI, &[]);
        chain.notify(
            NotifyKind::QCD_TOKEN,
            &self.token_of((header.spi_i, header.spi_r)),
        );
        let answer = Header {
            from_initiator: !header.from_initiator,
            response: true,
            ..*header
        };
        self.send(path, encrypted::clear(&answer, chain));
    }

    /// Maker: gives the peer the token for an SA that our rekey has made. In the rekey itself we did not
    /// know both SPIs yet (RFC 6290, 4.3). Not to a peer that makes none.
    pub(super) fn tell_token(&mut self, id: u64, cx: &Context<'_>) {
        let Some(sa) = self.table.check_out(id) else {
            return;
        };
        match &sa.state {
            State::Up(live) if !live.token.is_empty() && live.delete_next.is_none() => {
                let mut chain = ChainWriter::new();
                let token = self.token_of((sa.spi_i, sa.spi_r));
                chain.notify(NotifyKind::QCD_TOKEN, &token);
                self.send_request(sa, Purpose::Liveness, chain, cx);
            }
            _ => self.check_in(sa),
        }
    }

    // RFC 5723: N50
    /// Taker: an unprotected answer on an established SA. Only the right token ends the SA.
    pub(crate) fn unprotected(&mut self, sa: IkeSa, chain: &Chain<'_>, cx: &mut Context<'_>) {
        let State::Up(live) = &sa.state else {
            return self.stray(sa);
        };
        let says_unknown = super::notify_data(chain, NotifyKind::INVALID_IKE_SPI).is_some();
        let proven = chain
            .notifies()
            .filter(|notify| notify.kind == NotifyKind::QCD_TOKEN)
            .take(MAX_TOKENS)
            .any(|notify| !live.token.is_empty() && equal(notify.data, &live.token));
        if says_unknown && proven {
            self.close(sa, Closed::Crashed, cx);
        } else {
            self.stray(sa);
        }
    }
}

/// The token a peer gives us, if it has a length RFC 6290, 5 allows.
pub(super) fn token_in(chain: &Chain<'_>) -> Option<Vec<u8>> {
    super::notify_data(chain, NotifyKind::QCD_TOKEN)
        .filter(|token| (16..=128).contains(&token.len()))
        .map(<[u8]>::to_vec)
}
