//! Signatures in IKE_AUTH (RFC 7427; RFC 4754), the certificates they belong to, and the authorities
//! a peer's certificate must lead to. Every verification goes through `ring`.

use der::{
    Decode as _, Encode as _, Reader as _, Tag,
    asn1::{AnyRef, ObjectIdentifier, UintRef},
};
use ring::{
    digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm,
        UnparsedPublicKey,
    },
};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    TrustAnchor, alg_id,
};
use thiserror::Error;
use webpki::ring as algorithms;
use x509_cert::{
    Certificate,
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};

use crate::trust::{Constraints, Revocations};

/// How an AUTH payload is signed. ECDSA signatures are in the DER of RFC 3279, 2.2.3; AUTH methods that
/// want another form are served from it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureScheme {
    /// ecdsa-with-SHA256 on P-256.
    EcdsaP256Sha256,
    /// ecdsa-with-SHA384 on P-384.
    EcdsaP384Sha384,
    /// Ed25519 (RFC 8420).
    Ed25519,
    /// RSASSA-PSS with SHA2-256 and a salt of 32 octets.
    RsaPssSha256,
    /// RSASSA-PKCS1-v1_5 with SHA2-256, for peers that do not know RFC 7427 or RSASSA-PSS.
    RsaPkcs1Sha256,
}

/// Kinds of keys that sign for us.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA, 2048 bits or more.
    Rsa,
}

impl KeyKind {
    /// What kind of key a SubjectPublicKeyInfo is; `None` if the kind is none of ours.
    pub(crate) fn of_public(key: &[u8]) -> Option<Self> {
        Self::of(&SubjectPublicKeyInfoOwned::from_der(key).ok()?.algorithm)
    }

    fn of(algorithm: &AlgorithmIdentifierOwned) -> Option<Self> {
        let curve = || algorithm.parameters.as_ref()?.decode_as().ok();
        match algorithm.oid {
            ED25519_KEY => Some(Self::Ed25519),
            RSA_KEY => Some(Self::Rsa),
            EC_KEY => match curve()? {
                CURVE_P256 => Some(Self::P256),
                CURVE_P384 => Some(Self::P384),
                _ => None,
            },
            _ => None,
        }
    }
}

/// How an RSA key of ours pads what it signs for a peer that knows RFC 7427.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RsaPadding {
    /// RSASSA-PSS (RFC 8247, 3.2).
    #[default]
    Pss,
    /// RSASSA-PKCS1-v1_5, for peers that check nothing else.
    Pkcs1,
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

impl CertificateChain {
    /// What kind of key the leaf certifies; `None` if it cannot be read or the kind is none of ours.
    #[must_use]
    pub fn key(&self) -> Option<KeyKind> {
        let leaf = Certificate::from_der(self.certificates.first()?).ok()?;
        KeyKind::of(&leaf.tbs_certificate().subject_public_key_info().algorithm)
    }
}

/// The authorities a peer's certificate must lead to. Their names, keys and name constraints count, and
/// what else their own certificates say does not: not even the end of their validity (RFC 5280, 6.1.1 (d)).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustAnchors {
    anchors: Vec<TrustAnchor<'static>>,
    /// What each of them may certify, where that is not everything.
    constraints: Vec<Option<Constraints>>,
    hashes: Vec<[u8; KEY_HASH_LEN]>,
    fingerprints: Vec<[u8; 32]>,
    /// What they, and those below them, have taken back.
    pub revocations: Revocations,
}

/// A certificate that cannot serve as authority.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotAnAuthority {
    /// It cannot be read.
    #[error("is not an X.509 certificate")]
    Malformed,
    /// What it may certify cannot be read.
    #[error("has name constraints that break RFC 5280, 4.2.1.10")]
    Constraints,
}

