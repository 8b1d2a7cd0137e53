//! Signatures in IKE_AUTH (RFC 7427) and the certificates they belong to.

use thiserror::Error;

/// How an AUTH payload was signed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SignatureScheme {
    /// ecdsa-with-SHA256 on P-256, as a DER AlgorithmIdentifier in the AUTH payload.
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

/// The authorities a peer's certificate must lead to, each in DER.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TrustAnchors {
    /// DER certificates.
    pub authorities: Vec<Vec<u8>>,
}
