//! Presenting a ticket and having it judged (RFC 5723, 4.3).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ike::{
    Settings,
    peer::Connection,
    wire::{notify::NotifyKind, payload::PayloadKind},
};

use super::{
    RESUME, SOON, asleep, deliver, exchange, forget, is_response, refusal, request, resumed,
};
use crate::{
    bed::{CLIENT, InFlight, Pair},
    sides::{client_side, gateway_side},
    tap::{clear, meddle, presented, reclear},
};

/// Octets of a message that says TICKET_NACK and nothing else.
const NACK_LEN: usize = 36;

/// Replaces the ticket in a request.
fn with_ticket(request: &InFlight, ticket: &[u8]) -> Vec<u8> {
    let mut payloads = clear(&request.message);
    for (kind, body) in &mut payloads {
        if *kind == PayloadKind::NOTIFY && body[2..4] == NotifyKind::TICKET_OPAQUE.0.to_be_bytes() {
            body.truncate(4);
            body.extend_from_slice(ticket);
        }
    }
    reclear(&request.message, payloads)
}

/// The gateway answers with TICKET_NACK alone and keeps nothing. Presented at a pace at which one
/// ticket may be opened again and again without a cookie.
fn assert_refused(pair: &mut Pair, request: &InFlight, message: &[u8], what: &str) {
    pair.now.boot += Duration::from_secs(5);
    pair.sent.clear();
    pair.deliver(request.from, request.to, message);
    pair.flying.clear();
    assert_eq!(pair.sent.len(), 1, "{what}");
    let answer = &pair.sent[0].message;
    assert_eq!(answer.len(), NACK_LEN, "{what}");
    assert_eq!(
        answer[34..],
        NotifyKind::TICKET_NACK.0.to_be_bytes(),
        "{what}"
    );
    assert_eq!(pair.gateway.endpoint.half_open(), 0, "{what}");
}

// RFC 5723: N18, N33, N38, N40, L7
#[test]
fn c_nack_every_flipped_bit_and_every_truncation() {
    let mut pair = asleep(1);
    let request = request(&mut pair);
    let ticket = presented(&request.message);
    for bit in 0..ticket.len() * 8 {
        let mut changed = ticket.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let message = with_ticket(&request, &changed);
        assert_refused(&mut pair, &request, &message, &format!("bit {bit}"));
    }
    for end in 0..ticket.len() {
        let message = with_ticket(&request, &ticket[..end]);
        assert_refused(&mut pair, &request, &message, &format!("cut at {end}"));
    }
    let long = [&ticket[..], &[0]].concat();
    assert_refused(
        &mut pair,
        &request,
        &with_ticket(&request, &long),
        "stretched",
    );
    // The ticket itself is as good as ever.
    deliver(&mut pair, &request);
    pair.run(SOON);
    assert!(resumed(&pair));
}

// RFC 5723: N15, N18, N38, N40, A21
#[test]
fn c_nack_every_reason() {
    type Spoil = fn(&mut Pair);
    let reasons: [(&str, Spoil); 7] = [
        ("unknown_key", |pair| pair.gateway.roots.clear()),
        ("unknown_key", |pair| pair.gateway.roots[0].0 = 8),
        ("forged", |pair| pair.gateway.roots[0].1[0] ^= 1),
        ("forged", |pair| pair.gateway.settings.node = 9),
        ("expired", |pair| pair.now.wall += 3660),
        ("used", |pair| {
            pair.gateway.ledger.used.insert((7, 1));
        }),
        ("policy", |pair| {
            pair.gateway.connections = || {
                let mut side = gateway_side();
                side[0].digest = [77; 32];
                side
            };
        }),
    ];
    for (why, spoil) in reasons {
        let mut pair = asleep(2);
        let request = request(&mut pair);
        spoil(&mut pair);
        pair.gateway.restart(pair.now);
        assert_refused(&mut pair, &request, &request.message, why);
        assert_eq!(refusal(&pair), Some(why));
    }
}

// RFC 5723: N38
#[test]
fn c_expired_gateway() {
    let mut pair = asleep(3);
    let request = request(&mut pair);
    pair.advance_to(pair.now.boot + Duration::from_mins(59));
    deliver(&mut pair, &request);
    assert_eq!(refusal(&pair), None, "good to the last");
    let mut pair = asleep(3);
    let request = self::request(&mut pair);
    pair.advance_to(pair.now.boot + Duration::from_mins(61));
    assert_refused(&mut pair, &request, &request.message, "expired");
    // However often it is shown, it is refused and never asked for a cookie instead.
    for number in 0..50 {
        let mut message = request.message.clone();
        message[..8].fill(number + 1);
        assert_refused(&mut pair, &request, &message, "expired");
        pair.now.boot -= Duration::from_secs(5);
    }
}

