//! A full exchange between two cores: what stands at its end, and what happens when one side cannot
//! or will not.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gate_abi::networks::{Prefix, Rule};

use crate::bed::{CLIENT, Pair};
use crate::sides::{client_side, gateway_side, suite};
use ike::{
    CommandRefused, Settings,
    counters::Counter,
    crypto::{Encryption, Group, Prf, Secret},
    defence::{cookie::mapped, rules::Rules},
    failure::Cause,
    io::{Command, Event},
    peer::{Connection, Credential},
    view::{Closed, Unproven},
    wire::ts::TrafficSelector,
};

const SOON: Duration = Duration::from_secs(1);

#[test]
fn two_round_trips_end_in_one_sa_with_equal_keys() {
    let mut pair = Pair::new(1);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(pair.sent.len(), 4, "IKE_SA_INIT and IKE_AUTH, both ways");
    let established = |events: &[Event]| {
        events
            .iter()
            .any(|event| matches!(event, Event::Established { resumed: false, .. }))
    };
    assert!(established(&pair.client.events) && established(&pair.gateway.events));
    assert_eq!(pair.gateway.endpoint.half_open(), 0);
}

#[test]
fn a_second_up_is_refused_while_the_first_holds() {
    let mut pair = Pair::new(2);
    pair.up();
    let again = Command::Up("home".into());
    assert_eq!(pair.command(&again), Err(CommandRefused::UpAlready));
    pair.run(SOON);
    assert_eq!(pair.command(&again), Err(CommandRefused::UpAlready));
    let nobody = Command::Up("nobody".into());
    assert_eq!(pair.command(&nobody), Err(CommandRefused::NoConnection));
}

#[test]
fn another_group_costs_one_round_trip_and_is_then_agreed() {
    fn p384_gateway() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].ike_suites = vec![suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384)];
        side
    }
    fn two_groups() -> Vec<Connection> {
        let mut side = client_side();
        side[0]
            .ike_suites
            .push(suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384));
        side
    }
    let mut pair = Pair::with(3, two_groups, p384_gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(pair.sent.len(), 6);
}

#[test]
fn a_gateway_with_many_half_open_sas_asks_for_a_cookie_first() {
    let settings = Settings {
        cookie_from: 0,
        ..Settings::default()
    };
    let mut pair = Pair::with(4, client_side, gateway_side, settings);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(pair.sent.len(), 6);
    let (request, cookie) = (&pair.sent[0].message, &pair.sent[1].message);
    assert!(
        cookie.len() <= request.len(),
        "an answer to a stranger is not longer than his request"
    );
}

#[test]
fn who_is_allowed_is_asked_for_no_cookie_until_nothing_is_left() {
    const SLOTS: usize = 2;
    let settings = Settings {
        max_half_open: SLOTS,
        cookie_from: 0,
        ..Settings::default()
    };
    let answers = |address: &str| {
        let mut pair = Pair::with(4, client_side, gateway_side, settings);
        pair.up();
        let request = pair.flying.remove(0);
        let address = mapped(address.parse().expect("an address"));
        let network = Prefix::new(address, 128).expect("a host");
        let rules = Rules::new(vec![(network, Rule::Allow)]);
        pair.gateway.endpoint.set_rules(Arc::new(rules));
        let asked = |pair: &Pair| pair.gateway.endpoint.counters().count(Counter::CookieSent);
        let mut answers = Vec::new();
        for number in 0..=SLOTS as u8 {
            let mut message = request.message.clone();
            message[..8].fill(1 + number);
            let before = asked(&pair);
            pair.deliver(request.from, request.to, &message);
            answers.push(asked(&pair) > before);
        }
        answers
    };
    assert_eq!(answers(CLIENT), [false, false, true]);
    assert_eq!(answers("198.51.100.66"), [true; SLOTS + 1]);
}

