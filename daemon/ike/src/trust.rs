//! Certificates in IKE_AUTH: our own chain and signature, the authorities we ask for, and whether a
//! peer's chain, identity and signature hold together (RFC 7296, 3.6 and 3.7; RFC 7427; RFC 4945).

use thiserror::Error;

use crate::{
    crypto::{SignatureScheme, TrustAnchors},
    io::Env,
    peer::{Connection, Credential},
    ticket::state::CertificateFacts,
    wire::{id::Identity, payload::ChainWriter, payload::PayloadKind},
};

/// X.509 Certificate - Signature (RFC 7296, 3.6).
const X509_SIGNATURE: u8 = 4;

/// What a peer signed, and its AUTH payload's data.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The octets of RFC 7296, 2.15.
    pub octets: &'a [u8],
    /// Authentication Data: algorithm and signature (RFC 7427, 3).
    pub auth: &'a [u8],
}

/// Why a peer's certificate proves nothing.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum TrustError {
    /// No certificate came, or more than we follow.
    #[error("no usable certificate")]
    NoCertificate,
}

/// Appends our certificates, leaf first; nothing for a connection with a pre-shared key.
pub(crate) fn emit_chain(connection: &Connection, chain: &mut ChainWriter) {
    let Credential::Certificate(ours) = &connection.local.credential else {
        return;
    };
    for certificate in &ours.certificates {
        chain.payload(PayloadKind::CERT, |out| {
            out.push(X509_SIGNATURE);
            out.extend_from_slice(certificate);
        });
    }
}

/// SHA-1 of each authority's SubjectPublicKeyInfo, as a CERTREQ names them (RFC 7296, 3.7).
pub(crate) fn authority_hashes(_connection: &Connection) -> Vec<[u8; 20]> {
    Vec::new()
}

/// The body of a CERTREQ payload.
pub(crate) fn emit_request(authorities: &[[u8; 20]], out: &mut Vec<u8>) {
    out.push(X509_SIGNATURE);
    authorities
        .iter()
        .for_each(|hash| out.extend_from_slice(hash));
}

/// Our Authentication Data in a full exchange.
pub(crate) fn sign(connection: &Connection, octets: &[u8], env: &mut dyn Env) -> Option<Vec<u8>> {
    env.sign(&connection.name, SignatureScheme::EcdsaP256Sha256, octets)
        .ok()
}

/// Whether a peer's certificates lead to an authority, name the identity, and made the signature.
pub fn verify(
    _anchors: &TrustAnchors,
    _certificates: &[&[u8]],
    _id: &Identity,
    _signed: &Signed<'_>,
    _wall: u64,
) -> Result<CertificateFacts, TrustError> {
    Err(TrustError::NoCertificate)
}
