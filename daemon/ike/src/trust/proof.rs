//! The Authentication Data of a signature: RFC 7427's with the algorithm in front, and for peers that
//! do not know that RFC the fixed form of RFC 4754.

use webpki::{EndEntityCert, Error};

use super::{Signed, TrustError};
use crate::{
    crypto::{
        SignatureScheme,
        sign::{P256_DER, P256_FIXED, fixed_from_der},
    },
    io::Env,
    peer::Connection,
};

/// ECDSA with SHA-256 on the P-256 curve (RFC 4754, 7).
const ECDSA_P256: u8 = 9;
/// Digital Signature (RFC 7427, 3).
const DIGITAL_SIGNATURE: u8 = 14;

/// ecdsa-with-SHA256 as an AlgorithmIdentifier (RFC 7427, A.3.2), with its length in front.
const ECDSA_WITH_SHA256: [u8; 13] = [
    12, 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];

/// Our own Auth Method and Authentication Data in a full exchange. `hashes` says whether the peer
/// announced SHA2-256 for RFC 7427.
pub(crate) fn sign(
    connection: &Connection,
    octets: &[u8],
    hashes: bool,
    env: &mut dyn Env,
) -> Option<(u8, Vec<u8>)> {
    let signature = env
        .sign(&connection.name, SignatureScheme::EcdsaP256Sha256, octets)
        .ok()?;
    if hashes {
        let auth = [&ECDSA_WITH_SHA256, signature.as_slice()].concat();
        Some((DIGITAL_SIGNATURE, auth))
    } else {
        Some((ECDSA_P256, fixed_from_der(&signature)?.to_vec()))
    }
}

/// A peer's signature in either form.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signature<'a> {
    Der(&'a [u8]),
    Fixed(&'a [u8]),
}

impl<'a> Signature<'a> {
    /// The form follows from the Auth Method. That we take the older one from a peer that knows the
    /// newer one too costs nothing: it is the same algorithm over the same octets.
    pub(super) fn parse(signed: &Signed<'a>) -> Result<Self, TrustError> {
        match signed.method {
            DIGITAL_SIGNATURE => signed
                .auth
                .strip_prefix(&ECDSA_WITH_SHA256)
                .map(Self::Der)
                .ok_or(TrustError::Algorithm),
            ECDSA_P256 => Ok(Self::Fixed(signed.auth)),
            _ => Err(TrustError::Algorithm),
        }
    }

    /// Whether the certificate's key made it over `octets`.
    pub(super) fn check(self, by: &EndEntityCert<'_>, octets: &[u8]) -> Result<(), TrustError> {
        let (algorithm, signature) = match self {
            Self::Der(signature) => (P256_DER, signature),
            Self::Fixed(signature) => (P256_FIXED, signature),
        };
        by.verify_signature(algorithm, octets, signature)
            .map_err(|error| match error {
                Error::InvalidSignatureForPublicKey => TrustError::Signature,
                _ => TrustError::Algorithm,
            })
    }
}
