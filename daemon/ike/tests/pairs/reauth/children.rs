//! A login beside an SA that has several Child SAs: they change hands one by one, each without a lost packet,
//! and the old SA stays for as long as one of them needs it.

use std::time::Duration;

use ike::{
    io::{Command, Event},
    peer::{Connection, Start},
    view::Closed,
};

use super::{LIFETIME, SOON, closed, logins, up};
use crate::{
    bed::{Node, Pair, Weather},
    collisions::traffic,
    several::{client, gateway},
};

fn demanding() -> Vec<Connection> {
    let mut side = gateway();
    side[0].reauth = Some(LIFETIME);
    side
}

/// The last two come on somebody's word alone.
fn modest() -> Vec<Connection> {
    let mut side = client();
    for child in &mut side[0].children[1..] {
        child.start = Start::None;
    }
    side
}

/// Names of the Child SAs of each IKE SA.
fn children(node: &Node) -> Vec<Vec<String>> {
    let sas = node.established().into_iter();
    let names = sas.map(|sa| {
        let mut names: Vec<_> = sa.children.iter().map(|one| one.name.to_string()).collect();
        names.sort_unstable();
        names
    });
    names.collect()
}

fn has_all(pair: &Pair) -> bool {
    let all = [["lab", "net", "six"]];
    children(&pair.client) == all && children(&pair.gateway) == all && pair.keys_agree()
}

/// Until the client has logged in anew.
fn run_to_login(pair: &mut Pair) {
    for _ in 0..LIFETIME.as_millis() {
        if logins(pair) == 2 {
            return;
        }
        pair.run(Duration::from_millis(1));
    }
    panic!("no login");
}

// RFC 5723: A12
#[test]
fn all_change_hands_and_no_packet_of_any_is_lost() {
    let mut pair = up(1, client, demanding);
    assert!(has_all(&pair));
    let before = pair.gateway.kernel.inbound();
    pair.run(LIFETIME / 100 * 79);
    assert_eq!(pair.gateway.kernel.inbound(), before, "not before time");
    assert_eq!(traffic(&mut pair, LIFETIME / 100 * 12), 0, "packets lost");
    assert_eq!(logins(&pair), 2);
    assert!(has_all(&pair));
    for node in [&pair.client, &pair.gateway] {
        assert_eq!(closed(&node.events), [Closed::Rekeyed]);
        assert_eq!(node.kernel.inbound().len(), 3, "none of the old is left");
        assert!(node.kernel.inbound().is_disjoint(&before));
    }
    pair.run(Duration::from_mins(1));
    assert_eq!(pair.gateway.own_spis.len(), 1);
    // The old ticket has gone with its SA; the new one brings them all back.
    assert!(pair.gateway.ledger.used.contains(&(7, 1)));
    pair.suspend();
    assert!(pair.client.established().is_empty());
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed && has_all(&pair));
}

#[test]
fn what_only_somebodys_word_has_made_comes_along() {
    let mut pair = up(2, modest, demanding);
    pair.command(&Command::UpChild("home".into(), "lab".into()))
        .expect("can be done");
    pair.run(SOON);
    pair.gateway_does(&Command::UpChild("rw".into(), "six".into()));
    pair.run(SOON);
    assert!(has_all(&pair));
    pair.run(LIFETIME / 100 * 91);
    assert_eq!(logins(&pair), 2);
    assert!(has_all(&pair), "{:?}", children(&pair.client));
}

/// Whatever refuses the second one, the old one carries on.
#[test]
fn one_that_comes_late_keeps_the_old_sa_up_for_itself() {
    for on_client in [false, true] {
        let mut pair = up(3, client, demanding);
        run_to_login(&mut pair);
        let node = if on_client {
            &mut pair.client
        } else {
            &mut pair.gateway
        };
        node.kernel.fail_next = true;
        assert_eq!(traffic(&mut pair, SOON), 0, "packets lost");
        assert_eq!(pair.client.established().len(), 2, "on client: {on_client}");
        assert_eq!(children(&pair.client).concat().len(), 3);
        // The operator means the new one.
        let new = pair.client.established()[1].spis;
        pair.command(&Command::Rekey("home".into())).expect("is up");
        assert_eq!(traffic(&mut pair, LIFETIME / 100 * 9), 0, "packets lost");
        assert!(pair.client.established()[0].spis != new);
        assert!(has_all(&pair), "{:?}", pair.client.events);
        pair.run(Duration::from_mins(1));
        assert_eq!(pair.gateway.own_spis.len(), 1);
        assert_eq!(logins(&pair), 2);
    }
}

#[test]
fn loss_repetition_and_reordering_leave_none_behind() {
    for seed in 0..40 {
        let mut pair = up(seed, client, demanding);
        pair.weather = Weather {
            loss: 15,
            duplicate: 20,
            reorder: 20,
        };
        pair.run(LIFETIME);
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(2));
        assert!(has_all(&pair), "seed {seed}: {:?}", pair.client.events);
        assert!(logins(&pair) >= 2, "seed {seed}");
        for node in [&pair.client, &pair.gateway] {
            assert_eq!(node.kernel.inbound().len(), 3, "seed {seed}");
        }
        assert_eq!(pair.gateway.own_spis.len(), 1, "seed {seed}");
    }
}

#[test]
fn down_and_suspend_end_both_sas() {
    for suspended in [false, true] {
        let mut pair = up(5, client, demanding);
        run_to_login(&mut pair);
        pair.gateway.kernel.fail_next = true;
        pair.run(SOON);
        assert_eq!(pair.client.established().len(), 2);
        if suspended {
            pair.suspend();
        } else {
            pair.command(&Command::Down("home".into())).expect("is up");
        }
        pair.run(SOON);
        assert!(pair.client.established().is_empty());
        assert!(pair.client.kernel.inbound().is_empty());
        assert_eq!(pair.client.kernel.blocked.is_empty(), !suspended);
        let of_old = |event: &Event| matches!(event, Event::UpFailed { .. });
        assert!(!pair.client.events.iter().any(of_old));
        if !suspended {
            assert!(pair.gateway.established().is_empty());
            assert!(pair.gateway.kernel.inbound().is_empty());
            continue;
        }
        pair.up();
        pair.run(SOON);
        assert!(pair.client.established()[0].resumed);
        pair.run(Duration::from_secs(5));
        assert!(has_all(&pair), "{:?}", children(&pair.gateway));
    }
}
