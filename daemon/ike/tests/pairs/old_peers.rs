//! AES-CBC with HMAC-SHA2, for peers that have no AEAD: everything that protects messages or has keys of its
//! own, with each size of key and tag.

use std::time::Duration;

use ike::{
    Settings,
    crypto::{Encryption, Group, Integrity, Prf},
    io::{Command, Event},
    peer::Connection,
    sa::proposal::EspProposal,
};

use crate::{
    bed::{Pair, Weather},
    sides::{client_side, gateway_side, suite},
    why::told,
};

const SOON: Duration = Duration::from_secs(1);

fn with(
    mut side: Vec<Connection>,
    ike: Encryption,
    esp: &[Encryption],
    fragment_size: u16,
) -> Vec<Connection> {
    side[0].ike_suites = vec![suite(ike, Prf::HmacSha256, Group::P256)];
    side[0].fragment_size = Some(fragment_size);
    side[0].children[0].proposals = vec![EspProposal::of(esp)];
    side
}

macro_rules! sides {
    ($name:ident, $ike:expr, $esp:expr, $fragment_size:expr) => {
        mod $name {
            use super::*;

            pub(super) fn client() -> Vec<Connection> {
                with(client_side(), $ike, &$esp, $fragment_size)
            }

            pub(super) fn gateway() -> Vec<Connection> {
                with(gateway_side(), $ike, &$esp, $fragment_size)
            }
        }
    };
}

const SHA256: Integrity = Integrity::HmacSha256;
const SHA384: Integrity = Integrity::HmacSha384;
const SHA512: Integrity = Integrity::HmacSha512;

sides!(
    small,
    Encryption::AesCbc128(SHA256),
    [Encryption::AesCbc128(SHA256)],
    1280
);
sides!(
    middle,
    Encryption::AesCbc256(SHA384),
    [Encryption::AesCbc256(SHA384)],
    1280
);
sides!(
    large,
    Encryption::AesCbc256(SHA512),
    [Encryption::AesCbc256(SHA512)],
    1280
);
sides!(
    in_pieces,
    Encryption::AesCbc256(SHA256),
    [Encryption::AesGcm256],
    300
);
sides!(
    mixed,
    Encryption::AesGcm256,
    [Encryption::AesCbc128(SHA512)],
    1280
);

type Side = fn() -> Vec<Connection>;

const ALL: [(Side, Side); 5] = [
    (small::client, small::gateway),
    (middle::client, middle::gateway),
    (large::client, large::gateway),
    (in_pieces::client, in_pieces::gateway),
    (mixed::client, mixed::gateway),
];

#[test]
fn login_rekeys_resumption_and_goodbye() {
    for (seed, (client, gateway)) in (0..).zip(ALL) {
        let mut pair = Pair::with(seed, client, gateway, Settings::default());
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree(), "{seed}: {:?}", pair.client.events);
        let config = &client()[0];
        let sa = pair.client.established().remove(0);
        assert_eq!(sa.suite, Some(config.ike_suites[0].to_string()));
        let child = pair.client.child();
        assert_eq!(child.cipher, config.children[0].proposals[0].ciphers[0]);

        for rekey in [
            Command::Rekey("home".into()),
            Command::RekeyChild("home".into(), None),
        ] {
            pair.command(&rekey).expect("is up");
            pair.run(Duration::from_secs(5));
            assert!(pair.keys_agree(), "{seed}: {:?}", pair.client.events);
        }
        pair.gateway_does(&Command::Rekey("rw".into()));
        pair.run(Duration::from_secs(5));

        for _ in 0..2 {
            pair.suspend();
            pair.client.events.clear();
            pair.up();
            pair.run(SOON);
            assert!(pair.keys_agree(), "{seed}: {:?}", pair.client.events);
            let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
            assert!(pair.client.events.iter().any(resumed), "{seed}");
        }
        // Signs of life.
        pair.run(Duration::from_mins(5));
        assert!(pair.keys_agree());
        pair.command(&Command::Down("home".into())).expect("is up");
        pair.run(SOON);
        assert!(pair.gateway.kernel.installed.is_empty());
    }
}

#[test]
fn fragments_fit_and_open_in_bad_weather() {
    for seed in 0..10 {
        let settings = Settings::default();
        let mut pair = Pair::with(seed, in_pieces::client, in_pieces::gateway, settings);
        pair.weather = Weather {
            loss: 10,
            duplicate: 20,
            reorder: 30,
        };
        pair.up();
        pair.run(Duration::from_mins(1));
        assert!(pair.keys_agree(), "{seed}: {:?}", pair.client.events);
        let protected = pair.sent.iter().filter(|one| one.message[16] == 53);
        assert!(protected.clone().count() >= 2, "in fragments");
        // What is around them counts as for IPv6.
        assert!(
            protected
                .into_iter()
                .all(|one| one.message.len() + 52 <= 300)
        );
    }
}

#[test]
fn a_spoiled_message_is_not_opened_whatever_was_changed() {
    let mut pair = Pair::with(7, small::client, small::gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    let auth = pair.sent[2].clone();
    assert_eq!((auth.message[18], auth.message[16]), (35, 46));
    // A pair that waits for just this message.
    let mut again = Pair::with(7, small::client, small::gateway, Settings::default());
    again.up();
    again.run(Duration::from_millis(15));
    let corrupt = ike::counters::Counter::BadIntegrity;
    for at in 32..auth.message.len() {
        let mut changed = auth.message.clone();
        changed[at] ^= 0x40;
        again.deliver(auth.from, auth.to, &changed);
    }
    let counted = again.gateway.endpoint.counters().count(corrupt);
    assert_eq!(counted as usize, auth.message.len() - 32);
    again.run(SOON);
    assert!(again.keys_agree(), "{:?}", again.client.events);
}

#[test]
fn they_are_taken_only_where_they_are_configured() {
    let mut pair = Pair::with(8, small::client, gateway_side, Settings::default());
    pair.up();
    pair.run(Duration::from_secs(5));
    let text = told(&pair.gateway);
    assert!(
        text.contains("the peer offers aes128-sha256-prfsha256-ecp256; we take aes256gcm16-"),
        "{text}"
    );
}
