//! Certificates between two cores: what a login with them looks like, what ends one, and what is left
//! of them in a ticket and after a resumption.

use std::time::Duration;

use ike::{
    Settings,
    counters::Counter,
    crypto::{CertificateChain, TrustAnchors},
    failure::Cause,
    io::Event,
    peer::{Connection, Credential, Proof},
    ticket::state::{AuthMethod, CertificateFacts},
    trust::TrustError,
    view::{Closed, Unproven},
    wire::{pattern::Pattern, payload::PayloadKind},
};
use rcgen::{CertificateParams, date_time_ymd};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

use crate::{
    bed::Pair,
    env::Signer,
    pki::{self, Authority, Holder, PKI},
    sides::{client_side, gateway_side},
    tap::{Payloads, auth_messages, body, clear, meddle, ticket_of},
};

const SOON: Duration = Duration::from_secs(1);
const DIGITAL_SIGNATURE: u8 = 14;
const SHARED_KEY_MIC: u8 = 2;

pub(crate) fn anchors(authority: &Authority) -> TrustAnchors {
    let mut anchors = TrustAnchors::default();
    anchors.add(&authority.der).expect("an authority");
    anchors
}

/// This side proves itself by these certificates.
pub(crate) fn shows(mut side: Vec<Connection>, certificates: Vec<Vec<u8>>) -> Vec<Connection> {
    side[0].local.credential = Credential::Certificate(CertificateChain { certificates });
    side
}

/// This side wants a certificate under our authority.
fn wants(mut side: Vec<Connection>) -> Vec<Connection> {
    side[0].remote.proof = Proof::Certificate(anchors(&PKI.authority));
    side
}

fn client_of(certificate: Vec<u8>) -> Vec<Connection> {
    wants(shows(client_side(), vec![certificate]))
}

fn client() -> Vec<Connection> {
    client_of(PKI.client.certificate.clone())
}

fn gateway_of(certificate: Vec<u8>) -> Vec<Connection> {
    wants(shows(gateway_side(), vec![certificate]))
}

fn gateway() -> Vec<Connection> {
    gateway_of(PKI.gateway.certificate.clone())
}

/// Two sides with their keys, at rest.
fn with_keys(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    let [home, rw] = [&PKI.client, &PKI.gateway].map(|holder| Signer::Ecdsa(holder.signer()));
    pair.client.env.keys.insert("home", home);
    pair.gateway.env.keys.insert("rw", rw);
    pair
}

/// The same with good certificates on both.
pub(crate) fn certified(seed: u64) -> Pair {
    with_keys(seed, client, gateway)
}

/// The client calls.
fn pair(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = with_keys(seed, client, gateway);
    pair.up();
    pair
}

fn refused(pair: &Pair) -> bool {
    pair.client.established().is_empty()
        && pair.client.kernel.installed.is_empty()
        && pair.client.events.contains(&Event::UpFailed {
            connection: "home".into(),
            reason: Closed::AuthenticationFailed,
        })
}

/// Why peers were not believed, as an operator reads it.
fn reasons(events: &[Event]) -> Vec<Unproven> {
    let why = |event: &Event| match event {
        Event::Failed(failure) => match failure.cause {
            Cause::Unproven { why, .. } => Some(why),
            _ => None,
        },
        _ => None,
    };
    events.iter().filter_map(why).collect()
}

fn kinds(payloads: &Payloads) -> Vec<PayloadKind> {
    payloads.iter().map(|(kind, _)| *kind).collect()
}

/// The body of a CERTREQ for our authority alone.
fn request() -> Vec<u8> {
    let key = x509_key_info(&PKI.authority.der);
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &key);
    [&[4], hash.as_ref()].concat()
}

fn x509_key_info(certificate: &[u8]) -> Vec<u8> {
    // A P-256 key in its SubjectPublicKeyInfo (RFC 5480, 2) has 91 octets and begins like this.
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    ];
    let found = certificate
        .windows(91)
        .find(|window| window.starts_with(&header));
    found.expect("a P-256 key").to_vec()
}

#[test]
fn both_sides_prove_themselves_by_certificate() {
    let mut pair = pair(1, client, gateway);
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    assert_eq!(pair.sent.len(), 4);
    let init = clear(&pair.sent[1].message);
    assert_eq!(body(&init, PayloadKind::CERTREQ), request());
    let [asked, answered] = &auth_messages(&pair)[..] else {
        panic!("IKE_AUTH has two messages");
    };
    assert_eq!(body(asked, PayloadKind::CERTREQ), request());
    for message in [asked, answered] {
        assert!(kinds(message).contains(&PayloadKind::CERT));
        assert_eq!(body(message, PayloadKind::AUTH)[0], DIGITAL_SIGNATURE);
    }
    assert!(!kinds(answered).contains(&PayloadKind::CERTREQ));
}

