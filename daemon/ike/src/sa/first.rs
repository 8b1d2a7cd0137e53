//! The first exchange of an IKE SA, as both AUTH payloads cover it (RFC 7296, 2.15; RFC 5723, 4.3.3):
//! its two messages, and nothing that can be read from them.

use crate::{
    crypto::{
        Prf,
        keymat::{Exchanged, KeyMaterial},
        prf::prf,
    },
    wire::{
        header::{Header, Spi},
        id::Identity,
        notify::NotifyKind,
        payload::{Chain, PayloadKind},
    },
};

/// The last version of the request, with its cookie, and the response that was acted on.
#[derive(Debug)]
pub(crate) struct FirstExchange {
    pub request: Vec<u8>,
    pub response: Vec<u8>,
}

impl FirstExchange {
    /// Initiator's nonce.
    pub(crate) fn ni(&self) -> &[u8] {
        nonce(&self.request)
    }

    /// Responder's nonce.
    pub(crate) fn nr(&self) -> &[u8] {
        nonce(&self.response)
    }

    /// The ticket that was presented, if one was.
    pub(crate) fn ticket(&self) -> Option<&[u8]> {
        let mut notifies = payloads(&self.request)?.notifies();
        notifies
            .find(|notify| notify.kind == NotifyKind::TICKET_OPAQUE)
            .map(|notify| notify.data)
    }

    pub(crate) fn exchanged(&self, spi_i: Spi, spi_r: Spi) -> Exchanged<'_> {
        Exchanged {
            ni: self.ni(),
            nr: self.nr(),
            spi_i,
            spi_r,
        }
    }

    /// InitiatorSignedOctets.
    pub(crate) fn initiator_octets(
        &self,
        which: Prf,
        keys: &KeyMaterial,
        id: &Identity,
    ) -> Vec<u8> {
        let maced = prf(which, keys.sk_pi.expose(), &[&id.body()]);
        [&self.request, self.nr(), maced.expose()].concat()
    }

    /// ResponderSignedOctets.
    pub(crate) fn responder_octets(
        &self,
        which: Prf,
        keys: &KeyMaterial,
        id: &Identity,
    ) -> Vec<u8> {
        let maced = prf(which, keys.sk_pr.expose(), &[&id.body()]);
        [&self.response, self.ni(), maced.expose()].concat()
    }
}

/// Both messages were read before they came here, so that there is a nonce.
fn nonce(message: &[u8]) -> &[u8] {
    payloads(message)
        .and_then(|chain| chain.one(PayloadKind::NONCE))
        .unwrap_or_default()
}

fn payloads(message: &[u8]) -> Option<Chain<'_>> {
    let (header, payloads) = Header::parse(message).ok()?;
    Chain::parse(header.next, payloads).ok()
}
