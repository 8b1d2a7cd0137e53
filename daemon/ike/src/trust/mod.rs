//! Certificates in IKE_AUTH: our own chain and signature, the authorities we ask for, and whether a
//! peer's chain, identity and signature hold together (RFC 7296, 3.6 to 3.8; RFC 7427; RFC 4945).

mod constraints;
mod culprit;
mod leaf;
mod ours;
mod path;
mod pinned;
mod proof;
mod revocation;

use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use thiserror::Error;

pub(crate) use self::constraints::Constraints;
pub use self::culprit::Culprit;
pub use self::ours::{Flaw, OwnChain};
pub use self::pinned::{NotAKey, PinnedKey};
pub(crate) use self::proof::{Hashes, sign};
pub use self::revocation::{NotAList, RevocationList, RevocationPolicy, Revocations};
use crate::{
    crypto::{TrustAnchors, sign::KEY_HASH_LEN},
    peer::{Connection, Credential, Proof},
    ticket::state::CertificateFacts,
    wire::{
        id::Identity,
        payload::{Chain, ChainWriter, PayloadKind},
    },
};

/// Certificates looked at in one IKE_AUTH message, the leaf included.
pub const MAX_CERTIFICATES: usize = 4;
/// Longest certificate looked at, in octets; P-256 ones have about 500, RSA ones up to 2,000.
pub const MAX_CERTIFICATE_OCTETS: usize = 8192;
/// Authorities named in one CERTREQ. The list goes to strangers, so it must not grow with the
/// configuration.
pub const MAX_AUTHORITIES_NAMED: usize = 32;

/// What a peer signed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The octets of RFC 7296, 2.15.
    pub octets: &'a [u8],
    /// Auth Method of its AUTH payload.
    pub method: u8,
    /// Authentication Data of its AUTH payload.
    pub auth: &'a [u8],
}

/// Why a peer's certificate proves nothing.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum TrustError {
    /// No X.509 certificate came.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// More certificates came than we follow.
    #[error("the peer sent more than {MAX_CERTIFICATES} certificates")]
    TooManyCertificates,
    /// A certificate is longer than we read.
    #[error("a certificate has more than {MAX_CERTIFICATE_OCTETS} octets")]
    TooLong,
    /// Not an X.509 certificate of version 3, or its extensions cannot be read.
    #[error("the certificate is malformed")]
    Malformed,
    /// An authentication method, algorithm or key that we do not do.
    #[error("the signature is of no kind that goes with the certificate's key, or of one too old")]
    Algorithm,
    /// No path leads to an authority of the connection.
    #[error("no configured authority stands behind the certificate")]
    UnknownAuthority,
    /// The validity of a certificate on the path has not begun.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The validity of a certificate on the path is over.
    #[error("the certificate has expired")]
    Expired,
    /// The key may not sign (RFC 4945, 5.1.3.2).
    #[error("the certificate's key usage excludes signatures")]
    KeyUsage,
    /// The certificate is for other purposes (RFC 4945, 5.1.3.12).
    #[error("the certificate's extended key usage excludes IKE")]
    ExtendedKeyUsage,
    /// Its authority has taken it back.
    #[error("the certificate was revoked")]
    Revoked,
    /// Lists are asked for, and none says anything of it.
    #[error("no revocation list says whether the certificate is good")]
    RevocationUnknown,
    /// Lists are asked for, and the one about it should have been replaced.
    #[error("the revocation list is outdated")]
    ListOutdated,
    /// The list about it is not signed by its issuer, or its issuer may not sign lists.
    #[error("the revocation list is not its issuer's")]
    ListUnproven,
    /// A certificate on the path has a name that an authority above it may not certify.
    #[error("an authority above the certificate may not certify one of its names")]
    NameConstraint,
    /// An authority that the peer sent has constraints that are not read of it.
    #[error(
        "an authority that the peer sent may certify only certain mailboxes, distinguished names or \
         URIs, which is read of configured authorities alone"
    )]
    ConstraintUnread,
    /// Any other rule of RFC 5280 that the path breaks.
    #[error("the certificate's path breaks a rule of RFC 5280")]
    Path,
    /// The certificate does not name the identity that the peer claims.
    #[error("the certificate does not name the peer's identity")]
    Identity,
    /// The certificate's key did not sign what the peer had to sign.
    #[error("the signature is wrong")]
    Signature,
}

impl TrustError {
    /// Lower-case word for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NoCertificate => "cert_missing",
            Self::TooManyCertificates => "cert_chain_too_long",
            Self::TooLong => "cert_too_big",
            Self::Malformed => "cert_malformed",
            Self::Algorithm => "signature_algorithm",
            Self::UnknownAuthority => "cert_untrusted_root",
            Self::NotYetValid => "cert_not_yet_valid",
            Self::Expired => "cert_expired",
            Self::KeyUsage => "cert_key_usage",
            Self::ExtendedKeyUsage => "cert_extended_key_usage",
            Self::Revoked => "cert_revoked",
            Self::RevocationUnknown | Self::ListOutdated | Self::ListUnproven => {
                "cert_revocation_unknown"
            }
            Self::NameConstraint | Self::ConstraintUnread => "cert_name_constraint",
            Self::Path => "cert_validation_failed",
            Self::Identity => "cert_identity",
            Self::Signature => "peer_auth_failed",
        }
    }
}

