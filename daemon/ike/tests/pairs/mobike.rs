//! SAs that move to other addresses (RFC 4555), and clients that cannot.

use std::time::Duration;

use ike::{
    failure::Cause,
    io::{Command, Event},
    peer::Connection,
    view::Closed,
    wire::{
        header::{Exchange, Header},
        notify::NotifyKind,
        payload::PayloadKind,
    },
};

use crate::{
    bed::{InFlight, OTHER_GATEWAY, Pair, Weather},
    roaming::{PLACES, plain_client, roaming_client, two_addresses},
    sides::gateway_side,
    tap::Tap,
};

const SOON: Duration = Duration::from_secs(1);
const INFORMATIONAL: u8 = 37;

/// The connection at one end.
type Side = fn() -> Vec<Connection>;

fn up(seed: u64) -> Pair {
    let mut pair = Pair::roaming(seed);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.paths_agree());
    pair
}

fn silent_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].mobike = false;
    side
}

/// One that takes this client only from where it was first.
fn strict_gateway() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].remote_addr = Some(PLACES[0].parse().expect("address"));
    side
}

fn resumed(pair: &Pair) -> bool {
    let is = |event: &&Event| matches!(event, Event::Established { resumed: true, .. });
    pair.client.events.iter().any(|event| is(&event))
}

fn informational(pair: &Pair) -> Vec<&InFlight> {
    let sent = pair.sent.iter();
    sent.filter(|sent| sent.message[18] == INFORMATIONAL)
        .collect()
}

fn forged(pair: &Pair, message_id: u32, payloads: &[(NotifyKind, Vec<u8>)]) -> Vec<u8> {
    let spis = pair.client.established()[0].spis;
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next: PayloadKind::NONE,
        exchange: Exchange::Informational,
        from_initiator: true,
        response: false,
        message_id,
    };
    let body = |(kind, data): &(NotifyKind, Vec<u8>)| {
        let body = [&[0, 0][..], &kind.0.to_be_bytes(), data].concat();
        (PayloadKind::NOTIFY, body)
    };
    Tap::on(pair).forge(&header, payloads.iter().map(body).collect())
}

fn notifies(pair: &Pair, message: &[u8]) -> Vec<(NotifyKind, Vec<u8>)> {
    let payloads = Tap::on(pair).read(message);
    let notifies = payloads
        .into_iter()
        .filter(|(kind, _)| *kind == PayloadKind::NOTIFY);
    notifies
        .map(|(_, body)| {
            let kind = NotifyKind(u16::from_be_bytes([body[2], body[3]]));
            (kind, body[4..].to_vec())
        })
        .collect()
}

#[test]
fn a_client_that_moves_takes_its_sas_along() {
    let mut pair = up(1);
    let (spis, inbound) = (
        pair.client.established()[0].spis,
        pair.client.kernel.inbound(),
    );
    let before = pair.sent.len();
    pair.relocate(PLACES[1]);
    // At once: what we send leaves from where we are.
    assert_eq!(pair.client.child().path.local.ip(), pair.client_at);
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.paths_agree());
    assert_eq!(pair.client.established()[0].spis, spis);
    assert_eq!(pair.client.kernel.inbound(), inbound);
    assert!(!pair.client.child().udp_encap);
    let kinds: Vec<Vec<_>> = pair.sent[before..]
        .iter()
        .map(|sent| notifies(&pair, &sent.message))
        .map(|list| list.into_iter().map(|(kind, _)| kind).collect())
        .collect();
    let seen = [
        NotifyKind::NAT_DETECTION_SOURCE_IP,
        NotifyKind::NAT_DETECTION_DESTINATION_IP,
    ];
    let update = [&[NotifyKind::UPDATE_SA_ADDRESSES], &seen[..]].concat();
    let check = vec![NotifyKind::COOKIE2];
    assert_eq!(kinds, [update, seen.to_vec(), check.clone(), check]);
    let moved = |event: &Event| matches!(event, Event::Moved { .. });
    assert!(pair.client.events.iter().any(moved) && pair.gateway.events.iter().any(moved));
}

