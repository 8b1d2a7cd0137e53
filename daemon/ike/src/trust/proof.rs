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
/// announced SHA2-256 for RFC 7427; one that did not gets the older form.
pub(crate) fn sign(
    connection: &str,
    octets: &[u8],
    hashes: bool,
    env: &mut dyn Env,
) -> Option<(u8, Vec<u8>)> {
    let signature = env
        .sign(connection, SignatureScheme::EcdsaP256Sha256, octets)
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
        let (method, auth) = sign("home", b"octets", true, &mut OneTwo).expect("signs");
        assert_eq!(method, 14);
        assert_eq!(auth[..2], [12, 0x30]);
        assert_eq!(auth[13..], [0x30, 6, 2, 1, 1, 2, 1, 2]);
        let (method, auth) = sign("home", b"octets", false, &mut OneTwo).expect("signs");
        assert_eq!((method, auth.len()), (9, 64));
        assert_eq!((auth[31], auth[63]), (1, 2));
        assert_eq!(auth.iter().map(|octet| u32::from(*octet)).sum::<u32>(), 3);
        assert_eq!(sign("away", b"octets", true, &mut OneTwo), None);
    }
}