#[test]
fn a_wrong_key_is_refused_and_leaves_nothing() {
    fn wrong_key() -> Vec<Connection> {
        let mut side = client_side();
        side[0].local.credential = Credential::PreShared(Secret::from(&b"wrong"[..]));
        side
    }
    let mut pair = Pair::with(5, wrong_key, gateway_side, Settings::default());
    pair.up();
    pair.run(SOON);
    let failed = Event::UpFailed {
        connection: "home".into(),
        reason: Closed::AuthenticationFailed,
    };
    assert!(pair.client.events.contains(&failed));
    let unproven = |event: &Event| {
        matches!(event, Event::Failed(failure)
            if matches!(failure.cause, Cause::Unproven { why: Unproven::PreSharedKey, .. }))
    };
    assert!(pair.gateway.events.iter().any(unproven));
    assert!(pair.client.kernel.installed.is_empty() && pair.gateway.kernel.installed.is_empty());
    pair.run(Duration::from_mins(1));
    assert!(pair.gateway.established().is_empty());
    assert!(
        pair.gateway.endpoint.next_deadline().is_none(),
        "no timer is left"
    );
}

#[test]
fn the_gateway_must_prove_itself_too() {
    fn wrong_key() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].local.credential = Credential::PreShared(Secret::from(&b"wrong"[..]));
        side
    }
    let mut pair = Pair::with(6, client_side, wrong_key, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established().is_empty());
    assert!(pair.client.kernel.installed.is_empty());
}

#[test]
fn without_common_suite_the_client_learns_why() {
    fn other_suite() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].ike_suites = vec![suite(Encryption::AesGcm128, Prf::HmacSha384, Group::P384)];
        side
    }
    let mut pair = Pair::with(7, client_side, other_suite, Settings::default());
    pair.up();
    pair.run(Duration::from_secs(5));
    let failed = Event::UpFailed {
        connection: "home".into(),
        reason: Closed::NoProposalChosen,
    };
    assert!(pair.client.events.contains(&failed));
}

#[test]
fn without_common_networks_the_client_learns_why() {
    fn other_network() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].children[0].local_ts = vec![TrafficSelector::from_text("172.16.0.0/12").unwrap()];
        side
    }
    let mut pair = Pair::with(8, client_side, other_network, Settings::default());
    pair.up();
    pair.run(SOON);
    let failed = Event::UpFailed {
        connection: "home".into(),
        reason: Closed::TsUnacceptable,
    };
    assert!(pair.client.events.contains(&failed));
}

#[test]
fn a_kernel_that_refuses_leaves_no_sa_on_either_side() {
    for on_client in [true, false] {
        let mut pair = Pair::new(9);
        let node = if on_client {
            &mut pair.client
        } else {
            &mut pair.gateway
        };
        node.kernel.fail_next = true;
        pair.up();
        pair.run(Duration::from_mins(1));
        assert!(
            pair.client.established().is_empty(),
            "client failed: {on_client}"
        );
        assert!(
            pair.gateway.established().is_empty(),
            "client failed: {on_client}"
        );
        assert!(pair.gateway.kernel.installed.is_empty());
    }
}

#[test]
fn down_says_goodbye_and_takes_everything_away() {
    let mut pair = Pair::new(10);
    pair.up();
    pair.run(SOON);
    pair.command(&Command::Down("home".into())).unwrap();
    pair.run(SOON);
    for node in [&pair.client, &pair.gateway] {
        assert!(node.established().is_empty());
        assert!(node.kernel.installed.is_empty() && node.kernel.blocked.is_empty());
    }
    assert!(
        pair.gateway.ledger.used.contains(&(7, 1)),
        "a deleted SA's ticket is dead"
    );
    pair.run(Duration::from_mins(1));
    assert!(pair.client.endpoint.next_deadline().is_none());
}

