//! The burn race (ruling A3): whoever sees a ticket in clear replays it, and the client it belongs to
//! must come back all the same.

use std::{net::SocketAddr, time::Duration};

use ike::wire::{notify::NotifyKind, payload::PayloadKind};

use super::{asleep, data_of, request, resumed};
use crate::{
    bed::{InFlight, Pair, Rng},
    tap::{Payloads, clear, reclear},
};

/// Replays before the client's own request arrives.
const REPLAYS: u64 = 40;
/// The same in one run of each kind.
const MANY_REPLAYS: u64 = 1000;

#[derive(Clone, Copy, Debug)]
enum Attack {
    /// From forged addresses: no answer is seen.
    Forged,
    /// From one network that answers are seen in.
    OneNetwork,
    /// From forged addresses, with other SPIs and nonces.
    Changed,
    /// From sixteen networks that answers are seen in.
    Sixteen,
}

/// A replay, and once more with the cookie if one is asked for and seen.
fn replay(pair: &mut Pair, captured: &InFlight, from: SocketAddr, change: Option<u64>, sees: bool) {
    let mut message = captured.message.clone();
    if let Some(chance) = change {
        message[..8].copy_from_slice(&chance.to_be_bytes());
        let nonce = chance.to_le_bytes();
        message[32..40].copy_from_slice(&nonce);
    }
    pair.deliver(from, captured.to, &message);
    let answer = pair.flying.pop().map(|flight| clear(&flight.message));
    if let Some(cookie) = answer.filter(|_| sees).as_ref().and_then(cookie_in) {
        let mut payloads = clear(&message);
        payloads.insert(0, (PayloadKind::NOTIFY, cookie));
        pair.deliver(from, captured.to, &reclear(&message, payloads));
        pair.flying.pop();
    }
}

fn cookie_in(answer: &Payloads) -> Option<Vec<u8>> {
    let cookie = data_of(answer, NotifyKind::COOKIE)?;
    Some([&[0, 0, 0x40, 0x06], cookie].concat())
}

fn victim_comes_back(seed: u64, attack: Attack, replays: u64) {
    let mut pair = asleep(seed);
    let mut rng = Rng(seed ^ 0x5eed);
    let own = request(&mut pair);
    for i in 0..replays {
        let chance = rng.next();
        let host = (chance >> 8) as u8;
        let (net, change, sees) = match attack {
            Attack::Forged => ([(chance as u8) | 1, host], None, false),
            Attack::OneNetwork => ([113, host], Some(chance), true),
            Attack::Changed => ([(chance as u8) | 1, host], Some(chance), false),
            Attack::Sixteen => ([(i % 16) as u8, host], Some(chance), true),
        };
        let from = SocketAddr::from(([203, 0, net[0], net[1]], 500));
        replay(&mut pair, &own, from, change, sees);
    }
    pair.flying.push(own);
    let within = match attack {
        Attack::Sixteen => Duration::from_secs(6),
        _ => Duration::from_secs(3),
    };
    pair.run(within);
    assert!(
        pair.keys_agree(),
        "seed {seed}, {attack:?}: {:?}",
        pair.client.events
    );
    if !matches!(attack, Attack::Sixteen) {
        assert!(resumed(&pair), "seed {seed}, {attack:?}: by its ticket");
    }
    assert_eq!(pair.gateway.established().len(), 1);
}

const ATTACKS: [Attack; 4] = [
    Attack::Forged,
    Attack::OneNetwork,
    Attack::Changed,
    Attack::Sixteen,
];

// RFC 5723: L8, A3
#[test]
fn c_burn_race() {
    for run in 0..1000_u64 {
        victim_comes_back(run, ATTACKS[(run % 4) as usize], REPLAYS);
    }
}

// RFC 5723: A3
#[test]
fn c_burn_race_of_a_thousand_replays() {
    for attack in ATTACKS {
        victim_comes_back(7, attack, MANY_REPLAYS);
    }
}
