//! Session resumption between two cores: through a restart of the gateway, and through everything
//! that may go wrong with a ticket (RFC 5723).

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::bed::Pair;
use crate::sides::{client_side, gateway_side, suite};
use ike::{
    CommandRefused, Settings,
    counters::Counter,
    crypto::{Encryption, Group, Prf},
    io::{Command, Event},
    peer::Connection,
    view::{Closed, SaState},
    wire::id::Identity,
};

const SOON: Duration = Duration::from_secs(1);

/// Exchange type of a message.
fn exchange(message: &[u8]) -> u8 {
    message[18]
}

fn suspended(seed: u64) -> Pair {
    let mut pair = Pair::new(seed);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.sent.clear();
    pair
}

fn resumed(pair: &Pair) -> bool {
    let hit = |e: &Event| matches!(e, Event::Established { resumed: true, .. });
    pair.client.events.iter().any(hit) && pair.gateway.events.iter().any(hit)
}

// RFC 5723: N1, N11, N16, N23, N31, T7, A9
#[test]
fn a_suspended_tunnel_resumes_through_a_restart_of_the_gateway() {
    let mut pair = Pair::new(1);
    pair.up();
    pair.run(SOON);
    let full_octets = pair.octets_sent();
    let before = (
        pair.client.child().inbound.spi,
        pair.client.child().outbound.spi,
    );
    let old_key = pair.client.child().inbound.key.duplicate();
    pair.suspend();
    assert_eq!(
        pair.client.endpoint.sas(pair.now)[0].state,
        SaState::Suspended
    );
    assert!(pair.client.kernel.installed.is_empty());
    assert_eq!(
        pair.client.kernel.blocked.len(),
        1,
        "the block policy stands"
    );
    assert_eq!(pair.sent.len(), 4, "no DELETE on the wire");
    pair.gateway.restart(pair.now);
    pair.sent.clear();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
    let exchanges: Vec<_> = pair
        .sent
        .iter()
        .map(|sent| exchange(&sent.message))
        .collect();
    assert_eq!(exchanges, [38, 38, 35, 35]);
    let after = (
        pair.client.child().inbound.spi,
        pair.client.child().outbound.spi,
    );
    assert!(before.0 != after.0 && before.1 != after.1, "SPIs are fresh");
    assert_ne!(old_key, pair.client.child().inbound.key, "keys are fresh");
    assert!(
        pair.octets_sent() < full_octets,
        "{} < {full_octets}",
        pair.octets_sent()
    );
}

// RFC 5723: N5, N14
#[test]
fn tickets_chain_and_each_is_used_once() {
    let mut pair = suspended(2);
    for round in 1..=5 {
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree());
        assert_eq!(pair.client.established()[0].resume_count, round);
        assert!(pair.gateway.ledger.used.contains(&(7, round)));
        pair.suspend();
    }
}

#[test]
fn with_names_of_32_octets_the_ticket_has_256_octets_at_most() {
    fn long_client() -> Vec<Connection> {
        let mut side = client_side();
        side[0].local.id = Identity::from_text("client-with-a-name-of-32.example").unwrap();
        side
    }
    fn long_gateway() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].remote.id = Identity::from_text("client-with-a-name-of-32.example");
        side
    }
    let mut pair = Pair::with(3, long_client, long_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    let issued = pair.gateway.events.iter().find_map(|event| match event {
        Event::TicketIssued { octets, .. } => Some(*octets),
        _ => None,
    });
    assert!(issued.is_some_and(|octets| octets <= 256), "{issued:?}");
}

// RFC 5723: N13
#[test]
fn an_expired_ticket_is_not_presented() {
    let mut pair = suspended(4);
    pair.run(Duration::from_hours(1));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(pair.sent.iter().all(|sent| exchange(&sent.message) != 38));
}

// RFC 5723: N18, N40, L3
#[test]
fn a_gateway_without_the_key_answers_nack_and_a_full_exchange_follows() {
    let mut pair = suspended(5);
    pair.gateway.roots = vec![(8, vec![99; 32])];
    pair.gateway.ledger.key_id = 8;
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && !resumed(&pair));
    let nack = pair
        .sent
        .iter()
        .find(|sent| exchange(&sent.message) == 38 && sent.message[19] & 0x20 != 0);
    assert_eq!(nack.expect("an answer").message.len(), 36);
    assert_eq!(
        pair.gateway
            .endpoint
            .counters()
            .count(Counter::TicketRefused),
        1
    );
}

