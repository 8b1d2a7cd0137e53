//! New keys for the Child SA, begun by either side, before the kernel ends the old ones.

use std::time::Duration;

use ike::{
    Settings,
    crypto::{Encryption, Group, Prf},
    io::{Command, Event},
    peer::Connection,
    view::Closed,
};

use crate::bed::{InFlight, Pair, Weather};
use crate::several::{self, for_children};
use crate::sides::{client_side, gateway_side, suite};

const SOON: Duration = Duration::from_secs(1);

fn rekeys(pair: &Pair) -> (usize, usize) {
    let hit = |e: &&Event| matches!(e, Event::ChildRekeyed { .. });
    let count = |events: &[Event]| events.iter().filter(hit).count();
    (count(&pair.client.events), count(&pair.gateway.events))
}

#[test]
fn before_its_lifetime_ends_a_child_sa_is_replaced() {
    let mut pair = Pair::new(1);
    pair.up();
    pair.run(SOON);
    let before = (
        pair.client.child().inbound.spi,
        pair.client.child().outbound.spi,
    );
    pair.run(Duration::from_hours(1));
    assert_eq!(rekeys(&pair), (1, 1));
    assert!(pair.keys_agree());
    let after = (
        pair.client.child().inbound.spi,
        pair.client.child().outbound.spi,
    );
    assert!(before.0 != after.0 && before.1 != after.1);
    assert_eq!(pair.client.established().len(), 1, "the IKE SA is the same");
    // And again, for as long as the IKE SA lives.
    pair.run(Duration::from_hours(2));
    assert!(rekeys(&pair).0 >= 3, "{:?}", rekeys(&pair));
    assert!(pair.keys_agree());
}

#[test]
fn a_gateway_rekeys_what_its_client_does_not() {
    fn lazy() -> Vec<Connection> {
        let mut side = client_side();
        side[0].children[0].lifetime = Duration::from_hours(100);
        side[0].children[0].rekey = Duration::ZERO;
        side
    }
    let mut pair = Pair::with(2, lazy, gateway_side, Settings::default());
    pair.up();
    pair.run(Duration::from_hours(1));
    assert_eq!(rekeys(&pair), (1, 1));
    assert!(pair.keys_agree());
}

#[test]
fn after_a_resumption_the_child_sa_gets_keys_that_no_ticket_opens() {
    let mut pair = Pair::new(3);
    pair.up();
    pair.run(SOON);
    pair.suspend();
    pair.up();
    pair.run(SOON);
    let resumed = pair.client.child().inbound.spi;
    pair.run(Duration::from_secs(1900));
    assert!(pair.keys_agree());
    assert_ne!(pair.client.child().inbound.spi, resumed);
    assert_eq!(rekeys(&pair), (1, 1));
}

#[test]
fn loss_and_repetition_do_not_break_it() {
    for seed in 0..60 {
        let mut pair = Pair::new(seed);
        pair.up();
        pair.run(Duration::from_mins(40));
        pair.weather = Weather {
            loss: 20,
            duplicate: 10,
            reorder: 20,
        };
        pair.run(Duration::from_mins(10));
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(2));
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn a_kernel_that_refuses_does_not_end_the_tunnel() {
    for on_client in [true, false] {
        let mut pair = Pair::new(5);
        pair.up();
        pair.run(Duration::from_mins(40));
        let before = pair.client.child().inbound.spi;
        let node = if on_client {
            &mut pair.client
        } else {
            &mut pair.gateway
        };
        node.kernel.fail_next = true;
        pair.run(Duration::from_secs(1000));
        assert_eq!(
            pair.client.established().len(),
            1,
            "client failed: {on_client}"
        );
        assert_eq!(
            pair.gateway.established().len(),
            1,
            "client failed: {on_client}"
        );
        // The responder keeps the old one and is asked again; the initiator logs in anew.
        assert!(pair.keys_agree(), "client failed: {on_client}");
        assert_ne!(pair.client.child().inbound.spi, before);
    }
}

#[test]
fn suites_without_a_common_group_rekey_without_one() {
    fn two() -> Vec<Connection> {
        let mut side = client_side();
        side[0].ike_suites = vec![
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::X25519),
            suite(Encryption::AesGcm256, Prf::HmacSha256, Group::P384),
        ];
        side
    }
    let mut pair = Pair::with(6, two, gateway_side, Settings::default());
    pair.up();
    pair.run(Duration::from_hours(1));
    assert_eq!(rekeys(&pair), (1, 1));
    assert!(pair.keys_agree());
}