impl TrustAnchors {
    /// Takes one more authority, by its certificate in DER.
    pub fn add(&mut self, certificate: &[u8]) -> Result<(), NotAnAuthority> {
        let certificate = CertificateDer::from(certificate);
        let anchor = webpki::anchor_from_trusted_cert(&certificate);
        let mut anchor = anchor.map_err(|_| NotAnAuthority::Malformed)?;
        // They are judged here, where all kinds of names are known.
        let constraints = match anchor.name_constraints.take() {
            Some(content) => {
                let read = Constraints::parse(&content);
                Some(read.ok_or(NotAnAuthority::Constraints)?)
            }
            None => None,
        };
        // The anchor has the content alone; its header counts into the hash as well.
        let key_info = AnyRef::new(Tag::Sequence, &anchor.subject_public_key_info)
            .and_then(|key_info| key_info.to_der())
            .map_err(|_| NotAnAuthority::Malformed)?;
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key_info);
        let hash = hash
            .as_ref()
            .first_chunk()
            .ok_or(NotAnAuthority::Malformed)?;
        let fingerprint = digest(&SHA256, &certificate);
        let fingerprint = fingerprint.as_ref().first_chunk();
        let fingerprint = fingerprint.ok_or(NotAnAuthority::Malformed)?;
        self.hashes.push(*hash);
        self.fingerprints.push(*fingerprint);
        self.anchors.push(anchor.to_owned());
        self.constraints.push(constraints);
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

    pub(crate) fn constraints(&self) -> &[Option<Constraints>] {
        &self.constraints
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

/// What may sign an AUTH payload under RFC 7427, where the algorithm is named before the signature.
pub(crate) const NAMED_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];
/// RSASSA-PKCS1-v1_5, whose hash stands in the signature (RFC 7296, 3.8); never SHA-1.
pub(crate) const PKCS1: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];
/// ECDSA with the signature as r and s of fixed length (RFC 4754, 7).
pub(crate) const P256_FIXED: &[&dyn SignatureVerificationAlgorithm] = &[&Fixed {
    key: alg_id::ECDSA_P256,
    signature: alg_id::ECDSA_SHA256,
    algorithm: &ECDSA_P256_SHA256_FIXED,
}];
/// The same on P-384.
pub(crate) const P384_FIXED: &[&dyn SignatureVerificationAlgorithm] = &[&Fixed {
    key: alg_id::ECDSA_P384,
    signature: alg_id::ECDSA_SHA384,
    algorithm: &ECDSA_P384_SHA384_FIXED,
}];

/// An ECDSA signature as r and s of `scalar` octets each, from its DER.
pub(crate) fn fixed_from_der(signature: &[u8], scalar: usize) -> Option<Vec<u8>> {
    let scalars: der::Result<(UintRef<'_>, UintRef<'_>)> = AnyRef::from_der(signature)
        .and_then(|any| any.sequence(|reader| Ok((reader.decode()?, reader.decode()?))));
    let (r, s) = scalars.ok()?;
    let mut out = vec![0; 2 * scalar];
    let (high, low) = out.split_at_mut(scalar);
    for (half, number) in [(high, r), (low, s)] {
        let number = number.as_bytes();
        let at = scalar.checked_sub(number.len())?;
        half.get_mut(at..)?.copy_from_slice(number);
    }
    Some(out)
}

#[derive(Debug)]
struct Fixed {
    key: AlgorithmIdentifier,
    signature: AlgorithmIdentifier,
    algorithm: &'static EcdsaVerificationAlgorithm,
}

impl SignatureVerificationAlgorithm for Fixed {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.key
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.signature
    }

    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(self.algorithm, public_key)
            .verify(message, signature)
            .map_err(|_| InvalidSignature)
    }
}

/// Octets of a scalar of P-256.
pub(crate) const P256_SCALAR: usize = 32;
/// Octets of a scalar of P-384.
pub(crate) const P384_SCALAR: usize = 48;

const EC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const CURVE_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const CURVE_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// Octets of SHA-1, which RFC 7296, 3.7 fixes; nothing here depends on its strength.
pub const KEY_HASH_LEN: usize = 20;

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
        let fixed = fixed_from_der(&der, P256_SCALAR).expect("well formed");
        assert_eq!(&fixed[..32], &[0x80; 32]);
        assert_eq!((&fixed[32..63], fixed[63]), (&[0; 31][..], 7));
        for end in 0..der.len() {
            assert_eq!(
                fixed_from_der(&der[..end], P256_SCALAR),
                None,
                "cut at {end}"
            );
        }
        der[4] = 1;
        assert_eq!(
            fixed_from_der(&der, P256_SCALAR),
            None,
            "33 octets are no scalar"
        );
    }

    #[test]
    fn what_is_no_certificate_is_no_authority() {
        let mut anchors = TrustAnchors::default();
        for junk in [&b"hello"[..], &[0x30, 0]] {
            assert_eq!(anchors.add(junk), Err(NotAnAuthority::Malformed));
        }
        assert!(anchors.is_empty() && anchors.key_hashes().is_empty());
    }
}