// RFC 5723: L14, A5
#[test]
fn a_spoofed_nack_does_not_stop_the_resumption() {
    let mut pair = suspended(6);
    pair.up();
    let request = pair.sent[0].clone();
    let mut nack = request.message[..8].to_vec();
    nack.extend_from_slice(&[0; 8]);
    nack.extend_from_slice(&[
        41, 0x20, 38, 0x20, 0, 0, 0, 0, 0, 0, 0, 36, 0, 0, 0, 8, 0, 0,
    ]);
    nack.extend_from_slice(&16412_u16.to_be_bytes());
    pair.deliver(request.to, request.from, &nack);
    pair.run(Duration::from_secs(3));
    assert!(pair.keys_agree());
    assert_eq!(pair.client.established().len(), 1);
}

// RFC 5723: N12, A6
#[test]
fn a_gateway_that_does_not_know_the_exchange_gets_a_full_one_after_three_seconds() {
    let mut pair = suspended(7);
    pair.up();
    let start = pair.now.boot;
    // Everything of exchange 38 vanishes.
    for _ in 0..200 {
        pair.flying.retain(|flight| exchange(&flight.message) != 38);
        pair.run(Duration::from_millis(25));
    }
    assert!(pair.keys_agree() && !resumed(&pair));
    assert!(pair.now.boot.checked_sub(start).unwrap() < Duration::from_secs(6));
}

// RFC 5723: N21, L8, A4
#[test]
fn cookies_are_answered_on_resumption_too() {
    let mut pair = suspended(8);
    pair.gateway.settings.cookie_from = 0;
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
    let count = pair
        .sent
        .iter()
        .filter(|sent| exchange(&sent.message) == 38)
        .count();
    assert_eq!(count, 4, "request, COOKIE, request with it, answer");
}

// RFC 5723: A3
#[test]
fn replayed_requests_do_not_burn_the_ticket() {
    let mut pair = suspended(9);
    pair.up();
    let request = pair.flying.remove(0);
    // An eavesdropper replays it from elsewhere before the gateway sees the client's own, as it is
    // and with a nonce of its own.
    for i in 0..200_u8 {
        let from = SocketAddr::from(([203, 0, 113, i], 500));
        let mut message = request.message.clone();
        if i % 2 == 0 {
            message[40] ^= i | 1;
        }
        pair.deliver(from, request.to, &message);
    }
    pair.flying.clear();
    pair.run(Duration::from_secs(3));
    assert!(pair.keys_agree() && resumed(&pair));
}

/// The request again, with the COOKIE of the answer, its only payload, put first (RFC 7296, 2.6).
fn with_cookie(request: &[u8], answer: &[u8]) -> Vec<u8> {
    const NOTIFY: u8 = 41;
    let (header, payloads) = request.split_at(28);
    let mut cookie = answer[28..].to_vec();
    let mut again = header.to_vec();
    cookie[0] = std::mem::replace(&mut again[16], NOTIFY);
    let length = u32::try_from(request.len() + cookie.len()).unwrap();
    again[24..28].copy_from_slice(&length.to_be_bytes());
    again.extend(cookie);
    again.extend(payloads);
    again
}

// RFC 5723: A3
#[test]
fn one_network_with_many_half_open_does_not_crowd_out_the_client() {
    let mut pair = suspended(9);
    pair.up();
    // The client's first request is known, and its answer is on the way, when an eavesdropper who can
    // receive cookies opens as many as it can, from a few places.
    let request = pair.flying.remove(0);
    pair.deliver(request.from, request.to, &request.message);
    let answer = pair.flying.remove(0);
    for i in 1..=100_u8 {
        let from = SocketAddr::from(([203, 0, 113, i / 34], 1000 + u16::from(i)));
        let mut message = request.message.clone();
        message[40] ^= i;
        pair.deliver(from, request.to, &message);
        let asked = pair.flying.pop().unwrap();
        pair.deliver(from, request.to, &with_cookie(&message, &asked.message));
        pair.now.boot += Duration::from_millis(20);
    }
    assert_eq!(pair.gateway.endpoint.half_open(), 8);
    pair.flying.clear();
    pair.flying.push(answer);
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
}

