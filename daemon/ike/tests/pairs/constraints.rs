//! Name constraints in real chains: of each kind, for a configured authority, and for one between.

use ike::{
    crypto::{NotAnAuthority, TrustAnchors},
    trust::TrustError,
};
use rcgen::{
    CertificateParams, CidrSubnet, CustomExtension, DistinguishedName, DnType, GeneralSubtree,
    NameConstraints, SanType,
};

use crate::{
    certificates::anchors,
    chains::Attempt,
    pki::{Authority, PKI},
};

const OUTSIDE: Option<TrustError> = Some(TrustError::NameConstraint);

fn permitting(subtree: GeneralSubtree) -> NameConstraints {
    NameConstraints {
        permitted_subtrees: vec![subtree],
        excluded_subtrees: Vec::new(),
    }
}

fn excluding(subtree: GeneralSubtree) -> NameConstraints {
    NameConstraints {
        permitted_subtrees: Vec::new(),
        excluded_subtrees: vec![subtree],
    }
}

fn mailbox(name: &str) -> SanType {
    SanType::Rfc822Name(name.try_into().expect("ASCII"))
}

fn host(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

fn address(text: &str) -> SanType {
    SanType::IpAddress(text.parse().expect("an address"))
}

fn subject(organization: &str, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    if !common.is_empty() {
        name.push(DnType::CommonName, common);
    }
    name
}

/// The client's certificate, which also has these names, under this authority.
fn judged(authority: &Authority, edit: impl FnOnce(&mut CertificateParams)) -> Option<TrustError> {
    let mut attempt = Attempt::with(vec![authority.certify_with(&PKI.client, edit)]);
    attempt.anchors = anchors(authority);
    attempt.error()
}

#[test]
fn a_configured_authority_certifies_within_its_constraints_of_each_kind() {
    let mail = || GeneralSubtree::Rfc822Name("example.net".into());
    let v4 = || GeneralSubtree::IpAddress(CidrSubnet::V4([10, 0, 0, 0], [255, 0, 0, 0]));
    let v6 = || {
        let (mut network, mut mask) = ([0; 16], [0; 16]);
        network[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        mask[..4].fill(255);
        GeneralSubtree::IpAddress(CidrSubnet::V6(network, mask))
    };
    let hosts = || GeneralSubtree::DnsName("client.example".into());
    let kinds: [(&dyn Fn() -> GeneralSubtree, SanType, SanType); 4] = [
        (&mail, mailbox("me@example.net"), mailbox("me@example.org")),
        (&v4, address("10.1.2.3"), address("11.1.2.3")),
        (&v6, address("2001:db8::1"), address("2001:db9::1")),
        (&hosts, host("a.client.example"), host("b.example")),
    ];
    for (subtree, inside, outside) in kinds {
        let with = |authority: &Authority, name: &SanType| {
            judged(authority, |params| {
                params.subject_alt_names.push(name.clone());
            })
        };
        let authority = Authority::root_with(|params| {
            params.name_constraints = Some(permitting(subtree()));
        });
        assert_eq!(with(&authority, &inside), None, "{inside:?}");
        assert_eq!(with(&authority, &outside), OUTSIDE, "{outside:?}");
        // What the exclusion of hosts is about is the certificate's own name as well.
        if !matches!(inside, SanType::DnsName(_)) {
            let authority = Authority::root_with(|params| {
                params.name_constraints = Some(excluding(subtree()));
            });
            assert_eq!(with(&authority, &outside), None, "{outside:?}");
            assert_eq!(with(&authority, &inside), OUTSIDE, "{inside:?}");
        }
    }
    let authority = Authority::root_with(|params| {
        params.name_constraints = Some(excluding(GeneralSubtree::DnsName("b.example".into())));
    });
    assert_eq!(judged(&authority, |_| {}), None);
    let other = |params: &mut CertificateParams| params.subject_alt_names.push(host("a.b.example"));
    assert_eq!(judged(&authority, other), OUTSIDE);
}

#[test]
fn a_subject_is_judged_by_its_first_parts() {
    let below = || GeneralSubtree::DirectoryName(subject("Example", ""));
    let named = |constraints: NameConstraints, organization: &str| {
        let authority = Authority::root_with(|params| params.name_constraints = Some(constraints));
        judged(&authority, |params| {
            params.distinguished_name = subject(organization, "client.example");
        })
    };
    assert_eq!(named(permitting(below()), "EXAMPLE"), None);
    assert_eq!(named(permitting(below()), "Example Two"), OUTSIDE);
    assert_eq!(named(excluding(below()), "Example Two"), None);
    assert_eq!(named(excluding(below()), "EXAMPLE"), OUTSIDE);
}

/// permittedSubtrees, or excludedSubtrees, with one URI (RFC 5280, 4.2.1.10).
fn for_uris(tag: u8, base: &str) -> CustomExtension {
    let name = [&[0x86, base.len() as u8], base.as_bytes()].concat();
    let wrapped = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let whole = wrapped(0x30, &wrapped(tag, &wrapped(0x30, &name)));
    CustomExtension::from_oid_content(&[2, 5, 29, 30], whole)
}

#[test]
fn a_uri_is_judged_by_its_host() {
    for (tag, inside, outside) in [(0xa0, None, OUTSIDE), (0xa1, OUTSIDE, None)] {
        let authority = Authority::root_with(|params| {
            params.custom_extensions = vec![for_uris(tag, "gw.example")];
        });
        let with = |uri: &str| {
            let uri = SanType::URI(uri.try_into().expect("ASCII"));
            judged(&authority, |params| params.subject_alt_names.push(uri))
        };
        assert_eq!(with("ike://gw.example/a"), inside);
        assert_eq!(with("ike://other.example/a"), outside);
        assert_eq!(with("urn:gw.example"), OUTSIDE, "no host");
    }
}

#[test]
fn constraints_reach_past_an_authority_between() {
    let authority = Authority::root_with(|params| {
        let mail = GeneralSubtree::Rfc822Name("example.net".into());
        params.name_constraints = Some(permitting(mail));
    });
    let between = authority.below("Between");
    for (name, expected) in [("me@example.net", None), ("me@example.org", OUTSIDE)] {
        let leaf = between.certify_with(&PKI.client, |params| {
            params.subject_alt_names.push(mailbox(name));
        });
        let mut attempt = Attempt::with(vec![leaf, between.der.clone()]);
        attempt.anchors = anchors(&authority);
        assert_eq!(attempt.error(), expected, "{name}");
    }
}

#[test]
fn an_authority_between_is_judged_once_it_is_configured() {
    let of_mail = || GeneralSubtree::Rfc822Name("example.net".into());
    let between = PKI.authority.below_with("Between", |params| {
        params.name_constraints = Some(permitting(of_mail()));
    });
    let leaf = between.certify_with(&PKI.client, |params| {
        params.subject_alt_names.push(mailbox("me@example.net"));
    });
    let mut attempt = Attempt::with(vec![leaf, between.der.clone()]);
    assert_eq!(attempt.error(), Some(TrustError::ConstraintUnread));
    attempt.anchors = anchors(&between);
    assert_eq!(attempt.error(), None);
}

#[test]
fn an_authority_whose_constraints_cannot_be_read_is_none() {
    for content in [
        &[0x30, 3, 0xa0, 1, 0][..],
        &[0x30, 12, 0xa0, 10, 0x30, 8, 0x87, 6, 1, 2, 3, 4, 5, 6],
    ] {
        let extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content.to_vec());
        let authority = Authority::root_with(|params| {
            params.custom_extensions = vec![extension.clone()];
        });
        let added = TrustAnchors::default().add(&authority.der);
        assert_eq!(added, Err(NotAnAuthority::Constraints), "{content:?}");
    }
}
