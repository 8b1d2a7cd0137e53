//! AES-CBC (RFC 3602) under HMAC-SHA2 (RFC 4868), for peers that have no AEAD: encrypted first, then
//! authenticated, and opened in the reverse order. The AES is RustCrypto's, for `ring` has no CBC.

use aes::{Aes128, Aes256};
use cbc::cipher::{
    Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt,
    KeyInit, KeyIvInit, consts::U16,
};
use ring::hmac;

use super::{
    Secret,
    aead::Corrupt,
    secret::equal,
    suite::{Encryption, Integrity},
};

/// Octets of a block, and of an IV.
pub(super) const BLOCK_LEN: usize = 16;

/// A cipher and a MAC with their keys.
pub(super) struct CbcHmac {
    key: Secret,
    mac: hmac::Key,
    pub(super) tag_len: usize,
}

impl CbcHmac {
    /// `None` if the cipher is none of these, or a key has the wrong length.
    pub(super) fn new(encryption: Encryption, key: &Secret, mac_key: &Secret) -> Option<Self> {
        let integrity = encryption.integrity()?;
        let fits = (key.len(), mac_key.len()) == (encryption.key_len(), integrity.key_len());
        let algorithm = match integrity {
            Integrity::HmacSha256 => hmac::HMAC_SHA256,
            Integrity::HmacSha384 => hmac::HMAC_SHA384,
            Integrity::HmacSha512 => hmac::HMAC_SHA512,
        };
        fits.then(|| Self {
            key: key.duplicate(),
            mac: hmac::Key::new(algorithm, mac_key.expose()),
            tag_len: integrity.tag_len(),
        })
    }

    /// Appends IV, ciphertext and tag to what is authenticated only. `text` is whole blocks; a `count` must
    /// never come twice under one key.
    pub(super) fn seal(&self, count: u64, message: &mut Vec<u8>, mut text: Vec<u8>) {
        let iv = self.iv(count);
        self.encrypt(iv, &mut text);
        message.extend_from_slice(&iv);
        message.append(&mut text);
        let tag = hmac::sign(&self.mac, message);
        message.extend_from_slice(tag.as_ref().get(..self.tag_len).unwrap_or_default());
    }

    /// The text of what [`Self::seal`] has appended, padding included. Nothing is decrypted, and nothing of
    /// the padding looked at, before the tag is known to be right.
    pub(super) fn open(&self, aad: &[u8], protected: &[u8]) -> Result<Vec<u8>, Corrupt> {
        let at = protected.len().checked_sub(self.tag_len).ok_or(Corrupt)?;
        let (signed, tag) = protected.split_at_checked(at).ok_or(Corrupt)?;
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(aad);
        context.update(signed);
        let expected = context.sign();
        let expected = expected.as_ref().get(..self.tag_len).ok_or(Corrupt)?;
        if !equal(expected, tag) {
            return Err(Corrupt);
        }
        let (iv, text) = signed.split_first_chunk::<BLOCK_LEN>().ok_or(Corrupt)?;
        if text.is_empty() || !text.len().is_multiple_of(BLOCK_LEN) {
            return Err(Corrupt);
        }
        let mut text = text.to_vec();
        self.decrypt(*iv, &mut text);
        Ok(text)
    }

    /// An IV that nobody can foretell, which CBC needs (RFC 7296, 3.14): a count, encrypted under the key
    /// (NIST SP 800-38A, appendix C).
    fn iv(&self, count: u64) -> [u8; BLOCK_LEN] {
        let mut iv = [0; BLOCK_LEN];
        iv[8..].copy_from_slice(&count.to_be_bytes());
        // One block from an IV of zeros is the block cipher itself.
        self.encrypt([0; BLOCK_LEN], &mut iv);
        iv
    }

    fn encrypt(&self, iv: [u8; BLOCK_LEN], text: &mut [u8]) {
        match self.key.len() {
            16 => encrypt_with::<Aes128>(self.key.expose(), iv, text),
            _ => encrypt_with::<Aes256>(self.key.expose(), iv, text),
        }
    }

    fn decrypt(&self, iv: [u8; BLOCK_LEN], text: &mut [u8]) {
        match self.key.len() {
            16 => decrypt_with::<Aes128>(self.key.expose(), iv, text),
            _ => decrypt_with::<Aes256>(self.key.expose(), iv, text),
        }
    }
}

fn encrypt_with<C>(key: &[u8], iv: [u8; BLOCK_LEN], text: &mut [u8])
where
    C: BlockCipherEncrypt<BlockSize = U16> + KeyInit,
{
    let mut chain = cbc::Encryptor::<C>::new_from_slices(key, &iv)
        .expect("CbcHmac::new has seen to the key's length");
    for block in blocks(text) {
        chain.encrypt_block(block);
    }
}