#[test]
fn silence_is_noticed_and_the_client_comes_back_by_itself() {
    let mut pair = Pair::new(11);
    pair.up();
    pair.run(SOON);
    pair.weather.loss = 100;
    pair.run(Duration::from_secs(90));
    let reasons = |events: &[Event]| {
        events.iter().any(|e| {
            matches!(
                e,
                Event::Closed {
                    reason: Closed::Timeout,
                    ..
                }
            )
        })
    };
    assert!(reasons(&pair.client.events) && reasons(&pair.gateway.events));
    assert_eq!(
        pair.client.kernel.blocked.len(),
        1,
        "nothing leaves in clear meanwhile"
    );
    pair.weather.loss = 0;
    pair.run(Duration::from_secs(90));
    assert!(pair.keys_agree());
}

#[test]
fn quiet_tunnels_stay_up_by_liveness_checks_alone() {
    let mut pair = Pair::new(12);
    pair.up();
    pair.run(Duration::from_mins(10));
    assert!(pair.keys_agree());
    assert!(pair.sent.len() > 8, "somebody asked for a sign of life");
}

#[test]
fn behind_a_nat_both_sides_go_to_port_4500_and_encapsulate() {
    let mut pair = Pair::new(13);
    pair.nat = Some(SocketAddr::from(([203, 0, 113, 5], 40_000)));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(pair.client.child().udp_encap && pair.gateway.child().udp_encap);
    let auth = &pair.sent[2];
    assert_eq!(auth.to.port(), 4500);
    assert_eq!(pair.gateway.child().path.remote.port(), 40_001);

    // Whoever is behind the NAT keeps it open (RFC 7296, 2.23), whatever else is said.
    let start = pair.now.boot;
    pair.run(Duration::from_mins(5));
    assert!(pair.gateway.keepalives.is_empty());
    let path = pair.client.child().path;
    let times: Vec<_> = pair.client.keepalives.iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 15, "since {start:?}: {times:?}");
    let gaps = times.windows(2).map(|two| two[1].saturating_sub(two[0]));
    assert!(gaps.into_iter().all(|gap| gap == Duration::from_secs(20)));
    assert!(pair.client.keepalives.iter().all(|(_, way)| *way == path));
}

#[test]
fn without_a_nat_esp_goes_in_udp_if_one_side_wants_it() {
    fn wanted(mut side: Vec<Connection>) -> Vec<Connection> {
        // So that nothing but this leads to port 4500.
        (side[0].encap, side[0].mobike) = (true, false);
        side
    }
    fn client() -> Vec<Connection> {
        wanted(client_side())
    }
    fn gateway() -> Vec<Connection> {
        wanted(gateway_side())
    }
    type Side = fn() -> Vec<Connection>;
    for (ours, theirs) in [
        (client as Side, gateway_side as Side),
        (client_side, gateway),
        (client, gateway),
    ] {
        let mut pair = Pair::with(15, ours, theirs, Settings::default());
        for resumed in [false, true] {
            pair.up();
            pair.run(SOON);
            assert!(pair.keys_agree());
            assert_eq!(pair.client.established()[0].resumed, resumed);
            for node in [&pair.client, &pair.gateway] {
                let child = node.child();
                assert!(child.udp_encap);
                let ports = (child.path.local.port(), child.path.remote.port());
                assert_eq!(ports, (4500, 4500));
            }
            if !resumed {
                pair.run(Duration::from_secs(50));
                pair.suspend();
            }
        }
        let kept = [&pair.client, &pair.gateway].map(|node| node.keepalives.len());
        let wants = [ours, theirs].map(|side| side()[0].encap);
        assert_eq!(kept.map(|count| count > 0), wants, "{kept:?}");
    }
}

#[test]
fn where_no_nat_is_nobody_keeps_one_open() {
    let mut pair = Pair::established(14);
    pair.run(Duration::from_mins(5));
    assert!(pair.client.keepalives.is_empty() && pair.gateway.keepalives.is_empty());
}

#[test]
fn at_the_end_of_its_life_an_sa_is_replaced_by_a_new_one() {
    let mut pair = Pair::new(14);
    pair.up();
    pair.run(SOON);
    let before = pair.client.child().inbound.spi;
    pair.run(Duration::from_mins(241));
    assert!(pair.keys_agree());
    assert_ne!(pair.client.child().inbound.spi, before);
}