// RFC 5723: N14, N15, N55, A3
#[test]
fn c_one_time() {
    // A failed proof has not used the ticket.
    let mut pair = asleep(4);
    pair.up();
    let captured = pair.flying[0].clone();
    meddle(&mut pair, false, |payloads| {
        payloads.retain(|(kind, _)| *kind != PayloadKind::AUTH);
    });
    assert!(!resumed(&pair));
    forget(&mut pair);
    deliver(&mut pair, &captured);
    assert_eq!(refusal(&pair), None);
    assert!(pair.sent[0].message.len() > NACK_LEN, "accepted again");
    // A proven one has, and from then on the ticket opens nothing.
    let mut pair = asleep(5);
    pair.up();
    let captured = pair.flying[0].clone();
    pair.run(SOON);
    assert!(resumed(&pair));
    let mut other = captured.message.clone();
    other[0] ^= 1;
    assert_refused(&mut pair, &captured, &other, "used");
}

// RFC 5723: N16, N23, L2, T9
#[test]
fn t_msgid() {
    let mut pair = asleep(6);
    pair.gateway.settings.cookie_from = 0;
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    let ids = pair
        .sent
        .iter()
        .map(|sent| (exchange(sent), sent.message[23]));
    let expected = [(38, 0), (38, 0), (38, 0), (38, 0), (35, 1), (35, 1)];
    assert_eq!(ids.collect::<Vec<_>>(), expected);
    // Next: 2 of the client's, 0 of the gateway's, whoever is first.
    forget(&mut pair);
    pair.run(Duration::from_secs(35));
    let first = &pair.sent[0];
    let from_client = first.from.ip().to_string() == CLIENT;
    assert_eq!(first.message[23], if from_client { 2 } else { 0 });
}

// RFC 5723: L1, N31, T7
#[test]
fn t_spis_fresh() {
    let mut seen = std::collections::HashSet::new();
    let mut pair = asleep(7);
    for _ in 0..200 {
        pair.up();
        assert_eq!(pair.sent[0].message[8..16], [0; 8], "SPIr of the request");
        pair.run(SOON);
        assert!(pair.keys_agree());
        let spis = pair.client.established()[0].spis;
        assert_eq!(pair.sent[1].message[..8], spis.0);
        assert!(seen.insert(spis.0.to_vec()) && seen.insert(spis.1.to_vec()));
        let child = pair.client.child();
        for spi in [child.inbound.spi, child.outbound.spi] {
            assert!(seen.insert(spi.to_be_bytes().to_vec()));
        }
        pair.suspend();
        forget(&mut pair);
    }
    // A request that names an SPI of ours is none.
    let mut request = request(&mut pair);
    request.message[8] = 1;
    let before = pair.sent.len();
    deliver(&mut pair, &request);
    assert_eq!(pair.sent.len(), before);
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
}

// RFC 5723: N19, T5
#[test]
fn t_resume_new_address() {
    fn anywhere() -> Vec<Connection> {
        let mut side = client_side();
        side[0].local_addr = None;
        side
    }
    let new: IpAddr = "203.0.113.9".parse().expect("an address");
    let mut pair = Pair::with(8, anywhere, gateway_side, Settings::default());
    let old = CLIENT.parse().expect("an address");
    pair.client.endpoint.set_local_address("home", old);
    pair.up();
    pair.run(SOON);
    assert_eq!(pair.gateway.child().path.remote.ip(), old);
    pair.suspend();
    forget(&mut pair);
    pair.client.endpoint.set_local_address("home", new);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
    assert_eq!(pair.gateway.child().path.remote.ip(), new);
    assert_eq!(pair.client.child().path.local.ip(), new);
}

// RFC 5723: N22, T6
#[test]
fn t_nat_redetect() {
    let outside = Some(SocketAddr::from(([203, 0, 113, 5], 40_000)));
    for (before, after) in [(None, outside), (outside, None)] {
        let mut pair = Pair::new(9);
        pair.nat = before;
        pair.up();
        pair.run(SOON);
        assert_eq!(pair.gateway.child().udp_encap, before.is_some());
        pair.suspend();
        forget(&mut pair);
        pair.nat = after;
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree() && resumed(&pair));
        for node in [&pair.client, &pair.gateway] {
            assert_eq!(node.child().udp_encap, after.is_some());
        }
        // With MOBIKE the port is the same where there is no NAT (RFC 4555, 3.3).
        assert_eq!(pair.client.child().path.remote.port(), 4500);
    }
}

// RFC 5723: L12, L13
#[test]
fn c_retransmit() {
    let mut pair = asleep(10);
    pair.up();
    // The first two answers are lost.
    let mut lost = 0;
    while !resumed(&pair) {
        pair.run(Duration::from_millis(5));
        pair.flying.retain(|flight| {
            let lose = is_response(flight) && exchange(flight) == RESUME && lost < 2;
            lost += u32::from(lose);
            !lose
        });
        assert!(pair.gateway.endpoint.half_open() <= 1);
    }
    let all = |response| {
        let sent = pair
            .sent
            .iter()
            .filter(move |sent| exchange(sent) == RESUME);
        let sent = sent.filter(|sent| is_response(sent) == response);
        sent.map(|sent| sent.message.clone()).collect::<Vec<_>>()
    };
    for messages in [all(false), all(true)] {
        assert_eq!(messages.len(), 3);
        assert!(messages.iter().all(|message| *message == messages[0]));
    }
}