#[test]
fn the_gateway_sends_nothing_to_where_nobody_has_answered() {
    let mut pair = up(2);
    let old = pair.gateway.child().path;
    pair.relocate(PLACES[1]);
    // The update and its answer; the check is on its way.
    pair.run(Duration::from_millis(25));
    assert_eq!(pair.gateway.child().path, old);
    assert_eq!(
        pair.gateway.established()[0]
            .path
            .expect("a path")
            .remote
            .ip(),
        pair.client_at
    );
    pair.run(Duration::from_millis(25));
    assert!(pair.paths_agree());
}

#[test]
fn any_message_of_a_move_may_be_lost() {
    for lost in 0..4 {
        let mut pair = up(3);
        pair.relocate(PLACES[1]);
        let before = pair.sent.len();
        for _ in 0..100 {
            pair.run(Duration::from_millis(1));
            if pair.sent.len() > before + lost {
                let gone = pair.sent[before + lost].clone();
                let same = |flight: &InFlight| flight.message == gone.message;
                pair.flying.retain(|flight| !same(flight));
                break;
            }
        }
        pair.run(Duration::from_secs(3));
        assert!(pair.keys_agree() && pair.paths_agree(), "message {lost}");
        assert!(!resumed(&pair));
    }
}

#[test]
fn moves_in_bad_weather_come_to_an_end() {
    for seed in 0..300 {
        let mut pair = up(seed);
        pair.weather = Weather {
            loss: seed % 20,
            duplicate: seed % 13,
            reorder: seed % 40,
        };
        for to in [1, 2, 0, 1] {
            pair.relocate(PLACES[to]);
            pair.run(Duration::from_millis(seed * 7 % 900));
        }
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(3));
        assert!(pair.keys_agree() && pair.paths_agree(), "seed {seed}");
    }
}

#[test]
fn a_second_move_overtakes_the_first() {
    let mut pair = up(4);
    pair.relocate(PLACES[1]);
    pair.run(Duration::from_millis(5));
    pair.relocate(PLACES[2]);
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.paths_agree());
    // And back again, while the gateway asks whether we are there.
    pair.relocate(PLACES[0]);
    pair.run(Duration::from_millis(25));
    pair.relocate(PLACES[2]);
    pair.run(Duration::from_secs(3));
    assert!(pair.keys_agree() && pair.paths_agree());
    assert!(!resumed(&pair));
}

#[test]
fn a_nat_that_was_not_there_before_is_found_and_left_again() {
    let mut pair = up(5);
    pair.nat = Some("203.0.113.200:40000".parse().expect("address"));
    pair.relocate(PLACES[1]);
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.paths_agree());
    assert!(pair.client.child().udp_encap);
    let seen = pair.gateway.child().path.remote;
    assert_eq!(seen, "203.0.113.200:40001".parse().expect("address"));
    pair.nat = None;
    pair.relocate(PLACES[2]);
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.paths_agree());
    assert!(!pair.gateway.child().udp_encap);
}

#[test]
fn what_goes_in_udp_because_one_side_wants_it_so_goes_on_like_that_elsewhere() {
    fn wanted(mut side: Vec<Connection>) -> Vec<Connection> {
        side[0].encap = true;
        side
    }
    fn client() -> Vec<Connection> {
        wanted(roaming_client())
    }
    fn gateway() -> Vec<Connection> {
        wanted(gateway_side())
    }
    for (client, gateway) in [
        (client as Side, gateway_side as Side),
        (roaming_client, gateway),
    ] {
        let mut pair = Pair::roaming_with(7, client, gateway);
        pair.up();
        pair.run(SOON);
        for place in [PLACES[1], PLACES[2], PLACES[0]] {
            pair.relocate(place);
            pair.run(SOON);
            assert!(pair.keys_agree() && pair.paths_agree());
            assert!(pair.client.child().udp_encap && pair.gateway.child().udp_encap);
            assert!(!resumed(&pair));
        }
        pair.run(Duration::from_mins(5));
        assert!(pair.keys_agree() && !resumed(&pair));
    }
}

