//! Signatures in IKE_AUTH (RFC 7427; RFC 4754), the certificates they belong to, and the authorities
//! a peer's certificate must lead to. Every verification goes through `ring`.

use der::{
    Decode as _, Encode as _, Reader as _, Tag,
    asn1::{AnyRef, UintRef},
};
use ring::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, alg_id,
};
use thiserror::Error;
use webpki::ring as algorithms;

/// How an AUTH payload was signed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureScheme {
    /// ecdsa-with-SHA256 on P-256. The signature is the DER of RFC 3279, 2.2.3; AUTH methods that
    /// want another form are served from it.
    EcdsaP256Sha256,
}

/// The environment could not sign.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("no private key of the connection can sign this way")]
pub struct SignError;

/// Our own certificate, leaf first, then intermediates, each in DER.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CertificateChain {
    /// DER certificates.
    pub certificates: Vec<Vec<u8>>,
}

/// The authorities a peer's certificate must lead to. Their names and keys count, and what else
/// their own certificates say does not: not even the end of their validity (RFC 5280, 6.1.1 (d)).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    hashes: Vec<[u8; KEY_HASH_LEN]>,
    fingerprints: Vec<[u8; 32]>,
}

/// A certificate that cannot serve as authority.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("is not an X.509 certificate")]
pub struct NotAnAuthority;

impl TrustAnchors {
    /// Takes one more authority, by its certificate in DER.
    pub fn add(&mut self, certificate: &[u8]) -> Result<(), NotAnAuthority> {
        let certificate = CertificateDer::from(certificate);
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| NotAnAuthority)?;
        // The anchor has the content alone; its header counts into the hash as well.
        let key_info = AnyRef::new(Tag::Sequence, &anchor.subject_public_key_info)
            .and_then(|key_info| key_info.to_der())
            .map_err(|_| NotAnAuthority)?;
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key_info);
        let hash = hash.as_ref().first_chunk().ok_or(NotAnAuthority)?;
        let fingerprint = digest(&SHA256, &certificate);
        let fingerprint = fingerprint.as_ref().first_chunk().ok_or(NotAnAuthority)?;
        self.hashes.push(*hash);
        self.fingerprints.push(*fingerprint);
        self.anchors.push(anchor.to_owned());
        Ok(())
    }

    /// How many authorities there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether nobody can be trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// SHA-1 of each authority's SubjectPublicKeyInfo, by which a CERTREQ names it (RFC 7296, 3.7).
    #[must_use]
    pub fn key_hashes(&self) -> &[[u8; KEY_HASH_LEN]] {
        &self.hashes
    }

    /// SHA-256 of each authority's certificate.
    #[must_use]
    pub fn fingerprints(&self) -> &[[u8; 32]] {
        &self.fingerprints
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// What may sign a certificate between a peer's and an authority's: authorities live longer than
/// the keys below them, so RSA is still found there.
pub(crate) const CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// ecdsa-with-SHA256 on P-256, signature in DER.
pub(crate) const P256_DER: &dyn SignatureVerificationAlgorithm = algorithms::ECDSA_P256_SHA256;
/// The same with the signature as r and s, 32 octets each (RFC 4754, 7).
pub(crate) const P256_FIXED: &dyn SignatureVerificationAlgorithm = &FixedP256;

/// An ECDSA signature of P-256 as r and s of 32 octets each, from its DER.
pub(crate) fn fixed_from_der(signature: &[u8]) -> Option<[u8; 2 * SCALAR_LEN]> {
    let scalars: der::Result<(UintRef<'_>, UintRef<'_>)> = AnyRef::from_der(signature)
        .and_then(|any| any.sequence(|reader| Ok((reader.decode()?, reader.decode()?))));
    let (r, s) = scalars.ok()?;
    let mut out = [0; 2 * SCALAR_LEN];
    let (high, low) = out.split_at_mut(SCALAR_LEN);
    for (half, scalar) in [(high, r), (low, s)] {
        let scalar = scalar.as_bytes();
        let at = SCALAR_LEN.checked_sub(scalar.len())?;
        half.get_mut(at..)?.copy_from_slice(scalar);
    }
    Some(out)
}

#[derive(Debug)]
struct FixedP256;

impl SignatureVerificationAlgorithm for FixedP256 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }
}

/// Octets of SHA-1, which RFC 7296, 3.7 fixes; nothing here depends on its strength.
pub const KEY_HASH_LEN: usize = 20;

const SCALAR_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_signature_hold_the_same_numbers() {
        // r needs an octet of sign in DER, s is short.
        let mut der = vec![0x30, 0, 0x02, 0x21, 0x00];
        der.extend_from_slice(&[0x80; 32]);
        der.extend_from_slice(&[0x02, 0x01, 0x07]);
        der[1] = (der.len() - 2) as u8;
        let fixed = fixed_from_der(&der).expect("well formed");
        assert_eq!(&fixed[..32], &[0x80; 32]);
        assert_eq!((&fixed[32..63], fixed[63]), (&[0; 31][..], 7));
        for end in 0..der.len() {
            assert_eq!(fixed_from_der(&der[..end]), None, "cut at {end}");
        }
        der[4] = 1;
        assert_eq!(fixed_from_der(&der), None, "33 octets are no scalar");
    }

    #[test]
    fn what_is_no_certificate_is_no_authority() {
        let mut anchors = TrustAnchors::default();
        assert_eq!(anchors.add(b"hello"), Err(NotAnAuthority));
        assert_eq!(anchors.add(&[0x30, 0]), Err(NotAnAuthority));
        assert!(anchors.is_empty() && anchors.key_hashes().is_empty());
    }
}