fn decrypt_with<C>(key: &[u8], iv: [u8; BLOCK_LEN], text: &mut [u8])
where
    C: BlockCipherDecrypt<BlockSize = U16> + KeyInit,
{
    let mut chain = cbc::Decryptor::<C>::new_from_slices(key, &iv)
        .expect("CbcHmac::new has seen to the key's length");
    for block in blocks(text) {
        chain.decrypt_block(block);
    }
}

fn blocks(text: &mut [u8]) -> impl Iterator<Item = &mut Array<u8, U16>> {
    let (blocks, _rest) = Block::<Aes128>::slice_as_chunks_mut(text);
    blocks.iter_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter(|digit| !digit.is_whitespace()).collect();
        let pair = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).expect("hex");
        digits.chunks(2).map(pair).collect()
    }

    fn cipher(encryption: Encryption, key: &[u8]) -> CbcHmac {
        let mac_key = vec![11; encryption.integrity().expect("one").key_len()];
        CbcHmac::new(encryption, &Secret::from(key), &Secret::new(mac_key)).expect("lengths")
    }

    /// RFC 3602, 4, cases 1 and 2; NIST SP 800-38A, F.2.5.
    #[test]
    fn published_vectors_of_the_cipher() {
        let cases = [
            (
                Encryption::AesCbc128(Integrity::HmacSha256),
                "06a9214036b8a15b512e03d534120006",
                "3dafba429d9eb430b422da802c9fac41",
                "53696e676c6520626c6f636b206d7367",
                "e353779c1079aeb82708942dbe77181a",
            ),
            (
                Encryption::AesCbc128(Integrity::HmacSha384),
                "c286696d887c9aa0611bbb3e2025a45a",
                "562e17996d093d28ddb3ba695a2e6f58",
                "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
            ),
            (
                Encryption::AesCbc256(Integrity::HmacSha512),
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "000102030405060708090a0b0c0d0e0f",
                "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ];
        for (encryption, key, iv, plain, sealed) in cases {
            let cipher = cipher(encryption, &octets(key));
            let iv: [u8; 16] = octets(iv).try_into().expect("a block");
            let mut text = octets(plain);
            cipher.encrypt(iv, &mut text);
            assert_eq!(text, octets(sealed), "{encryption:?}");
            cipher.decrypt(iv, &mut text);
            assert_eq!(text, octets(plain), "{encryption:?}");
        }
    }

    /// RFC 4868, 2.7.2: the key of each AUTH case 1, and its data.
    #[test]
    fn published_vectors_of_the_tags() {
        let cases = [
            (Integrity::HmacSha256, "198a607eb44bfbc69903a0f1cf2bbdc5"),
            (
                Integrity::HmacSha384,
                "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973",
            ),
            (
                Integrity::HmacSha512,
                "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
            ),
        ];
        for (integrity, tag) in cases {
            let cipher = cipher(Encryption::AesCbc128(integrity), &[0; 16]);
            let found = hmac::sign(&cipher.mac, b"Hi There");
            assert_eq!(found.as_ref()[..cipher.tag_len], octets(tag));
            assert_eq!(cipher.tag_len, integrity.key_len() / 2);
        }
    }

    #[test]
    fn no_bit_can_be_changed_and_no_iv_comes_twice() {
        let cipher = cipher(Encryption::AesCbc256(Integrity::HmacSha256), &[5; 32]);
        let sealed = |count| {
            let mut message = b"header".to_vec();
            cipher.seal(count, &mut message, vec![7; 32]);
            message
        };
        let message = sealed(1);
        assert_eq!(message.len(), 6 + 16 + 32 + 16);
        assert_ne!(message[6..22], sealed(2)[6..22]);
        assert_eq!(cipher.open(&message[..6], &message[6..]), Ok(vec![7; 32]));
        for bit in 0..message.len() * 8 {
            let mut changed = message.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(cipher.open(&changed[..6], &changed[6..]), Err(Corrupt));
        }
        for end in 6..message.len() {
            assert_eq!(cipher.open(&message[..6], &message[6..end]), Err(Corrupt));
        }
    }

    #[test]
    fn a_genuine_tag_over_no_whole_blocks_is_refused() {
        let cipher = cipher(Encryption::AesCbc128(Integrity::HmacSha256), &[5; 16]);
        for len in [0, 15, 16, 17, 31, 33] {
            let mut message = vec![1; len];
            let tag = hmac::sign(&cipher.mac, &message);
            message.extend_from_slice(&tag.as_ref()[..16]);
            assert_eq!(cipher.open(&[], &message), Err(Corrupt), "{len}");
        }
    }
}
