//! A client that has been sent on, and what happens to it there: it loses touch, moves, and has several
//! Child SAs to take along.

use std::{collections::BTreeMap, time::Duration};

use ike::{Settings, io::Command, peer::Connection};

use super::{A_WHILE, Node, Pair, SECOND, SOON, redirect, second, second_side, three};
use crate::{
    bed::Weather,
    several::{THREE, for_children, gateway, roaming_client},
    sides::client_side,
};

fn second_with_all() -> Vec<Connection> {
    for_children(second_side(), false, THREE)
}

/// A client that may be anywhere, with three Child SAs at the first of two gateways.
fn up(seed: u64) -> Pair {
    let mut pair = Pair::roaming_with(seed, roaming_client, gateway);
    let settings = Settings {
        node: 3,
        ..Settings::default()
    };
    pair.second = Some(Node::new(seed + 1000, second_with_all, settings));
    pair.up();
    pair.run(SOON);
    assert_eq!(pair.client.kernel.installed.len(), 3);
    pair
}

/// Whether all of them are with the second gateway, on one path, and nothing is left at the first.
fn is_whole_at_the_second(pair: &Pair) -> bool {
    let keys = |node: &Node| {
        let installed = node.kernel.installed.values();
        let pairs = installed.map(|child| {
            let (inbound, outbound) = (child.inbound.spi, child.outbound.spi);
            (inbound, (outbound, child.path))
        });
        pairs.collect::<BTreeMap<_, _>>()
    };
    let (client, there) = (keys(&pair.client), keys(second(pair)));
    let fits = |(inbound, (outbound, path)): (&u32, &(u32, ike::io::Path))| {
        path.remote.ip().to_string() == SECOND
            && path.local.ip() == pair.client_at
            && there.get(outbound).is_some_and(|(out, theirs)| {
                out == inbound
                    && theirs.local.ip() == path.remote.ip()
                    && theirs.remote.ip() == path.local.ip()
            })
    };
    pair.client.is_up()
        && client.len() == 3
        && there.len() == 3
        && client.iter().all(fits)
        && pair.gateway.established().is_empty()
        && pair.gateway.kernel.inbound().is_empty()
}

#[test]
fn all_child_sas_go_along() {
    let mut pair = up(1);
    redirect(&mut pair, None, SECOND).expect("can be done");
    pair.run(A_WHILE);
    assert!(is_whole_at_the_second(&pair), "{:?}", pair.client.events);
    assert!(pair.gateway.ledger.used.contains(&(7, 1)));
}

#[test]
fn what_a_client_cannot_reach_for_a_while_it_goes_on_to_call() {
    let mut pair = three(2, client_side);
    pair.up();
    pair.run(SOON);
    redirect(&mut pair, None, SECOND).expect("can be done");
    pair.run(A_WHILE);
    pair.weather = Weather {
        loss: 100,
        ..Weather::default()
    };
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(Duration::from_secs(14));
    pair.weather = Weather::default();
    let at = pair.sent.len();
    pair.run(Duration::from_secs(14));
    let called = pair.sent[at..].iter().map(|sent| sent.to.ip().to_string());
    assert!(called.clone().any(|to| to == SECOND));
    assert!(!called.clone().any(|to| to == crate::bed::GATEWAY));
    assert!(super::is_with_the_second(&pair), "{:?}", pair.client.events);
}

#[test]
fn a_client_that_moves_on_its_way_arrives() {
    for wait in 0..200 {
        let mut pair = up(3 + wait);
        redirect(&mut pair, None, SECOND).expect("can be done");
        pair.run(Duration::from_millis(wait));
        pair.relocate("203.0.113.30");
        pair.run(Duration::from_mins(4));
        assert!(
            is_whole_at_the_second(&pair),
            "after {wait} ms: {:?}",
            pair.client.events
        );
    }
}
