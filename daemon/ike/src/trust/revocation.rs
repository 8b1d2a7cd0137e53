//! Certificates that their authorities have taken back (RFC 5280, 5): lists that an operator has put beside
//! the certificates, and may replace at any time. Nothing is fetched; a list is as good as its file is fresh.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use der::{Decode as _, Encode as _};
use ring::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};
use x509_cert::{Certificate, crl::CertificateList, name::Name, serial_number::SerialNumber};

use super::{TrustError, culprit, path};
use crate::{crypto::TrustAnchors, endpoint::Endpoint, io::Stamp, peer::Proof};

/// Who issued a certificate and its number there, as one word: what a list names it by.
pub(super) type IssuedAs = [u8; 8];

/// A list of revoked certificates.
#[derive(Debug)]
pub struct RevocationList {
    list: CertRevocationList<'static>,
    /// What it says, without the proof.
    revoked: HashSet<IssuedAs>,
    /// Its thisUpdate and nextUpdate, Unix seconds.
    times: (u64, u64),
    fingerprint: [u8; 32],
    /// For people; escaped, and cut.
    issuer: String,
}

/// Why a file is no list that can be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotAList {
    /// Not a CRL of version 2 with a nextUpdate.
    #[error("is not an X.509 CRL of version 2 with a nextUpdate; make one with openssl ca -gencrl")]
    Malformed,
    /// It says only what has changed since another one.
    #[error("is a delta CRL, which is not read; take the whole one that it adds to")]
    Delta,
    /// It speaks for other authorities than its issuer.
    #[error("is an indirect CRL, which is not read; take each authority's own")]
    Indirect,
    /// It speaks for a part of the reasons, or of the certificates.
    #[error("covers a part of the reasons or certificates only; take a whole one")]
    Partial,
}

/// What becomes of a certificate of which no list says anything.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RevocationPolicy {
    /// It is taken, and so is what an outdated list does not name.
    #[default]
    Relaxed,
    /// It is refused: each authority below the configured ones, and these, must have a list that is not
    /// outdated.
    Strict,
}

/// The lists of a connection, and how they count. A clone has the same lists for good: replaced in one,
/// they are replaced in all.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// The newest of an issuer first.
    lists: Arc<RwLock<Vec<Arc<RevocationList>>>>,
    /// What becomes of a certificate that no list is about.
    pub policy: RevocationPolicy,
}

impl RevocationList {
    /// Reads a list in DER. Its signature is checked with each path that it is asked about, since only
    /// then its issuer's key is known.
    pub fn parse(der: &[u8]) -> Result<Self, NotAList> {
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| match error {
            webpki::Error::UnsupportedDeltaCrl => NotAList::Delta,
            webpki::Error::UnsupportedIndirectCrl => NotAList::Indirect,
            webpki::Error::UnsupportedRevocationReasonsPartitioning
            | webpki::Error::UnsupportedCrlIssuingDistributionPoint => NotAList::Partial,
            _ => NotAList::Malformed,
        })?;
        let read: CertificateList =
            CertificateList::from_der(der).map_err(|_| NotAList::Malformed)?;
        let body = read.tbs_cert_list;
        let next = body.next_update.ok_or(NotAList::Malformed)?;
        let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
        let entries = body.revoked_certificates.unwrap_or_default();
        let revoked = entries
            .iter()
            .map(|entry| issued_as(&body.issuer, &entry.serial_number).ok_or(NotAList::Malformed))
            .collect::<Result<_, _>>()?;
        let fingerprint = digest(&SHA256, der);
        let fingerprint = fingerprint.as_ref().first_chunk();
        Ok(Self {
            list: list.into(),
            revoked,
            times: (seconds(body.this_update), seconds(next)),
            fingerprint: *fingerprint.ok_or(NotAList::Malformed)?,
            issuer: culprit::shown(&body.issuer),
        })
    }

    /// Whose it is, for people.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When its issuer meant to replace it, Unix seconds.
    #[must_use]
    pub const fn next_update(&self) -> u64 {
        self.times.1
    }

    /// SHA-256 of the whole.
    #[must_use]
    pub const fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// How many certificates it names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether it names none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }
}

