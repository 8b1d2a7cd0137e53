//! A second login of one identity, under each policy; and that a resumption is no login.

use std::time::Duration;

use ike::{
    Settings,
    io::{Command, Event},
    peer::{Connection, Unique},
    view::{Closed, SaView},
};

use crate::{
    bed::Pair,
    remote_access::{asking, leasing},
    sides::{client_side, gateway_side},
    why::{failures, told},
};

const SOON: Duration = Duration::from_secs(1);
/// Where the client is too.
const ELSEWHERE: &str = "192.0.2.20";

/// The client once more, at another address and by another name: it knows of its first SA, and so says
/// nothing of INITIAL_CONTACT.
fn twice(mut side: Vec<Connection>) -> Vec<Connection> {
    let connections = [
        ("home", None),
        ("elsewhere", Some(ELSEWHERE)),
        ("again", None),
    ];
    let named = |(name, address): (&str, Option<&str>)| {
        let mut one = side.remove(0);
        one.name = name.into();
        if let Some(address) = address {
            one.local_addr = Some(address.parse().expect("an address"));
        }
        one
    };
    connections.map(named).into()
}

fn clients() -> Vec<Connection> {
    twice(
        [client_side(), client_side(), client_side()]
            .into_iter()
            .flatten()
            .collect(),
    )
}

fn with(mut side: Vec<Connection>, unique: Unique) -> Vec<Connection> {
    side[0].unique = unique;
    side
}

fn keeping() -> Vec<Connection> {
    with(gateway_side(), Unique::Keep)
}

/// A pair whose client is up by its first name.
fn pair(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    up(&mut pair, "home");
    assert_eq!(pair.gateway.established().len(), 1);
    pair
}

fn up(pair: &mut Pair, name: &str) {
    pair.command(&Command::Up(name.into()))
        .expect("can be started");
    pair.run(SOON);
}

/// Where the gateway's peers are.
fn places(pair: &Pair) -> Vec<String> {
    let place = |sa: &SaView| sa.path.expect("a path").remote.ip().to_string();
    pair.gateway.established().iter().map(place).collect()
}

fn resumed(pair: &Pair) -> bool {
    let resumed = |event: &Event| matches!(event, Event::Established { resumed: true, .. });
    pair.gateway.events.iter().any(resumed)
}

#[test]
fn a_second_login_takes_the_place_of_the_first_by_default() {
    let mut pair = pair(1, clients, gateway_side);
    up(&mut pair, "elsewhere");
    assert_eq!(places(&pair), [ELSEWHERE]);
    let replaced = |event: &Event| matches!(event, Event::Closed { reason, .. } if *reason == Closed::Replaced);
    assert!(pair.gateway.events.iter().any(replaced));
}

#[test]
fn a_login_that_is_kept_is_not_replaced_by_another() {
    let mut pair = pair(2, clients, keeping);
    up(&mut pair, "elsewhere");
    assert_eq!(places(&pair), [crate::bed::CLIENT]);
    assert_eq!(
        told(&pair.gateway),
        "192.0.2.20:4500 rw client.example: IKE_AUTH: the peer is up already, at 192.0.2.10:4500, and \
         `unique` keeps that (sent AUTHENTICATION_FAILED); if that SA is left over, it ends within \
         dpd_delay and 40 s; or set unique = \"replace\""
    );
    assert!(
        failures(&pair.client)[0]
            .to_string()
            .contains("AUTHENTICATION_FAILED")
    );
    assert_eq!(
        pair.gateway.kernel.inbound().len(),
        1,
        "nothing is left of it"
    );

    // When the first has gone the other one may.
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    up(&mut pair, "elsewhere");
    assert_eq!(places(&pair), [ELSEWHERE]);
}

#[test]
fn whoever_is_kept_may_come_back_and_authenticate_anew() {
    let mut pair = pair(3, clients, keeping);
    // By its ticket, while the gateway still has the SA of before.
    pair.suspend();
    up(&mut pair, "home");
    assert!(resumed(&pair));
    assert_eq!(places(&pair), [crate::bed::CLIENT]);
    // From where it is.
    up(&mut pair, "again");
    assert_eq!(places(&pair), [crate::bed::CLIENT]);
    // After it has lost everything: it says that it knows of no other.
    let now = pair.now;
    pair.client.restart(now);
    up(&mut pair, "elsewhere");
    assert_eq!(places(&pair), [ELSEWHERE]);
    // A rekey changes nothing about who is there.
    pair.command(&Command::Rekey("elsewhere".into()))
        .expect("is up");
    pair.run(SOON);
    up(&mut pair, "home");
    assert_eq!(places(&pair), [ELSEWHERE]);
}