#[test]
fn a_new_mapping_of_the_nat_is_noticed() {
    for client in [roaming_client as Side, plain_client] {
        let mut pair = Pair::roaming_with(6, client, gateway_side);
        pair.nat = Some("203.0.113.200:40000".parse().expect("address"));
        pair.up();
        pair.run(SOON);
        assert_eq!(pair.gateway.child().path.remote.port(), 40001);
        pair.nat = Some("203.0.113.200:50000".parse().expect("address"));
        pair.run(Duration::from_secs(45));
        assert!(pair.keys_agree());
        assert_eq!(pair.gateway.child().path.remote.port(), 50001);
        assert!(pair.gateway.child().udp_encap && !resumed(&pair));
        // Seen once, a mapping is not asked about again and again.
        let before = pair.sent.len();
        pair.run(Duration::from_secs(100));
        assert!(
            pair.sent.len() - before <= 20,
            "{}",
            pair.sent.len() - before
        );
    }
}

#[test]
fn moves_and_rekeys_meet() {
    for (seed, ike) in [(7, true), (8, false), (9, true), (10, false)] {
        for pause in [0, 5, 15, 25, 40] {
            for gateway in [false, true] {
                let mut pair = up(seed);
                let names = if gateway { "rw" } else { "home" };
                let command = if ike {
                    Command::Rekey(names.into())
                } else {
                    Command::RekeyChild(names.into(), None)
                };
                if gateway {
                    pair.gateway_does(&command);
                } else {
                    pair.command(&command).expect("is up");
                }
                pair.run(Duration::from_millis(pause));
                pair.relocate(PLACES[1]);
                pair.run(Duration::from_mins(2));
                let what = format!("ike {ike}, pause {pause}, gateway {gateway}");
                assert!(pair.keys_agree() && pair.paths_agree(), "{what}");
            }
        }
    }
}

/// What anybody can change of an update is where it comes from.
#[test]
fn a_diverted_update_diverts_no_traffic() {
    let mut pair = up(11);
    let old = pair.gateway.child().path;
    pair.relocate(PLACES[1]);
    pair.tick();
    let elsewhere = "198.18.0.9:4500".parse().expect("address");
    pair.flying[0].from = elsewhere;
    pair.gone.insert(elsewhere.ip());
    for _ in 0..60 {
        pair.run(SOON);
        let installed = pair.gateway.kernel.installed.values();
        assert!(
            installed
                .into_iter()
                .all(|child| child.path.remote != elsewhere)
        );
    }
    pair.run(Duration::from_mins(2));
    assert_ne!(pair.gateway.child().path, old);
    assert!(pair.keys_agree() && pair.paths_agree());
}

#[test]
fn an_update_by_somebody_without_keys_changes_nothing() {
    let mut pair = up(12);
    let mut message = forged(&pair, 2, &[(NotifyKind::UPDATE_SA_ADDRESSES, Vec::new())]);
    let last = message.len() - 1;
    message[last] ^= 1;
    let (from, to) = ("198.18.0.9:4500", "198.51.100.1:4500");
    let before = pair.sent.len();
    pair.deliver(
        from.parse().expect("one"),
        to.parse().expect("one"),
        &message,
    );
    pair.run(SOON);
    assert_eq!(pair.sent.len(), before);
    assert!(pair.keys_agree() && pair.paths_agree());
}

#[test]
fn a_dead_address_of_the_gateway_is_left_for_another() {
    let mut pair = Pair::roaming_with(13, roaming_client, two_addresses);
    pair.up();
    pair.run(SOON);
    pair.gone.insert("198.51.100.1".parse().expect("address"));
    pair.run(Duration::from_mins(1));
    assert!(pair.keys_agree() && pair.paths_agree());
    let there = pair.client.child().path.remote.ip();
    assert_eq!(there.to_string(), OTHER_GATEWAY);
    assert!(!resumed(&pair));
}

#[test]
fn without_mobike_a_client_that_moves_resumes() {
    let sides: [(Side, Side); 2] = [
        (plain_client, gateway_side),
        (roaming_client, silent_gateway),
    ];
    for ((client, gateway), nat) in sides.into_iter().zip([None, Some("203.0.113.200:40000")]) {
        let mut pair = Pair::roaming_with(14, client, gateway);
        pair.up();
        pair.run(SOON);
        pair.nat = nat.map(|nat| nat.parse().expect("address"));
        pair.relocate(PLACES[1]);
        pair.run(SOON);
        assert!(pair.keys_agree() && pair.paths_agree() && resumed(&pair));
        assert_eq!(pair.gateway.child().udp_encap, nat.is_some());
        let moved = |event: &Event| {
            matches!(
                event,
                Event::Closed {
                    reason: Closed::Moved,
                    ..
                }
            )
        };
        assert!(pair.client.events.iter().any(moved));
    }
}

