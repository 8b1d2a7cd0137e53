//! Messages that do not fit a datagram (RFC 7383): when they go in fragments, what a receiver takes,
//! and what a flood of fragments costs it.

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use ike::{
    Settings,
    counters::Counter,
    io::{Command, Event},
    peer::Connection,
    wire::{
        fragment::Fragment,
        header::{Exchange, Header},
        payload::PayloadKind,
    },
};

use crate::{
    bed::{InFlight, Pair, Rng, Weather},
    certificates,
    hostile::variants,
    sides::{client_side, gateway_side},
    tap::{Payloads, Tap},
};

const SOON: Duration = Duration::from_secs(1);
/// Octets of an IP datagram that a login by shared key does not fit into either.
const SMALL: u16 = 200;
/// What is left of it for a message.
const LIMIT: usize = 200 - 52;

fn small(mut side: Vec<Connection>) -> Vec<Connection> {
    side[0].fragment_size = Some(SMALL);
    side
}

fn none(mut side: Vec<Connection>) -> Vec<Connection> {
    side[0].fragment_size = None;
    side
}

fn small_client() -> Vec<Connection> {
    small(client_side())
}

fn small_gateway() -> Vec<Connection> {
    small(gateway_side())
}

fn pair(seed: u64) -> Pair {
    Pair::with(seed, small_client, small_gateway, Settings::default())
}

fn up(seed: u64) -> Pair {
    let mut pair = pair(seed);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    pair
}

fn is_fragment(flight: &InFlight) -> bool {
    flight.message[16] == PayloadKind::SKF.0
}

fn fragments(flights: &[InFlight], exchange: u8, response: bool) -> Vec<InFlight> {
    let of = |flight: &&InFlight| {
        is_fragment(flight)
            && flight.message[18] == exchange
            && (flight.message[19] & 0x20 != 0) == response
    };
    flights.iter().filter(of).cloned().collect()
}

/// Runs until fragments of an IKE_AUTH request fly.
fn auth_in_flight(pair: &mut Pair) -> Vec<InFlight> {
    for _ in 0..200 {
        let found = fragments(&pair.flying, 35, false);
        if !found.is_empty() {
            return found;
        }
        pair.run(Duration::from_millis(1));
    }
    panic!("no IKE_AUTH in fragments");
}

#[test]
fn what_does_not_fit_goes_in_fragments_both_ways() {
    let pair = up(1);
    for response in [false, true] {
        let all = fragments(&pair.sent, 35, response);
        assert!(all.len() > 1, "response: {response}");
        for (number, flight) in (1..).zip(&all) {
            let (header, _) = Header::parse(&flight.message).expect("header");
            let fragment = Fragment::parse(&header, &flight.message).expect("a fragment");
            assert_eq!(
                (fragment.number, fragment.total),
                (number, all.len() as u16)
            );
        }
    }
    for flight in &pair.sent {
        // What is in clear is never cut.
        assert_eq!(is_fragment(flight), flight.message[18] == 35);
        assert!(!is_fragment(flight) || flight.message.len() <= LIMIT);
    }
}

#[test]
fn certificates_go_in_fragments_of_the_default_size() {
    let mut pair = certificates::certified(2);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "{:?}", pair.client.events);
    for flight in &pair.sent {
        assert!(flight.message.len() <= 1280 - 52);
    }
}

#[test]
fn unless_both_sides_say_so_nothing_is_fragmented() {
    type Side = fn() -> Vec<Connection>;
    let mute_client = || none(client_side());
    let mute_gateway = || none(gateway_side());
    let sides: [[Side; 2]; 2] = [[mute_client, small_gateway], [small_client, mute_gateway]];
    for [client, gateway] in sides {
        let mut pair = Pair::with(3, client, gateway, Settings::default());
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree());
        assert!(!pair.sent.iter().any(is_fragment));
        // Nor is one taken: it is no message at all.
        let stray = pair.gateway.endpoint.counters().total();
        let auth = pair.sent.iter().find(|flight| flight.message[18] == 35);
        let mut forged = auth.expect("sent").clone();
        forged.message[16] = PayloadKind::SKF.0;
        pair.deliver(forged.from, forged.to, &forged.message);
        assert!(pair.gateway.endpoint.counters().total() > stray);
    }
}

// RFC 5723: X1
#[test]
fn c_frag_notify() {
    // A resumption agrees on it anew: what the first login said is in no ticket.
    for agrees in [true, false] {
        let later: fn() -> Vec<Connection> = if agrees {
            small_gateway
        } else {
            || none(gateway_side())
        };
        let mut pair = up(4);
        pair.suspend();
        pair.gateway.connections = later;
        pair.gateway.restart(pair.now);
        pair.sent.clear();
        pair.client.events.clear();
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree() && pair.client.established()[0].resumed);
        let says = |flight: &InFlight| {
            let kind = 16430_u16.to_be_bytes();
            flight
                .message
                .windows(4)
                .any(|octets| octets == [0, 0, kind[0], kind[1]])
        };
        assert!(says(&pair.sent[0]), "in the request");
        assert_eq!(says(&pair.sent[1]), agrees, "in the answer");
        assert!(!is_fragment(&pair.sent[0]), "RESUME itself is in clear");
        assert_eq!(pair.sent.iter().any(is_fragment), agrees);
    }
}

