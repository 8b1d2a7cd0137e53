//! The parsers that strangers reach, one function for each fuzz target. Each says whether it took
//! the input, and panics if what it read does not hold together. The targets run them under
//! libFuzzer (`cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET`); `daemon/ike/tests/corpus.rs`
//! includes this file and replays the corpus on stable.

use gate_abi::{
    classify::{Knowledge, Reason, Verdict},
    defence::{Budget, Level, Meter},
    maps::{CHECK_LOCAL, CHECK_OWN_SPI, OUR_ADDRESS, TICKET_KEYS_SET, TicketKeySlot, TicketKeys},
    networks::Rule,
    sip::SipKey,
};
use ike::{
    crypto::{Encryption, Secret, TrustAnchors, cipher::Cipher},
    io::TicketRoot,
    ticket::{TicketState, seal::Keyring},
    trust::{Signed, TrustError, verify},
    wire::{
        cp::Configuration,
        cursor::Cursor,
        delete::Delete,
        encrypted,
        header::Header,
        id::Identity,
        payload::{Chain, ChainWriter, Payload, PayloadKind},
        sa,
        ts::TrafficSelector,
    },
};

/// Unix time of all targets.
pub const WALL: u64 = 1_800_000_000;
/// Key id of the ticket keys that the targets know.
pub const KEY_ID: u8 = 7;
/// The root of those keys.
pub const ROOT: [u8; 32] = [42; 32];
/// The ticket key that the classifier knows.
pub const TAG_KEY: SipKey = SipKey { k0: 11, k1: 12 };

/// A message with its header, or the first payload's kind and a chain as SK has it inside.
pub fn wire(input: &[u8]) -> bool {
    let message = Header::parse(input).is_ok_and(|(header, octets)| {
        let again = header.emit(input.len());
        let (read, _) = Header::parse(&[&again, octets].concat()).expect("our own header");
        assert_eq!(read, header);
        // Whoever has no key opens nothing, and finds that out without a panic.
        assert!(encrypted::open(&header, input, &no_key()).is_err());
        chain(header.next, octets)
    });
    let inside = input
        .split_first()
        .is_some_and(|(first, octets)| chain(PayloadKind(*first), octets));
    message || inside
}

fn no_key() -> Cipher {
    let encryption = Encryption::AesGcm256;
    let key = Secret::new(vec![0; encryption.key_and_salt_len()]);
    Cipher::new(encryption, &key, &Secret::default()).expect("the length it asks for")
}

fn chain(first: PayloadKind, octets: &[u8]) -> bool {
    let Ok(chain) = Chain::parse(first, octets) else {
        return false;
    };
    let mut copy = ChainWriter::new();
    for Payload { kind, body, .. } in chain.payloads() {
        payload(kind, body);
        copy.octets(kind, body);
    }
    let (first, octets) = copy.finish();
    let copy = Chain::parse(first, &octets).expect("our own chain");
    let contents = |payload: Payload<'_>| (payload.kind, payload.body.to_vec());
    assert!(
        copy.payloads()
            .map(contents)
            .eq(chain.payloads().map(contents))
    );
    chain.notifies().count() <= Chain::MAX_PAYLOADS
}

/// Reads a payload's body as what it says it is; what can be written back must read the same.
fn payload(kind: PayloadKind, body: &[u8]) {
    match kind {
        PayloadKind::SA => {
            if let Ok(proposals) = sa::parse(body) {
                let transforms = |proposal: sa::Proposal<'_>| proposal.transforms().count();
                let count = proposals.map(transforms).max().unwrap_or(0);
                assert!(count <= sa::MAX_TRANSFORMS);
            }
        }
        PayloadKind::ID_I | PayloadKind::ID_R => {
            if let Ok(id) = Identity::parse(body) {
                assert!(id.to_string().is_ascii(), "escaped for logs");
                assert_eq!(Identity::parse(&id.body()), Ok(id));
            }
        }
        PayloadKind::DELETE => {
            if let Ok(delete) = Delete::parse(body) {
                let mut out = Vec::new();
                delete.emit(&mut out);
                assert_eq!(Delete::parse(&out), Ok(delete));
            }
        }
        PayloadKind::CP => {
            if let Ok(configuration) = Configuration::parse(body) {
                let mut out = Vec::new();
                configuration.emit(&mut out);
                assert_eq!(Configuration::parse(&out), Ok(configuration));
            }
        }
        PayloadKind::TS_I | PayloadKind::TS_R => {
            if let Ok(selectors) = TrafficSelector::parse_all(body) {
                let mut out = Vec::new();
                TrafficSelector::emit_all(&selectors, &mut out);
                assert_eq!(TrafficSelector::parse_all(&out), Ok(selectors));
            }
        }
        _ => {}
    }
}

