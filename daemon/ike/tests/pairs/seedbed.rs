//! Writes the corpus that fuzzing starts from and `tests/corpus.rs` replays: messages of whole logins,
//! what was encrypted in them, tickets, frames and certificates, each also cut and changed. Not part
//! of a test run; call it when a format changes:
//! `cargo test -p ike --test pairs seedbed -- --ignored`.

use std::{fs, path::Path, time::Duration};

use gate_abi::frames::{self, Address, Around, Message};
use ike::{
    crypto::Secret,
    io::{Command, TicketRoot},
    ticket::{
        TicketName,
        seal::{Keyring, Label},
        state::TicketState,
    },
    wire::{
        id::Identity,
        payload::{ChainWriter, PayloadKind},
    },
};

use crate::{
    bed::{Pair, Rng, WALL},
    certificates, chains,
    env::sign,
    pki::PKI,
    tap::{auth_messages, ticket_of},
};

#[path = "../../../../tests/fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library where libFuzzer drives it")]
mod targets;

const SOON: Duration = Duration::from_secs(1);

#[test]
#[ignore = "writes tests/fuzz/corpus"]
fn write_the_corpus() {
    let (messages, state) = conversations();
    write("wire", &messages);
    write("ticket", &tickets(&state));
    write("classify", &frames_of(&messages));
    write("certificate", &chains_of_trust());
}

/// Every message of a login by key and of one by certificate, each with a resumption, a sign of life
/// and a goodbye; the payloads inside IKE_AUTH; and the state in a ticket.
fn conversations() -> (Vec<Vec<u8>>, TicketState) {
    let mut inputs = Vec::new();
    let mut state = None;
    for mut pair in [Pair::new(1), certificates::certified(2)] {
        pair.up();
        pair.run(SOON);
        inputs.extend(auth_messages(&pair).into_iter().map(inside));
        inputs.extend(pair.sent.drain(..).map(|sent| sent.message));
        pair.suspend();
        pair.up();
        pair.run(SOON);
        inputs.extend(auth_messages(&pair).into_iter().map(inside));
        state = Some(ticket_of(&pair).0);
        pair.run(Duration::from_secs(45));
        pair.command(&Command::Down("home".into())).expect("is up");
        pair.run(SOON);
        inputs.extend(pair.sent.drain(..).map(|sent| sent.message));
    }
    inputs.push(inside(vec![(
        PayloadKind::DELETE,
        vec![3, 4, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8],
    )]));
    inputs.extend(recorded());
    (inputs, state.expect("two logins"))
}

/// What libreswan said to libreswan.
fn recorded() -> Vec<Vec<u8>> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/vectors/resume-libreswan-psk.json"
    );
    let text = fs::read_to_string(path).expect("vector file");
    let recording: serde_json::Value = serde_json::from_str(&text).expect("valid JSON");
    let messages = [
        &recording["full"]["ike_sa_init_request"],
        &recording["full"]["ike_sa_init_response"],
        &recording["resume_request"],
        &recording["resume_response"],
        &recording["ike_auth_request"],
        &recording["ike_auth_response"],
    ];
    messages
        .into_iter()
        .filter_map(|message| octets_of(message.as_str()?))
        .collect()
}

fn octets_of(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok())
        .collect()
}

/// A chain behind the kind of its first payload.
fn inside(payloads: crate::tap::Payloads) -> Vec<u8> {
    let mut chain = ChainWriter::new();
    for (kind, body) in &payloads {
        chain.octets(*kind, body);
    }
    let (first, octets) = chain.finish();
    [&[first.0], octets.as_slice()].concat()
}

fn tickets(with_certificate: &TicketState) -> Vec<Vec<u8>> {
    let mut ring = Keyring::new(1);
    ring.add(&TicketRoot {
        key_id: targets::KEY_ID,
        root: Secret::from(&targets::ROOT[..]),
    });
    let mut inputs = Vec::new();
    let body = with_certificate.encode();
    for name in ["a", "client.example", "alice@example.net", "2001:db8::1"] {
        let mut state = TicketState::decode(body.expose()).expect("our own layout");
        state.id_i = Identity::from_text(name).expect("an identity");
        if name == "a" {
            state.certificate = None;
        }
        let index = name.len() as u32;
        let name = TicketName {
            key_id: targets::KEY_ID,
            index,
        };
        inputs.push(state.encode().expose().to_vec());
        inputs.extend(ring.seal(label(name), [5; 12], &state));
    }
    inputs
}

