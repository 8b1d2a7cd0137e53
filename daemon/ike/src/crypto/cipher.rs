//! What protects the SK payloads of one direction, whichever kind of algorithm was agreed on.

use super::{
    Secret,
    aead::{Aead, Corrupt, TAG_LEN},
    cbc::{BLOCK_LEN, CbcHmac},
    suite::Encryption,
};

/// Octets of an AEAD's explicit IV (RFC 5282, 3.1).
const AEAD_IV_LEN: usize = 8;

/// A cipher with its keys.
#[derive(Debug)]
pub struct Cipher(Kind);

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every SA has an AEAD, and should not look for it elsewhere"
)]
enum Kind {
    Aead(Aead),
    CbcHmac(CbcHmac),
}

impl Cipher {
    /// From SK_e, with its salt, and SK_a, which is empty for an AEAD.
    #[must_use]
    pub fn new(encryption: Encryption, key: &Secret, mac_key: &Secret) -> Option<Self> {
        let kind = match encryption.integrity() {
            None => Kind::Aead(Aead::new(encryption, key)?),
            Some(_) => Kind::CbcHmac(CbcHmac::new(encryption, key, mac_key)?),
        };
        Some(Self(kind))
    }

    /// Octets of IV and tag.
    #[must_use]
    pub const fn around_len(&self) -> usize {
        match &self.0 {
            Kind::Aead(_) => AEAD_IV_LEN + TAG_LEN,
            Kind::CbcHmac(cipher) => BLOCK_LEN + cipher.tag_len,
        }
    }

    /// What the length of a text, padding and Pad Length included, must be a multiple of.
    #[must_use]
    pub const fn block_len(&self) -> usize {
        match &self.0 {
            Kind::Aead(_) => 1,
            Kind::CbcHmac(_) => BLOCK_LEN,
        }
    }

    /// Appends IV, ciphertext and tag to what is authenticated only. A `count` must never come twice
    /// under one key.
    pub fn seal(&self, count: u64, message: &mut Vec<u8>, mut text: Vec<u8>) {
        match &self.0 {
            Kind::Aead(aead) => {
                let iv = count.to_be_bytes();
                aead.seal(iv, message, &mut text);
                message.extend_from_slice(&iv);
                message.append(&mut text);
            }
            Kind::CbcHmac(cipher) => cipher.seal(count, message, text),
        }
    }

    /// The text of what [`Self::seal`] has appended, padding included.
    pub fn open(&self, aad: &[u8], protected: &[u8]) -> Result<Vec<u8>, Corrupt> {
        match &self.0 {
            Kind::Aead(aead) => {
                let (iv, sealed) = protected.split_first_chunk().ok_or(Corrupt)?;
                let mut octets = sealed.to_vec();
                let len = aead.open(*iv, aad, &mut octets)?.len();
                octets.truncate(len);
                Ok(octets)
            }
            Kind::CbcHmac(cipher) => cipher.open(aad, protected),
        }
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Aead(_) => "Aead",
            Self::CbcHmac(_) => "CbcHmac",
        })
    }
}
