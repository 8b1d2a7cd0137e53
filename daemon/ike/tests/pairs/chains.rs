//! What `trust::verify` makes of chains, identities and signatures, without an exchange around them.

use std::net::IpAddr;

use ike::{
    crypto::TrustAnchors,
    trust::{MAX_CERTIFICATE_OCTETS, MAX_CERTIFICATES, Signed, TrustError, verify},
    wire::id::{IdKind, Identity},
};
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, KeyUsagePurpose,
    NameConstraints, SanType,
};
use ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;

use crate::{
    bed::{Rng, WALL},
    env::{key_pair, sign},
    pki::{self, PKI},
};

/// ecdsa-with-SHA256 (RFC 7427, A.3.2) with its length.
pub(crate) const ALGORITHM: [u8; 13] = [
    12, 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02,
];
const OCTETS: &[u8] = b"what the client has to sign";

/// A claim to be the client, to be spoiled.
pub(crate) struct Attempt {
    pub(crate) anchors: TrustAnchors,
    certificates: Vec<Vec<u8>>,
    id: Identity,
    method: u8,
    auth: Vec<u8>,
    wall: u64,
}

impl Attempt {
    pub(crate) fn with(certificates: Vec<Vec<u8>>) -> Self {
        let mut anchors = TrustAnchors::default();
        anchors.add(&PKI.authority.der).expect("an authority");
        let auth = [&ALGORITHM, sign(&PKI.client.signer(), OCTETS).as_slice()].concat();
        Self {
            anchors,
            certificates: certificates.iter().map(|der| payload(der)).collect(),
            id: Identity::from_text("client.example").expect("a name"),
            method: 14,
            auth,
            wall: WALL,
        }
    }

    fn special(edit: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::with(vec![PKI.authority.certify_with(&PKI.client, edit)])
    }

    fn ordinary() -> Self {
        Self::with(vec![PKI.client.certificate.clone()])
    }

    fn claiming(mut self, id: Identity) -> Self {
        self.id = id;
        self
    }

    pub(crate) fn error(&self) -> Option<TrustError> {
        let certificates: Vec<_> = self.certificates.iter().map(Vec::as_slice).collect();
        let signed = Signed {
            octets: OCTETS,
            method: self.method,
            auth: &self.auth,
        };
        verify(&self.anchors, &certificates, &self.id, &signed, self.wall).err()
    }
}

/// The body of a CERT payload.
pub(crate) fn payload(der: &[u8]) -> Vec<u8> {
    [&[4], der].concat()
}

fn name(text: &str) -> Identity {
    Identity::from_text(text).expect("an identity")
}

#[test]
fn an_ordinary_certificate_proves_its_holder() {
    assert_eq!(Attempt::ordinary().error(), None);
}

#[test]
fn each_fault_has_its_reason() {
    let special = |edit: fn(&mut CertificateParams)| Attempt::special(edit).error();
    assert_eq!(special(pki::expired), Some(TrustError::Expired));
    assert_eq!(special(pki::not_yet_valid), Some(TrustError::NotYetValid));
    assert_eq!(special(pki::of_somebody_else), Some(TrustError::Identity));
    assert_eq!(special(pki::for_mail), Some(TrustError::ExtendedKeyUsage));
    assert_eq!(special(pki::for_encryption), Some(TrustError::KeyUsage));
    assert_eq!(special(pki::an_authority_itself), Some(TrustError::Path));
    let stranger = Attempt::with(vec![PKI.stranger.certify(&PKI.client)]);
    assert_eq!(stranger.error(), Some(TrustError::UnknownAuthority));
    assert_eq!(
        Attempt::with(Vec::new()).error(),
        Some(TrustError::NoCertificate)
    );
    let mut nobody = Attempt::ordinary();
    nobody.anchors = TrustAnchors::default();
    assert_eq!(nobody.error(), Some(TrustError::UnknownAuthority));
}

#[test]
fn validity_ends_with_its_last_second() {
    let mut attempt = Attempt::special(pki::expired);
    // 2026-06-01, 0:00 UTC
    attempt.wall = 1_780_272_000;
    assert_eq!(attempt.error(), None);
    attempt.wall += 1;
    assert_eq!(attempt.error(), Some(TrustError::Expired));
}

