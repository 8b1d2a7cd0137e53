//! What protects the messages of one IKE SA in both directions: ciphers, the count of IVs, and the
//! fragments that a long message travels in (RFC 7383).

use std::{borrow::Cow, time::Duration};

use super::{
    proposal::IkeSuite,
    reassembly::{Reassembly, Received},
    window::Datagrams,
};
use crate::{
    crypto::{cipher::Cipher, keymat::KeyMaterial},
    wire::{
        encrypted::{self, OpenError, Plain},
        fragment::{self, Fragment},
        header::Header,
        payload::{ChainWriter, PayloadKind},
    },
};

/// Octets of IP, UDP and the mark before IKE on port 4500 around a message. Counted as for IPv6: what
/// that leaves unused on IPv4 is no reason for a second number.
const AROUND_MESSAGE: usize = 40 + 8 + 4;

/// Both directions' ciphers of an IKE SA.
#[derive(Debug)]
pub(crate) struct Protection {
    sealing: Cipher,
    opening: Cipher,
    /// Of which the IV is made: a counter never comes twice under one key (RFC 5282, 3.1).
    next_iv: u64,
    /// If both sides have said that they take fragments.
    fragments: Option<Fragments>,
}

#[derive(Debug, Default)]
struct Fragments {
    /// Octets of the longest message that goes out in one piece; `None` for any.
    limit: Option<usize>,
    /// The peer's request, and its response, that are incomplete.
    request: Option<Box<Reassembly>>,
    response: Option<Box<Reassembly>>,
}

impl Protection {
    /// `fragments` is whether both sides take them.
    pub(crate) fn new(
        suite: IkeSuite,
        keys: &KeyMaterial,
        initiator: bool,
        fragments: bool,
    ) -> Option<Self> {
        let [from_initiator, from_responder] = keys.ciphers(suite.encryption)?;
        let (sealing, opening) = if initiator {
            (from_initiator, from_responder)
        } else {
            (from_responder, from_initiator)
        };
        Some(Self {
            sealing,
            opening,
            next_iv: 0,
            fragments: fragments.then(Fragments::default),
        })
    }

    /// Whether both sides take fragments; an SA that takes over keeps to it.
    pub(crate) const fn takes_fragments(&self) -> bool {
        self.fragments.is_some()
    }

    /// Sends nothing in one piece from now on that would make an IP datagram of more octets than this.
    pub(crate) fn fit_into(&mut self, ip_octets: Option<u16>) {
        if let Some(fragments) = &mut self.fragments {
            fragments.limit =
                ip_octets.map(|octets| usize::from(octets).saturating_sub(AROUND_MESSAGE));
        }
    }

    /// A message as it goes out.
    pub(crate) fn seal(&mut self, header: &Header, chain: ChainWriter) -> Datagrams {
        let limit = self
            .fragments
            .as_ref()
            .and_then(|fragments| fragments.limit);
        match limit.filter(|limit| encrypted::sealed_len(&chain, &self.sealing) > *limit) {
            Some(limit) => {
                let iv = &mut self.next_iv;
                fragment::seal(header, chain, limit, iv, &self.sealing).into()
            }
            None => {
                let iv = self.next_iv;
                self.next_iv += 1;
                encrypted::seal(header, chain, iv, &self.sealing).into()
            }
        }
    }

    /// Opens a message that is waited for; `None` if it is not whole yet. Who never agreed on fragments
    /// gets none taken (RFC 7383, 2.4).
    pub(crate) fn open<'a>(
        &mut self,
        header: &Header,
        message: &'a [u8],
        now: Duration,
    ) -> Result<Option<Received<'a>>, OpenError> {
        if header.next == PayloadKind::SKF {
            let fragments = self.fragments.as_mut().ok_or(OpenError::Unfit)?;
            let place = if header.response {
                &mut fragments.response
            } else {
                &mut fragments.request
            };
            return Reassembly::add(place, header, message, &self.opening, now);
        }
        let plain = encrypted::open(header, message, &self.opening)?;
        let known_by = Cow::Borrowed(message);
        Ok(Some(Received { plain, known_by }))
    }

    /// What a message in one piece holds, of either side, for somebody who looks on.
    pub(crate) fn read(&self, header: &Header, message: &[u8], inbound: bool) -> Option<Plain> {
        let cipher = if inbound {
            &self.opening
        } else {
            &self.sealing
        };
        encrypted::open(header, message, cipher).ok()
    }

    /// Whether a request that is answered already asks for the answer again: of fragments only the first
    /// one does (RFC 7383, 2.6.1).
    pub(crate) fn asks_again(&self, header: &Header, message: &[u8]) -> Result<bool, OpenError> {
        if header.next != PayloadKind::SKF {
            return encrypted::open(header, message, &self.opening).map(|_| true);
        }
        if !self.takes_fragments() {
            return Err(OpenError::Unfit);
        }
        let fragment = Fragment::parse(header, message)?;
        fragment.open(&self.opening)?;
        Ok(fragment.number == 1)
    }

    /// When to call [`Self::forget_incomplete`].
    pub(crate) fn incomplete_until(&self) -> Option<Duration> {
        self.incomplete().map(Reassembly::until).min()
    }

    /// Octets of fragments that wait for others.
    pub(crate) fn held_octets(&self) -> usize {
        self.incomplete().map(Reassembly::octets).sum()
    }

    fn incomplete(&self) -> impl Iterator<Item = &Reassembly> {
        let fragments = self.fragments.iter();
        fragments.flat_map(|held| {
            [&held.request, &held.response]
                .into_iter()
                .flatten()
                .map(|held| &**held)
        })
    }

    /// Gives up messages whose rest has not come in time.
    pub(crate) fn forget_incomplete(&mut self, now: Duration) {
        if let Some(fragments) = &mut self.fragments {
            for place in [&mut fragments.request, &mut fragments.response] {
                place.take_if(|held| held.until() <= now);
            }
        }
    }
}
