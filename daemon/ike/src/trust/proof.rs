//! The Authentication Data of a signature: RFC 7427's with the algorithm in front, and for peers that
//! do not know that RFC the older forms of RFC 7296, 3.8 and RFC 4754.

use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};
use webpki::Error;

use super::{Signed, TrustError};
use crate::{
    crypto::{
        KeyKind, RsaPadding, SignatureScheme,
        sign::{
            NAMED_ALGORITHMS, P256_FIXED, P256_SCALAR, P384_FIXED, P384_SCALAR, PKCS1,
            fixed_from_der,
        },
    },
    io::Env,
};

/// RSA Digital Signature (RFC 7296, 3.8).
const RSA: u8 = 1;
/// ECDSA with SHA-256 on the P-256 curve (RFC 4754, 7).
const ECDSA_P256: u8 = 9;
/// ECDSA with SHA-384 on the P-384 curve (RFC 4754, 7).
const ECDSA_P384: u8 = 10;
/// Digital Signature (RFC 7427, 3).
const DIGITAL_SIGNATURE: u8 = 14;

/// Hashes under which a peer can check a signature (RFC 7427, 4; RFC 8420, 2).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Hashes {
    sha256: bool,
    sha384: bool,
    identity: bool,
}

impl Hashes {
    /// What we announce: SHA2-256, SHA2-384 and Identity. With SHA2-512 a peer might sign with ECDSA
    /// over that, which we cannot check.
    pub(crate) const OURS: [u8; 6] = [0, 2, 0, 3, 0, 5];

    /// Reads the data of a SIGNATURE_HASH_ALGORITHMS; without one there are none.
    pub(crate) fn parse(data: Option<&[u8]>) -> Self {
        let has = |number| {
            let mut all = data.unwrap_or_default().chunks_exact(2);
            all.any(|hash| hash == [0, number])
        };
        Self {
            sha256: has(2),
            sha384: has(3),
            identity: has(5),
        }
    }
}

/// Our own Auth Method and Authentication Data in a full exchange. A peer that did not announce the
/// hash that goes with our key gets the older form, if the key has one. With RSA that is over SHA2-256
/// too, though peers that old may know SHA-1 alone (RFC 7296, 3.8): `ring` does not sign over it.
pub(crate) fn sign(
    connection: &str,
    (key, padding): (KeyKind, RsaPadding),
    octets: &[u8],
    hashes: Hashes,
    env: &mut dyn Env,
) -> Option<(u8, Vec<u8>)> {
    let named = match key {
        KeyKind::P256 => hashes.sha256.then_some(SignatureScheme::EcdsaP256Sha256),
        KeyKind::P384 => hashes.sha384.then_some(SignatureScheme::EcdsaP384Sha384),
        KeyKind::Ed25519 => hashes.identity.then_some(SignatureScheme::Ed25519),
        KeyKind::Rsa => hashes.sha256.then_some(match padding {
            RsaPadding::Pss => SignatureScheme::RsaPssSha256,
            RsaPadding::Pkcs1 => SignatureScheme::RsaPkcs1Sha256,
        }),
    };
    let mut signed = |scheme| env.sign(connection, scheme, octets).ok();
    if let Some(scheme) = named {
        let mut auth = identifier(scheme);
        auth.extend(signed(scheme)?);
        return Some((DIGITAL_SIGNATURE, auth));
    }
    match key {
        KeyKind::P256 => {
            let signature = signed(SignatureScheme::EcdsaP256Sha256)?;
            Some((ECDSA_P256, fixed_from_der(&signature, P256_SCALAR)?))
        }
        KeyKind::P384 => {
            let signature = signed(SignatureScheme::EcdsaP384Sha384)?;
            Some((ECDSA_P384, fixed_from_der(&signature, P384_SCALAR)?))
        }
        KeyKind::Rsa => Some((RSA, signed(SignatureScheme::RsaPkcs1Sha256)?)),
        KeyKind::Ed25519 => None,
    }
}