/// Resumed from a new address, behind a NAT that was not there before; and moved from there.
#[test]
fn a_resumed_sa_moves_as_any_other() {
    let mut pair = up(15);
    pair.suspend();
    pair.nat = Some("203.0.113.200:40000".parse().expect("address"));
    pair.relocate(PLACES[1]);
    pair.up();
    pair.run(SOON);
    assert!(resumed(&pair) && pair.keys_agree() && pair.paths_agree());
    assert!(pair.gateway.child().udp_encap);
    pair.client.events.clear();
    pair.nat = None;
    pair.relocate(PLACES[2]);
    pair.run(SOON);
    assert!(!resumed(&pair) && pair.keys_agree() && pair.paths_agree());
    assert!(!pair.gateway.child().udp_encap);
}

#[test]
fn an_attempt_goes_on_from_where_the_client_is() {
    for pause in [0, 5, 15, 25, 35] {
        for asleep in [false, true] {
            let mut pair = if asleep { up(16) } else { Pair::roaming(16) };
            if asleep {
                pair.suspend();
            }
            pair.up();
            pair.run(Duration::from_millis(pause));
            pair.relocate(PLACES[1]);
            pair.run(Duration::from_secs(10));
            let what = format!("pause {pause}, asleep {asleep}");
            assert!(pair.keys_agree() && pair.paths_agree(), "{what}");
        }
    }
}

#[test]
fn addresses_against_the_policy_are_refused() {
    let mut pair = Pair::roaming_with(17, roaming_client, strict_gateway);
    pair.up();
    pair.run(SOON);
    let old = pair.gateway.child().path;
    let before = pair.sent.len();
    pair.relocate(PLACES[1]);
    pair.run(Duration::from_millis(25));
    let answer = notifies(&pair, &pair.sent[before + 1].message);
    let refusal = (NotifyKind::UNACCEPTABLE_ADDRESSES, Vec::new());
    assert!(answer.contains(&refusal));
    assert_eq!(pair.gateway.child().path, old);
    assert!(pair.client.established().is_empty());
}

#[test]
fn a_nat_is_told_to_whoever_forbids_it() {
    let mut pair = up(18);
    let (from, to) = ("203.0.113.9:4500", "198.51.100.1:4500");
    let (from, to) = (from.parse().expect("one"), to.parse().expect("one"));
    let old = pair.gateway.child().path;
    let claim = |source: [u8; 4]| {
        let ends = [source, [198, 51, 100, 1]].concat();
        [ends, [4500_u16, 4500].map(u16::to_be_bytes).concat()].concat()
    };
    let update = (NotifyKind::UPDATE_SA_ADDRESSES, Vec::new());
    let says = |source| (NotifyKind::NO_NATS_ALLOWED, claim(source));
    let wrong = forged(&pair, 2, &[update.clone(), says([192, 0, 2, 10])]);
    pair.deliver(from, to, &wrong);
    let answer = pair.sent.last().expect("an answer").clone();
    let expected = (NotifyKind::UNEXPECTED_NAT_DETECTED, Vec::new());
    assert_eq!(
        (answer.to, notifies(&pair, &answer.message)),
        (from, vec![expected])
    );
    assert_eq!(pair.gateway.established()[0].path, Some(old));
    let right = forged(&pair, 3, &[update, says([203, 0, 113, 9])]);
    pair.deliver(from, to, &right);
    assert_eq!(
        pair.gateway.established()[0].path.expect("one").remote,
        from
    );
}

