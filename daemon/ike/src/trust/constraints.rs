//! Which names an authority may certify (RFC 5280, 4.2.1.10). Of a configured authority all kinds are
//! read here: mailboxes, hosts, addresses, distinguished names and URIs. Those of an authority between
//! it and the peer are rustls-webpki's to judge, which knows hosts and addresses, and refuses the rest.

use std::net::Ipv4Addr;

use der::{Decode as _, Encode as _, Tag, asn1::AnyRef, asn1::Ia5String, asn1::ObjectIdentifier};
use rustls_pki_types::CertificateDer;
use webpki::{Error, VerifiedPath};
use x509_cert::{
    Certificate,
    ext::pkix::{NameConstraints, SubjectAltName, name::GeneralName},
    name::Name,
};

use crate::{crypto::TrustAnchors, wire::name};

/// What certificates below one authority may be for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Constraints {
    /// Of each kind that is here, a name must be within one.
    permitted: Vec<GeneralName>,
    /// No name may be within one.
    excluded: Vec<GeneralName>,
}

impl Constraints {
    /// Reads the content of a NameConstraints SEQUENCE.
    pub(crate) fn parse(content: &[u8]) -> Option<Self> {
        let whole = AnyRef::new(Tag::Sequence, content).ok()?.to_der().ok()?;
        let read = NameConstraints::from_der(&whole).ok()?;
        let [permitted, excluded] = [read.permitted_subtrees, read.excluded_subtrees].map(|some| {
            let subtrees = some.unwrap_or_default().into_iter();
            // Neither has another value within the profile.
            let plain = subtrees.map(|one| {
                let whole = one.minimum == 0 && one.maximum.is_none() && is_sound(&one.base);
                whole.then_some(one.base)
            });
            plain.collect::<Option<Vec<_>>>()
        });
        let (permitted, excluded) = (permitted?, excluded?);
        (permitted.len() + excluded.len() <= MAX_SUBTREES).then_some(Self {
            permitted,
            excluded,
        })
    }

    /// Whether a certificate has no name that it must not have.
    fn permit(&self, certificate: &[u8]) -> bool {
        let Ok(certificate) = Certificate::from_der(certificate) else {
            return false;
        };
        let body = certificate.tbs_certificate();
        let (Ok(alternatives), Some(mailboxes)) = (
            body.get_extension::<SubjectAltName>(),
            mailboxes(body.subject()),
        ) else {
            return false;
        };
        let mut names = alternatives.map_or_else(Vec::new, |(_, names)| names.0);
        names.extend(mailboxes);
        if !body.subject().is_empty() {
            names.push(GeneralName::DirectoryName(body.subject().clone()));
        }
        names.iter().all(|name| self.permits(name))
    }

    /// What cannot be compared is within no permitted subtree, and within every excluded one.
    fn permits(&self, name: &GeneralName) -> bool {
        let of_kind = |base: &&GeneralName| same_kind(name, base);
        let mut permitted = self.permitted.iter().filter(of_kind).peekable();
        let inside = permitted.peek().is_none()
            || permitted.any(|base| within(name, base).is_some_and(|inside| inside));
        let mut excluded = self.excluded.iter().filter(of_kind);
        inside && excluded.all(|base| within(name, base).is_some_and(|inside| !inside))
    }
}

impl TrustAnchors {
    /// Whether the authority at the end of a path may have certified all that lies on it.
    pub(super) fn permit(&self, path: &VerifiedPath<'_>) -> Result<(), Error> {
        let anchors = self.anchors().iter();
        let mut of_this = anchors.zip(self.constraints());
        let found = of_this.find(|(anchor, _)| std::ptr::eq(*anchor, path.anchor()));
        let (_, constraints) = found.ok_or(Error::NameConstraintViolation)?;
        let Some(constraints) = constraints else {
            return Ok(());
        };
        // An authority's own certificate under another key of its is not below it.
        let mut between = path
            .intermediate_certificates()
            .filter(|one| one.subject() != one.issuer());
        let good = constraints.permit(&path.end_entity().der())
            && between.all(|one| constraints.permit(&one.der()));
        good.then_some(()).ok_or(Error::NameConstraintViolation)
    }
}