/// The AlgorithmIdentifier of a scheme in DER, with its length in front (RFC 7427, 3).
fn identifier(scheme: SignatureScheme) -> Vec<u8> {
    let content = match scheme {
        SignatureScheme::EcdsaP256Sha256 => alg_id::ECDSA_SHA256,
        SignatureScheme::EcdsaP384Sha384 => alg_id::ECDSA_SHA384,
        SignatureScheme::Ed25519 => alg_id::ED25519,
        SignatureScheme::RsaPssSha256 => alg_id::RSA_PSS_SHA256,
        SignatureScheme::RsaPkcs1Sha256 => alg_id::RSA_PKCS1_SHA256,
    };
    // None of them has more than 127 octets.
    let length = content.len() as u8;
    [&[length + 2, SEQUENCE, length], &*content].concat()
}

/// A peer's signature, and what it may be by.
#[derive(Clone, Copy)]
pub(super) enum Signature<'a> {
    /// The peer names one algorithm; the content of its AlgorithmIdentifier.
    Named(&'a [u8], &'a [u8]),
    /// The Auth Method leaves these.
    OneOf(
        &'static [&'static dyn SignatureVerificationAlgorithm],
        &'a [u8],
    ),
}

impl<'a> Signature<'a> {
    /// The form follows from the Auth Method. That we take an older one from a peer that knows the
    /// newer one too costs nothing: it is the same algorithm over the same octets.
    pub(super) fn parse(signed: &Signed<'a>) -> Result<Self, TrustError> {
        let auth = signed.auth;
        match signed.method {
            DIGITAL_SIGNATURE => named(auth).ok_or(TrustError::Algorithm),
            RSA => Ok(Self::OneOf(PKCS1, auth)),
            ECDSA_P256 => Ok(Self::OneOf(P256_FIXED, auth)),
            ECDSA_P384 => Ok(Self::OneOf(P384_FIXED, auth)),
            _ => Err(TrustError::Algorithm),
        }
    }

    /// Whether a key made it over `octets`. An algorithm for another kind of key costs
    /// no computation, so at most three signatures are ever checked.
    pub(super) fn check(
        self,
        octets: &[u8],
        made_by: impl Fn(&'static dyn SignatureVerificationAlgorithm, &[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), TrustError> {
        let (algorithms, wanted, signature) = match self {
            Self::Named(wanted, signature) => (NAMED_ALGORITHMS, Some(wanted), signature),
            Self::OneOf(algorithms, signature) => (algorithms, None, signature),
        };
        let mut why = TrustError::Algorithm;
        for algorithm in algorithms {
            if wanted.is_some_and(|wanted| !is_named(algorithm.signature_alg_id(), wanted)) {
                continue;
            }
            match made_by(*algorithm, octets, signature) {
                Ok(()) => return Ok(()),
                Err(Error::InvalidSignatureForPublicKey) => why = TrustError::Signature,
                Err(_) => {}
            }
        }
        Err(why)
    }
}

/// Length, AlgorithmIdentifier, signature; identifiers of over 127 octets are none of ours.
fn named(auth: &[u8]) -> Option<Signature<'_>> {
    let (&length, rest) = auth.split_first()?;
    let (identifier, signature) = rest.split_at_checked(usize::from(length))?;
    let (&[SEQUENCE, inner], content) = identifier.split_first_chunk()? else {
        return None;
    };
    let fits = usize::from(inner) == content.len() && inner < 0x80;
    fits.then_some(Signature::Named(content, signature))
}

/// Whether a peer's identifier is this one. RFC 7427, A.4.3 spells the trailer field of RSASSA-PSS out,
/// although it is the default and DER leaves it away; both are sent.
fn is_named(known: AlgorithmIdentifier, content: &[u8]) -> bool {
    let known: &[u8] = &known;
    if content == known {
        return true;
    }
    let Some(cut) = content.strip_suffix(&TRAILER) else {
        return false;
    };
    let longer = |(at, octet): (usize, &u8)| match at {
        PSS_PARAMETERS_LENGTH => octet.saturating_add(TRAILER.len() as u8),
        _ => *octet,
    };
    known.starts_with(&PSS) && known.iter().enumerate().map(longer).eq(cut.iter().copied())
}