impl Revocations {
    /// From now on these lists count and no others, for logins and resumptions alike.
    pub fn replace(&self, mut lists: Vec<Arc<RevocationList>>) {
        // Of several of one issuer the first is asked.
        lists.sort_by_key(|list| std::cmp::Reverse(list.times.0));
        *self.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    /// Each list by its fingerprint, with how many certificates it names.
    #[must_use]
    pub fn sizes(&self) -> Vec<([u8; 32], usize)> {
        let lists = self.lists();
        lists
            .iter()
            .map(|list| (list.fingerprint(), list.len()))
            .collect()
    }

    fn lists(&self) -> RwLockReadGuard<'_, Vec<Arc<RevocationList>>> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a list names a certificate. Its proof is not asked for: whoever is refused here may come
    /// again by another way that does.
    pub(crate) fn names(&self, certificate: IssuedAs, wall: u64) -> bool {
        let lists = self.lists();
        let mut begun = lists.iter().filter(|list| list.times.0 <= wall);
        begun.any(|list| list.revoked.contains(&certificate))
    }
}

/// Two sets are the same if their files are.
impl PartialEq for Revocations {
    fn eq(&self, other: &Self) -> bool {
        let prints =
            |set: &Self| -> Vec<_> { set.lists().iter().map(|one| one.fingerprint).collect() };
        self.policy == other.policy && prints(self) == prints(other)
    }
}

impl Eq for Revocations {}

impl TrustAnchors {
    /// Walks the path from the leaf to an authority with the lists at hand.
    pub(super) fn walk<'a>(
        &self,
        leaf: &'a CertificateDer<'a>,
        intermediates: &[CertificateDer<'_>],
        wall: u64,
    ) -> Result<webpki::EndEntityCert<'a>, TrustError> {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(wall));
        let held = self.revocations.lists();
        let begun = held.iter().filter(|list| list.times.0 <= wall);
        let lists: Vec<_> = begun.map(|list| &list.list).collect();
        let strict = self.revocations.policy == RevocationPolicy::Strict;
        let options = match RevocationOptionsBuilder::new(&lists) {
            Ok(options) if strict => Some(
                options
                    .with_status_policy(UnknownStatusPolicy::Deny)
                    .with_expiration_policy(ExpirationPolicy::Enforce)
                    .build(),
            ),
            Ok(options) => Some(
                options
                    .with_status_policy(UnknownStatusPolicy::Allow)
                    .with_expiration_policy(ExpirationPolicy::Ignore)
                    .build(),
            ),
            Err(_) if strict => return Err(TrustError::RevocationUnknown),
            Err(_) => None,
        };
        path::walk(self, leaf, intermediates, time, options)
    }

    /// Whether a list of the connection names the certificate that was issued so, or may.
    pub(crate) fn is_revoked(&self, certificate: Option<IssuedAs>, wall: u64) -> bool {
        match certificate {
            Some(certificate) => self.revocations.names(certificate, wall),
            None => !self.revocations.lists().is_empty(),
        }
    }
}

impl Endpoint {
    /// Whose lists of revoked certificates should have been replaced by now, each once.
    #[must_use]
    pub fn outdated_lists(&self, now: Stamp) -> BTreeSet<String> {
        let proofs = self.slots.iter().map(|slot| &slot.config.remote.proof);
        let anchors = proofs.filter_map(|proof| match proof {
            Proof::Certificate(anchors) => Some(anchors),
            Proof::PreShared(_) | Proof::PublicKey(_) => None,
        });
        let mut issuers = BTreeSet::new();
        for anchors in anchors {
            let lists = anchors.revocations.lists();
            let outdated = lists.iter().filter(|list| list.next_update() <= now.wall);
            issuers.extend(outdated.map(|list| list.issuer.clone()));
        }
        issuers
    }
}

/// What lists name a certificate by.
pub(super) fn issued_as_of(certificate: &Certificate) -> Option<IssuedAs> {
    let body = certificate.tbs_certificate();
    issued_as(body.issuer(), body.serial_number())
}

fn issued_as(issuer: &Name, serial: &SerialNumber) -> Option<IssuedAs> {
    let mut octets = issuer.to_der().ok()?;
    octets.extend_from_slice(serial.as_bytes());
    digest(&SHA256, &octets).as_ref().first_chunk().copied()
}
