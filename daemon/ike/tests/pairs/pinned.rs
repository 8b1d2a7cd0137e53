//! Peers that are known by their public key alone, and what such a login leaves in a ticket.

use std::time::Duration;

use ike::{
    Settings,
    io::Event,
    peer::{Connection, Credential, Proof},
    ticket::state::AuthMethod,
    trust::PinnedKey,
    wire::payload::PayloadKind,
};

use crate::{
    bed::Pair,
    certificates::{anchors, shows},
    env::Signer,
    pki::{self, PKI},
    sides::{client_side, gateway_side},
    tap::{Payloads, auth_messages, clear, ticket_of},
    why::told,
};

const SOON: Duration = Duration::from_secs(5);

/// Raw Public Key, an encoding of certificates (RFC 7670, 3).
const RAW_PUBLIC_KEY: u8 = 15;

/// The SubjectPublicKeyInfo in a certificate for a P-256 key, which has 91 octets (RFC 5480, 2).
fn info_in(certificate: &[u8]) -> &[u8] {
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    ];
    let mut windows = certificate.windows(91);
    let key = windows.find(|window| window.starts_with(&header));
    key.expect("a P-256 key")
}

fn key_in(certificate: &[u8]) -> PinnedKey {
    PinnedKey::parse(info_in(certificate)).expect("a key")
}

fn knows(mut side: Vec<Connection>, certificate: &[u8]) -> Vec<Connection> {
    side[0].remote.proof = Proof::PublicKey(key_in(certificate));
    side
}

fn client() -> Vec<Connection> {
    let side = shows(client_side(), vec![PKI.client.certificate.clone()]);
    knows(side, &PKI.gateway.certificate)
}

fn gateway() -> Vec<Connection> {
    let side = shows(gateway_side(), vec![PKI.gateway.certificate.clone()]);
    knows(side, &PKI.client.certificate)
}

fn called(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    let [home, rw] = [&PKI.client, &PKI.gateway].map(|holder| Signer::Ecdsa(holder.signer()));
    pair.client.env.keys.insert("home", home);
    pair.gateway.env.keys.insert("rw", rw);
    pair.up();
    pair.run(SOON);
    pair
}

#[test]
fn a_key_stands_for_its_holder_whatever_the_certificate_says() {
    fn expired_client() -> Vec<Connection> {
        let expired = PKI.stranger.certify_with(&PKI.client, pki::expired);
        knows(
            shows(client_side(), vec![expired]),
            &PKI.gateway.certificate,
        )
    }
    let pair = called(1, client, gateway);
    assert!(pair.keys_agree(), "{:?}", pair.gateway.events);
    let pair = called(2, expired_client, gateway);
    assert!(pair.keys_agree(), "{:?}", pair.gateway.events);
}

/// This side has the key of its certificate, and no certificate.
fn bare(mut side: Vec<Connection>, certificate: &[u8]) -> Vec<Connection> {
    side[0].local.credential = Credential::PublicKey(key_in(certificate));
    side
}

fn bodies(payloads: &Payloads, wanted: PayloadKind) -> Vec<&[u8]> {
    let found = payloads.iter().filter(|(kind, _)| *kind == wanted);
    found.map(|(_, body)| body.as_slice()).collect()
}

#[test]
fn a_key_without_certificate_goes_to_who_asks_for_it_bare() {
    fn bare_client() -> Vec<Connection> {
        bare(client(), &PKI.client.certificate)
    }
    fn bare_gateway() -> Vec<Connection> {
        bare(gateway(), &PKI.gateway.certificate)
    }
    let mut pair = called(6, bare_client, bare_gateway);
    assert!(pair.keys_agree(), "{:?}", pair.gateway.events);
    let init = clear(&pair.sent[1].message);
    assert_eq!(bodies(&init, PayloadKind::CERTREQ), [&[RAW_PUBLIC_KEY]]);
    let [asked, answered] = &auth_messages(&pair)[..] else {
        panic!("IKE_AUTH has two messages");
    };
    assert_eq!(bodies(asked, PayloadKind::CERTREQ), [&[RAW_PUBLIC_KEY]]);
    for (message, holder) in [(asked, &PKI.client), (answered, &PKI.gateway)] {
        let sent = [&[RAW_PUBLIC_KEY], info_in(&holder.certificate)].concat();
        assert_eq!(bodies(message, PayloadKind::CERT), [sent]);
    }
    pair.suspend();
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    assert!(pair.client.events.iter().any(resumed));
}

#[test]
fn a_key_without_certificate_proves_nothing_to_who_wants_one() {
    fn bare_client() -> Vec<Connection> {
        bare(client(), &PKI.client.certificate)
    }
    fn wants_certificate() -> Vec<Connection> {
        let mut side = gateway();
        side[0].remote.proof = Proof::Certificate(anchors(&PKI.authority));
        side
    }
    let pair = called(7, bare_client, wants_certificate);
    let text = told(&pair.gateway);
    assert!(text.contains("the peer sent no certificate"), "{text}");
    // It was asked for one, and so kept its key to itself.
    assert!(bodies(&auth_messages(&pair)[0], PayloadKind::CERT).is_empty());
}

#[test]
fn another_key_is_refused() {
    fn expects_another() -> Vec<Connection> {
        let side = shows(gateway_side(), vec![PKI.gateway.certificate.clone()]);
        knows(side, &PKI.gateway.certificate)
    }
    let pair = called(3, client, expects_another);
    let text = told(&pair.gateway);
    assert!(text.contains("signature"), "{text}");
    assert!(text.contains("(sent AUTHENTICATION_FAILED)"), "{text}");
    assert!(pair.gateway.established().is_empty() && pair.client.kernel.installed.is_empty());
}

#[test]
fn a_pre_shared_key_is_no_signature() {
    let pair = called(4, client_side, gateway);
    let text = told(&pair.gateway);
    assert!(text.contains("or the reverse"), "{text}");
}

#[test]
fn a_session_of_a_pinned_key_resumes() {
    let mut pair = called(5, client, gateway);
    pair.suspend();
    pair.sent.clear();
    pair.client.events.clear();
    pair.up();
    pair.run(SOON);
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    assert!(
        pair.client.events.iter().any(resumed),
        "{:?}",
        pair.gateway.events
    );
    let (state, _) = ticket_of(&pair);
    assert_eq!(
        (state.auth, state.certificate),
        (AuthMethod::PublicKey, None)
    );
}

#[test]
fn what_is_no_key_is_refused() {
    for junk in [&[][..], &[0x30, 0], &PKI.client.certificate] {
        assert!(PinnedKey::parse(junk).is_err());
    }
}