/// Both sides with these groups for key exchanges of Child SAs' own, and two of them.
fn with_groups(side: Vec<Connection>, is_client: bool, groups: &[Group]) -> Vec<Connection> {
    let mut side = for_children(side, is_client, TWO);
    for child in &mut side[0].children {
        child.proposals[0].groups = groups.to_vec();
    }
    side
}

const TWO: &several::Table = &[
    ("net", &["10.2.0.0/24"], &["10.1.0.0/24"]),
    ("lab", &["10.2.0.0/24"], &["10.9.0.0/24"]),
];

fn requests(pair: &Pair) -> usize {
    let is_request =
        |flight: &&InFlight| flight.message[18] == 36 && flight.message[19] & 0x20 == 0;
    pair.sent.iter().filter(is_request).count()
}

#[test]
fn a_named_group_is_used_for_new_ones_and_for_new_keys_and_not_in_ike_auth() {
    fn client() -> Vec<Connection> {
        with_groups(client_side(), true, &[Group::P384])
    }
    fn gateway() -> Vec<Connection> {
        with_groups(gateway_side(), false, &[Group::P384, Group::P256])
    }
    let mut pair = Pair::with(7, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    // IKE_AUTH's has none of its own, and the other one is made at once.
    assert_eq!(requests(&pair), 1);
    pair.gateway_does(&Command::RekeyChild("rw".into(), None));
    pair.run(SOON);
    assert_eq!((rekeys(&pair), requests(&pair)), ((2, 2), 3));
    assert!(pair.keys_agree());
}

#[test]
fn another_group_is_asked_for_either_way_and_only_once() {
    fn client() -> Vec<Connection> {
        with_groups(client_side(), true, &[Group::P256, Group::P384])
    }
    fn gateway() -> Vec<Connection> {
        with_groups(gateway_side(), false, &[Group::P384])
    }
    let mut pair = Pair::with(8, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    // The second child, in P-256 and then in P-384.
    assert_eq!(requests(&pair), 2);
    assert!(pair.keys_agree());
    pair.command(&Command::RekeyChild("home".into(), Some("net".into())))
        .expect("is up");
    pair.run(SOON);
    assert_eq!((rekeys(&pair), requests(&pair)), ((1, 1), 4));
    pair.gateway_does(&Command::RekeyChild("rw".into(), None));
    pair.run(SOON);
    assert_eq!(
        (rekeys(&pair), requests(&pair)),
        ((3, 3), 6),
        "ours is theirs at once"
    );
    assert!(pair.keys_agree());
}

#[test]
fn without_a_common_group_a_new_one_is_refused_and_old_keys_stay() {
    fn client() -> Vec<Connection> {
        with_groups(client_side(), true, &[Group::P256])
    }
    fn gateway() -> Vec<Connection> {
        with_groups(gateway_side(), false, &[Group::P384])
    }
    let mut pair = Pair::with(9, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert_eq!(pair.client.established()[0].children.len(), 1);
    let failed = Event::ChildFailed {
        connection: "home".into(),
        child: "lab".into(),
        reason: Closed::NoProposalChosen,
    };
    assert!(
        pair.client.events.contains(&failed),
        "{:?}",
        pair.client.events
    );
    pair.command(&Command::RekeyChild("home".into(), None))
        .expect("is up");
    pair.run(SOON);
    assert_eq!(rekeys(&pair), (0, 0));
    assert!(pair.keys_agree());
}
