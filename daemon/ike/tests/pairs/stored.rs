//! Tickets by reference and the disk: an answer that gives one out or uses one up waits for the store,
//! and what happens when that is full or fails.

use std::time::Duration;

use ike::{
    Settings,
    io::{Command, Event},
    peer::Connection,
    view::Closed,
};

use crate::{
    bed::Pair,
    env::Store,
    sides::{client_side, gateway_side},
};

const SOON: Duration = Duration::from_secs(1);
const IKE_AUTH: u8 = 35;

fn by_reference() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].resume.by_reference = true;
    side
}

fn pair(seed: u64) -> Pair {
    Pair::with(seed, client_side, by_reference, Settings::default())
}

fn asleep(seed: u64) -> Pair {
    let mut pair = pair(seed);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.sent.clear();
    pair
}

fn answers(pair: &Pair) -> usize {
    let is_one = |message: &[u8]| message[18] == IKE_AUTH && message[19] & 0x20 != 0;
    pair.sent
        .iter()
        .filter(|sent| is_one(&sent.message))
        .count()
}

fn has_ticket(pair: &Pair) -> bool {
    !pair.client.endpoint.held_tickets(pair.now).is_empty()
}

fn resumed(pair: &Pair) -> bool {
    pair.keys_agree() && pair.client.established()[0].resumed
}

// RFC 5723: N37
#[test]
fn the_answer_waits_until_what_its_ticket_names_is_kept() {
    let mut pair = pair(1);
    pair.gateway.ledger.store = Store::Waits;
    pair.up();
    pair.run(Duration::from_millis(400));
    assert_eq!(answers(&pair), 0);
    assert!(pair.gateway.kernel.installed.is_empty() && pair.gateway.ledger.kept.is_empty());
    // A repeated request meanwhile changes nothing.
    pair.run(SOON);
    assert_eq!((answers(&pair), pair.gateway.ledger.asked.len()), (0, 1));
    pair.gateway.ledger.store = Store::Works;
    pair.drain();
    assert_eq!(pair.gateway.ledger.kept.len(), 1);
    pair.run(SOON);
    assert!(pair.keys_agree() && has_ticket(&pair));
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair));
}

// RFC 5723: N15
#[test]
fn the_answer_waits_until_the_ticket_behind_it_is_gone() {
    let mut pair = asleep(2);
    let before: Vec<_> = pair.gateway.ledger.kept.keys().copied().collect();
    pair.gateway.ledger.store = Store::Waits;
    pair.up();
    pair.run(Duration::from_millis(400));
    assert_eq!(answers(&pair), 0);
    pair.gateway.ledger.store = Store::Works;
    pair.drain();
    let kept = &pair.gateway.ledger.kept;
    assert!(kept.len() == 1 && !kept.contains_key(&before[0]));
    pair.run(SOON);
    assert!(resumed(&pair) && has_ticket(&pair));
}

// RFC 5723: N6, N8
#[test]
fn without_a_place_to_keep_it_there_is_no_ticket_but_an_sa() {
    for trouble in [Store::Full, Store::Fails] {
        let mut pair = pair(3);
        pair.gateway.ledger.store = trouble;
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree() && !has_ticket(&pair), "{trouble:?}");
        let issued = |e: &Event| matches!(e, Event::TicketIssued { .. });
        assert!(!pair.gateway.events.iter().any(issued), "{trouble:?}");
        // It was told to ask again later.
        pair.gateway.ledger.store = Store::Works;
        pair.run(Duration::from_mins(2));
        assert!(has_ticket(&pair), "{trouble:?}");
    }
}

// RFC 5723: N15, A18
#[test]
fn a_use_that_cannot_be_made_durable_is_refused() {
    for trouble in [Store::Full, Store::Fails] {
        let mut pair = asleep(4);
        pair.gateway.ledger.store = trouble;
        pair.up();
        pair.run(Duration::from_millis(100));
        pair.gateway.ledger.store = Store::Works;
        pair.run(Duration::from_secs(10));
        assert!(pair.keys_agree() && !resumed(&pair), "{trouble:?}: logs in");
        let by_ticket = |e: &Event| matches!(e, Event::Established { resumed: true, .. });
        assert!(!pair.gateway.events.iter().any(by_ticket), "{trouble:?}");
        let failed = |e: &Event| matches!(e, Event::UpFailed { .. });
        assert!(!pair.client.events.iter().any(failed), "{trouble:?}");
    }
}

#[test]
fn a_gateway_that_dies_before_the_commit_has_said_nothing() {
    let mut pair = asleep(5);
    pair.gateway.ledger.store = Store::Waits;
    pair.up();
    pair.run(Duration::from_millis(100));
    assert_eq!(answers(&pair), 0);
    // What was not committed is lost; the used bit is not.
    pair.gateway.ledger.asked.clear();
    pair.gateway.ledger.store = Store::Works;
    pair.gateway.restart(pair.now);
    pair.run(Duration::from_mins(5));
    pair.command(&Command::Up("home".into())).ok();
    pair.run(Duration::from_secs(10));
    assert!(pair.keys_agree() && !resumed(&pair), "by a full exchange");
}

#[test]
fn a_store_that_never_answers_costs_the_slot_for_a_while_and_no_longer() {
    let mut pair = pair(6);
    pair.gateway.ledger.store = Store::Waits;
    pair.up();
    pair.run(SOON);
    pair.command(&Command::Down("home".into()))
        .expect("on its way");
    assert_eq!(pair.gateway.endpoint.sas(pair.now).len(), 1);
    pair.run(Duration::from_mins(1));
    assert!(pair.gateway.endpoint.sas(pair.now).is_empty());
    // Late, it is for nobody.
    pair.gateway.ledger.store = Store::Works;
    pair.drain();
    assert!(pair.gateway.kernel.installed.is_empty());
    let closed = |e: &Event| {
        matches!(
            e,
            Event::Closed {
                reason: Closed::Down,
                ..
            }
        )
    };
    assert!(!pair.gateway.events.iter().any(closed));
}
