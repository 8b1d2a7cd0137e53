//! What the peer's own certificate says about its holder: until when, for what, and whom it names.
//! Nothing in it is true before the path to an authority has been walked.

use der::{Decode as _, Encode as _, Tag, asn1::AnyRef};
use x509_cert::{
    Certificate,
    ext::pkix::{KeyUsage, SubjectAltName, name::GeneralName},
};

use super::{TrustError, revocation};
use crate::wire::{
    id::{IdKind, Identity},
    name,
};

/// The first certificate of a peer, read.
#[derive(Debug)]
pub(super) struct Leaf {
    not_after: u64,
    issued_as: revocation::IssuedAs,
    key_usage: Option<KeyUsage>,
    names: Vec<GeneralName>,
}

impl Leaf {
    pub(super) fn parse(der: &[u8]) -> Result<Self, TrustError> {
        let malformed = |_| TrustError::Malformed;
        let certificate = Certificate::from_der(der).map_err(malformed)?;
        let body = certificate.tbs_certificate();
        // An extension that is there twice is an error too.
        let key_usage = body.get_extension::<KeyUsage>().map_err(malformed)?;
        let names = body.get_extension::<SubjectAltName>().map_err(malformed)?;
        let not_after = body.validity().not_after.to_unix_duration();
        Ok(Self {
            not_after: not_after.as_secs(),
            issued_as: revocation::issued_as_of(&certificate).ok_or(TrustError::Malformed)?,
            key_usage: key_usage.map(|(_, usage)| usage),
            names: names.map_or_else(Vec::new, |(_, names)| names.0),
        })
    }

    /// End of validity, Unix seconds.
    pub(super) const fn not_after(&self) -> u64 {
        self.not_after
    }

    /// What lists of revoked certificates name it by.
    pub(super) const fn issued_as(&self) -> revocation::IssuedAs {
        self.issued_as
    }

    /// RFC 4945, 5.1.3.2: no key usage allows all, and either bit of those for signatures is enough.
    /// The path validation does not look at the leaf's.
    pub(super) fn may_sign(&self) -> Result<(), TrustError> {
        match &self.key_usage {
            Some(usage) if !usage.digital_signature() && !usage.non_repudiation() => {
                Err(TrustError::KeyUsage)
            }
            _ => Ok(()),
        }
    }

    /// Whether the certificate names the identity (RFC 4945, 3.1 and 5.1.3.6): names and addresses
    /// in the subjectAltName, where a wildcard is not a name; distinguished names in
    /// the subject. The common name is never read as a host name, and a KEY_ID is in no
    /// certificate. `subject` is the content of the subject's SEQUENCE.
    pub(super) fn names(&self, id: &Identity, subject: &[u8]) -> bool {
        let claimed = id.data();
        let has = |is_it: &dyn Fn(&GeneralName) -> bool| self.names.iter().any(is_it);
        match id.kind() {
            IdKind::Fqdn => has(&|name| {
                matches!(name, GeneralName::DnsName(host)
                    if host.as_bytes().eq_ignore_ascii_case(claimed))
            }),
            IdKind::Email => has(&|name| {
                matches!(name, GeneralName::Rfc822Name(address)
                    if same_mailbox(address.as_bytes(), claimed))
            }),
            // Kind and length go together, so that four octets are never half of sixteen.
            IdKind::Ipv4 | IdKind::Ipv6 => has(
                &|name| matches!(name, GeneralName::IpAddress(octets) if octets.as_bytes() == claimed),
            ),
            IdKind::Dn => AnyRef::new(Tag::Sequence, subject)
                .and_then(|subject| subject.to_der())
                .is_ok_and(|subject| name::same(claimed, &subject)),
            IdKind::KeyId => false,
        }
    }
}

/// The part before the last `@` is the host's own business and compared as it is (RFC 5280, 7.5).
fn same_mailbox(one: &[u8], other: &[u8]) -> bool {
    let split = |address: &[u8]| address.iter().rposition(|octet| *octet == b'@');
    match (split(one), split(other)) {
        (Some(at), Some(same)) => {
            let ((local, host), (other_local, other_host)) =
                (one.split_at(at), other.split_at(same));
            local == other_local && host.eq_ignore_ascii_case(other_host)
        }
        _ => false,
    }
}