/// Whether a peer's certificates lead to an authority, name the identity, and made the signature.
///
/// `certificates` are the bodies of its CERT payloads in the order sent, the leaf's first (RFC 7296,
/// 3.6). The order of the checks is always shape, path, identity, signature.
pub fn verify(
    anchors: &TrustAnchors,
    certificates: &[&[u8]],
    id: &Identity,
    signed: &Signed<'_>,
    wall: u64,
) -> Result<CertificateFacts, TrustError> {
    let presented = x509_of(certificates)?;
    let (first, intermediates) = presented.split_first().ok_or(TrustError::NoCertificate)?;
    let leaf = leaf::Leaf::parse(first)?;
    let signature = proof::Signature::parse(signed)?;

    let walked = anchors.walk(first, intermediates, wall);
    let end_entity = walked.map_err(|why| match why {
        TrustError::NameConstraint if constraints::are_beyond_reach(intermediates) => {
            TrustError::ConstraintUnread
        }
        why => why,
    })?;
    leaf.may_sign()?;

    if !leaf.names(id, end_entity.subject()) {
        return Err(TrustError::Identity);
    }
    signature.check(signed.octets, |algorithm, octets, signature| {
        end_entity.verify_signature(algorithm, octets, signature)
    })?;

    let fingerprint = digest(&SHA256, first);
    Ok(CertificateFacts {
        fingerprint: fingerprint
            .as_ref()
            .first_chunk()
            .copied()
            .unwrap_or_default(),
        not_after: leaf.not_after(),
        issued_as: Some(leaf.issued_as()),
    })
}

/// Whether a list of the connection names the certificate that its peer once logged in with.
pub(crate) fn is_revoked(
    connection: &Connection,
    certificate: Option<&CertificateFacts>,
    wall: u64,
) -> bool {
    match (&connection.remote.proof, certificate) {
        (Proof::Certificate(anchors), Some(facts)) => anchors.is_revoked(facts.issued_as, wall),
        _ => false,
    }
}

/// The X.509 certificates among CERT payloads. Other encodings (a CRL, a URL) are passed over, as
/// nothing depends on them; of what is looked at neither number nor length is the peer's to choose.
fn x509_of<'a>(bodies: &[&'a [u8]]) -> Result<Vec<CertificateDer<'a>>, TrustError> {
    let x509: Vec<_> = bodies
        .iter()
        .filter_map(|body| match body.split_first()? {
            (&X509_SIGNATURE, der) => Some(CertificateDer::from(der)),
            _ => None,
        })
        .collect();
    if x509.len() > MAX_CERTIFICATES {
        return Err(TrustError::TooManyCertificates);
    }
    if x509.iter().any(|der| der.len() > MAX_CERTIFICATE_OCTETS) {
        return Err(TrustError::TooLong);
    }
    Ok(x509)
}

/// Appends our certificates, leaf first; nothing for a connection with a pre-shared key. They go out
/// whether the peer asked or not: a CERTREQ is a hint (RFC 7296, 3.7). A key without certificate goes
/// only to who asks for it so: others know it, and may not know the encoding.
pub(crate) fn emit_chain(connection: &Connection, bare: bool, chain: &mut ChainWriter) {
    let mut emit = |encoding, body: &[u8]| {
        chain.payload(PayloadKind::CERT, |out| {
            out.push(encoding);
            out.extend_from_slice(body);
        });
    };
    match &connection.local.credential {
        Credential::Certificate(ours) => {
            for certificate in &ours.certificates {
                emit(X509_SIGNATURE, certificate);
            }
        }
        Credential::PublicKey(key) if bare => emit(RAW_PUBLIC_KEY, key.der()),
        Credential::PreShared(_) | Credential::PublicKey(_) => {}
    }
}

/// Whether a peer's CERTREQ asks for a key without certificate (RFC 7670, 3).
pub(crate) fn wants_bare_key(chain: &Chain<'_>) -> bool {
    let mut requests = chain.all(PayloadKind::CERTREQ);
    requests.any(|body| body.first() == Some(&RAW_PUBLIC_KEY))
}

/// Appends a CERTREQ that names the authorities of these connections; strongSwan sends its
/// certificate only if asked. Another one asks for a bare key if one of them knows its peer by that
/// (RFC 7670, 3). Nothing if none of them wants either.
pub(crate) fn emit_request<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    chain: &mut ChainWriter,
) {
    let mut named: Vec<[u8; KEY_HASH_LEN]> = Vec::new();
    let mut bare = false;
    for connection in connections {
        let anchors = match &connection.remote.proof {
            Proof::Certificate(anchors) => anchors,
            Proof::PublicKey(_) => {
                bare = true;
                continue;
            }
            Proof::PreShared(_) => continue,
        };
        for hash in anchors.key_hashes() {
            if named.len() < MAX_AUTHORITIES_NAMED && !named.contains(hash) {
                named.push(*hash);
            }
        }
    }
    if !named.is_empty() {
        chain.payload(PayloadKind::CERTREQ, |out| {
            out.push(X509_SIGNATURE);
            out.extend_from_slice(named.as_flattened());
        });
    }
    if bare {
        chain.octets(PayloadKind::CERTREQ, &[RAW_PUBLIC_KEY]);
    }
}

/// X.509 Certificate - Signature (RFC 7296, 3.6).
const X509_SIGNATURE: u8 = 4;
/// Raw Public Key (RFC 7670, 3).
const RAW_PUBLIC_KEY: u8 = 15;