#[test]
fn one_side_may_have_a_certificate_and_the_other_a_key() {
    fn asking_client() -> Vec<Connection> {
        wants(client_side())
    }
    fn certified_gateway() -> Vec<Connection> {
        shows(gateway_side(), vec![PKI.gateway.certificate.clone()])
    }
    fn certified_client() -> Vec<Connection> {
        shows(client_side(), vec![PKI.client.certificate.clone()])
    }
    fn asking_gateway() -> Vec<Connection> {
        wants(gateway_side())
    }
    let mut one = pair(2, asking_client, certified_gateway);
    one.run(SOON);
    assert!(one.keys_agree(), "{:?}", one.client.events);
    let methods = |pair: &Pair| {
        let messages = auth_messages(pair);
        let method = |message| body(message, PayloadKind::AUTH)[0];
        messages.iter().map(method).collect::<Vec<_>>()
    };
    assert_eq!(methods(&one), [SHARED_KEY_MIC, DIGITAL_SIGNATURE]);
    let mut other = pair(3, certified_client, asking_gateway);
    other.run(SOON);
    assert!(other.keys_agree(), "{:?}", other.client.events);
    assert_eq!(methods(&other), [DIGITAL_SIGNATURE, SHARED_KEY_MIC]);
}

#[test]
fn a_chain_over_an_intermediate_is_sent_whole() {
    fn long_client() -> Vec<Connection> {
        let leaf = PKI.intermediate.certify(&PKI.client);
        wants(shows(
            client_side(),
            vec![leaf, PKI.intermediate.der.clone()],
        ))
    }
    let mut pair = pair(4, long_client, gateway);
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
}

/// A fault, and the side that has it.
type Case = (TrustError, fn() -> Vec<Connection>);

/// A certificate under our authority that is special in one way.
fn special(holder: &Holder, edit: fn(&mut CertificateParams)) -> Vec<u8> {
    PKI.authority.certify_with(holder, edit)
}

#[test]
fn a_client_with_a_bad_certificate_is_refused_and_leaves_nothing() {
    const CASES: [Case; 7] = [
        (TrustError::Expired, || {
            client_of(special(&PKI.client, pki::expired))
        }),
        (TrustError::NotYetValid, || {
            client_of(special(&PKI.client, pki::not_yet_valid))
        }),
        (TrustError::Identity, || {
            client_of(special(&PKI.client, pki::of_somebody_else))
        }),
        (TrustError::ExtendedKeyUsage, || {
            client_of(special(&PKI.client, pki::for_mail))
        }),
        (TrustError::KeyUsage, || {
            client_of(special(&PKI.client, pki::for_encryption))
        }),
        (TrustError::UnknownAuthority, || {
            client_of(PKI.stranger.certify(&PKI.client))
        }),
        (TrustError::Identity, || {
            client_of(PKI.gateway.certificate.clone())
        }),
    ];
    for (seed, (why, bad)) in (10..).zip(CASES) {
        let mut pair = pair(seed, bad, gateway);
        pair.run(SOON);
        assert!(refused(&pair), "{why}: {:?}", pair.client.events);
        let failures = pair.gateway.endpoint.counters().count(Counter::AuthFailed);
        assert_eq!(failures, 1, "{why}");
        assert_eq!(reasons(&pair.gateway.events), [Unproven::Certificate(why)]);
        assert!(pair.gateway.kernel.installed.is_empty(), "{why}");
        pair.run(Duration::from_mins(1));
        assert!(pair.gateway.endpoint.next_deadline().is_none(), "{why}");
    }
}

#[test]
fn a_gateway_with_a_bad_certificate_is_refused() {
    const CASES: [Case; 3] = [
        (TrustError::Expired, || {
            gateway_of(special(&PKI.gateway, pki::expired))
        }),
        (TrustError::Identity, || {
            gateway_of(special(&PKI.gateway, pki::of_somebody_else))
        }),
        (TrustError::UnknownAuthority, || {
            gateway_of(PKI.stranger.certify(&PKI.gateway))
        }),
    ];
    for (seed, (why, bad)) in (20..).zip(CASES) {
        let mut pair = pair(seed, client, bad);
        pair.run(SOON);
        assert!(refused(&pair), "{why}: {:?}", pair.client.events);
        assert_eq!(reasons(&pair.client.events), [Unproven::Certificate(why)]);
        // It believed in an SA, and was told.
        assert!(pair.gateway.established().is_empty(), "{why}");
        assert!(pair.gateway.kernel.installed.is_empty(), "{why}");
    }
}

