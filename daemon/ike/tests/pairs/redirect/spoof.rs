//! Who must not be able to send a client anywhere, or keep it from its gateway: whoever has no key.

use std::time::Duration;

use ike::{
    Context, Told,
    wire::{notify::NotifyKind, payload::PayloadKind, redirect::Redirect},
};

use super::{PATIENCE, SOON, client_side, gateway, redirections, three};
use crate::{
    bed::{InFlight, Node, Pair, SECOND},
    tap::{clear, reclear},
};

/// An answer in clear to the client's first message, such as anybody can write who has seen that.
fn forged(pair: &Pair, data: &[u8]) -> InFlight {
    let request = &pair.sent[0];
    let mut head = request.message[..28].to_vec();
    (head[16], head[19]) = (0, 0x20);
    head[24..28].copy_from_slice(&28_u32.to_be_bytes());
    let mut body = vec![0, 0];
    body.extend_from_slice(&NotifyKind::REDIRECT.0.to_be_bytes());
    body.extend_from_slice(data);
    InFlight {
        at: pair.now.boot,
        from: request.to,
        to: request.from,
        message: reclear(&head, vec![(PayloadKind::NOTIFY, body)]),
    }
}

fn nonce(pair: &Pair) -> Vec<u8> {
    let payloads = clear(&pair.sent[0].message);
    let nonce = payloads
        .iter()
        .find(|(kind, _)| *kind == PayloadKind::NONCE);
    nonce.expect("a nonce").1.clone()
}

// RFC 5723: L14
#[test]
fn without_the_nonce_nobody_is_sent_anywhere() {
    for asleep in [false, true] {
        let mut pair = three(12, client_side);
        if asleep {
            pair.up();
            pair.run(SOON);
            pair.suspend();
            pair.sent.clear();
        }
        pair.up();
        let ni = nonce(&pair);
        for nonce in [&[][..], &[0; 32], &ni[1..], &[ni.clone(), vec![0]].concat()] {
            let forged = forged(&pair, &Redirect::data(&gateway(SECOND), nonce));
            pair.deliver(forged.from, forged.to, &forged.message);
        }
        let loopback = [&[1, 4, 127, 0, 0, 1][..], &ni].concat();
        let forged = forged(&pair, &loopback);
        pair.deliver(forged.from, forged.to, &forged.message);
        pair.run(SOON);
        assert!(pair.keys_agree());
        assert_eq!(pair.client.established()[0].resumed, asleep);
        assert_eq!(redirections(&pair), 0);
    }
}

// RFC 5723: L14, A5
#[test]
fn who_only_listens_does_not_keep_a_client_from_its_gateway() {
    for asleep in [false, true] {
        for seed in 0..10 {
            let mut pair = three(seed, client_side);
            pair.second = None;
            if asleep {
                pair.up();
                pair.run(SOON);
                pair.suspend();
                pair.sent.clear();
            }
            pair.up();
            let ni = nonce(&pair);
            let forged = forged(&pair, &Redirect::data(&gateway(SECOND), &ni));
            for _ in 0..3 {
                pair.deliver(forged.from, forged.to, &forged.message);
            }
            assert_eq!(redirections(&pair), 1);
            pair.run(SOON);
            assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
            assert_eq!(pair.client.established()[0].resumed, asleep);
            pair.run(Duration::from_mins(5));
            assert!(pair.keys_agree() && pair.client.established().len() == 1);
        }
    }
}

#[test]
fn on_an_sa_that_stands_only_the_gateway_itself_sends_on() {
    let mut pair = three(13, client_side);
    pair.up();
    pair.run(SOON);
    let ni = nonce(&pair);
    for nonce in [&[][..], &ni] {
        let forged = forged(&pair, &Redirect::data(&gateway(SECOND), nonce));
        pair.deliver(forged.from, forged.to, &forged.message);
    }
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(redirections(&pair), 0);
    // Nor does a client send its gateway anywhere (RFC 5685, 10).
    let now = pair.now;
    let Node {
        endpoint,
        env,
        ledger,
        leases,
        ..
    } = &mut pair.client;
    let cx = &mut Context {
        now,
        env,
        ledger,
        leases,
    };
    let told = endpoint.redirect(None, &gateway(SECOND), PATIENCE, cx);
    assert_eq!(told, Ok(Told::default()));
}