/// Whether one of these authorities, which are not configured, has constraints of a kind that is read
/// of configured ones alone.
pub(super) fn are_beyond_reach(intermediates: &[CertificateDer<'_>]) -> bool {
    let plain =
        |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
    intermediates.iter().any(|der| {
        let Ok(certificate) = Certificate::from_der(der) else {
            return false;
        };
        let body = certificate.tbs_certificate();
        match body.get_extension::<NameConstraints>() {
            Ok(None) => false,
            Ok(Some((_, read))) => {
                let subtrees = [read.permitted_subtrees, read.excluded_subtrees];
                let mut all = subtrees.into_iter().flatten().flatten();
                all.any(|subtree| !plain(&subtree.base))
            }
            Err(_) => true,
        }
    })
}

/// The mailboxes of a subject (RFC 5280, 4.2.1.6); `None` if one cannot be read.
fn mailboxes(subject: &Name) -> Option<Vec<GeneralName>> {
    let attributes = subject.iter();
    let of_mail = attributes.filter(|attribute| attribute.oid == EMAIL_ADDRESS);
    let read = of_mail.map(|attribute| {
        let text = Ia5String::new(attribute.value.value()).ok()?;
        Some(GeneralName::Rfc822Name(text))
    });
    read.collect()
}

fn same_kind(one: &GeneralName, other: &GeneralName) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

/// Whether a name is within a subtree of its kind; `None` if that cannot be said.
fn within(name: &GeneralName, base: &GeneralName) -> Option<bool> {
    match (name, base) {
        (GeneralName::Rfc822Name(mailbox), GeneralName::Rfc822Name(base)) => {
            mailbox_within(mailbox.as_str(), base.as_str())
        }
        (GeneralName::DnsName(host), GeneralName::DnsName(base)) => {
            host_within(host.as_str(), base.as_str())
        }
        (
            GeneralName::UniformResourceIdentifier(uri),
            GeneralName::UniformResourceIdentifier(base),
        ) => Some(is_at(host_of(uri.as_str())?, base.as_str())),
        (GeneralName::DirectoryName(subject), GeneralName::DirectoryName(base)) => {
            name::begins(&subject.to_der().ok()?, &base.to_der().ok()?)
        }
        (GeneralName::IpAddress(address), GeneralName::IpAddress(base)) => {
            Some(address_within(address.as_bytes(), base.as_bytes()))
        }
        _ => None,
    }
}

/// One mailbox, all at a host, or with a dot in front all at hosts below a domain.
fn mailbox_within(mailbox: &str, base: &str) -> Option<bool> {
    let (local, host) = mailbox.rsplit_once('@')?;
    Some(match base.rsplit_once('@') {
        Some((wanted, at)) => local == wanted && folded(host) == folded(at),
        None => base.is_empty() || is_at(host, base),
    })
}

/// A host itself and, other than for mailboxes and URIs, all below it.
fn host_within(host: &str, base: &str) -> Option<bool> {
    let (host, base) = (folded(host), folded(base));
    let domain = base.strip_prefix('.').unwrap_or(&base);
    let below = |host: &str, domain: &str| {
        let front = host.strip_suffix(domain);
        domain.is_empty() || front.is_some_and(|front| front.ends_with('.'))
    };
    if below(&host, domain) || host == base {
        return Some(true);
    }
    // A wildcard covers hosts inside of a subtree and outside.
    match host.strip_prefix("*.") {
        Some(rest) if domain == rest || below(domain, rest) => None,
        _ => Some(false),
    }
}

/// This host, or with a dot in front one below.
fn is_at(host: &str, base: &str) -> bool {
    let (host, base) = (folded(host), folded(base));
    match base.strip_prefix('.') {
        Some(_) => host.len() > base.len() && host.ends_with(&base),
        None => base.is_empty() || host == base,
    }
}

fn folded(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The host of a URI with an authority (RFC 3986, 3.2); `None` without one, if it is an address, and if
/// it has letters that no host has, which may stand for others.
fn host_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    let named = !host.is_empty() && host.bytes().all(plain) && host.parse::<Ipv4Addr>().is_err();
    named.then_some(host)
}

/// The base is an address and a mask. Of two families neither is within the other.
fn address_within(address: &[u8], base: &[u8]) -> bool {
    let (network, mask) = base.split_at(base.len() / 2);
    let masked = network.iter().zip(mask);
    address.len() == network.len()
        && address
            .iter()
            .zip(masked)
            .all(|(octet, (network, mask))| octet & mask == network & mask)
}

/// An address has a mask of its own length, ones before zeros.
fn is_sound(base: &GeneralName) -> bool {
    let GeneralName::IpAddress(octets) = base else {
        return true;
    };
    let octets = octets.as_bytes();
    let mask = octets.iter().skip(octets.len() / 2);
    let bits = mask.flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1));
    matches!(octets.len(), 8 | 32) && bits.is_sorted_by(|one, other| one >= other)
}

/// Subtrees of one authority.
const MAX_SUBTREES: usize = 256;

/// emailAddress (RFC 5280, appendix A.1).
const EMAIL_ADDRESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");

#[cfg(test)]
mod tests {
    use der::asn1::OctetString;

    use super::*;

    fn text(text: &str) -> Ia5String {
        Ia5String::new(text).expect("ASCII")
    }

    fn mailbox(name: &str) -> GeneralName {
        GeneralName::Rfc822Name(text(name))
    }

    fn host(name: &str) -> GeneralName {
        GeneralName::DnsName(text(name))
    }