#[test]
fn a_cookie_comes_back_as_it_was_and_a_wrong_one_ends_the_sa() {
    let mut pair = up(19);
    let (from, to) = ("192.0.2.10:4500", "198.51.100.1:4500");
    let (from, to) = (from.parse().expect("one"), to.parse().expect("one"));
    let cookie = (NotifyKind::COOKIE2, b"eight or more".to_vec());
    let message = forged(&pair, 2, std::slice::from_ref(&cookie));
    pair.deliver(from, to, &message);
    let answer = pair.sent.last().expect("an answer").clone();
    assert_eq!(notifies(&pair, &answer.message), [cookie]);

    let mut pair = up(20);
    pair.relocate(PLACES[1]);
    pair.run(Duration::from_millis(15));
    let check = pair.sent.last().expect("a check").clone();
    let (header, _) = Header::parse(&check.message).expect("a header");
    let response = Header {
        response: true,
        from_initiator: true,
        ..header
    };
    let wrong = (
        PayloadKind::NOTIFY,
        [&[0, 0, 0x40, 0x11][..], &[1; 16]].concat(),
    );
    let answer = Tap::on(&pair).forge(&response, vec![wrong]);
    pair.deliver(check.to, check.from, &answer);
    assert!(pair.gateway.established().is_empty());
}

#[test]
fn only_who_has_begun_decides_about_addresses() {
    let mut pair = up(21);
    let spis = pair.client.established()[0].spis;
    let header = Header {
        spi_i: spis.0,
        spi_r: spis.1,
        next: PayloadKind::NONE,
        exchange: Exchange::Informational,
        from_initiator: false,
        response: false,
        message_id: 0,
    };
    let update = (PayloadKind::NOTIFY, vec![0, 0, 0x40, 0x10]);
    let message = Tap::on(&pair).forge(&header, vec![update]);
    let (from, to) = ("198.18.0.9:4500", "192.0.2.10:4500");
    let before = pair.client.child().path;
    pair.deliver(
        from.parse().expect("one"),
        to.parse().expect("one"),
        &message,
    );
    assert!(!informational(&pair).is_empty(), "it is answered");
    assert_eq!(pair.client.child().path, before);
    assert_eq!(pair.client.established()[0].path, Some(before));
}

/// Both kernels may refuse: then new states are made where the old ones cannot go.
#[test]
fn what_the_kernel_does_not_move_is_made_anew_at_the_new_addresses() {
    let told = |event: &Event| match event {
        Event::Failed(failure) => {
            matches!(&failure.cause, Cause::Unmoved(text) if text.contains("File exists"))
        }
        _ => false,
    };
    for at_client in [true, false] {
        let mut pair = up(3);
        let inbound = pair.client.kernel.inbound();
        pair.client.kernel.unmovable = at_client;
        pair.gateway.kernel.unmovable = !at_client;
        pair.relocate(PLACES[1]);
        pair.run(2 * SOON);
        assert!(pair.keys_agree() && pair.paths_agree(), "{at_client}");
        assert_ne!(pair.client.kernel.inbound(), inbound);
        assert_eq!(pair.client.kernel.inbound().len(), 1);
        let (c, g) = (&pair.client.events, &pair.gateway.events);
        assert_eq!(
            (c.iter().any(told), g.iter().any(told)),
            (at_client, !at_client)
        );
        let rekeyed = |event: &&Event| matches!(event, Event::ChildRekeyed { .. });
        assert_eq!(g.iter().filter(rekeyed).count(), 1);
        // It is over with that.
        pair.run(Duration::from_mins(1));
        assert!(pair.keys_agree());
        let closed = |event: &Event| matches!(event, Event::Closed { .. });
        assert!(!pair.client.events.iter().any(closed));
    }
}

#[test]
fn an_sa_that_can_neither_move_nor_be_made_anew_ends_and_comes_again() {
    let mut pair = up(4);
    pair.gateway.kernel.unmovable = true;
    pair.relocate(PLACES[1]);
    pair.gateway.kernel.fail_next = true;
    pair.run(Duration::from_secs(25));
    assert_ne!(pair.gateway.child().path.remote.ip(), pair.client_at);
    pair.run(Duration::from_secs(15));
    let expired = |event: &Event| {
        let reason = Closed::Expired;
        matches!(event, Event::Closed { reason: why, .. } if *why == reason)
    };
    assert!(pair.gateway.events.iter().any(expired));
    assert!(pair.keys_agree() && pair.paths_agree());
}
