//! Key material of an IKE SA and of its Child SAs (RFC 7296, 2.14 and 2.17; RFC 5723, 5.1).

use super::{
    Secret,
    cipher::Cipher,
    prf::{prf, prf_plus},
    suite::{Encryption, Prf},
};

/// The keys of one IKE SA. AEADs need no SK_ai and SK_ar, which are empty then (RFC 5282, 7.1).
#[derive(Debug)]
pub struct KeyMaterial {
    /// Derives Child SA keys, and the next SKEYSEED on rekey or resumption.
    pub sk_d: Secret,
    /// Integrity key from initiator to responder.
    pub sk_ai: Secret,
    /// Integrity key from responder to initiator.
    pub sk_ar: Secret,
    /// Key and salt from initiator to responder.
    pub sk_ei: Secret,
    /// Key and salt from responder to initiator.
    pub sk_er: Secret,
    /// Initiator's AUTH key.
    pub sk_pi: Secret,
    /// Responder's AUTH key.
    pub sk_pr: Secret,
}

/// The public values every derivation of an IKE SA mixes in.
#[derive(Clone, Copy, Debug)]
pub struct Exchanged<'a> {
    /// Initiator's nonce, without payload header.
    pub ni: &'a [u8],
    /// Responder's nonce, without payload header.
    pub nr: &'a [u8],
    /// Initiator's SPI.
    pub spi_i: [u8; 8],
    /// Responder's SPI.
    pub spi_r: [u8; 8],
}

impl KeyMaterial {
    /// After IKE_SA_INIT: `SKEYSEED = prf(Ni | Nr, g^ir)`.
    #[must_use]
    pub fn from_exchange(
        which: Prf,
        encryption: Encryption,
        shared: &Secret,
        exchanged: &Exchanged<'_>,
    ) -> Self {
        let nonces = [exchanged.ni, exchanged.nr].concat();
        let skeyseed = prf(which, &nonces, &[shared.expose()]);
        Self::expand(which, encryption, &skeyseed, exchanged)
    }

    // RFC 5723: N31, T11, X3, X4
    /// After IKE_SESSION_RESUME: `SKEYSEED = prf(SK_d_old, "Resumption" | Ni | Nr)` (RFC 5723, 5.1).
    #[must_use]
    pub fn from_ticket(
        which: Prf,
        encryption: Encryption,
        old_sk_d: &Secret,
        exchanged: &Exchanged<'_>,
    ) -> Self {
        let parts: [&[u8]; 3] = [b"Resumption", exchanged.ni, exchanged.nr];
        let skeyseed = prf(which, old_sk_d.expose(), &parts);
        Self::expand(which, encryption, &skeyseed, exchanged)
    }

    /// After an IKE rekey: `SKEYSEED = prf(SK_d_old, g^ir | Ni | Nr)` with the old SA's prf, the rest
    /// with the new one's (RFC 7296, 2.18).
    #[must_use]
    pub fn from_rekey(
        old: (Prf, &Secret),
        which: Prf,
        encryption: Encryption,
        shared: &Secret,
        exchanged: &Exchanged<'_>,
    ) -> Self {
        let (old_prf, old_sk_d) = old;
        let parts: [&[u8]; 3] = [shared.expose(), exchanged.ni, exchanged.nr];
        let skeyseed = prf(old_prf, old_sk_d.expose(), &parts);
        Self::expand(which, encryption, &skeyseed, exchanged)
    }

    /// The ciphers from initiator to responder, and back.
    #[must_use]
    pub fn ciphers(&self, encryption: Encryption) -> Option<[Cipher; 2]> {
        Some([
            Cipher::new(encryption, &self.sk_ei, &self.sk_ai)?,
            Cipher::new(encryption, &self.sk_er, &self.sk_ar)?,
        ])
    }

    fn expand(which: Prf, encryption: Encryption, skeyseed: &Secret, by: &Exchanged<'_>) -> Self {
        let (p, e) = (which.output_len(), encryption.key_and_salt_len());
        let a = encryption.integrity_key_len();
        let seed: [&[u8]; 4] = [by.ni, by.nr, &by.spi_i, &by.spi_r];
        let material = prf_plus(which, skeyseed.expose(), &seed, 3 * p + 2 * a + 2 * e);
        let mut rest = material.expose();
        let mut next = |len: usize| {
            let (head, tail) = rest.split_at_checked(len).unwrap_or((rest, &[]));
            rest = tail;
            Secret::from(head)
        };
        Self {
            sk_d: next(p),
            sk_ai: next(a),
            sk_ar: next(a),
            sk_ei: next(e),
            sk_er: next(e),
            sk_pi: next(p),
            sk_pr: next(p),
        }
    }
}

/// KEYMAT of a Child SA: initiator to responder first (RFC 7296, 2.17). `shared` is g^ir of a key
/// exchange of its own, or empty, as in IKE_AUTH.
#[must_use]
pub fn child_keys(
    which: Prf,
    sk_d: &Secret,
    shared: &[u8],
    nonces: (&[u8], &[u8]),
    octets_each: usize,
) -> (Secret, Secret) {
    let (ni, nr) = nonces;
    let material = prf_plus(which, sk_d.expose(), &[shared, ni, nr], 2 * octets_each);
    let (i2r, r2i) = material
        .expose()
        .split_at_checked(octets_each)
        .unwrap_or_default();
    (Secret::from(i2r), Secret::from(r2i))
}