// RFC 5723: A4
#[test]
fn refusals_have_a_budget_and_strangers_a_smaller_one() {
    let mut pair = suspended(9);
    pair.up();
    let request = pair.flying.remove(0);
    let (mut nacks, mut cookies) = (0, 0);
    for i in 0..5000_u32 {
        let from = SocketAddr::from((Ipv4Addr::from(0xCB00_7100 | (i % 256)), 500));
        let message = with_a_forged_envelope(&request.message, i);
        pair.deliver(from, request.to, &message);
        for answer in pair.flying.drain(..) {
            match first_notify(&answer.message) {
                TICKET_NACK => nacks += 1,
                COOKIE => cookies += 1,
                other => panic!("{other}"),
            }
            assert!(answer.message.len() <= message.len());
        }
    }
    assert_eq!((nacks, cookies), (1000, 3000));
    pair.now.boot += Duration::from_secs(1);
    let message = with_a_broken_ticket(&request.message, 1);
    pair.deliver(request.from, request.to, &message);
    assert_eq!(first_notify(&pair.flying.remove(0).message), TICKET_NACK);
}

// RFC 5723: N18, A4
#[test]
fn under_load_a_refused_ticket_is_told_so_only_at_a_proven_address() {
    let mut pair = suspended(9);
    pair.gateway.settings.cookie_from = 0;
    pair.gateway.restart(pair.now);
    pair.up();
    let request = pair.flying.remove(0);
    let message = with_a_broken_ticket(&request.message, 1);
    pair.deliver(request.from, request.to, &message);
    let asked = pair.flying.remove(0);
    assert_eq!(first_notify(&asked.message), COOKIE);
    let again = with_cookie(&message, &asked.message);
    // The cookie is good for this address, and for this ticket.
    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 500));
    pair.deliver(elsewhere, request.to, &again);
    assert_eq!(first_notify(&pair.flying.remove(0).message), COOKIE);
    pair.deliver(request.from, request.to, &again);
    assert_eq!(first_notify(&pair.flying.remove(0).message), TICKET_NACK);
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
}

// RFC 5723: A3
#[test]
fn a_captured_ticket_is_opened_a_few_times_and_then_only_at_a_proven_address() {
    let mut pair = suspended(9);
    pair.up();
    let request = pair.flying.remove(0);
    let answers = |pair: &mut Pair, from: SocketAddr, which: u32| {
        let message = with_a_broken_ticket(&request.message, which);
        pair.deliver(from, request.to, &message);
        let answer = pair.flying.pop().expect("an answer");
        (message, answer.message)
    };
    let at = |last: u8| SocketAddr::from(([203, 0, 113, last], 500));
    for which in 0..3 {
        let (_, answer) = answers(&mut pair, at(which as u8), which);
        assert_eq!(first_notify(&answer), TICKET_NACK);
    }
    let mut opened = 0;
    for which in 3..40 {
        let (message, asked) = answers(&mut pair, at(200), which);
        assert_eq!(first_notify(&asked), COOKIE, "{which}");
        pair.deliver(at(200), request.to, &with_cookie(&message, &asked));
        for answer in pair.flying.drain(..) {
            assert_eq!(first_notify(&answer.message), TICKET_NACK);
            opened += 1;
        }
    }
    assert_eq!(opened, 3, "of one network");
    assert_eq!(
        pair.gateway.endpoint.counters().count(Counter::TicketHot),
        2 * 37
    );
    // Who holds the ticket has a share of his own.
    pair.flying.push(request);
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
}

#[test]
fn the_gate_is_told_what_a_repetition_of_an_admitted_message_looks_like() {
    let mut pair = suspended(9);
    pair.up();
    let request = pair.flying.remove(0);
    pair.gateway.admitted = None;
    pair.deliver(request.from, request.to, &request.message);
    let (spi_i, source, nonce_head) = pair.gateway.admitted.expect("told");
    assert_eq!(request.message[..8], spi_i);
    assert_eq!(request.from.ip(), source);
    // Ni comes first, behind its generic header.
    assert_eq!(request.message[32..48], nonce_head);
}

const TICKET_NACK: u16 = 16412;
const COOKIE: u16 = 16390;

/// The request with a flipped bit inside its ticket, which then opens no more.
fn with_a_broken_ticket(request: &[u8], which: u32) -> Vec<u8> {
    let mut message = request.to_vec();
    message[150] ^= 1 | (u8::try_from(which % 128).unwrap() << 1);
    message
}

/// The request with a flipped bit in the envelope of its ticket, whose tag is then wrong.
fn with_a_forged_envelope(request: &[u8], which: u32) -> Vec<u8> {
    let mut message = request.to_vec();
    message[80] ^= 1 | (u8::try_from(which % 128).unwrap() << 1);
    message
}

/// Kind of the only notification in an answer.
fn first_notify(answer: &[u8]) -> u16 {
    u16::from_be_bytes([answer[34], answer[35]])
}