#[test]
fn everything_after_a_login_fits_too() {
    let mut pair = up(5);
    for _ in 0..2 {
        pair.sent.clear();
        pair.command(&Command::Rekey("home".into())).expect("is up");
        pair.run(SOON);
        assert!(pair.keys_agree());
        assert!(fragments(&pair.sent, 36, false).len() > 1);
        for flight in &pair.sent {
            assert!(flight.message.len() <= LIMIT, "{}", flight.message[18]);
        }
    }
    // What fits is sent whole (RFC 7383, 2.4).
    pair.sent.clear();
    pair.run(Duration::from_secs(40));
    assert!(!pair.sent.is_empty() && !pair.sent.iter().any(is_fragment));
}

#[test]
fn loss_repetition_and_any_order_end_in_one_sa() {
    for seed in 0..200 {
        let mut pair = pair(seed);
        pair.weather = Weather {
            loss: seed % 15,
            duplicate: seed % 20,
            reorder: seed % 50,
        };
        pair.up();
        pair.run(Duration::from_mins(2));
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(2));
        let failed = |event: &Event| matches!(event, Event::UpFailed { .. });
        let clean = pair.client.events.iter().any(failed)
            && pair.client.established().is_empty()
            && pair.gateway.established().is_empty();
        assert!(
            pair.keys_agree() || clean,
            "seed {seed}: {:?}",
            pair.client.events
        );
    }
}

#[test]
fn only_the_first_fragment_of_an_answered_request_is_answered_again() {
    let mut pair = up(6);
    let request = fragments(&pair.sent, 35, false);
    let response = fragments(&pair.sent, 35, true);
    for (at, flight) in request.iter().enumerate() {
        let before = pair.sent.len();
        pair.deliver(flight.from, flight.to, &flight.message);
        let again: Vec<_> = pair.sent[before..]
            .iter()
            .map(|flight| &flight.message)
            .collect();
        if at == 0 {
            assert!(
                again
                    .into_iter()
                    .eq(response.iter().map(|flight| &flight.message))
            );
        } else {
            assert!(again.is_empty(), "fragment {}", at + 1);
        }
    }
    // The same once the SA is gone and only its last word is left.
    pair.sent.clear();
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    assert!(pair.gateway.established().is_empty());
}

#[test]
fn a_refusal_is_said_again_to_the_first_fragment() {
    fn stranger() -> Vec<Connection> {
        let mut side = small_client();
        side[0].local.id =
            ike::wire::id::Identity::from_text("somebody.example").expect("identity");
        side
    }
    let mut pair = Pair::with(7, stranger, small_gateway, Settings::default());
    pair.up();
    let request = auth_in_flight(&mut pair);
    pair.run(SOON);
    for (at, flight) in request.iter().enumerate() {
        let before = pair.sent.len();
        pair.deliver(flight.from, flight.to, &flight.message);
        assert_eq!(pair.sent.len() - before, usize::from(at == 0));
    }
}

