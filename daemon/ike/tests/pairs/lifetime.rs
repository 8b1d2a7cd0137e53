//! How long tickets and authentications last: no chain of resumptions extends what a full
//! authentication has earned (RFC 5723, 6.2; RFC 4478).

use std::time::Duration;

use ike::{
    Settings,
    io::Event,
    peer::{Compat, Connection},
    ticket::Refused,
};

use crate::bed::Pair;
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);

fn reauth_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].reauth = Some(Duration::from_mins(10));
    side
}

fn lifetimes(pair: &Pair) -> Vec<u64> {
    let lifetime = |event: &Event| match event {
        Event::TicketReceived { lifetime, .. } => Some(lifetime.as_secs()),
        _ => None,
    };
    pair.client.events.iter().filter_map(lifetime).collect()
}

// RFC 5723: N44, T19, A12, A13
#[test]
fn no_chain_of_resumptions_extends_the_authentication() {
    let mut pair = Pair::with(1, client_side, reauth_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    for _ in 0..5 {
        pair.run(Duration::from_secs(99));
        pair.suspend();
        pair.up();
        pair.run(SOON);
        assert!(pair.client.established()[0].resumed);
    }
    let lifetimes = lifetimes(&pair);
    for (i, lifetime) in lifetimes.iter().enumerate() {
        let most = 600 - 100 * i as u64;
        assert!(
            *lifetime <= most,
            "ticket {i}: {lifetime} s, not above {most}"
        );
    }
    // At the deadline the client authenticates in full, by itself.
    pair.client.events.clear();
    pair.run(Duration::from_secs(130));
    assert!(pair.keys_agree());
    assert!(
        !pair.client.established()[0].resumed,
        "{:?}",
        pair.client.events
    );
}

// RFC 5723: N38, A12
#[test]
fn a_ticket_from_before_the_deadline_is_refused_after_it() {
    let mut pair = Pair::with(2, client_side, reauth_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    let request = pair.flying.remove(0);
    pair.flying.clear();
    // The gateway's envelope counts whole minutes, its policy seconds.
    pair.advance_to(pair.now.boot + Duration::from_mins(10));
    pair.deliver(request.from, request.to, &request.message);
    let refused = |e: &Event| {
        matches!(
            e,
            Event::TicketRefused {
                why: Refused::Expired,
                ..
            }
        )
    };
    assert!(
        pair.gateway.events.iter().any(refused),
        "{:?}",
        pair.gateway.events
    );
}

// RFC 5723: N3
#[test]
fn a_ticket_is_renewed_before_it_ends() {
    fn short() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].resume.ticket_lifetime = Duration::from_mins(2);
        side
    }
    let mut pair = Pair::with(3, client_side, short, Settings::default());
    pair.up();
    pair.run(Duration::from_secs(400));
    assert!(lifetimes(&pair).len() >= 4, "{:?}", lifetimes(&pair));
    assert!(
        pair.gateway.ledger.used.contains(&(7, 1)),
        "a re-issued ticket is void"
    );
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed);
}

// RFC 5723: N3, N7
#[test]
fn after_an_ack_the_client_asks_again() {
    let mut pair = Pair::new(4);
    pair.gateway.ledger.exhausted = true;
    pair.up();
    pair.run(SOON);
    assert!(lifetimes(&pair).is_empty());
    pair.gateway.ledger.exhausted = false;
    pair.run(Duration::from_secs(61));
    assert_eq!(lifetimes(&pair).len(), 1);
}

// RFC 5723: N4
#[test]
fn the_gateway_never_pushes_a_ticket() {
    fn modest() -> Vec<Connection> {
        let mut side = client_side();
        side[0].resume.enabled = false;
        side
    }
    let mut pair = Pair::with(5, modest, gateway_side, Settings::default());
    pair.up();
    pair.run(Duration::from_hours(1));
    let issued = |e: &Event| matches!(e, Event::TicketIssued { .. });
    assert!(!pair.gateway.events.iter().any(issued));
    assert!(pair.keys_agree());
}

// RFC 5723: A16
#[test]
fn a_step_of_the_wall_clock_does_not_end_a_session() {
    for step in [-7200_i64, -200, 200, 1800] {
        let mut pair = Pair::new(6);
        pair.up();
        pair.run(SOON);
        pair.suspend();
        pair.now.wall = pair.now.wall.saturating_add_signed(step);
        pair.up();
        pair.run(SOON);
        let resumed = pair.client.established()[0].resumed;
        // Far before its own issue a ticket is not believed; a full exchange still works.
        assert_eq!(resumed, step > -300, "step of {step} s");
    }
}

fn swan_client() -> Vec<Connection> {
    let mut side = client_side();
    side[0].compat = Compat::Libreswan;
    side
}

fn swan_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].compat = Compat::Libreswan;
    side
}

// RFC 5723: A2
#[test]
fn both_sides_in_libreswan_form_understand_each_other() {
    let mut pair = Pair::with(7, swan_client, swan_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.client.established()[0].resumed);

    // Exactly one form is accepted: the other is a failed proof, and a full exchange follows.
    let mut pair = Pair::with(8, swan_client, gateway_side, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    pair.run(Duration::from_secs(5));
    assert!(pair.keys_agree() && !pair.client.established()[0].resumed);
}

#[test]
fn a_libreswan_client_is_never_asked_for_a_cookie_when_it_resumes() {
    let mut pair = Pair::with(9, swan_client, swan_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.settings.cookie_from = 0;
    pair.gateway.restart(pair.now);
    pair.sent.clear();
    pair.up();
    pair.run(Duration::from_secs(5));
    let answer = pair
        .sent
        .iter()
        .find(|sent| sent.message[18] == 38 && sent.message[19] & 0x20 != 0);
    assert_eq!(
        answer.expect("an answer").message.len(),
        36,
        "TICKET_NACK, no COOKIE"
    );
    assert!(pair.keys_agree(), "the full exchange brings its cookie");
}