#[test]
fn earlier_checks_speak_first() {
    let mut attempt = Attempt::special(|params| {
        pki::expired(params);
        pki::of_somebody_else(params);
    });
    attempt.auth.pop();
    assert_eq!(attempt.error(), Some(TrustError::Expired));
    let mut attempt = Attempt::special(pki::of_somebody_else);
    attempt.auth.pop();
    assert_eq!(attempt.error(), Some(TrustError::Identity));
    attempt.method = 3;
    assert_eq!(attempt.error(), Some(TrustError::Algorithm));
}

#[test]
fn intermediates_come_in_any_order_and_must_be_there() {
    let lower = PKI.intermediate.below("Lower");
    let leaf = lower.certify(&PKI.client);
    let (high, low) = (&PKI.intermediate.der, &lower.der);
    for rest in [[high, low], [low, high]] {
        let chain = std::iter::once(&leaf).chain(rest).cloned().collect();
        assert_eq!(Attempt::with(chain).error(), None);
    }
    let torn = Attempt::with(vec![leaf.clone(), low.clone()]);
    assert_eq!(torn.error(), Some(TrustError::UnknownAuthority));
    let last = Attempt::with(vec![low.clone(), leaf, high.clone()]);
    assert_eq!(last.error(), Some(TrustError::Path), "the leaf comes first");
}

#[test]
fn number_and_length_are_bounded() {
    let chain = vec![PKI.client.certificate.clone(); MAX_CERTIFICATES];
    assert_eq!(Attempt::with(chain.clone()).error(), None);
    let more = [chain, vec![PKI.authority.der.clone()]].concat();
    assert_eq!(
        Attempt::with(more).error(),
        Some(TrustError::TooManyCertificates)
    );
    let mut long = PKI.client.certificate.clone();
    long.resize(MAX_CERTIFICATE_OCTETS + 1, 0);
    assert_eq!(Attempt::with(vec![long]).error(), Some(TrustError::TooLong));
}

#[test]
fn other_encodings_are_passed_over() {
    let mut attempt = Attempt::ordinary();
    attempt.certificates.insert(0, vec![7, 0x30, 0]);
    attempt.certificates.insert(0, Vec::new());
    assert_eq!(attempt.error(), None);
    attempt.certificates.truncate(2);
    assert_eq!(attempt.error(), Some(TrustError::NoCertificate));
}

/// A certificate with names of every kind.
pub(crate) fn many_names() -> Vec<u8> {
    PKI.authority.certify_with(&PKI.client, |params| {
        params.subject_alt_names = vec![
            SanType::DnsName("Client.example".try_into().expect("ASCII")),
            SanType::DnsName("*.wild.example".try_into().expect("ASCII")),
            SanType::Rfc822Name("Alice@Example.net".try_into().expect("ASCII")),
            SanType::IpAddress(IpAddr::from([192, 0, 2, 10])),
            SanType::IpAddress("2001:db8::1".parse().expect("an address")),
        ];
    })
}

#[test]
fn names_are_found_where_their_kind_belongs() {
    let attempt = |claimed| Attempt::with(vec![many_names()]).claiming(claimed).error();
    for good in [
        "client.example",
        "CLIENT.EXAMPLE",
        "Alice@example.NET",
        "192.0.2.10",
        "2001:db8::1",
    ] {
        assert_eq!(attempt(name(good)), None, "{good}");
    }
    for bad in [
        "client.example.",
        "example",
        "a.wild.example",
        "alice@example.net",
        "Alice@example.org",
        "192.0.2.11",
        "2001:db8::2",
        "keyid:client.example",
        "@192.0.2.10",
    ] {
        assert_eq!(attempt(name(bad)), Some(TrustError::Identity), "{bad}");
    }
}

#[test]
fn a_distinguished_name_is_the_subject_whatever_its_case_and_kind_of_string() {
    // CN=client.example, as rcgen writes it: one UTF8String.
    let mut subject = vec![0x30, 25, 0x31, 23, 0x30, 21, 6, 3, 0x55, 4, 3, 0x0c, 14];
    subject.extend_from_slice(b"client.example");
    let attempt = |der: &[u8]| {
        let id = Identity::new(IdKind::Dn, der).expect("not empty");
        Attempt::ordinary().claiming(id).error()
    };
    assert_eq!(attempt(&subject), None);
    let mut printable = subject.to_ascii_uppercase();
    printable[11] = 0x13;
    assert_eq!(attempt(&printable), None);
    for at in 0..subject.len() {
        let mut other = subject.clone();
        other[at] ^= 1;
        assert_eq!(attempt(&other), Some(TrustError::Identity), "octet {at}");
        if at > 0 {
            let cut = attempt(&subject[..at]);
            assert_eq!(cut, Some(TrustError::Identity), "cut at {at}");
        }
    }
}