#[test]
fn without_the_private_key_there_is_no_login() {
    let mut pair = Pair::with(30, client, gateway, Settings::default());
    pair.client
        .env
        .keys
        .insert("home", Signer::Ecdsa(PKI.gateway.signer()));
    pair.up();
    pair.run(SOON);
    assert!(refused(&pair));
    let mut keyless = Pair::with(31, client, gateway, Settings::default());
    keyless.up();
    keyless.run(SOON);
    assert!(refused(&keyless), "{:?}", keyless.client.events);
}

#[test]
fn a_missing_certificate_a_changed_signature_and_another_algorithm_are_refused() {
    let missing = |payloads: &mut Payloads| payloads.retain(|(kind, _)| *kind != PayloadKind::CERT);
    let changed = |payloads: &mut Payloads| {
        let auth = auth_of(payloads);
        *auth.last_mut().expect("a signature") ^= 1;
    };
    let renamed = |payloads: &mut Payloads| auth_of(payloads)[16] ^= 1;
    let edits: [&dyn Fn(&mut Payloads); 3] = [&missing, &changed, &renamed];
    for (seed, edit) in (40..).zip(edits) {
        for response in [false, true] {
            let mut pair = pair(seed, client, gateway);
            meddle(&mut pair, response, |payloads| edit(payloads));
            assert!(refused(&pair), "seed {seed}: {:?}", pair.client.events);
        }
    }
}

#[test]
fn a_signature_from_another_login_proves_nothing() {
    let mut earlier = pair(50, client, gateway);
    earlier.run(SOON);
    assert!(earlier.keys_agree());
    let recorded = auth_messages(&earlier);
    for (response, message) in [(false, &recorded[0]), (true, &recorded[1])] {
        let mut pair = pair(51, client, gateway);
        let auth = body(message, PayloadKind::AUTH).to_vec();
        meddle(&mut pair, response, |payloads| *auth_of(payloads) = auth);
        assert!(refused(&pair), "{:?}", pair.client.events);
    }
}

fn auth_of(payloads: &mut Payloads) -> &mut Vec<u8> {
    let found = payloads
        .iter_mut()
        .find(|(kind, _)| *kind == PayloadKind::AUTH);
    &mut found.expect("an AUTH payload").1
}

/// A pair whose client has logged in by certificate and sleeps on its ticket.
fn suspended(seed: u64) -> Pair {
    let mut pair = pair(seed, client, gateway);
    pair.run(SOON);
    pair.suspend();
    pair.sent.clear();
    pair.up();
    pair
}

// RFC 5723: N25, N29, T3, T4, note 1
#[test]
fn a_resumption_needs_no_certificate_and_remembers_the_one_shown() {
    let mut pair = suspended(60);
    for round in 0..3 {
        pair.run(SOON);
        assert!(pair.keys_agree());
        assert_eq!(pair.client.established()[0].resume_count, round + 1);
        for message in auth_messages(&pair) {
            assert!(!kinds(&message).contains(&PayloadKind::CERT));
            assert!(!kinds(&message).contains(&PayloadKind::CERTREQ));
            assert_eq!(body(&message, PayloadKind::AUTH)[0], SHARED_KEY_MIC);
        }
        let (state, octets) = ticket_of(&pair);
        assert_eq!(state.auth, AuthMethod::Certificate);
        let facts = state.certificate.expect("facts about it");
        assert_eq!(facts, facts_of(&PKI.client.certificate));
        assert!(octets <= 352, "{octets}");
        pair.suspend();
        pair.sent.clear();
        pair.up();
    }
}

/// The first octets of the hash over issuer and serial number, each as it stands in the certificate.
fn issued_as(certificate: &[u8]) -> [u8; 8] {
    use der::{Decode as _, Encode as _};
    let read = x509_cert::Certificate::from_der(certificate).expect("a certificate");
    let body = read.tbs_certificate();
    let mut octets = body.issuer().to_der().expect("a name");
    octets.extend_from_slice(body.serial_number().as_bytes());
    let hash = digest(&SHA256, &octets);
    hash.as_ref()[..8].try_into().expect("8 octets")
}

