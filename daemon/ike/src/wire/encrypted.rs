//! The Encrypted payload (RFC 7296, 3.14; RFC 5282, 3): IV, ciphertext, tag.

use super::{
    WireError,
    header::{HEADER_LEN, Header},
    payload::{ChainWriter, PayloadKind},
};
use crate::crypto::{aead::Corrupt, cipher::Cipher};

pub(super) const GENERIC_HEADER: usize = 4;

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
pub fn open(header: &Header, message: &[u8], cipher: &Cipher) -> Result<Plain, OpenError> {
    if header.next != PayloadKind::SK {
        let value = u32::from(header.next.0);
        return Err(WireError::Value {
            field: "first payload",
            value,
        }
        .into());
    }
    let (first, aad, protected) = split(message, GENERIC_HEADER)?;
    let octets = open_text(aad, protected, cipher)?;
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
pub(super) fn open_text(
    aad: &[u8],
    protected: &[u8],
    cipher: &Cipher,
) -> Result<Vec<u8>, OpenError> {
    if protected.len() <= cipher.around_len() {
        return Err(WireError::Length { at: HEADER_LEN }.into());
    }
    let mut plain = cipher.open(aad, protected)?;
    let padding = plain.last().map_or(0, |length| usize::from(*length));
    let keep = plain
        .len()
        .checked_sub(1 + padding)
        .ok_or(WireError::Value {
            field: "Pad Length",
            value: padding as u32,
        })?;
    plain.truncate(keep);
    Ok(plain)
}

/// Octets of the protected message that [`seal`] makes of a chain.
#[must_use]
pub fn sealed_len(chain: &ChainWriter, cipher: &Cipher) -> usize {
    HEADER_LEN + GENERIC_HEADER + protected_len(chain.len(), cipher)
}

/// Octets that become of a text: with padding, Pad Length, IV and tag.
const fn protected_len(text: usize, cipher: &Cipher) -> usize {
    (text + 1).next_multiple_of(cipher.block_len()) + cipher.around_len()
}

/// Octets of the longest text that becomes so many.
pub(super) const fn text_within(room: usize, cipher: &Cipher) -> usize {
    let blocks = room.saturating_sub(cipher.around_len()) / cipher.block_len();
    (blocks * cipher.block_len()).saturating_sub(1)
}

/// Builds a protected message: `header.next` is set to SK, the chain goes inside.
#[must_use]
pub fn seal(header: &Header, chain: ChainWriter, iv: u64, cipher: &Cipher) -> Vec<u8> {
    let (first, text) = chain.finish();
    protect(header, PayloadKind::SK, (first, &[]), text, iv, cipher)
}

/// Builds a message of one payload that protects `text`. In clear stand the kind of what is inside and
/// the payload's `fixed` fields behind its generic header.
pub(super) fn protect(
    header: &Header,
    kind: PayloadKind,
    (inside, fixed): (PayloadKind, &[u8]),
    mut text: Vec<u8>,
    iv: u64,
    cipher: &Cipher,
) -> Vec<u8> {
    let payload_len = GENERIC_HEADER + fixed.len() + protected_len(text.len(), cipher);
    // Of any content (RFC 7296, 3.14).
    let padding = payload_len - GENERIC_HEADER - fixed.len() - cipher.around_len() - text.len() - 1;
    text.resize(text.len() + padding, 0);
    text.push(padding as u8);
    let header = Header {
        next: kind,
        ..*header
    };
    let mut message = Vec::with_capacity(HEADER_LEN + payload_len);
    message.extend_from_slice(&header.emit(HEADER_LEN + payload_len));
    message.extend_from_slice(&[inside.0, 0]);
    message.extend_from_slice(&(payload_len as u16).to_be_bytes());
    message.extend_from_slice(fixed);
    cipher.seal(iv, &mut message, text);
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
        crypto::{Encryption, Integrity, Secret},
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

    const SHA256: Integrity = Integrity::HmacSha256;

    fn cipher(encryption: Encryption) -> Cipher {
        let key = Secret::new(vec![5; encryption.key_and_salt_len()]);
        let mac_key = Secret::new(vec![6; encryption.integrity_key_len()]);
        Cipher::new(encryption, &key, &mac_key).expect("lengths")
    }

    #[test]
    fn what_is_sealed_opens_under_every_cipher() {
        for encryption in [
            Encryption::AesGcm128,
            Encryption::AesGcm256,
            Encryption::ChaCha20Poly1305,
            Encryption::AesCbc128(SHA256),
            Encryption::AesCbc256(Integrity::HmacSha384),
            Encryption::AesCbc256(Integrity::HmacSha512),
        ] {
            let cipher = cipher(encryption);
            let mut chain = ChainWriter::new();
            chain.octets(PayloadKind::NONCE, b"0123456789abcdef");
            let length = sealed_len(&chain, &cipher);
            let message = seal(&header(), chain, 7, &cipher);
            assert_eq!(message.len(), length);
            let (parsed, _) = Header::parse(&message).expect("header");
            let plain = open(&parsed, &message, &cipher).expect("opens");
            assert_eq!(plain.first, PayloadKind::NONCE);
            assert_eq!(&plain.octets[4..], b"0123456789abcdef");
        }
    }

    #[test]
    fn no_bit_can_be_changed() {
        for encryption in [Encryption::AesGcm256, Encryption::AesCbc128(SHA256)] {
            let cipher = cipher(encryption);
            let message = seal(&header(), ChainWriter::new(), 7, &cipher);
            for bit in 0..message.len() * 8 {
                let mut changed = message.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let opened = Header::parse(&changed)
                    .ok()
                    .map(|(h, _)| open(&h, &changed, &cipher).is_ok());
                assert_ne!(opened, Some(true), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_text_of_any_length_is_padded_to_what_was_foreseen() {
        let cipher = cipher(Encryption::AesCbc256(SHA256));
        for len in 1..70 {
            let room = protected_len(len, &cipher);
            assert!((len..len + 16).contains(&text_within(room, &cipher)));
            assert!(text_within(room - 1, &cipher) < len);
            let mut chain = ChainWriter::new();
            chain.octets(PayloadKind::NONCE, &vec![3; len]);
            let message = seal(&header(), chain, 7, &cipher);
            let (parsed, _) = Header::parse(&message).expect("header");
            let plain = open(&parsed, &message, &cipher).expect("opens");
            assert_eq!(plain.octets[4..], vec![3; len]);
        }
    }
}
