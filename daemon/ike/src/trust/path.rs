//! The path from a peer's certificate to an authority (RFC 5280, 6), walked by rustls-webpki under
//! the profile for IKE (RFC 4945).

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, RevocationOptions,
};

use super::TrustError;
use crate::crypto::{TrustAnchors, sign::CHAIN_ALGORITHMS};

/// Follows signatures, validity, constraints, purposes and revocations up to one of the authorities.
pub(super) fn walk<'a>(
    anchors: &TrustAnchors,
    leaf: &'a CertificateDer<'a>,
    intermediates: &[CertificateDer<'_>],
    time: UnixTime,
    revocation: Option<RevocationOptions<'_>>,
) -> Result<EndEntityCert<'a>, TrustError> {
    let end_entity = EndEntityCert::try_from(leaf).map_err(reason)?;
    end_entity
        .verify_for_usage(
            CHAIN_ALGORITHMS,
            anchors.anchors(),
            intermediates,
            time,
            ForIke,
            revocation,
            Some(&|path| anchors.permit(path)),
        )
        .map_err(reason)?;
    Ok(end_entity)
}

/// RFC 4945, 5.1.3.12: no extended key usage allows all; else ipsecIKE or any. TLS purposes are
/// taken as well: in the field a gateway often shares its certificate with TLS, and nobody can use
/// one purpose to claim another's name.
struct ForIke;

impl ExtendedKeyUsageValidator for ForIke {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?;
            if PURPOSES
                .iter()
                .any(|good| KeyPurposeId::new(good) == purpose)
            {
                return Ok(());
            }
            present.push(purpose.to_decoded_oid());
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::required_if_present(IPSEC_IKE);
        Err(Error::RequiredEkuNotFoundContext(
            RequiredEkuNotFoundContext { required, present },
        ))
    }
}

/// id-kp-ipsecIKE, 1.3.6.1.5.5.7.3.17.
const IPSEC_IKE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 17];
/// anyExtendedKeyUsage, 2.5.29.37.0.
const ANY: &[u8] = &[0x55, 0x1d, 37, 0];
/// id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2.
const TLS_SERVER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const TLS_CLIENT: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

const PURPOSES: [&[u8]; 4] = [IPSEC_IKE, ANY, TLS_SERVER, TLS_CLIENT];

/// The reasons an operator can act upon; where several paths fail in different ways, that of the
/// one that came furthest.
fn reason(error: Error) -> TrustError {
    match error {
        Error::BadDer
        | Error::BadDerTime
        | Error::TrailingData(_)
        | Error::MalformedExtensions
        | Error::ExtensionValueInvalid
        | Error::InvalidSerialNumber
        | Error::InvalidCertValidity
        | Error::EmptyEkuExtension
        | Error::UnsupportedCertVersion
        | Error::SignatureAlgorithmMismatch => TrustError::Malformed,
        Error::CertExpired { .. } => TrustError::Expired,
        Error::CertNotValidYet { .. } => TrustError::NotYetValid,
        Error::RequiredEkuNotFoundContext(_) => TrustError::ExtendedKeyUsage,
        Error::NameConstraintViolation => TrustError::NameConstraint,
        Error::CertRevoked => TrustError::Revoked,
        Error::UnknownRevocationStatus => TrustError::RevocationUnknown,
        Error::CrlExpired { .. } => TrustError::ListOutdated,
        Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => TrustError::ListUnproven,
        // Authorities are told apart by name first; one of the right name with another key has not
        // signed, and is not the authority.
        Error::UnknownIssuer | Error::InvalidSignatureForPublicKey => TrustError::UnknownAuthority,
        _ => TrustError::Path,
    }
}
