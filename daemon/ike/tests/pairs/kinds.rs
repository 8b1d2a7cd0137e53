//! Logins with every kind of key, and the forms of signatures for peers that do not know RFC 7427.

use std::{sync::LazyLock, time::Duration};

use ike::{
    Settings,
    crypto::{RsaPadding, SignatureScheme},
    peer::{Connection, Proof},
    trust::{Signed, TrustError, verify},
    wire::{id::Identity, payload::PayloadKind},
};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use ring::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, Ed25519KeyPair, RsaKeyPair,
};

use crate::{
    bed::{Pair, WALL},
    certificates::{anchors, shows},
    env::{Signer, key_pair, sign},
    pki::PKI,
    sides::{client_side, gateway_side},
    tap::{auth_messages, body},
};

/// Made with openssl for these tests, and trusted by nothing.
const RSA: &[u8] = include_bytes!("rsa.pk8");
const SOON: Duration = Duration::from_secs(1);
const OCTETS: &[u8] = b"what the client has to sign";

/// Keys of the other kinds than P-256; one serves both sides.
static KEYS: LazyLock<[KeyPair; 3]> = LazyLock::new(|| {
    let rsa = KeyPair::from_pkcs8_der_and_sign_algo(&RSA.into(), &PKCS_RSA_SHA256);
    [
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("generates"),
        KeyPair::generate_for(&PKCS_ED25519).expect("generates"),
        rsa.expect("a key"),
    ]
});

fn signer(kind: usize) -> Signer {
    let pkcs8 = KEYS[kind].serialize_der();
    match kind {
        P384 => Signer::Ecdsa(key_pair(&ECDSA_P384_SHA384_ASN1_SIGNING, &pkcs8)),
        ED25519 => Signer::Ed25519(Ed25519KeyPair::from_pkcs8(&pkcs8).expect("a key")),
        _ => Signer::Rsa(RsaKeyPair::from_pkcs8(&pkcs8).expect("a key")),
    }
}

const P384: usize = 0;
const ED25519: usize = 1;
const RSA_2048: usize = 2;

/// This side shows a key of this kind and wants to see one.
fn certified(side: Vec<Connection>, name: &str, kind: usize) -> Vec<Connection> {
    let mut side = shows(side, vec![PKI.authority.certify_key(name, &KEYS[kind])]);
    side[0].remote.proof = Proof::Certificate(anchors(&PKI.authority));
    side
}

fn client<const KIND: usize>() -> Vec<Connection> {
    certified(client_side(), "client.example", KIND)
}

fn gateway<const KIND: usize>() -> Vec<Connection> {
    certified(gateway_side(), "gw.example", KIND)
}

fn logs_in<const KIND: usize>() {
    called::<KIND>(client::<KIND>);
}

fn called<const KIND: usize>(client: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(7, client, gateway::<KIND>, Settings::default());
    pair.client.env.keys.insert("home", signer(KIND));
    pair.gateway.env.keys.insert("rw", signer(KIND));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    pair
}

#[test]
fn every_kind_of_key_logs_in() {
    logs_in::<P384>();
    logs_in::<ED25519>();
    logs_in::<RSA_2048>();
}

#[test]
fn an_rsa_key_signs_in_the_padding_of_its_connection() {
    fn older() -> Vec<Connection> {
        let mut side = client::<RSA_2048>();
        side[0].local.rsa_padding = RsaPadding::Pkcs1;
        // Whole messages are easier to read.
        side[0].fragment_size = None;
        side
    }
    let pair = called::<RSA_2048>(older);
    let [asked, answered] = &auth_messages(&pair)[..] else {
        panic!("IKE_AUTH has two messages");
    };
    // Digital Signature; behind its header the identifier's length, and the last arc of
    // sha256WithRSAEncryption or of id-RSASSA-PSS (RFC 7427, A.1.2 and A.4.3).
    for (message, length, arc) in [(asked, 15, 11), (answered, 67, 10)] {
        let auth = body(message, PayloadKind::AUTH);
        assert_eq!((auth[0], auth[4], auth[17]), (14, length, arc));
    }
}

/// What a gateway makes of a signature by a key with this certificate.
fn judged(key: &KeyPair, method: u8, auth: &[u8]) -> Result<(), TrustError> {
    let certificate = PKI.authority.certify_key("client.example", key);
    let payload = [&[4], certificate.as_slice()].concat();
    let id = Identity::from_text("client.example").expect("a name");
    let signed = Signed {
        octets: OCTETS,
        method,
        auth,
    };
    verify(&anchors(&PKI.authority), &[&payload], &id, &signed, WALL).map(drop)
}

#[test]
fn older_forms_hold_and_go_with_their_own_kind_of_key_alone() {
    let (rsa, signer) = (&KEYS[RSA_2048], signer(RSA_2048));
    let mut pkcs1 = signer
        .sign(SignatureScheme::RsaPkcs1Sha256, OCTETS)
        .expect("signs");
    assert_eq!(judged(rsa, 1, &pkcs1), Ok(()));
    pkcs1[9] ^= 1;
    assert_eq!(judged(rsa, 1, &pkcs1), Err(TrustError::Signature));
    let pss = signer
        .sign(SignatureScheme::RsaPssSha256, OCTETS)
        .expect("signs");
    assert_eq!(judged(rsa, 1, &pss), Err(TrustError::Signature));

    let p384 = &KEYS[P384];
    let fixed = key_pair(&ECDSA_P384_SHA384_FIXED_SIGNING, &p384.serialize_der());
    let fixed = sign(&fixed, OCTETS);
    assert_eq!((judged(p384, 10, &fixed), fixed.len()), (Ok(()), 96));
    assert_eq!(judged(p384, 9, &fixed), Err(TrustError::Algorithm));
    assert_eq!(judged(rsa, 10, &fixed), Err(TrustError::Algorithm));
}

#[test]
fn sha_1_is_refused_whichever_way_it_comes() {
    // sha1WithRSAEncryption (RFC 7427, A.1.1).
    let named = [
        &[
            15, 0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 5, 5, 0,
        ][..],
        &[0; 256],
    ]
    .concat();
    assert_eq!(
        judged(&KEYS[RSA_2048], 14, &named),
        Err(TrustError::Algorithm)
    );
    // An older RSA signature is checked against SHA-2 only, whatever hash it claims.
    assert_eq!(
        judged(&KEYS[RSA_2048], 1, &[0; 256]),
        Err(TrustError::Signature)
    );
}
