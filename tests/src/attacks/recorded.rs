//! First messages of a genuine client, and what attackers make of them: as many others as they like,
//! each of which passes every test of shape because the client's own did.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};
use gate_abi::{
    frames::{Address, Around},
    ike::{
        COOKIE, GENERIC_HEADER_LEN, HEADER_LEN, NOTIFY_HEADER_LEN, PAYLOAD_NONCE, PAYLOAD_NONE,
        PAYLOAD_NOTIFY, TICKET_OPAQUE,
    },
};
use ike::wire::header::Exchange;

use crate::{capture::Frame, chance::Chance, datagram};

/// A recorded first message, and where in it the parts are that attackers change.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    message: Vec<u8>,
    nonce: Range<usize>,
    ticket: Option<Range<usize>>,
}

impl Recorded {
    /// The first request of an exchange among the frames that a namespace sent.
    pub(super) fn find(frames: &[Frame], exchange: Exchange) -> Result<Self> {
        let request = datagram::sent(frames).find(|one| one.kind() == Some((exchange, false)));
        let message = request.context("no such request was captured")?.message;
        let (nonce, ticket) = parts(&message)?;
        Ok(Self {
            message,
            nonce,
            ticket,
        })
    }

    /// As it was recorded.
    pub(super) fn message(&self) -> &[u8] {
        &self.message
    }

    /// Where the nonce is in each of them.
    pub(super) fn nonce(&self) -> Range<usize> {
        self.nonce.clone()
    }

    /// The same request of another client: another SPIi, another nonce.
    pub(super) fn another(&self, chance: &mut Chance) -> Vec<u8> {
        let mut message = self.message.clone();
        chance.fill(&mut message[..SPI]);
        // An SPIi of zero is no SPI (RFC 7296, 3.1).
        message[0] |= 1;
        chance.fill(&mut message[self.nonce.clone()]);
        message
    }

    /// Where the ticket is in each of them.
    pub(super) fn ticket(&self) -> Result<Range<usize>> {
        self.ticket.clone().context("no ticket in it")
    }
}

/// Where the bodies of the nonce and, if there is one, of the ticket are.
fn parts(message: &[u8]) -> Result<(Range<usize>, Option<Range<usize>>)> {
    let (mut nonce, mut ticket) = (None, None);
    let mut kind = *message.get(FIRST_PAYLOAD).context("no IKE header")?;
    let mut at = HEADER_LEN;
    while kind != PAYLOAD_NONE {
        let Some([next, _, a, b]) = message.get(at..at + GENERIC_HEADER_LEN) else {
            bail!("a payload chain beyond the message")
        };
        let end = at + usize::from(u16::from_be_bytes([*a, *b]));
        ensure!(
            at + GENERIC_HEADER_LEN <= end && end <= message.len(),
            "a payload that ends at {end}"
        );
        let is_ticket = message.get(at + NOTIFY_KIND..at + NOTIFY_HEADER_LEN)
            == Some(&TICKET_OPAQUE.to_be_bytes());
        match kind {
            PAYLOAD_NONCE => nonce = Some(at + GENERIC_HEADER_LEN..end),
            PAYLOAD_NOTIFY if is_ticket => ticket = Some(at + NOTIFY_HEADER_LEN..end),
            _ => {}
        }
        (kind, at) = (*next, end);
    }
    Ok((nonce.context("no nonce")?, ticket))
}

/// Whether a message is an answer that asks for a cookie.
pub(super) fn asks_for_cookie(message: &[u8]) -> bool {
    let at = HEADER_LEN + NOTIFY_KIND;
    message.get(FIRST_PAYLOAD) == Some(&PAYLOAD_NOTIFY)
        && message.get(at..at + 2) == Some(&COOKIE.to_be_bytes())
}

/// Wraps messages up to the Ethernet header, from one station to another.
#[derive(Clone, Debug)]
pub(super) struct Wrapping {
    /// Addresses and ports; the source can be changed from message to message.
    pub(super) around: Around,
    /// Destination and source at the link.
    pub(super) stations: [[u8; STATION]; 2],
}

impl Wrapping {
    /// A frame with an IKE message.
    pub(super) fn ike(&self, message: &[u8]) -> Vec<u8> {
        self.addressed(self.around.ike(message))
    }

    /// A frame with any UDP payload.
    pub(super) fn datagram(&self, payload: &[u8]) -> Vec<u8> {
        self.addressed(self.around.datagram(payload))
    }

    /// Lets the next frames come from an address that nobody can foresee, out of [`STRANGERS`].
    pub(super) fn forge_source(&mut self, chance: &mut Chance) {
        let [.., b, c, d] = chance.number().to_be_bytes();
        self.around.source = Address::V4([STRANGERS, b | 0x80, c, d]);
    }

    /// With the stations that are on the wire.
    pub(super) fn addressed(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let [to, from] = self.stations;
        frame[..STATION].copy_from_slice(&to);
        frame[STATION..2 * STATION].copy_from_slice(&from);
        frame
    }
}

/// Octets of an Ethernet address.
pub(super) const STATION: usize = 6;
/// Forged sources are in 10.128.0.0/9, which nobody here has.
const STRANGERS: u8 = 10;
/// Octets of an SPI.
pub(super) const SPI: usize = 8;
/// In the IKE header.
const FIRST_PAYLOAD: usize = 16;
/// From a notification's generic header on.
const NOTIFY_KIND: usize = 6;

#[cfg(test)]
mod tests {
    use gate_abi::{
        frames::{Message, ticket},
        sip::SipKey,
    };

    use super::*;

    #[test]
    fn nonce_and_ticket_are_found_and_nothing_else_changes() {
        let sealed = ticket(7, 1, &SipKey { k0: 1, k1: 2 }, 192);
        let message = Message::resume(&sealed).octets();
        let (nonce, ticket) = parts(&message).unwrap();
        let recorded = Recorded {
            message: message.clone(),
            nonce: nonce.clone(),
            ticket,
        };
        assert_eq!(message[recorded.ticket().unwrap()], sealed);
        let other = recorded.another(&mut Chance::seeded(1));
        let differs = (0..message.len()).filter(|at| message[*at] != other[*at]);
        assert!(
            differs
                .into_iter()
                .all(|at| at < SPI || nonce.contains(&at))
        );
        assert_ne!(other[..SPI], message[..SPI]);
        assert_ne!(other[nonce.clone()], message[nonce]);
        assert!(!asks_for_cookie(&message));
        let asked = Message::first(34).cookie(&[1; 16]).octets();
        assert!(asks_for_cookie(&asked));
    }
}
