//! Messages no honest peer sends: cut, stretched, looped, mutated. None may panic, leave state, or
//! go uncounted; and the tunnel they were aimed at must stand.

use std::{sync::atomic::Ordering, time::Duration};

use ike::{
    Settings,
    counters::Counter,
    crypto::Secret,
    peer::{Connection, Credential},
};

use crate::bed::{InFlight, Pair, Rng};
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);

/// Every datagram of a full login, a resumption, a liveness check and a goodbye, each with the pair
/// as it was just before its arrival.
fn messages(seed: u64) -> Vec<InFlight> {
    let mut pair = Pair::new(seed);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    pair.run(Duration::from_secs(45));
    pair.command(&ike::io::Command::Down("home".into()))
        .expect("is up");
    pair.run(SOON);
    pair.sent
}

fn fix_length(message: &mut [u8]) {
    let length = (message.len() as u32).to_be_bytes();
    if let Some(field) = message.get_mut(24..28) {
        field.copy_from_slice(&length);
    }
}

/// Variants of one message.
pub(crate) fn variants(message: &[u8], rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for end in 0..message.len() {
        let mut cut = message[..end].to_vec();
        out.push(cut.clone());
        fix_length(&mut cut);
        out.push(cut);
    }
    let mut long = message.to_vec();
    long.resize(message.len() + 40, 0);
    out.push(long.clone());
    fix_length(&mut long);
    out.push(long);
    let mut huge = message.to_vec();
    huge.resize(65_000, 41);
    fix_length(&mut huge);
    out.push(huge);
    // A payload that is its own successor: length zero.
    let mut looped = message.to_vec();
    if let Some(field) = looped.get_mut(30..32) {
        field.copy_from_slice(&[0, 0]);
    }
    out.push(looped);
    for _ in 0..200 {
        let mut changed = message.to_vec();
        for _ in 0..=rng.below(4) {
            let at = rng.below(changed.len() as u64) as usize;
            changed[at] ^= 1 << rng.below(8);
        }
        out.push(changed);
    }
    out
}

#[test]
fn spoiled_messages_cost_an_idle_endpoint_nothing() {
    let mut rng = Rng(1);
    let mut pair = Pair::new(2);
    let mut fed = 0_u64;
    for flight in messages(3) {
        for message in variants(&flight.message, &mut rng) {
            if message == flight.message {
                continue;
            }
            let before = pair.gateway.endpoint.counters().total();
            let half_open = pair.gateway.endpoint.half_open();
            let to = format!("{}:500", crate::bed::GATEWAY)
                .parse()
                .expect("address");
            pair.deliver(flight.from, to, &message);
            fed += 1;
            let counted = pair.gateway.endpoint.counters().total() > before;
            // A first message whose nonce or address hash was changed is still a first message.
            let is_first = matches!(message.get(18), Some(34 | 38))
                && pair.gateway.endpoint.half_open() > half_open;
            assert!(counted || is_first, "{message:02x?}");
        }
    }
    assert!(fed > 5_000, "{fed}");
    assert!(pair.gateway.established().is_empty() && pair.client.established().is_empty());
    assert!(pair.gateway.kernel.installed.is_empty());
    pair.run(Duration::from_mins(1));
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
    assert_eq!(
        pair.gateway.endpoint.next_deadline(),
        None,
        "no state, no timer"
    );
}

#[test]
fn an_established_tunnel_survives_spoiled_copies_of_its_own_messages() {
    let mut rng = Rng(4);
    let mut pair = Pair::new(5);
    pair.up();
    pair.run(SOON);
    let history = pair.sent.clone();
    for flight in history {
        for message in variants(&flight.message, &mut rng) {
            if message != flight.message {
                pair.deliver(flight.from, flight.to, &message);
            }
        }
    }
    pair.run(Duration::from_mins(2));
    assert!(pair.keys_agree());
    assert_eq!(pair.client.established().len(), 1);
    assert_eq!(pair.gateway.established().len(), 1);
}

