//! New keys for an IKE SA, begun by either side, and what becomes of tickets then (RFC 7296, 1.3.2;
//! RFC 5723, 6.2).

use std::time::Duration;

use ike::{
    CommandRefused, Context, Settings,
    crypto::{Encryption, Group, Prf},
    io::{Command, Event},
    peer::Connection,
    view::Closed,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::bed::{Node, Pair, Weather};
use crate::conformance::notify;
use crate::sides::{client_side, gateway_side, suite};
use crate::tap::Tap;

const SOON: Duration = Duration::from_secs(1);

fn rekey_by_gateway(pair: &mut Pair) {
    let Node {
        endpoint,
        env,
        ledger,
        leases,
        ..
    } = &mut pair.gateway;
    let command = Command::Rekey("rw".into());
    let now = pair.now;
    let cx = &mut Context {
        now,
        env,
        ledger,
        leases,
    };
    endpoint.command(&command, cx).expect("is up");
    pair.drain();
}

fn rekeyed(node: &Node) -> bool {
    let moved = node
        .events
        .iter()
        .any(|event| matches!(event, Event::Rekeyed { .. }));
    let closed = |e: &Event| {
        matches!(
            e,
            Event::Closed {
                reason: Closed::Rekeyed,
                ..
            }
        )
    };
    moved && node.events.iter().any(closed)
}

#[test]
fn the_client_rekeys_and_the_child_sa_moves_over() {
    let mut pair = Pair::established(1);
    let (spis, esp) = (
        pair.client.established()[0].spis,
        pair.client.child().inbound.spi,
    );
    let ops = (pair.client.kernel.ops, pair.gateway.kernel.ops);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    assert!(rekeyed(&pair.client) && rekeyed(&pair.gateway));
    assert!(pair.keys_agree());
    let after = pair.client.established();
    assert_eq!(after.len(), 1);
    assert_eq!(pair.gateway.established().len(), 1);
    assert_eq!(after[0].spis, pair.gateway.established()[0].spis);
    assert!(after[0].spis.0 != spis.0 && after[0].spis.1 != spis.1);
    assert_eq!(
        pair.client.child().inbound.spi,
        esp,
        "the Child SA is the same"
    );
    assert_eq!(
        ops,
        (pair.client.kernel.ops, pair.gateway.kernel.ops),
        "the kernel has no part"
    );
    // The new SA works: it answers, and can be taken down.
    pair.run(Duration::from_mins(1));
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    assert!(pair.gateway.kernel.installed.is_empty() && pair.client.kernel.installed.is_empty());
}

// RFC 5723: N2, N43
#[test]
fn a_rekey_of_the_client_brings_a_new_ticket_and_ends_the_old_one() {
    let mut pair = Pair::established(2);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    let received = |e: &Event| matches!(e, Event::TicketReceived { .. });
    assert_eq!(pair.client.events.iter().filter(|e| received(e)).count(), 1);
    assert!(
        pair.gateway.ledger.used.contains(&(7, 1)),
        "the old ticket is void"
    );
    assert!(!pair.gateway.ledger.used.contains(&(7, 2)));
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(pair.client.established()[0].resumed);
}

// RFC 5723: N3, N43, A10, A11, N2
#[test]
fn after_a_rekey_of_the_gateway_the_client_asks_for_a_ticket_itself() {
    let mut pair = Pair::established(3);
    rekey_by_gateway(&mut pair);
    pair.run(SOON);
    assert!(rekeyed(&pair.client) && rekeyed(&pair.gateway));
    assert!(pair.keys_agree());
    let received = |e: &Event| matches!(e, Event::TicketReceived { .. });
    assert!(pair.client.events.iter().any(received));
    assert!(pair.gateway.ledger.used.contains(&(7, 1)));
    // The I flag has turned around; who holds the ticket has not.
    assert!(!pair.client.established()[0].initiator);
    pair.suspend();
    pair.gateway.restart(pair.now);
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed);
    assert!(
        pair.client.established()[0].initiator,
        "RESUME makes its sender the initiator"
    );
}

#[test]
fn both_at_once_leave_one_sa_that_works() {
    let mut pair = Pair::established(4);
    rekey_by_gateway(&mut pair);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(Duration::from_secs(200));
    assert!(pair.keys_agree());
    assert_eq!(pair.client.established().len(), 1);
    assert_eq!(pair.gateway.established().len(), 1);
    assert_eq!(
        pair.client.established()[0].spis,
        pair.gateway.established()[0].spis
    );
}