    fn uri(name: &str) -> GeneralName {
        GeneralName::UniformResourceIdentifier(text(name))
    }

    fn octets(octets: &[u8]) -> GeneralName {
        GeneralName::IpAddress(OctetString::new(octets).expect("short"))
    }

    #[test]
    fn each_kind_of_name_has_its_own_rule() {
        let all = [
            (mailbox("me@example.net"), mailbox("me@EXAMPLE.net"), true),
            (mailbox("Me@example.net"), mailbox("me@example.net"), false),
            (mailbox("me@example.net"), mailbox("example.net"), true),
            (mailbox("me@a.example.net"), mailbox("example.net"), false),
            (mailbox("me@a.example.net"), mailbox(".example.net"), true),
            (mailbox("me@example.net"), mailbox(".example.net"), false),
            (mailbox("me@badexample.net"), mailbox("example.net"), false),
            (mailbox("me@example.net"), mailbox(""), true),
            (host("gw.example.net"), host("example.net"), true),
            (host("GW.example.net."), host("Example.net"), true),
            (host("example.net"), host("example.net"), true),
            (host("badexample.net"), host("example.net"), false),
            (host("gw.example.net"), host(".example.net"), true),
            (host("example.net"), host(".example.net"), false),
            (host("gw.example.net"), host(""), true),
            (
                uri("ike://gw.example.net:500/a"),
                uri("gw.example.net"),
                true,
            ),
            (uri("ike://a@GW.example.net"), uri("gw.example.net"), true),
            (uri("ike://a.gw.example.net"), uri("gw.example.net"), false),
            (uri("ike://gw.example.net?a"), uri(".example.net"), true),
            (uri("ike://example.net#a"), uri(".example.net"), false),
            (
                octets(&[10, 1, 2, 3]),
                octets(&[10, 1, 0, 0, 255, 255, 0, 0]),
                true,
            ),
            (
                octets(&[10, 2, 2, 3]),
                octets(&[10, 1, 0, 0, 255, 255, 0, 0]),
                false,
            ),
            (octets(&[10, 2, 2, 3]), octets(&[0; 32]), false),
            (octets(&[7; 16]), octets(&[0; 32]), true),
            (octets(&[7; 16]), octets(&[0; 8]), false),
        ];
        for (name, base, expected) in all {
            assert_eq!(within(&name, &base), Some(expected), "{name:?} in {base:?}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused_either_way() {
        let number = GeneralName::RegisteredId(EMAIL_ADDRESS);
        for (name, base) in [
            (mailbox("nobody"), mailbox("example.net")),
            (host("*.example.net"), host("gw.example.net")),
            (uri("mailto:me@example.net"), uri("example.net")),
            (uri("ike://192.0.2.1/"), uri("example.net")),
            (uri("ike://gw%2eexample.net/"), uri("example.net")),
            (uri("ike://[2001:db8::1]/"), uri("example.net")),
            (number.clone(), number),
        ] {
            assert_eq!(within(&name, &base), None, "{name:?} in {base:?}");
            let only = |permitted: &[GeneralName], excluded: &[GeneralName]| Constraints {
                permitted: permitted.to_vec(),
                excluded: excluded.to_vec(),
            };
            let base = [base];
            assert!(!only(&base, &[]).permits(&name) && !only(&[], &base).permits(&name));
            // Names of another kind are none of theirs.
            let other = octets(&[10, 1, 2, 3]);
            assert!(only(&base, &base).permits(&other));
        }
    }

    #[test]
    fn constraints_that_cannot_be_read_are_none() {
        let parse = |base: &[u8]| {
            let subtree = [&[0x30, base.len() as u8], base].concat();
            Constraints::parse(&[&[0xa0, subtree.len() as u8], subtree.as_slice()].concat())
        };
        assert!(parse(&[0x82, 1, b'a']).is_some());
        assert!(parse(&[0x87, 8, 10, 0, 0, 0, 255, 0, 0, 0]).is_some());
        for bad in [
            &[0x82, 2, b'a'][..],
            // A mask with a hole, and one that is too short.
            &[0x87, 8, 10, 0, 0, 0, 255, 0, 255, 0],
            &[0x87, 7, 10, 0, 0, 0, 255, 0, 0],
            // A minimum of one.
            &[0x82, 1, b'a', 0x80, 1, 1],
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let many = [0x30, 3, 0x82, 1, b'a'].repeat(MAX_SUBTREES);
        let length = (many.len() as u16).to_be_bytes();
        let whole = [&[0xa0, 0x82, length[0], length[1]], many.as_slice()].concat();
        assert!(Constraints::parse(&whole).is_some());
        let twice = [whole.as_slice(), &[0xa1, 5, 0x30, 3, 0x82, 1, b'a']].concat();
        assert_eq!(Constraints::parse(&twice), None);
    }
}
