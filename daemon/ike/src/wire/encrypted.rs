//! The Encrypted payload (RFC 7296, 3.14) in its AEAD form (RFC 5282, 3): IV, ciphertext, tag.

use super::{
    WireError,
    header::{HEADER_LEN, Header},
    payload::{ChainWriter, PayloadKind},
};
use crate::crypto::aead::{Aead, Corrupt, TAG_LEN};

pub(super) const GENERIC_HEADER: usize = 4;
const IV_LEN: usize = 8;
/// Octets that protection adds to a text: IV, Pad Length, tag.
pub(super) const PROTECTION_LEN: usize = IV_LEN + 1 + TAG_LEN;

/// The plain payload chain of a message, with the kind of its first payload.
#[derive(Debug)]
pub struct Plain {
    /// Kind of the first payload inside.
    pub first: PayloadKind,
    /// The chain's octets.
    pub octets: Vec<u8>,
}

/// Why a protected message was not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenError {
    /// No single SK payload that fills the message.
    Shape(WireError),
    /// Not made with our keys, or changed.
    Corrupt,
    /// A fragment of no message that is waited for, or seen before.
    Unfit,
    /// Genuine, but more fragments' octets than a message may have.
    TooLong,
}

impl From<WireError> for OpenError {
    fn from(error: WireError) -> Self {
        Self::Shape(error)
    }
}

impl From<Corrupt> for OpenError {
    fn from(Corrupt: Corrupt) -> Self {
        Self::Corrupt
    }
}

/// Opens a message that consists of one SK payload. Other payloads in clear beside it would not be
/// authenticated as what they are, and no peer sends any.
pub fn open(header: &Header, message: &[u8], aead: &Aead) -> Result<Plain, OpenError> {
    if header.next != PayloadKind::SK {
        let value = u32::from(header.next.0);
        return Err(WireError::Value {
            field: "first payload",
            value,
        }
        .into());
    }
    let (first, aad, protected) = split(message, GENERIC_HEADER)?;
    let octets = open_text(aad, protected, aead)?;
    Ok(Plain { first, octets })
}

/// Takes a message apart behind its only payload's fixed fields, of `fixed` octets: the kind of what is
/// inside, what is authenticated, what is encrypted too.
pub(super) fn split(
    message: &[u8],
    fixed: usize,
) -> Result<(PayloadKind, &[u8], &[u8]), WireError> {
    let (aad, protected) =
        message
            .split_at_checked(HEADER_LEN + fixed)
            .ok_or(WireError::Truncated {
                at: HEADER_LEN,
                needed: fixed,
            })?;
    let (first, length) = match aad.get(HEADER_LEN..) {
        Some(&[first, _, l0, l1, ..]) => (PayloadKind(first), u16::from_be_bytes([l0, l1])),
        _ => return Err(WireError::Length { at: HEADER_LEN }),
    };
    if usize::from(length) != fixed + protected.len() {
        return Err(WireError::Length { at: HEADER_LEN });
    }
    Ok((first, aad, protected))
}

/// Opens IV, ciphertext and tag; what is left is the text without its padding.
pub(super) fn open_text(aad: &[u8], protected: &[u8], aead: &Aead) -> Result<Vec<u8>, OpenError> {
    let (iv, ciphertext) = protected
        .split_first_chunk::<IV_LEN>()
        .ok_or(WireError::Length { at: HEADER_LEN })?;
    if ciphertext.len() <= TAG_LEN {
        return Err(WireError::Length { at: HEADER_LEN }.into());
    }
    let mut octets = ciphertext.to_vec();
    let plain = aead.open(*iv, aad, &mut octets)?;
    let padding = plain.last().map_or(0, |length| usize::from(*length));
    let keep = plain
        .len()
        .checked_sub(1 + padding)
        .ok_or(WireError::Value {
            field: "Pad Length",
            value: padding as u32,
        })?;
    octets.truncate(keep);
    Ok(octets)
}

/// Octets of the protected message that [`seal`] makes of a chain.
#[must_use]
pub const fn sealed_len(chain: &ChainWriter) -> usize {
    HEADER_LEN + GENERIC_HEADER + chain.len() + PROTECTION_LEN
}

/// Builds a protected message: `header.next` is set to SK, the chain goes inside.
#[must_use]
pub fn seal(header: &Header, chain: ChainWriter, iv: u64, aead: &Aead) -> Vec<u8> {
    let (first, text) = chain.finish();
    protect(header, PayloadKind::SK, (first, &[]), text, iv, aead)
}

/// Builds a message of one payload that protects `text`. In clear stand the kind of what is inside and
/// the payload's `fixed` fields behind its generic header.
pub(super) fn protect(
    header: &Header,
    kind: PayloadKind,
    (inside, fixed): (PayloadKind, &[u8]),
    mut text: Vec<u8>,
    iv: u64,
    aead: &Aead,
) -> Vec<u8> {
    let payload_len = GENERIC_HEADER + fixed.len() + text.len() + PROTECTION_LEN;
    text.push(0);
    let header = Header {
        next: kind,
        ..*header
    };
    let mut message = Vec::with_capacity(HEADER_LEN + payload_len);
    message.extend_from_slice(&header.emit(HEADER_LEN + payload_len));
    message.extend_from_slice(&[inside.0, 0]);
    message.extend_from_slice(&(payload_len as u16).to_be_bytes());
    message.extend_from_slice(fixed);
    let iv = iv.to_be_bytes();
    aead.seal(iv, &message, &mut text);
    message.extend_from_slice(&iv);
    message.append(&mut text);
    message
}

/// Builds a message in clear.
#[must_use]
pub fn clear(header: &Header, chain: ChainWriter) -> Vec<u8> {
    let (next, octets) = chain.finish();
    let header = Header { next, ..*header };
    let mut message = Vec::with_capacity(HEADER_LEN + octets.len());
    message.extend_from_slice(&header.emit(HEADER_LEN + octets.len()));
    message.extend_from_slice(&octets);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::{Encryption, Secret},
        wire::header::Exchange,
    };

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

    fn aead(encryption: Encryption) -> Aead {
        Aead::new(
            encryption,
            &Secret::new(vec![5; encryption.key_and_salt_len()]),
        )
        .expect("length")
    }

    #[test]
    fn what_is_sealed_opens_under_every_cipher() {
        for encryption in [
            Encryption::AesGcm128,
            Encryption::AesGcm256,
            Encryption::ChaCha20Poly1305,
        ] {
            let aead = aead(encryption);
            let mut chain = ChainWriter::new();
            chain.octets(PayloadKind::NONCE, b"0123456789abcdef");
            let message = seal(&header(), chain, 7, &aead);
            let (parsed, _) = Header::parse(&message).expect("header");
            let plain = open(&parsed, &message, &aead).expect("opens");
            assert_eq!(plain.first, PayloadKind::NONCE);
            assert_eq!(&plain.octets[4..], b"0123456789abcdef");
        }
    }

    #[test]
    fn no_bit_can_be_changed() {
        let aead = aead(Encryption::AesGcm256);
        let message = seal(&header(), ChainWriter::new(), 7, &aead);
        for bit in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = Header::parse(&changed)
                .ok()
                .map(|(h, _)| open(&h, &changed, &aead).is_ok());
            assert_ne!(opened, Some(true), "bit {bit}");
        }
    }
}
