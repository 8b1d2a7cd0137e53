//! IKE SAs that are made without a Child SA, and get theirs afterwards (RFC 6023).

use std::time::Duration;

use ike::{Settings, io::Command, peer::Connection};

use crate::{
    bed::{Pair, Weather},
    remote_access::{asking, leasing},
    several,
    sides::{client_side, gateway_side},
};

const SOON: Duration = Duration::from_secs(1);

fn without(mut side: Vec<Connection>) -> Vec<Connection> {
    for connection in &mut side {
        connection.childless = true;
    }
    side
}

fn client() -> Vec<Connection> {
    without(client_side())
}

fn gateway() -> Vec<Connection> {
    without(gateway_side())
}

fn up(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree(), "up, and the same Child SAs at both ends");
    pair
}

/// Requests of CREATE_CHILD_SA so far.
fn made_apart(pair: &Pair) -> usize {
    let requests = pair
        .sent
        .iter()
        .filter(|flight| flight.message[18] == 36 && flight.message[19] & 0x20 == 0);
    requests.count()
}

#[test]
fn until_the_first_one_is_there_the_sa_is_bare() {
    let mut pair = Pair::with(3, client, gateway, Settings::default());
    pair.up();
    let mut bare = 0;
    for _ in 0..1000 {
        pair.run(Duration::from_millis(1));
        let established = pair.client.established();
        let Some(sa) = established.first() else {
            continue;
        };
        let is_bare = pair.client.endpoint.is_bare(sa.id);
        assert_eq!(is_bare, sa.children.is_empty());
        bare += usize::from(is_bare);
    }
    assert!(bare > 0 && pair.keys_agree());
}

#[test]
fn all_child_sas_come_by_exchanges_of_their_own() {
    let pair = up(1, client, gateway);
    assert_eq!(made_apart(&pair), 1);
    assert_eq!(pair.client.kernel.installed.len(), 1);
    assert!(
        !pair
            .client
            .endpoint
            .is_bare(pair.client.established()[0].id)
    );
    let three = up(
        2,
        || without(several::client()),
        || without(several::gateway()),
    );
    assert_eq!(made_apart(&three), 3);
    assert_eq!(three.gateway.kernel.installed.len(), 3);
}

#[test]
fn the_first_has_a_key_exchange_of_its_own() {
    let proposal = |pair: &Pair| pair.client.established()[0].children[0].proposal.clone();
    assert_eq!(proposal(&up(3, client, gateway)), "aes256gcm16-x25519");
    assert_eq!(proposal(&up(3, client_side, gateway)), "aes256gcm16");
}

#[test]
fn it_takes_both_sides() {
    for (client, gateway) in [
        (client as fn() -> _, gateway_side as fn() -> _),
        (client_side, gateway),
    ] {
        assert_eq!(made_apart(&up(4, client, gateway)), 0);
    }
}

#[test]
fn inner_addresses_come_with_the_ike_sa() {
    let pair = up(5, || without(asking()), || without(leasing()));
    assert_eq!(made_apart(&pair), 1);
    let sa = &pair.gateway.established()[0];
    let inner = sa.children[0].remote_ts[0];
    assert_eq!(inner.start, inner.end, "the leased address alone: {inner}");
}

#[test]
fn a_resumption_brings_its_child_sa_along() {
    let mut pair = up(6, client, gateway);
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert!(pair.client.established()[0].resumed);
    assert_eq!(made_apart(&pair), 1, "the one of the first login");
}

#[test]
fn loss_repetition_and_reordering_change_nothing() {
    for seed in 0..40 {
        let mut pair = Pair::with(seed, client, gateway, Settings::default());
        pair.weather = Weather {
            loss: seed % 30,
            duplicate: seed % 20,
            reorder: seed % 60,
        };
        pair.command(&Command::Up("home".into())).expect("can call");
        pair.run(Duration::from_mins(1));
        pair.weather = Weather::default();
        pair.run(Duration::from_secs(100));
        assert!(pair.keys_agree(), "seed {seed}");
        assert_eq!(pair.gateway.kernel.installed.len(), 1, "seed {seed}");
    }
}
