//! What anybody can send without a key, aimed at a resumption under way or at an SA that stands.

use std::time::Duration;

use ike::wire::notify::NotifyKind;

use super::{SOON, asleep, exchange, forget, is_response, kinds, notify, resumed, up};
use crate::{
    bed::{InFlight, Pair},
    tap::{clear, reclear},
};

/// A forged answer to the client's first message.
fn answer(pair: &mut Pair, kind: u16, data: &[u8]) {
    let request = pair.sent[0].clone();
    let mut head = request.message[..28].to_vec();
    head[19] = 0x20;
    // What follows the header is replaced; it only has to parse.
    head[16] = 0;
    head[24..28].copy_from_slice(&28_u32.to_be_bytes());
    let message = reclear(&head, vec![notify(kind, data)]);
    pair.deliver(request.to, request.from, &message);
}

// RFC 5723: L14, A5
#[test]
fn c_nack_spoof() {
    for seed in 0..20 {
        let mut pair = asleep(seed);
        pair.up();
        for _ in 0..3 {
            answer(&mut pair, 16412, &[]);
        }
        pair.run(Duration::from_secs(3));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
        assert_eq!(pair.client.established().len(), 1);
        assert!(resumed(&pair), "seed {seed}: the ticket was honoured");
    }
}

// RFC 5723: L14
#[test]
fn c_error_spoof() {
    // Errors, a redirect, and nonsense: none ends the attempt.
    for kind in [
        1, 4, 5, 7, 9, 11, 14, 17, 24, 43, 16407, 16411, 16413, 40_000,
    ] {
        let mut pair = asleep(u64::from(kind));
        pair.up();
        answer(&mut pair, kind, &[0; 24]);
        pair.run(SOON);
        assert!(pair.keys_agree() && resumed(&pair), "notification {kind}");
    }
}

// RFC 5723: N21, L14
#[test]
fn c_cookie_spoof() {
    // A false cookie costs some round trips: the request with it is another request, and the proof is of
    // that one while the gateway has answered the first.
    for seed in 0..20 {
        let mut pair = asleep(seed);
        pair.up();
        answer(&mut pair, 16390, b"not a cookie of yours");
        pair.run(Duration::from_secs(10));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
        assert_eq!(pair.client.established().len(), 1);
        assert_eq!(pair.gateway.established().len(), 1);
        assert!(resumed(&pair), "seed {seed}: the ticket was not to blame");
    }
}

// RFC 5723: N21, L14
#[test]
fn c_cookie_spoof_twice() {
    // The ticket is presented once more, not for ever.
    let mut pair = asleep(1);
    pair.up();
    let mut presented = 0;
    for _ in 0..100 {
        let fresh = |sent: &&InFlight| exchange(sent) == 38 && !is_response(sent);
        let request = pair.flying.iter().find(fresh).cloned();
        if let Some(request) = request.filter(|sent| !brings_a_cookie(sent)) {
            presented += 1;
            pair.sent.insert(0, request);
            answer(&mut pair, 16390, b"not a cookie of yours");
        }
        pair.run(Duration::from_millis(10));
    }
    assert_eq!(presented, 2);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    assert!(!resumed(&pair));
}

fn brings_a_cookie(sent: &InFlight) -> bool {
    kinds(&clear(&sent.message)).contains(&NotifyKind::COOKIE)
}

// RFC 5723: N50
#[test]
fn c_untrusted_loss_is_not_believed() {
    // INVALID_IKE_SPI, INVALID_SPI and their like in clear, as answers and as requests.
    for kind in [4, 11, 24, 16412] {
        for flags in [0, 0x20, 0x28, 0x08] {
            let mut pair = up(3);
            let (c, g) = (pair.sent[0].from, pair.sent[0].to);
            let spis = pair.client.established()[0].spis;
            let mut head = [spis.0, spis.1].concat();
            head.extend_from_slice(&[0, 0x20, 37, flags, 0, 0, 0, 2, 0, 0, 0, 28]);
            let message = reclear(&head, vec![notify(kind, &[1, 2, 3, 4])]);
            forget(&mut pair);
            pair.deliver(g, c, &message);
            pair.deliver(c, g, &message);
            pair.run(SOON);
            assert!(pair.keys_agree());
            assert!(
                pair.sent
                    .iter()
                    .all(|sent| !matches!(exchange(sent), 34 | 38))
            );
            assert!(pair.client.events.is_empty() && pair.gateway.events.is_empty());
        }
    }
}
