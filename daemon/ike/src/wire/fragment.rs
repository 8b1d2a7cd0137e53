//! The Encrypted Fragment payload (RFC 7383, 2.5): a piece of what an Encrypted payload would hold, with
//! a protection of its own, so that each fragment is known to be the peer's before it is kept.

use super::{
    WireError,
    encrypted::{self, GENERIC_HEADER, OpenError},
    header::{HEADER_LEN, Header},
    payload::{ChainWriter, PayloadKind},
};
use crate::crypto::cipher::Cipher;

/// Fragment Number and Total Fragments.
const NUMBERS_LEN: usize = 4;

/// One fragment as it came, not yet opened.
#[derive(Clone, Copy, Debug)]
pub struct Fragment<'a> {
    /// Kind of the message's first payload, in the first fragment; nothing in the others.
    pub first: PayloadKind,
    /// Its number, from 1 on.
    pub number: u16,
    /// How many there are of its message.
    pub total: u16,
    aad: &'a [u8],
    protected: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads a message that consists of one SKF payload, if its numbers can be right (RFC 7383, 2.6).
    pub fn parse(header: &Header, message: &'a [u8]) -> Result<Self, WireError> {
        if header.next != PayloadKind::SKF {
            return Err(WireError::Value {
                field: "first payload",
                value: u32::from(header.next.0),
            });
        }
        let (first, aad, protected) = encrypted::split(message, GENERIC_HEADER + NUMBERS_LEN)?;
        let Some(&[n0, n1, t0, t1]) = aad.last_chunk::<NUMBERS_LEN>() else {
            return Err(WireError::Length { at: HEADER_LEN });
        };
        let (number, total) = (u16::from_be_bytes([n0, n1]), u16::from_be_bytes([t0, t1]));
        if number == 0 || number > total {
            return Err(WireError::Value {
                field: "Fragment Number",
                value: u32::from(number),
            });
        }
        if number > 1 && first != PayloadKind::NONE {
            return Err(WireError::Value {
                field: "next payload of a later fragment",
                value: u32::from(first.0),
            });
        }
        Ok(Self {
            first,
            number,
            total,
            aad,
            protected,
        })
    }

    /// Its text, if it is the peer's.
    pub fn open(&self, cipher: &Cipher) -> Result<Vec<u8>, OpenError> {
        encrypted::open_text(self.aad, self.protected, cipher)
    }
}

/// Builds a protected message in fragments, each a message of at most `limit` octets, from the IV
/// `next_iv` on, which it moves on.
#[must_use]
pub fn seal(
    header: &Header,
    chain: ChainWriter,
    limit: usize,
    next_iv: &mut u64,
    cipher: &Cipher,
) -> Vec<Vec<u8>> {
    let (first, text) = chain.finish();
    let room = limit.saturating_sub(HEADER_LEN + GENERIC_HEADER + NUMBERS_LEN);
    let most = encrypted::text_within(room, cipher).max(1);
    let total = text.len().div_ceil(most) as u16;
    let fragment = |(number, piece): (u16, &[u8])| {
        let inside = if number == 1 {
            first
        } else {
            PayloadKind::NONE
        };
        let [n0, n1] = number.to_be_bytes();
        let [t0, t1] = total.to_be_bytes();
        let iv = *next_iv;
        *next_iv += 1;
        let fixed = (inside, &[n0, n1, t0, t1][..]);
        encrypted::protect(header, PayloadKind::SKF, fixed, piece.to_vec(), iv, cipher)
    };
    (1..).zip(text.chunks(most)).map(fragment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Encryption, Secret},
        wire::header::Exchange,
    };

    const LIMIT: usize = 200;

    fn header() -> Header {
        Header {
            spi_i: [1; 8],
            spi_r: [2; 8],
            next: PayloadKind::NONE,
            exchange: Exchange::IkeAuth,
            from_initiator: true,
            response: false,
            message_id: 1,
        }
    }

    fn cipher() -> Cipher {
        let encryption = Encryption::AesGcm256;
        let key = Secret::new(vec![5; encryption.key_and_salt_len()]);
        Cipher::new(encryption, &key, &Secret::default()).expect("length")
    }

    fn chain() -> ChainWriter {
        let mut chain = ChainWriter::new();
        chain.octets(PayloadKind::NONCE, &[7; 32]);
        chain.octets(PayloadKind::CERT, &[9; 500]);
        chain
    }

    #[test]
    fn the_pieces_add_up_and_none_is_too_long() {
        let mut iv = 40;
        let messages = seal(&header(), chain(), LIMIT, &mut iv, &cipher());
        assert_eq!(messages.len(), 4);
        assert_eq!(iv, 44, "no IV twice");
        let mut text = Vec::new();
        for (number, message) in (1..).zip(&messages) {
            assert!(message.len() <= LIMIT);
            let (parsed, _) = Header::parse(message).expect("header");
            assert_eq!(parsed.next, PayloadKind::SKF);
            let fragment = Fragment::parse(&parsed, message).expect("a fragment");
            assert_eq!((fragment.number, fragment.total), (number, 4));
            assert_eq!(fragment.first == PayloadKind::NONCE, number == 1);
            text.extend(fragment.open(&cipher()).expect("opens"));
        }
        assert_eq!(text, chain().finish().1);
    }

    #[test]
    fn no_bit_can_be_changed() {
        let messages = seal(&header(), chain(), LIMIT, &mut 0, &cipher());
        let message = &messages[1];
        for bit in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = Header::parse(&changed).ok().and_then(|(header, _)| {
                let fragment = Fragment::parse(&header, &changed).ok()?;
                fragment.open(&cipher()).ok()
            });
            assert_eq!(opened, None, "bit {bit}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_are_refused() {
        let message = seal(&header(), chain(), LIMIT, &mut 0, &cipher()).remove(1);
        for (number, total) in [(0_u16, 0_u16), (0, 4), (5, 4), (1, 0), (u16::MAX, 4)] {
            let mut changed = message.clone();
            changed[32..34].copy_from_slice(&number.to_be_bytes());
            changed[34..36].copy_from_slice(&total.to_be_bytes());
            let (header, _) = Header::parse(&changed).expect("header");
            assert!(
                Fragment::parse(&header, &changed).is_err(),
                "{number} of {total}"
            );
        }
        for end in 0..HEADER_LEN + GENERIC_HEADER + NUMBERS_LEN {
            let mut cut = message[..end].to_vec();
            if let Some(field) = cut.get_mut(24..28) {
                field.copy_from_slice(&(end as u32).to_be_bytes());
            }
            let parsed = Header::parse(&cut).ok();
            let fragment = parsed.and_then(|(header, _)| Fragment::parse(&header, &cut).ok());
            assert!(fragment.is_none(), "cut at {end}");
        }
    }
}