// RFC 5723: L12
#[test]
fn a_repeated_request_gets_the_identical_answer_and_one_slot() {
    let mut pair = suspended(10);
    pair.up();
    let request = pair.flying.remove(0);
    pair.deliver(request.from, request.to, &request.message);
    pair.deliver(request.from, request.to, &request.message);
    let answers: Vec<_> = pair
        .flying
        .iter()
        .map(|flight| flight.message.clone())
        .collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(pair.gateway.endpoint.half_open(), 1);
}

// RFC 5723: N15, N55
#[test]
fn a_used_ticket_is_refused() {
    let mut pair = suspended(11);
    pair.up();
    let request = pair.sent[0].clone();
    pair.run(SOON);
    assert!(resumed(&pair));
    pair.gateway.restart(pair.now);
    // Its body is not opened for that: the second one's would not open.
    let broken = with_a_broken_ticket(&request.message, 1);
    for message in [&request.message, &broken] {
        pair.gateway.events.clear();
        pair.deliver(request.from, request.to, message);
        let why = pair.gateway.events.iter().find_map(|event| match event {
            Event::TicketRefused { why, .. } => Some(why.word()),
            _ => None,
        });
        assert_eq!(why, Some("used"));
    }
}

// RFC 5723: N42, T10, X11, A21
#[test]
fn a_ticket_made_under_other_settings_is_refused() {
    fn changed() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].digest = [77; 32];
        side
    }
    fn banned() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].ike_suites = vec![suite(
            Encryption::ChaCha20Poly1305,
            Prf::HmacSha512,
            Group::P256,
        )];
        side
    }
    fn gone() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].name = "other".into();
        side
    }
    for connections in [changed, banned, gone] {
        let mut pair = suspended(12);
        pair.gateway.connections = connections;
        pair.gateway.restart(pair.now);
        pair.up();
        pair.run(Duration::from_secs(5));
        assert!(!resumed(&pair));
        assert_eq!(
            pair.client.established().len(),
            1,
            "the full exchange still works"
        );
        assert_eq!(pair.gateway.established().len(), 1);
    }
}

// RFC 5723: N27, N30, A19
#[test]
fn the_old_sa_is_replaced_without_a_word() {
    let mut pair = suspended(13);
    assert_eq!(
        pair.gateway.established().len(),
        1,
        "the gateway does not know yet"
    );
    pair.up();
    pair.run(SOON);
    assert_eq!(pair.gateway.established().len(), 1);
    let replaced = |e: &Event| {
        matches!(
            e,
            Event::Closed {
                reason: Closed::Replaced,
                ..
            }
        )
    };
    assert!(pair.gateway.events.iter().any(replaced));
    assert_eq!(pair.sent.len(), 4, "no DELETE exchange");
}

// RFC 5723: N6, N8
#[test]
fn without_ticket_there_is_nothing_to_suspend() {
    fn no_tickets() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.enabled = false;
        side
    }
    let mut pair = Pair::with(14, client_side, no_tickets, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "TICKET_NACK does not fail the SA");
    let suspend = Command::Suspend("home".into());
    assert_eq!(pair.command(&suspend), Err(CommandRefused::NoTicket));
}

// RFC 5723: N6, N8
#[test]
fn without_an_index_the_gateway_answers_ack_and_the_sa_stands() {
    let mut pair = Pair::new(15);
    pair.gateway.ledger.exhausted = true;
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(
        !pair
            .client
            .events
            .iter()
            .any(|e| matches!(e, Event::TicketReceived { .. }))
    );
}

// RFC 5723: N19, N22, T5, T6
#[test]
fn the_client_may_come_from_another_address() {
    let mut pair = suspended(16);
    pair.nat = Some(SocketAddr::from(([203, 0, 113, 5], 40_000)));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(&pair));
    assert!(pair.gateway.child().udp_encap, "NAT is found anew");
}

// RFC 5723: N41, L6
#[test]
fn a_deleted_sa_takes_its_ticket_with_it() {
    let mut pair = Pair::new(17);
    pair.up();
    pair.run(SOON);
    pair.command(&Command::Down("home".into())).unwrap();
    pair.run(SOON);
    pair.sent.clear();
    pair.up();
    pair.run(SOON);
    assert!(pair.sent.iter().all(|sent| exchange(&sent.message) != 38));
}

// RFC 5723: A9
#[test]
fn a_lost_gateway_is_resumed_without_the_operator() {
    let mut pair = Pair::new(18);
    pair.up();
    pair.run(SOON);
    pair.gateway.restart(pair.now);
    pair.run(Duration::from_mins(2));
    assert!(pair.keys_agree() && resumed(&pair));
}
