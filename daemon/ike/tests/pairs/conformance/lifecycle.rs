//! How tickets and the SAs they open begin and end (RFC 5723, 6.2, and our rulings).

use std::time::Duration;

use ike::{
    Settings,
    counters::Counter,
    io::{Command, Event},
    peer::Connection,
    view::Closed,
    wire::{notify::NotifyKind, payload::PayloadKind},
};

use super::{
    SOON, asleep, data_of, deliver, exchange, forget, kinds, refusal, request, resumed, up,
};
use crate::{
    bed::Pair,
    sides::{client_side, gateway_side},
    tap::{auth_messages, meddle},
};

// RFC 5723: N41, L4, N15
#[test]
fn c_delete_kills_ticket() {
    // Deleted by the gateway: the client comes back by a full exchange.
    let mut pair = up(1);
    forget(&mut pair);
    pair.gateway_does(&Command::Down("rw".into()));
    pair.run(Duration::from_mins(1));
    assert!(pair.sent.iter().all(|sent| exchange(sent) != super::RESUME));
    assert!(pair.gateway.ledger.used.contains(&(7, 1)));
    // Deleted by the client: a copy of the ticket opens nothing.
    let mut pair = asleep(2);
    let copy = request(&mut pair);
    pair.run(Duration::from_millis(600));
    pair.run(SOON);
    assert!(resumed(&pair));
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    forget(&mut pair);
    deliver(&mut pair, &copy);
    assert_eq!(refusal(&pair), Some("used"));
    assert!(
        pair.gateway.ledger.used.contains(&(7, 2)),
        "nor does its successor"
    );
}

// RFC 5723: A18
#[test]
fn c_second_of_two_proven_resumptions_is_refused() {
    let mut pair = asleep(3);
    pair.up();
    pair.run(Duration::from_millis(25));
    assert_eq!(exchange(&pair.flying[0]), 35, "the proof is on its way");
    // Meanwhile somebody with the same ticket and proof has won.
    pair.gateway.ledger.used.insert((7, 1));
    pair.run(SOON);
    assert!(!resumed(&pair));
    let answer = &auth_messages(&pair)[1];
    assert_eq!(kinds(answer), [NotifyKind::AUTHENTICATION_FAILED]);
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree(), "back by a full exchange");
}

// RFC 5723: A18, N37
#[test]
fn c_second_of_two_by_reference_is_refused_though_the_record_is_gone() {
    fn by_reference() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.by_reference = true;
        side
    }
    let mut pair = Pair::with(3, client_side, by_reference, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(Duration::from_millis(25));
    assert_eq!(exchange(&pair.flying[0]), 35, "the proof is on its way");
    pair.gateway.ledger.used.insert((7, 1));
    pair.gateway.ledger.kept.clear();
    pair.run(SOON);
    assert!(!resumed(&pair));
    let counters = pair.gateway.endpoint.counters();
    assert_eq!(counters.count(Counter::AuthFailed), 1);
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree(), "told so, and back by a full exchange");
}

// RFC 5723: N27, A19
#[test]
fn c_old_sa_replaced() {
    let mut pair = asleep(4);
    let old = pair.gateway.established()[0].clone();
    let esp = pair.gateway.child().inbound.spi;
    pair.up();
    pair.run(Duration::from_millis(25));
    assert_eq!(
        pair.gateway.established()[0].spis,
        old.spis,
        "not before the proof"
    );
    assert_eq!(pair.gateway.child().inbound.spi, esp);
    pair.run(SOON);
    let replaced = |event: &Event| matches!(event, Event::Closed { sa, reason: Closed::Replaced, .. } if *sa == old.id);
    assert!(pair.gateway.events.iter().any(replaced));
    assert!(
        pair.sent.iter().all(|sent| exchange(sent) != 37),
        "without a word"
    );
    // A proof that fails leaves the old SA alone.
    let mut pair = asleep(5);
    let old = pair.gateway.established()[0].clone();
    pair.up();
    meddle(&mut pair, false, |payloads| {
        let found = payloads
            .iter_mut()
            .find(|(kind, _)| *kind == PayloadKind::AUTH);
        found.expect("proof").1[10] ^= 1;
    });
    let closed = |e: &Event| matches!(e, Event::Closed { sa, .. } if *sa == old.id);
    let login = |e: &Event| matches!(e, Event::Established { resumed: false, .. });
    assert!(!resumed(&pair));
    // What the client does next, a full login, may replace it; the failure has not.
    let events = &pair.gateway.events;
    assert!(!events.iter().any(closed) || events.iter().any(login));
}

// RFC 5723: A15
#[test]
fn c_no_initial_contact() {
    let mut pair = asleep(6);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    for message in auth_messages(&pair) {
        assert!(!kinds(&message).contains(&NotifyKind::INITIAL_CONTACT));
    }
}

// RFC 5723: X6, A17
#[test]
fn c_token_is_new() {
    let token = |pair: &Pair, which: usize| {
        let message = &auth_messages(pair)[which];
        data_of(message, NotifyKind::QCD_TOKEN)
            .expect("a token")
            .to_vec()
    };
    let mut pair = up(7);
    let before = [token(&pair, 0), token(&pair, 1)];
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    let after = [token(&pair, 0), token(&pair, 1)];
    assert!(before[0] != after[0] && before[1] != after[1]);
}

// RFC 5723: A20
#[test]
fn c_gateway_does_not_begin() {
    let mut pair = up(8);
    // The client's machine is off for an hour.
    forget(&mut pair);
    for _ in 0..3600 {
        pair.flying.clear();
        pair.run(Duration::from_millis(5));
        pair.flying.clear();
        pair.advance_to(pair.now.boot + SOON);
        let now = pair.now;
        let node = &mut pair.gateway;
        node.endpoint.handle(
            ike::io::Input::Deadline,
            &mut ike::Context {
                now,
                env: &mut node.env,
                ledger: &mut node.ledger,
                leases: &mut node.leases,
            },
        );
        pair.drain();
    }
    assert!(pair.gateway.established().is_empty());
    let of_gateway =
        |sent: &&crate::bed::InFlight| sent.from.ip().to_string() == crate::bed::GATEWAY;
    let begun = pair
        .sent
        .iter()
        .filter(of_gateway)
        .filter(|sent| matches!(exchange(sent), 34 | 38));
    assert_eq!(begun.count(), 0);
}

// RFC 5723: A13
#[test]
fn c_resumed_sa_ends_with_the_authentication() {
    fn reauth() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].reauth = Some(Duration::from_mins(10));
        side
    }
    let settings = Settings::default();
    let mut pair = Pair::with(9, client_side, reauth, settings);
    pair.up();
    pair.run(SOON);
    pair.run(Duration::from_mins(5));
    pair.suspend();
    forget(&mut pair);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
    let told = data_of(&auth_messages(&pair)[1], NotifyKind::AUTH_LIFETIME).map(<[u8]>::to_vec);
    let told = u32::from_be_bytes(told.expect("told").try_into().expect("four octets"));
    assert!((290..=300).contains(&told), "{told} s are left");
    let id = pair.gateway.established()[0].id;
    pair.run(Duration::from_mins(6));
    let closed = |e: &Event| matches!(e, Event::Closed { sa, .. } if *sa == id);
    assert!(pair.gateway.events.iter().any(closed));
}