#[test]
fn a_common_name_is_no_host_name() {
    let attempt = Attempt::special(|params| params.subject_alt_names.clear());
    assert_eq!(attempt.error(), Some(TrustError::Identity));
}

#[test]
fn purposes_that_cover_ike_are_taken_alone_and_among_others() {
    let ike = ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 17]);
    let good = [
        ike.clone(),
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    for purpose in good {
        let mail = ExtendedKeyUsagePurpose::EmailProtection;
        for purposes in [vec![purpose.clone()], vec![mail, purpose]] {
            let attempt = Attempt::special(|params| params.extended_key_usages = purposes);
            assert_eq!(attempt.error(), None);
        }
    }
    for bits in [vec![], vec![KeyUsagePurpose::ContentCommitment]] {
        let attempt = Attempt::special(|params| params.key_usages = bits);
        assert_eq!(attempt.error(), None);
    }
}

#[test]
fn constraints_and_unknown_critical_extensions_count() {
    let attempt = Attempt::special(|params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    assert_eq!(attempt.error(), Some(TrustError::Path));
    let constrained = |host: &str| {
        let subtree = GeneralSubtree::DnsName(host.to_owned());
        let below = PKI.authority.below_with("Constrained", |params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![subtree],
                excluded_subtrees: Vec::new(),
            });
        });
        Attempt::with(vec![below.certify(&PKI.client), below.der]).error()
    };
    assert_eq!(constrained("client.example"), None);
    assert_eq!(
        constrained("elsewhere.example"),
        Some(TrustError::NameConstraint)
    );
}

/// The client's signature as r and s.
pub(crate) fn fixed(octets: &[u8]) -> Vec<u8> {
    let key = key_pair(&ECDSA_P256_SHA256_FIXED_SIGNING, &PKI.client.pkcs8());
    sign(&key, octets)
}

#[test]
fn both_forms_of_the_signature_are_taken_and_no_other_key_made_it() {
    let mut attempt = Attempt::ordinary();
    (attempt.method, attempt.auth) = (9, fixed(OCTETS));
    assert_eq!(attempt.auth.len(), 64);
    assert_eq!(attempt.error(), None);
    attempt.auth[40] ^= 1;
    assert_eq!(attempt.error(), Some(TrustError::Signature));
    attempt.auth = fixed(b"something else");
    assert_eq!(attempt.error(), Some(TrustError::Signature));
    let other = sign(&PKI.gateway.signer(), OCTETS);
    (attempt.method, attempt.auth) = (14, [&ALGORITHM, other.as_slice()].concat());
    assert_eq!(attempt.error(), Some(TrustError::Signature));
    // None goes with a key on P-256.
    for method in [0, 1, 2, 3, 10, 11, 12, 255] {
        attempt.method = method;
        assert_eq!(attempt.error(), Some(TrustError::Algorithm), "{method}");
    }
}

#[test]
fn no_octet_of_certificate_or_signature_can_be_changed() {
    let good = Attempt::with(vec![
        PKI.intermediate.certify(&PKI.client),
        PKI.intermediate.der.clone(),
    ]);
    assert_eq!(good.error(), None);
    let mut rng = Rng(1);
    let mut tried = 0_u32;
    for which in 0..=good.certificates.len() {
        let octets = |attempt: &Attempt| match attempt.certificates.get(which) {
            Some(body) => body.len(),
            None => attempt.auth.len(),
        };
        for at in 0..octets(&good) {
            for change in 0..5 {
                let mut bad = Attempt {
                    anchors: good.anchors.clone(),
                    certificates: good.certificates.clone(),
                    id: good.id.clone(),
                    auth: good.auth.clone(),
                    ..good
                };
                let target = match bad.certificates.get_mut(which) {
                    Some(body) => body,
                    None => &mut bad.auth,
                };
                match change {
                    0 => target.truncate(at),
                    1 => target.insert(at, rng.next() as u8),
                    2 => target[at] ^= 0xff,
                    _ => target[at] ^= 1 << rng.below(8),
                }
                tried += 1;
                assert!(bad.error().is_some(), "part {which}, octet {at}, {change}");
            }
        }
    }
    assert!(tried > 4_000, "{tried}");
}
