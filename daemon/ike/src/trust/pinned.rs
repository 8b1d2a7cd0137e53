//! Public keys that stand for a peer by themselves (RFC 7670): an operator has put the key there, so no
//! certificate, authority or date has a say. What a peer sends of certificates is passed over. Ours goes
//! out bare to a peer that asks for it so.

use ring::digest::{SHA256, digest};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use thiserror::Error;
use webpki::RawPublicKeyEntity;

use super::{Signed, TrustError, proof::Signature};
use crate::crypto::KeyKind;

/// A public key, a peer's or our own: a SubjectPublicKeyInfo (RFC 5280, 4.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PinnedKey(SubjectPublicKeyInfoDer<'static>);

/// The octets are no public key of a kind that we know.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("is no public key; make one of a certificate with openssl x509 -pubkey -noout")]
pub struct NotAKey;

impl PinnedKey {
    /// Reads a key in DER.
    pub fn parse(der: &[u8]) -> Result<Self, NotAKey> {
        let key = SubjectPublicKeyInfoDer::from(der.to_vec());
        RawPublicKeyEntity::try_from(&key).map_err(|_| NotAKey)?;
        Ok(Self(key))
    }

    /// What signs with it; `None` if that is of no kind of ours.
    #[must_use]
    pub fn kind(&self) -> Option<KeyKind> {
        KeyKind::of_public(&self.0)
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.0
    }

    /// SHA-256 of its DER.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let hash = digest(&SHA256, &self.0);
        hash.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// Whether the key made the signature.
    pub fn verify(&self, signed: &Signed<'_>) -> Result<(), TrustError> {
        let signature = Signature::parse(signed)?;
        let key = RawPublicKeyEntity::try_from(&self.0).map_err(|_| TrustError::Malformed)?;
        signature.check(signed.octets, |algorithm, octets, signature| {
            key.verify_signature(algorithm, octets, signature)
        })
    }
}