const SEQUENCE: u8 = 0x30;
/// id-RSASSA-PSS.
const PSS: [u8; 11] = [
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a,
];
/// Where the length of its parameters stands: behind it and their tag.
const PSS_PARAMETERS_LENGTH: usize = 12;
/// trailerField 1.
const TRAILER: [u8; 5] = [0xa3, 0x03, 0x02, 0x01, 0x01];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Group, KeyShare, SignError};

    /// Signs everything with r = 1 and s = 2.
    struct OneTwo;

    impl Env for OneTwo {
        fn random(&mut self, _: &mut [u8]) {}

        fn new_key_share(&mut self, _: Group) -> Option<Box<dyn KeyShare>> {
            None
        }

        fn sign(
            &mut self,
            connection: &str,
            _: SignatureScheme,
            _: &[u8],
        ) -> Result<Vec<u8>, SignError> {
            let known = connection == "home";
            known
                .then(|| vec![0x30, 6, 2, 1, 1, 2, 1, 2])
                .ok_or(SignError)
        }
    }

    #[test]
    fn the_form_follows_what_the_peer_announced() {
        let sign = |connection, hashes: &[u8]| {
            let hashes = Hashes::parse(Some(hashes));
            sign(
                connection,
                key(KeyKind::P256),
                b"octets",
                hashes,
                &mut OneTwo,
            )
        };
        let (method, auth) = sign("home", &[0, 1, 0, 2]).expect("signs");
        assert_eq!(method, 14);
        assert_eq!(auth[..2], [12, 0x30]);
        assert_eq!(auth[13..], [0x30, 6, 2, 1, 1, 2, 1, 2]);
        let (method, auth) = sign("home", &[0, 3]).expect("signs");
        assert_eq!((method, auth.len()), (9, 64));
        assert_eq!((auth[31], auth[63]), (1, 2));
        assert_eq!(auth.iter().map(|octet| u32::from(*octet)).sum::<u32>(), 3);
        assert_eq!(sign("away", &[0, 2]), None);
    }

    #[test]
    fn ed25519_has_no_older_form() {
        let none = Hashes::default();
        assert_eq!(
            sign("home", key(KeyKind::Ed25519), b"octets", none, &mut OneTwo),
            None
        );
    }

    #[test]
    fn rsa_is_padded_as_configured_and_as_the_peer_can_check_it() {
        let form = |padding, hashes: &[u8]| {
            let hashes = Hashes::parse(Some(hashes));
            let key = (KeyKind::Rsa, padding);
            let (method, auth) = sign("home", key, b"octets", hashes, &mut OneTwo)?;
            Some((method, auth.len()))
        };
        // The double's signature has eight octets, the identifiers 68 and 16.
        assert_eq!(form(RsaPadding::Pss, &[0, 2]), Some((14, 76)));
        assert_eq!(form(RsaPadding::Pkcs1, &[0, 2]), Some((14, 24)));
        assert_eq!(
            identifier(SignatureScheme::RsaPkcs1Sha256)[..15],
            [
                15, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5
            ]
        );
        // Whoever knows no RFC 7427, or SHA-1 alone.
        for padding in [RsaPadding::Pss, RsaPadding::Pkcs1] {
            assert_eq!(form(padding, &[]), Some((1, 8)));
            assert_eq!(form(padding, &[0, 1]), Some((1, 8)));
        }
    }

    fn key(kind: KeyKind) -> (KeyKind, RsaPadding) {
        (kind, RsaPadding::default())
    }

    #[test]
    fn both_spellings_of_pss_are_the_same_algorithm() {
        // RFC 7427, A.4.3.
        let mut spelt = identifier(SignatureScheme::RsaPssSha256);
        assert_eq!((spelt[0], spelt[2], spelt[15]), (67, 65, 52));
        assert!(is_named(alg_id::RSA_PSS_SHA256, &spelt[3..]));
        spelt[15] += 5;
        spelt.extend(TRAILER);
        assert!(is_named(alg_id::RSA_PSS_SHA256, &spelt[3..]));
        assert!(!is_named(alg_id::RSA_PSS_SHA384, &spelt[3..]));
        assert!(!is_named(alg_id::RSA_PSS_SHA256, &spelt[4..]));
    }
}