#[test]
fn a_flood_of_fragments_derives_one_key_and_stops_no_login() {
    for seed in 0..5 {
        let mut rng = Rng(seed);
        let mut pair = pair(seed);
        pair.up();
        let genuine = auth_in_flight(&mut pair);
        for number in 0..200_u16 {
            let mut junk = genuine[0].clone();
            for octet in junk.message.iter_mut().skip(36) {
                *octet = rng.next() as u8;
            }
            junk.message[32..34].copy_from_slice(&(number % 64 + 1).to_be_bytes());
            junk.message[34..36].copy_from_slice(&(number % 70 + 1).to_be_bytes());
            pair.deliver(junk.from, junk.to, &junk.message);
        }
        assert_eq!(pair.gateway.env.agreed.load(Ordering::Relaxed), 1);
        assert_eq!(pair.gateway.endpoint.half_open(), 1);
        for flight in &genuine {
            for message in variants(&flight.message, &mut rng) {
                if message != flight.message {
                    pair.deliver(flight.from, flight.to, &message);
                }
            }
        }
        pair.run(SOON);
        assert_eq!(pair.gateway.env.agreed.load(Ordering::Relaxed), 1);
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

/// A message of so many octets in fragments, on the exchange that a pair has begun.
fn stuffing(pair: &Pair, octets: usize) -> Vec<Vec<u8>> {
    let (header, _) = Header::parse(&pair.sent[1].message).expect("header");
    let header = Header {
        next: PayloadKind::NONE,
        exchange: Exchange::IkeAuth,
        from_initiator: true,
        response: false,
        message_id: 1,
        ..header
    };
    let payloads: Payloads = vec![(PayloadKind::VENDOR_ID, vec![7; octets])];
    Tap::on(pair).forge_fragments(&header, payloads, 1200)
}

#[test]
fn who_sends_more_than_a_message_may_have_is_not_waited_for() {
    let mut pair = pair(8);
    pair.up();
    let genuine = auth_in_flight(&mut pair);
    pair.flying.clear();
    for message in stuffing(&pair, 17 << 10) {
        pair.deliver(genuine[0].from, genuine[0].to, &message);
    }
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
    let refused = pair
        .gateway
        .endpoint
        .counters()
        .count(Counter::FragmentsTooLong);
    assert_eq!(refused, 1, "and what follows belongs to no SA");
    let told = crate::why::told(&pair.gateway);
    assert!(
        told.contains("more fragments or octets than are kept"),
        "{told}"
    );
}

#[test]
fn of_half_open_sas_with_fragments_one_gives_way() {
    const KEPT: usize = 40_000;
    let settings = Settings {
        max_half_open_octets: KEPT,
        ..Settings::default()
    };
    let mut pair = Pair::with(9, small_client, small_gateway, settings);
    pair.up();
    pair.run(Duration::from_millis(15));
    // Many on their own DH, each with a long message that never ends; the double's secret is known.
    let first = pair.sent[0].clone();
    for number in 1..=10_u8 {
        let from = SocketAddr::from(([203, 0, 113, 5], 1000 + u16::from(number)));
        let mut message = first.message.clone();
        message[..8].fill(number);
        pair.sent.truncate(0);
        pair.sent.push(InFlight {
            message: message.clone(),
            ..first.clone()
        });
        pair.flying.clear();
        pair.deliver(from, first.to, &message);
        assert_eq!(pair.sent.len(), 2, "answered");
        let all = stuffing(&pair, 12_000);
        for message in &all[..all.len() - 1] {
            pair.deliver(from, first.to, message);
        }
    }
    let gateway = &pair.gateway.endpoint;
    let evicted = gateway.counters().count(Counter::HalfOpenEvicted);
    assert!(evicted >= 6, "{evicted}");
    assert!(
        (1..=5).contains(&gateway.half_open()),
        "{}",
        gateway.half_open()
    );
    pair.run(Duration::from_mins(1));
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
}

#[test]
fn a_message_whose_rest_does_not_come_is_forgotten() {
    let mut pair = up(10);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    let request = fragments(&pair.flying, 36, false);
    assert!(request.len() > 1);
    pair.flying.clear();
    let (one, others) = request.split_first().expect("some");
    pair.deliver(one.from, one.to, &one.message);
    // The client falls silent for longer than it would repeat itself, and then says the rest.
    let silence = Duration::from_secs(33);
    pair.advance_to(pair.now.boot + silence);
    pair.tick();
    pair.flying.clear();
    let before = pair.sent.len();
    for flight in others {
        pair.deliver(flight.from, flight.to, &flight.message);
    }
    assert_eq!(pair.sent.len(), before, "no answer");
}

#[test]
fn spoiled_fragments_do_not_stop_a_login() {
    for seed in 0..5 {
        let mut rng = Rng(seed);
        let mut pair = pair(seed);
        pair.up();
        for _ in 0..6 {
            for flight in pair.flying.clone() {
                if !is_fragment(&flight) {
                    continue;
                }
                for message in variants(&flight.message, &mut rng) {
                    if message != flight.message {
                        let before = pair.flying.len();
                        pair.deliver(flight.from, flight.to, &message);
                        assert_eq!(pair.flying.len(), before, "no answer");
                    }
                }
            }
            pair.run(Duration::from_millis(10));
        }
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn a_repeated_fragment_of_a_gateway_that_is_gone_is_no_sign_of_life() {
    fn patient() -> Vec<Connection> {
        let mut side = small_client();
        // Longer than the rest of a message is waited for.
        side[0].liveness = Duration::from_mins(1);
        side
    }
    let mut pair = Pair::with(9, patient, small_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    let (header, _) = Header::parse(&pair.sent[1].message).expect("header");
    let header = Header {
        next: PayloadKind::NONE,
        exchange: Exchange::Informational,
        from_initiator: false,
        response: false,
        message_id: 0,
        ..header
    };
    let payloads: Payloads = vec![(PayloadKind::VENDOR_ID, vec![7; 2000])];
    let fragments = Tap::on(&pair).forge_fragments(&header, payloads, 1200);
    let (from, to) = (pair.sent[1].from, pair.sent[1].to);
    pair.gone.insert(from.ip());
    for _ in 0..60 {
        pair.run(Duration::from_secs(5));
        pair.deliver(from, to, &fragments[0]);
    }
    assert!(pair.client.established().is_empty());
}