#[test]
fn spoiled_copies_of_protected_messages_do_not_stop_a_login() {
    // First exchanges are in clear: whoever changes one on the way can break the attempt, and only
    // that. From IKE_AUTH on a changed copy must change nothing.
    const PROTECTED: u8 = 35;
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let mut pair = Pair::new(seed);
        pair.up();
        for _ in 0..4 {
            for flight in pair.flying.clone() {
                if flight.message.get(18) != Some(&PROTECTED) {
                    continue;
                }
                let all = variants(&flight.message, &mut rng);
                for message in all.iter().filter(|message| **message != flight.message) {
                    let before = pair.flying.len();
                    pair.deliver(flight.from, flight.to, message);
                    assert_eq!(pair.flying.len(), before, "no answer to {message:02x?}");
                }
            }
            pair.run(Duration::from_millis(10));
        }
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn junk_in_place_of_ike_auth_derives_no_key_twice() {
    let is_auth = |flight: &InFlight| flight.message.get(18) == Some(&35);
    for seed in 0..10 {
        let mut rng = Rng(seed);
        let mut pair = Pair::new(seed);
        pair.up();
        while !pair.flying.iter().any(&is_auth) {
            pair.run(Duration::from_millis(1));
        }
        let genuine = pair.flying.iter().find(|flight| is_auth(flight));
        let genuine = genuine.expect("in flight").clone();
        for _ in 0..100 {
            let mut junk = genuine.message.clone();
            for octet in junk.iter_mut().skip(32) {
                *octet = rng.next() as u8;
            }
            pair.deliver(genuine.from, genuine.to, &junk);
        }
        let gateway = &pair.gateway;
        assert_eq!(gateway.env.agreed.load(Ordering::Relaxed), 1);
        assert_eq!(
            gateway.endpoint.counters().count(Counter::BadIntegrity),
            100
        );
        assert_eq!(gateway.endpoint.half_open(), 1);
        pair.run(SOON);
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn when_all_slots_are_taken_the_network_with_most_gives_way_to_a_client_with_a_cookie() {
    const SLOTS: usize = 8;
    let settings = Settings {
        max_half_open: SLOTS,
        cookie_from: SLOTS,
        ..Settings::default()
    };
    let mut pair = Pair::with(6, client_side, gateway_side, settings);
    pair.up();
    let request = pair.flying.remove(0);
    let hoarder = "198.51.100.66:500".parse().expect("address");
    for number in 1..=SLOTS as u8 + 4 {
        let mut message = request.message.clone();
        message[..8].fill(number);
        pair.deliver(hoarder, request.to, &message);
    }
    pair.flying.clear();
    // Who has not shown that he receives what is sent to him moves nobody.
    let evicted = |pair: &Pair| {
        pair.gateway
            .endpoint
            .counters()
            .count(Counter::HalfOpenEvicted)
    };
    assert_eq!(
        (pair.gateway.endpoint.half_open(), evicted(&pair)),
        (SLOTS, 0)
    );
    pair.deliver(request.from, request.to, &request.message);
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    assert_eq!(evicted(&pair), 1);
    assert_eq!(pair.gateway.endpoint.half_open(), SLOTS - 1);
}

#[test]
fn who_fails_to_log_in_again_and_again_takes_nobodys_place() {
    fn impostor() -> Vec<Connection> {
        let mut side = client_side();
        let guess = Secret::from(&b"a guess"[..]);
        side[0].local.credential = Credential::PreShared(guess);
        side
    }
    let settings = Settings {
        max_sas: 3,
        ..Settings::default()
    };
    let mut pair = Pair::with(7, impostor, gateway_side, settings);
    for _ in 0..3 {
        pair.up();
        pair.run(SOON);
        assert!(!pair.gateway.is_up());
    }
    pair.client_reloads(client_side());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
}