fn leased_clients() -> Vec<Connection> {
    twice(
        [asking(), asking(), asking()]
            .into_iter()
            .flatten()
            .collect(),
    )
}

fn leasing_to_many() -> Vec<Connection> {
    with(leasing(), Unique::Never)
}

/// What the gateway has leased to SAs that are up, one of each.
fn inside(pair: &Pair) -> Vec<String> {
    let sas = pair.gateway.established();
    let first = |sa: &SaView| sa.leased.addresses[0].to_string();
    let mut inside: Vec<_> = sas.iter().map(first).collect();
    inside.sort();
    inside
}

#[test]
fn one_identity_may_be_there_more_than_once_with_an_address_for_each() {
    let mut pair = pair(4, leased_clients, leasing_to_many);
    up(&mut pair, "elsewhere");
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2"]);
    assert_eq!(pair.gateway.kernel.installed.len(), 2);
    // A resumption takes the place of its own SA and of no other.
    pair.gateway.events.clear();
    pair.suspend();
    up(&mut pair, "home");
    assert!(resumed(&pair));
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2"]);
    assert_eq!(pair.gateway.kernel.installed.len(), 2);

    // Whoever says that it knows of no other is not believed.
    let now = pair.now;
    pair.client.restart(now);
    up(&mut pair, "again");
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2", "10.3.0.3"]);

    // What ends gives its address to the next login.
    pair.command(&Command::Down("again".into())).expect("is up");
    pair.run(SOON);
    up(&mut pair, "elsewhere");
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2", "10.3.0.3"]);
    // The two that the client has forgotten end when they answer nothing.
    pair.run(Duration::from_mins(5));
    assert_eq!(inside(&pair), ["10.3.0.3"]);
    assert_eq!(pair.gateway.kernel.installed.len(), 1);
}

fn leasing_to_two() -> Vec<Connection> {
    let mut side = leasing_to_many();
    side[0].leases_per_identity = 2;
    side
}

#[test]
fn one_identity_has_as_many_addresses_as_one_may_and_no_more() {
    let mut pair = pair(6, leased_clients, leasing_to_two);
    up(&mut pair, "elsewhere");
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2"]);
    // With another worker of the same gateway.
    let settings = |worker| Settings::default().part_of(worker, 2);
    let mut second = crate::bed::Node::new(12, leasing_to_two, settings(1));
    std::mem::swap(&mut pair.gateway.leases, &mut second.leases);
    std::mem::swap(&mut pair.gateway, &mut second);
    up(&mut pair, "again");
    assert!(pair.gateway.established().is_empty());
    assert_eq!(
        told(&pair.gateway),
        "192.0.2.10:4500 rw client.example: IKE_AUTH: the peer's identity has 2 inner addresses in use, as \
         many as one may (sent INTERNAL_ADDRESS_FAILURE); give each client an identity of its own, or \
         raise leases_per_identity; SAs that are left over end within dpd_delay and 40 s"
    );
    let refused = failures(&pair.client);
    assert!(
        refused[0]
            .to_string()
            .contains("received INTERNAL_ADDRESS_FAILURE"),
        "{}",
        refused[0]
    );
    assert!(pair.gateway.kernel.inbound().is_empty());
    assert_eq!(pair.gateway.leases.leases().len(), 4, "of both families");

    // Whoever has an address comes back to it, and what one lets go another may have.
    std::mem::swap(&mut pair.gateway, &mut second);
    std::mem::swap(&mut pair.gateway.leases, &mut second.leases);
    pair.gateway.events.clear();
    pair.suspend();
    up(&mut pair, "home");
    assert!(resumed(&pair));
    pair.command(&Command::Down("elsewhere".into()))
        .expect("is up");
    pair.run(SOON);
    up(&mut pair, "again");
    assert_eq!(inside(&pair), ["10.3.0.1", "10.3.0.2"]);
}

#[test]
fn workers_know_of_each_others_peers() {
    let mut pair = pair(5, clients, keeping);
    let presence = std::sync::Arc::default();
    let settings = |worker| Settings::default().part_of(worker, 2);
    let mut second = crate::bed::Node::new(11, keeping, settings(1));
    for node in [&mut pair.gateway, &mut second] {
        node.endpoint
            .share_presence(std::sync::Arc::clone(&presence));
    }
    // Its next step tells the others of it.
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    std::mem::swap(&mut pair.gateway, &mut second);
    up(&mut pair, "elsewhere");
    assert!(pair.gateway.established().is_empty());
    assert!(told(&pair.gateway).contains("is up already"));
}