fn frames_of(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let ticket = frames::ticket(targets::KEY_ID, 5, &targets::TAG_KEY, 256);
    let first = [
        Message::sa_init().octets(),
        Message::sa_init().cookie(&[9; 24]).octets(),
        Message::resume(&ticket).octets(),
        Message::resume(&ticket).cookie(&[9; 24]).octets(),
    ];
    let v6 = Address::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let plain = Around::default();
    let around = [
        Around {
            port: 4500,
            ..plain.clone()
        },
        Around {
            vlans: vec![0x88a8, 0x8100],
            source: v6,
            destination: v6,
            ..plain.clone()
        },
        plain,
    ];
    let every = around
        .iter()
        .flat_map(|around| first.iter().map(|message| around.ike(message)));
    // Messages of logins are for the core; of these the gate is to judge some.
    let later = messages
        .iter()
        .filter(|message| message.len() > 28)
        .step_by(5);
    every
        .chain(later.map(|message| around[0].ike(message)))
        .collect()
}

fn chains_of_trust() -> Vec<Vec<u8>> {
    let lower = PKI.intermediate.below("Lower");
    let (ordinary, leaf) = (PKI.client.certificate.clone(), lower.certify(&PKI.client));
    let whole = vec![leaf, lower.der, PKI.intermediate.der.clone()];
    let name = |text| Identity::from_text(text).expect("an identity");
    let der = [
        &chains::ALGORITHM,
        sign(&PKI.client.signer(), b"octets").as_slice(),
    ]
    .concat();
    let claims = [
        (
            14,
            der.clone(),
            vec![ordinary.clone()],
            name("client.example"),
        ),
        (14, der.clone(), whole, name("CLIENT.example")),
        (
            9,
            chains::fixed(b"octets"),
            vec![ordinary],
            name("client.example"),
        ),
        (
            14,
            der.clone(),
            vec![chains::many_names()],
            name("192.0.2.10"),
        ),
        (
            14,
            der,
            vec![chains::many_names()],
            name("Alice@example.net"),
        ),
    ];
    claims
        .into_iter()
        .map(|(method, auth, certificates, id)| {
            let auth = [&[method, 0, 0, 0], auth.as_slice()].concat();
            let mut parts = vec![
                PKI.authority.der.clone(),
                id.body(),
                auth,
                b"octets".to_vec(),
            ];
            parts.extend(certificates.iter().map(|der| chains::payload(der)));
            let mut input = Vec::new();
            for part in parts {
                input.extend_from_slice(&(part.len() as u16).to_be_bytes());
                input.extend_from_slice(&part);
            }
            input
        })
        .collect()
}

/// Replaces a target's corpus by these inputs, good as far as the target takes them, and spoiled
/// copies.
fn write(target: &str, inputs: &[Vec<u8>]) {
    let run = match target {
        "wire" => targets::wire,
        "ticket" => targets::ticket,
        "classify" => targets::classify,
        _ => targets::certificate,
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus");
    let folder = Path::new(folder).join(target);
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("may write");
    let put = |name: String, octets: &[u8]| {
        fs::write(folder.join(name), octets).expect("may write");
    };
    let mut rng = Rng(9);
    for (i, input) in inputs.iter().enumerate() {
        let word = if run(input) { "good" } else { "other" };
        put(format!("{word}-{i:02}"), input);
        for (j, part) in [3, 1].into_iter().enumerate() {
            let end = input.len() - 1 - input.len() / 2 / part;
            put(format!("cut-{i:02}-{j}"), &input[..end]);
        }
        let mut changed = input.clone();
        let at = rng.below(changed.len() as u64) as usize;
        changed[at] ^= 1 << rng.below(8);
        put(format!("changed-{i:02}"), &changed);
    }
}

fn label(name: TicketName) -> Label {
    Label {
        name,
        expiry: WALL + 3600,
        no_cookie: false,
    }
}