fn facts_of(certificate: &[u8]) -> CertificateFacts {
    let fingerprint = digest(&SHA256, certificate).as_ref().try_into();
    CertificateFacts {
        fingerprint: fingerprint.expect("32 octets"),
        issued_as: Some(issued_as(certificate)),
        // 2030-01-01, 0:00 UTC
        not_after: 1_893_456_000,
    }
}

#[test]
fn with_names_of_32_octets_a_ticket_has_352_octets_at_most() {
    static LONG: std::sync::LazyLock<Holder> = std::sync::LazyLock::new(|| {
        Holder::under(&PKI.authority, "client-with-a-name-of-32.example")
    });
    fn long_client() -> Vec<Connection> {
        let mut side = client_of(LONG.certificate.clone());
        side[0].local.id =
            ike::wire::id::Identity::from_text("client-with-a-name-of-32.example").expect("a name");
        side
    }
    fn any_client() -> Vec<Connection> {
        let mut side = gateway();
        side[0].remote.id = None;
        side
    }
    let mut pair = Pair::with(61, long_client, any_client, Settings::default());
    pair.client
        .env
        .keys
        .insert("home", Signer::Ecdsa(LONG.signer()));
    pair.gateway
        .env
        .keys
        .insert("rw", Signer::Ecdsa(PKI.gateway.signer()));
    pair.up();
    pair.run(SOON);
    let issued = pair.gateway.events.iter().find_map(|event| match event {
        Event::TicketIssued { octets, .. } => Some(*octets),
        _ => None,
    });
    assert!(issued.is_some_and(|octets| octets <= 352), "{issued:?}");
}

// RFC 5723: N25, T4, A7
#[test]
fn a_resumption_with_a_certificate_is_refused() {
    for response in [false, true] {
        let mut pair = suspended(62);
        let certificate = [&[4], PKI.client.certificate.as_slice()].concat();
        meddle(&mut pair, response, |payloads| {
            payloads.insert(1, (PayloadKind::CERT, certificate));
        });
        let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
        assert!(!pair.client.events.iter().any(resumed));
        if !response {
            assert!(!pair.gateway.events.iter().any(resumed));
        }
    }
}

// RFC 5723: N42, N44
#[test]
fn a_ticket_does_not_outlive_the_certificate_it_stands_for() {
    // 2027-01-16, 0:00 UTC; the bed's clock starts 16 hours earlier.
    fn short_client() -> Vec<Connection> {
        client_of(special(&PKI.client, |params| {
            params.not_after = date_time_ymd(2027, 1, 16);
        }))
    }
    fn generous_gateway() -> Vec<Connection> {
        let mut side = gateway();
        side[0].ike_lifetime = Duration::from_hours(48);
        side[0].resume.ticket_lifetime = Duration::from_hours(24);
        side
    }
    let mut pair = pair(63, short_client, generous_gateway);
    pair.run(SOON);
    let lifetime = pair.client.events.iter().find_map(|event| match event {
        Event::TicketReceived { lifetime, .. } => Some(*lifetime),
        _ => None,
    });
    assert_eq!(lifetime, Some(Duration::from_hours(16)));
}

#[test]
fn a_wildcard_takes_whoever_has_a_certificate_like_that() {
    fn picky() -> Vec<Connection> {
        let mut side = client();
        side[0].remote.id = None;
        side[0].remote.pattern = Pattern::from_text("*.other.example");
        side
    }
    fn like(text: &str) -> Vec<Connection> {
        let mut side = gateway();
        side[0].remote.id = None;
        side[0].remote.pattern = Pattern::from_text(text);
        assert!(side[0].remote.pattern.is_some(), "{text}");
        side
    }
    let mut taken = pair(70, client, || like("*.example"));
    taken.run(SOON);
    assert!(taken.keys_agree(), "{:?}", taken.gateway.events);
    let mut other = pair(71, client, || like("*.other.example"));
    other.run(SOON);
    assert!(refused(&other));
    let text = crate::why::told(&other.gateway);
    assert!(
        text.contains("no connection is for client.example"),
        "{text}"
    );
    // A gateway that is called has to be like that too.
    let mut called = pair(72, picky, gateway);
    called.run(SOON);
    assert!(refused(&called));
    let text = crate::why::told(&called.client);
    assert!(
        text.contains("the peer is gw.example, and not *.other.example"),
        "{text}"
    );
}
