//! Authenticated encryption of SK payloads (RFC 5282) and of ticket bodies.

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use thiserror::Error;

use super::{Secret, suite::Encryption};

/// Octets of the tag, the only size we negotiate.
pub const TAG_LEN: usize = 16;

/// The octets were changed, or were never ours.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("integrity check failed")]
pub struct Corrupt;

/// A cipher with its key and the implicit part of its nonce.
pub struct Aead {
    key: LessSafeKey,
    salt: [u8; 4],
}

impl Aead {
    /// From key and salt as key material lays them out (RFC 5282, 7.1).
    #[must_use]
    pub fn new(encryption: Encryption, key_and_salt: &Secret) -> Option<Self> {
        let (key, salt) = key_and_salt
            .expose()
            .split_at_checked(encryption.key_len())?;
        let algorithm = match encryption {
            Encryption::AesGcm128 => &AES_128_GCM,
            Encryption::AesGcm256 => &AES_256_GCM,
            Encryption::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Encryption::AesCbc128(_) | Encryption::AesCbc256(_) => return None,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Self {
            key,
            salt: salt.try_into().ok()?,
        })
    }

    /// Encrypts `text` in place and appends the tag. An `iv` must never come twice under one key.
    pub fn seal(&self, iv: [u8; 8], aad: &[u8], text: &mut Vec<u8>) {
        self.seal_with(self.nonce(iv), aad, text);
    }

    /// As [`Self::seal`], with the whole nonce given; the salt is not used.
    pub fn seal_with(&self, nonce: [u8; 12], aad: &[u8], text: &mut Vec<u8>) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = self
            .key
            .seal_in_place_append_tag(nonce, Aad::from(aad), text);
        // ring refuses only texts beyond 64 GiB; a datagram has 64 KiB.
        if sealed.is_err() {
            text.clear();
        }
    }

    /// Decrypts `text`, tag last, in place and returns the plain octets.
    pub fn open<'a>(
        &self,
        iv: [u8; 8],
        aad: &[u8],
        text: &'a mut [u8],
    ) -> Result<&'a [u8], Corrupt> {
        self.open_with(self.nonce(iv), aad, text)
    }

    /// As [`Self::open`], with the whole nonce given; the salt is not used.
    pub fn open_with<'a>(
        &self,
        nonce: [u8; 12],
        aad: &[u8],
        text: &'a mut [u8],
    ) -> Result<&'a [u8], Corrupt> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        match self.key.open_in_place(nonce, Aad::from(aad), text) {
            Ok(plain) => Ok(plain),
            Err(_) => Err(Corrupt),
        }
    }

    const fn nonce(&self, iv: [u8; 8]) -> [u8; 12] {
        let [s0, s1, s2, s3] = self.salt;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        [s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7]
    }
}

impl std::fmt::Debug for Aead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aead")
    }
}
