//! Known answers: the resumption vector of RFC 5723's key derivation, computed independently, and a
//! resumption recorded between two libreswan gateways.

use ike::{
    crypto::{
        Encryption, Prf, Secret,
        cipher::Cipher,
        keymat::{Exchanged, KeyMaterial, child_keys},
        prf::prf,
    },
    wire::{
        encrypted,
        header::Header,
        payload::{Chain, PayloadKind},
    },
};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("hexadecimal digit") as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn array(text: &str) -> [u8; 8] {
    hex(text).try_into().expect("eight octets")
}

// RFC 5723: T11, A2
#[test]
fn keys_and_auth_of_a_resumption_are_the_known_ones() {
    let sk_d_old = Secret::new((0..32).collect());
    let ni = [(0xa0..=0xaf).collect::<Vec<u8>>(), (0xa0..=0xaf).collect()].concat();
    let nr = [(0xb0..=0xbf).collect::<Vec<u8>>(), (0xb0..=0xbf).collect()].concat();
    let exchanged = Exchanged {
        ni: &ni,
        nr: &nr,
        spi_i: array("1122334455667788"),
        spi_r: array("99aabbccddeeff00"),
    };
    let (which, encryption) = (Prf::HmacSha256, Encryption::AesGcm256);
    let keys = KeyMaterial::from_ticket(which, encryption, &sk_d_old, &exchanged);
    let expected = [
        (
            &keys.sk_d,
            "270b51822a92a16b3bb78071120e7e7b9c98c474e996b9c4c42f553f80c2dd4d",
        ),
        (
            &keys.sk_ei,
            "5a93422795a614cf282b3573d3187bc6d8617e05e4591389a596078e17544f36222007b2",
        ),
        (
            &keys.sk_er,
            "73a1502c1ddca54e47963a511fed53d1553dfcafad8a34cc19123082fc15f684cea45d05",
        ),
        (
            &keys.sk_pi,
            "c449dcf62c1f34b1d28f53014ba8b47bf4f76effc83f4256917785e4a184db78",
        ),
        (
            &keys.sk_pr,
            "dadbd55f422cbbde65d446f5ab1590afd730ff49b41418dce08988db7e424968",
        ),
    ];
    for (key, value) in expected {
        assert_eq!(key.expose(), hex(value));
    }
    let request = [
        hex("1122334455667788000000000000000028202608000000000000005829000024"),
        ni.clone(),
        hex("000000180000401d5449434b45542d4f50415155452d3136"),
    ]
    .concat();
    let response = [
        hex("112233445566778899aabbccddeeff0028202620000000000000004000000024"),
        nr.clone(),
    ]
    .concat();
    let auth = |key: &Secret, message: &[u8], nonce: &[u8], id: &str| {
        let body = [hex("02000000"), id.as_bytes().to_vec()].concat();
        let maced = prf(which, key.expose(), &[&body]);
        prf(which, key.expose(), &[message, nonce, maced.expose()])
    };
    assert_eq!(
        auth(&keys.sk_pi, &request, &nr, "client.example").expose(),
        hex("b0339b924b33921a566057103bca31497e6720929efb2414be999bf817f8f25b")
    );
    assert_eq!(
        auth(&keys.sk_pr, &response, &ni, "gw.example").expose(),
        hex("309d30b448c70ed89b8a99fc1f8e3042d36eceb7d99a7693e5540730f7b16a74")
    );
    assert_eq!(
        prf(which, keys.sk_pi.expose(), &[&request]).expose(),
        hex("57aacb215bd3fb85ec7c47b82d45296c37ce71b7c128c9bc465890156192b170")
    );
}

/// A field of the recording.
fn field(recording: &serde_json::Value, name: &str) -> Vec<u8> {
    hex(recording[name].as_str().expect("recorded field"))
}

fn recording() -> serde_json::Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/resume-libreswan-psk.json"
    );
    let text = std::fs::read_to_string(path).expect("vector file");
    serde_json::from_str(&text).expect("valid JSON")
}

#[test]
fn a_recorded_resumption_of_libreswan_has_our_keys() {
    let recording = recording();
    let field = |name| field(&recording, name);
    let (ni, nr) = (field("ni"), field("nr"));
    let exchanged = Exchanged {
        ni: &ni,
        nr: &nr,
        spi_i: field("spii").try_into().expect("SPI"),
        spi_r: field("spir").try_into().expect("SPI"),
    };
    let (which, encryption) = (Prf::HmacSha512, Encryption::AesGcm256);
    let old = Secret::new(field("sk_d_old"));
    let keys = KeyMaterial::from_ticket(which, encryption, &old, &exchanged);
    for (name, key) in [
        ("sk_d", &keys.sk_d),
        ("sk_ei", &keys.sk_ei),
        ("sk_er", &keys.sk_er),
        ("sk_pi", &keys.sk_pi),
        ("sk_pr", &keys.sk_pr),
    ] {
        assert_eq!(key.expose(), field(name), "{name}");
    }
    for (message, key, plain) in [
        ("ike_auth_request", &keys.sk_ei, "ike_auth_request_plain"),
        ("ike_auth_response", &keys.sk_er, "ike_auth_response_plain"),
    ] {
        let message = field(message);
        let (header, _) = Header::parse(&message).expect("header");
        let cipher = Cipher::new(encryption, key, &Secret::default()).expect("key length");
        let opened = encrypted::open(&header, &message, &cipher).expect("opens under our keys");
        // The recording keeps the Pad Length octet, which is zero.
        assert_eq!(
            [opened.octets.as_slice(), &[0]].concat(),
            field(plain),
            "{plain}"
        );
        Chain::parse(opened.first, &opened.octets).expect("a chain we can read");
    }
    let (i2r, r2i) = child_keys(which, &keys.sk_d, &[], (&ni, &nr), 36);
    assert_eq!(i2r.expose(), field("esp_keymat_i2r"));
    assert_eq!(r2i.expose(), field("esp_keymat_r2i"));
    let request = field("resume_request");
    let theirs = prf(which, keys.sk_pi.expose(), &[&request]);
    assert!(
        field("auth_i").ends_with(theirs.expose()),
        "libreswan covers its message alone"
    );
}

// RFC 5723: A2
#[test]
fn both_auth_forms_of_the_recording_are_reproduced() {
    let recording = recording();
    let field = |name| field(&recording, name);
    let plain = field("ike_auth_request_plain");
    let chain = Chain::parse(PayloadKind::ID_I, &plain[..plain.len() - 1]).expect("chain");
    let id_i = chain.one(PayloadKind::ID_I).expect("IDi");
    let sk_pi = Secret::new(field("sk_pi"));
    let maced = prf(Prf::HmacSha512, sk_pi.expose(), &[id_i]);
    let parts: [&[u8]; 3] = [&field("resume_request"), &field("nr"), maced.expose()];
    let rfc = prf(Prf::HmacSha512, sk_pi.expose(), &parts);
    assert_eq!(rfc.expose(), field("auth_i_rfc2_15"));
}