/// A ticket under known keys, or the plain state inside one.
pub fn ticket(input: &[u8]) -> bool {
    let mut ring = Keyring::new(1);
    ring.add(&TicketRoot {
        key_id: KEY_ID,
        root: Secret::from(&ROOT[..]),
    });
    let opened = ring.open(input, WALL, |_| None);
    if let Ok(opened) = &opened {
        assert!(opened.expiry > WALL && opened.name.key_id == KEY_ID);
    }
    let state = TicketState::decode(input);
    if let Ok(state) = &state {
        let octets = state.encode();
        let again = TicketState::decode(octets.expose()).expect("our own layout");
        assert_eq!(again.encode(), octets);
    }
    opened.is_ok() || state.is_ok()
}

/// A frame from its Ethernet header on. Taken is what may open a session.
pub fn classify(input: &[u8]) -> bool {
    let verdict = gate_abi::classify::classify(input, &Told).verdict;
    matches!(
        verdict,
        Verdict::Pass(Reason::SaInit | Reason::ResumeProven)
    )
}

/// A gate with everything switched on, at an address of the documentation.
struct Told;

impl Knowledge for Told {
    fn flags(&self) -> u64 {
        CHECK_OWN_SPI | CHECK_LOCAL | TICKET_KEYS_SET
    }

    fn level(&self) -> Level {
        Level::Calm
    }

    fn ticket_keys(&self, key_id: u8) -> Option<&TicketKeySlot> {
        static LIVE: TicketKeySlot = TicketKeySlot::live(&TicketKeys {
            tag: TAG_KEY,
            mask: SipKey { k0: 8, k1: 9 },
            used_slot: None,
        });
        (key_id == KEY_ID).then_some(&LIVE)
    }

    fn spi_key(&self, slot: u32) -> Option<SipKey> {
        (slot == 1).then_some(SipKey { k0: 21, k1: 22 })
    }

    fn cookie_key(&self, _: u8) -> Option<SipKey> {
        None
    }

    fn address(&self, address: &[u8; 16]) -> u64 {
        let ours = address.ends_with(&[0xff, 0xff, 192, 0, 2, 2])
            || address.starts_with(&[0x20, 1, 0xd, 0xb8]);
        if ours { OUR_ADDRESS } else { 0 }
    }

    fn rule(&self, _: &[u8; 16]) -> Option<Rule> {
        None
    }
    fn now(&self) -> u64 {
        0
    }

    fn last_beat(&self) -> u64 {
        0
    }

    fn wall_minus_boot(&self) -> Option<u64> {
        Some(0)
    }

    fn node(&self) -> u8 {
        1
    }
    fn board(&self, _: u32) -> u64 {
        0
    }
    fn set_board(&self, _: u32, _: u64) {}
    fn meter_key(&self) -> SipKey {
        SipKey { k0: 0, k1: 0 }
    }
    fn spend(&self, _: Budget, _: u64) -> bool {
        true
    }

    fn charge(&self, _: Meter, _: u64, _: u64) -> bool {
        true
    }
}

/// Authority, IDi body, AUTH body, signed octets and CERT bodies, each behind its length in two
/// octets.
pub fn certificate(input: &[u8]) -> bool {
    let mut cursor = Cursor::new(input);
    let mut next = || {
        let length = cursor.u16().ok()?;
        cursor.take(usize::from(length)).ok()
    };
    let (Some(authority), Some(id), Some(auth), Some(octets)) = (next(), next(), next(), next())
    else {
        return false;
    };
    let certificates: Vec<_> = std::iter::from_fn(next).take(Chain::MAX_PAYLOADS).collect();
    let mut anchors = TrustAnchors::default();
    let known = anchors.add(authority).is_ok();
    let (Ok(id), Some((&[method, _, _, _], auth))) =
        (Identity::parse(id), auth.split_first_chunk())
    else {
        return false;
    };
    let signed = Signed {
        octets,
        method,
        auth,
    };
    let judge = |wall| verify(&anchors, &certificates, &id, &signed, wall);
    let Ok(facts) = judge(WALL) else {
        return false;
    };
    assert!(known && facts.not_after >= WALL);
    assert_eq!(judge(facts.not_after + 1), Err(TrustError::Expired));
    true
}
