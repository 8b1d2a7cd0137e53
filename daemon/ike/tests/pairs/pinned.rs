//! Peers that are known by their public key alone, and what such a login leaves in a ticket.

use std::time::Duration;

use ike::{
    Settings,
    io::Event,
    peer::{Connection, Proof},
    ticket::state::AuthMethod,
    trust::PinnedKey,
};

use crate::{
    bed::Pair,
    certificates::shows,
    env::Signer,
    pki::{self, PKI},
    sides::{client_side, gateway_side},
    tap::ticket_of,
    why::told,
};

const SOON: Duration = Duration::from_secs(5);

/// The SubjectPublicKeyInfo in a certificate for a P-256 key, which has 91 octets (RFC 5480, 2).
fn key_in(certificate: &[u8]) -> PinnedKey {
    let header = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    ];
    let mut windows = certificate.windows(91);
    let key = windows.find(|window| window.starts_with(&header));
    PinnedKey::parse(key.expect("a P-256 key")).expect("a key")
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