#[test]
fn another_group_is_asked_for_and_taken() {
    fn picky() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].ike_suites = vec![
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
            suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384),
        ];
        side
    }
    fn p384_first() -> Vec<Connection> {
        let mut side = client_side();
        side[0].ike_suites = vec![
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
            suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384),
        ];
        side
    }
    let mut pair = Pair::with(5, p384_first, picky, Settings::default());
    pair.up();
    pair.run(SOON);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(rekeyed(&pair.client));
}

#[test]
fn loss_and_repetition_do_not_break_a_rekey() {
    for seed in 0..100 {
        let mut pair = Pair::established(seed);
        pair.weather = Weather {
            loss: 20,
            duplicate: 10,
            reorder: 20,
        };
        pair.command(&Command::Rekey("home".into())).expect("is up");
        pair.run(Duration::from_mins(1));
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(2));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
        let (c, g) = (pair.client.established(), pair.gateway.established());
        assert_eq!((c.len(), g.len()), (1, 1), "seed {seed}");
        assert_eq!(c[0].spis, g[0].spis, "seed {seed}");
    }
}

// RFC 5723: A14
#[test]
fn a_resumed_sa_gets_keys_of_its_own_within_half_an_hour() {
    let mut pair = Pair::established(8);
    pair.suspend();
    pair.up();
    pair.run(SOON);
    let before = pair.client.established()[0].spis;
    pair.client.events.clear();
    pair.run(Duration::from_secs(299));
    assert_eq!(
        pair.client.established()[0].spis,
        before,
        "not before five minutes"
    );
    pair.run(Duration::from_mins(30));
    assert!(rekeyed(&pair.client), "{:?}", pair.client.events);
    assert!(pair.keys_agree());
}

#[test]
fn only_an_established_sa_can_be_rekeyed() {
    let mut pair = Pair::new(9);
    let rekey = Command::Rekey("home".into());
    assert_eq!(pair.command(&rekey), Err(CommandRefused::NotUp));
}

#[test]
fn an_end_during_a_rekey_is_an_end_of_the_new_sa() {
    for by_client in [true, false] {
        let mut pair = Pair::established(14);
        if by_client {
            pair.command(&Command::Rekey("home".into())).expect("is up");
            pair.command(&Command::Down("home".into())).expect("is up");
        } else {
            rekey_by_gateway(&mut pair);
            pair.gateway_does(&Command::Down("rw".into()));
        }
        pair.run(SOON);
        let left = [pair.client.established(), pair.gateway.established()];
        assert!(left.iter().all(Vec::is_empty), "{left:?}");
        assert!(pair.client.kernel.installed.is_empty());
        assert!(pair.gateway.kernel.installed.is_empty());
    }
}

#[test]
fn an_end_during_a_rekey_that_is_refused_is_an_end() {
    let mut pair = Pair::new(15);
    pair.up();
    pair.run(SOON);
    let tap = Tap::on(&pair);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.command(&Command::Down("home".into())).expect("is up");
    answer_rekey(&mut pair, &tap, NotifyKind::NO_ADDITIONAL_SAS, &[]);
    pair.tick();
    let [delete] = &pair.flying[..] else {
        panic!("one request: {:?}", pair.flying);
    };
    let (header, _) = Header::parse(&delete.message).expect("a header");
    assert_eq!(header.exchange, Exchange::Informational);
    assert_eq!(tap.read(&delete.message)[0].0, PayloadKind::DELETE);
}

/// The answer to the rekey that flies, from somebody with the keys.
fn answer_rekey(pair: &mut Pair, tap: &Tap, kind: NotifyKind, data: &[u8]) {
    let request = pair.flying.pop().expect("a request");
    let (asked, _) = Header::parse(&request.message).expect("a header");
    assert_eq!(asked.exchange, Exchange::CreateChildSa);
    let header = Header {
        from_initiator: false,
        response: true,
        ..asked
    };
    let answer = tap.forge(&header, vec![notify(kind.0, data)]);
    pair.deliver(request.to, request.from, &answer);
}

#[test]
fn a_peer_that_wants_yet_another_group_is_not_asked_for_ever() {
    fn two_groups() -> Vec<Connection> {
        let mut side = client_side();
        side[0].ike_suites = vec![
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::P384),
        ];
        side
    }
    let mut pair = Pair::with(16, two_groups, gateway_side, Settings::default());
    pair.up();
    pair.run(SOON);
    let tap = Tap::on(&pair);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    let wanted = |group: Group| group.number().to_be_bytes();
    let kind = NotifyKind::INVALID_KE_PAYLOAD;
    answer_rekey(&mut pair, &tap, kind, &wanted(Group::P384));
    answer_rekey(&mut pair, &tap, kind, &wanted(Group::X25519));
    assert!(pair.flying.is_empty(), "nothing is asked a third time");
}
