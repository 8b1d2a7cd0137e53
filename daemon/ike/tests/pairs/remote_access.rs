//! Inner addresses: a client asks, the gateway leases, both protect what is leased and nothing else,
//! and nobody is left with an address that is somebody else's.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ike::{
    Settings,
    io::{Command, Event, Stamp},
    lease::{Granted, LeaseRequest, Pool},
    peer::Connection,
    view::{Closed, Side},
    wire::{
        cp::{Attribute, CfgType, Configuration, Domain},
        id::Identity,
        notify::NotifyKind,
        payload::PayloadKind,
        ts::TrafficSelector,
    },
};

use crate::{
    bed::Pair,
    sides::{client_side, gateway_side},
    tap::{auth_messages, body, meddle},
};

const SOON: Duration = Duration::from_secs(1);

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pool(name: &str, first: &str, last: &str, network: &str, dns: &str) -> Arc<Pool> {
    Arc::new(Pool {
        name: name.into(),
        ranges: vec![address(first)..=address(last)],
        networks: vec![TrafficSelector::from_text(network).expect("network")],
        dns: vec![address(dns)],
        domains: vec![Domain::from_text("corp.example").expect("a name")],
    })
}

fn pools(dns: &str) -> Vec<Arc<Pool>> {
    vec![
        pool("rw4", "10.3.0.1", "10.3.0.4", "10.3.0.0/29", dns),
        pool(
            "rw6",
            "2001:db8:3::1",
            "2001:db8:3::4",
            "2001:db8:3::/125",
            "2001:db8::53",
        ),
    ]
}

/// A gateway with two pools, for both families.
pub(crate) fn leasing() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].pools = pools("10.1.0.53");
    let child = &mut side[0].children[0];
    child.remote_ts = Vec::new();
    child.remote_dynamic = true;
    child
        .local_ts
        .push(TrafficSelector::from_text("2001:db8:1::/48").expect("network"));
    side
}

pub(crate) fn leasing_by_reference() -> Vec<Connection> {
    let mut side = leasing();
    side[0].resume.by_reference = true;
    side
}

/// The same with another name server.
pub(crate) fn leasing_elsewhere() -> Vec<Connection> {
    let mut side = leasing();
    side[0].pools = pools("10.1.0.54");
    side
}

/// A client that wants an address of each family.
pub(crate) fn asking() -> Vec<Connection> {
    let mut side = client_side();
    side[0].vips = vec![address("0.0.0.0"), address("::")];
    let child = &mut side[0].children[0];
    child.local_ts = Vec::new();
    child.local_dynamic = true;
    child
        .remote_ts
        .push(TrafficSelector::from_text("2001:db8:1::/48").expect("network"));
    side
}

pub(crate) fn pair(seed: u64) -> Pair {
    Pair::with(seed, asking, leasing, Settings::default())
}

pub(crate) fn up(seed: u64) -> Pair {
    let mut pair = pair(seed);
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

/// What another client of the gateway would be granted now.
pub(crate) fn grant_to(pair: &mut Pair, peer: &str, wanted: &[&str]) -> Option<Granted> {
    let connection = &(pair.gateway.connections)()[0];
    let peer = Identity::from_text(peer).expect("identity");
    let wanted: Vec<_> = wanted.iter().map(|text| address(text)).collect();
    let request = LeaseRequest {
        connection,
        peer: &peer,
        wanted: &wanted,
        now: pair.now,
    };
    let leased = pair.gateway.leases.lease(&request);
    leased.ok().map(|(granted, _)| granted)
}

/// Leases in use, of both pools.
pub(crate) fn online(pair: &Pair) -> u64 {
    pair.gateway
        .leases
        .pools()
        .iter()
        .map(|pool| pool.online)
        .sum()
}

fn nets(texts: &[&str]) -> Vec<TrafficSelector> {
    let read = |text: &&str| TrafficSelector::from_text(text).expect("network");
    texts.iter().map(read).collect()
}

fn refused(pair: &Pair) -> Option<Closed> {
    pair.client.events.iter().find_map(|event| match event {
        Event::UpFailed { reason, .. } => Some(*reason),
        _ => None,
    })
}

#[test]
fn a_client_gets_an_address_of_each_family_and_name_servers() {
    let pair = up(1);
    let inner = ["10.3.0.1", "2001:db8:3::1"].map(address);
    let view = &pair.client.established()[0];
    assert_eq!(view.client, Side::Local);
    assert_eq!(view.leased.addresses, inner);
    assert_eq!(view.leased.dns, ["10.1.0.53", "2001:db8::53"].map(address));
    assert_eq!(view.leased.domains[0].as_str(), "corp.example");
    assert_eq!(pair.gateway.established()[0].leased.addresses, inner);
    // Nothing else is protected, on either side.
    let (client, gateway) = (pair.client.child(), pair.gateway.child());
    assert_eq!(client.local_ts, nets(&["10.3.0.1", "2001:db8:3::1"]));
    assert_eq!(gateway.remote_ts, client.local_ts);
    assert_eq!(client.leased, inner);
    assert!(gateway.leased.is_empty());
    assert_eq!(online(&pair), 2);
    // The request asks for any, and offers any; both are narrowed in the answer.
    let messages = auth_messages(&pair);
    let asked = Configuration::parse(body(&messages[0], PayloadKind::CP)).expect("a request");
    assert_eq!(asked.kind, CfgType::Request);
    assert_eq!(asked.attributes[0], Attribute::Ip4Address(None));
    let offered = TrafficSelector::parse_all(body(&messages[0], PayloadKind::TS_I));
    assert_eq!(offered, Ok(nets(&["0.0.0.0/0", "::/0"])));
}

#[test]
fn whoever_asks_for_one_family_gets_one() {
    fn asking_v6() -> Vec<Connection> {
        let mut side = asking();
        side[0].vips = vec![address("2001:db8:3::3")];
        side
    }
    let mut pair = Pair::with(2, asking_v6, leasing, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(
        pair.client.child().leased,
        [address("2001:db8:3::3")],
        "as wished"
    );
    assert_eq!(pair.gateway.child().remote_ts, nets(&["2001:db8:3::3"]));
    assert_eq!(online(&pair), 1);
    // It did not ask for name servers of the other family.
    let view = &pair.client.established()[0];
    assert_eq!(view.leased.dns, [address("2001:db8::53")]);
}

#[test]
fn a_client_that_asks_for_nothing_is_told_to_ask() {
    let mut pair = Pair::with(3, client_side, leasing, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.gateway.established().is_empty() && online(&pair) == 0);
    assert_eq!(refused(&pair), Some(Closed::AddressRequired));
}

#[test]
fn a_gateway_without_pools_passes_the_request_over_and_the_client_goes() {
    fn sloppy() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].children[0].remote_ts = nets(&["0.0.0.0/0"]);
        side
    }
    let mut pair = Pair::with(4, asking, sloppy, Settings::default());
    pair.up();
    pair.run(SOON);
    assert_eq!(refused(&pair), Some(Closed::NoAddress));
    assert!(pair.gateway.established().is_empty(), "and says so");
}

#[test]
fn an_exhausted_pool_refuses_and_takes_nothing_from_anybody() {
    let mut pair = pair(5);
    for number in 0..4 {
        let peer = format!("other-{number}.example");
        let granted = grant_to(&mut pair, &peer, &["0.0.0.0", "::"]).expect("room");
        assert_eq!(granted.addresses.len(), 2);
    }
    pair.up();
    pair.run(SOON);
    assert_eq!(refused(&pair), Some(Closed::NoAddress));
    assert!(pair.gateway.established().is_empty());
    assert_eq!(online(&pair), 8);
}

#[test]
fn a_login_that_comes_to_nothing_gives_its_address_back() {
    fn other_networks() -> Vec<Connection> {
        let mut side = asking();
        side[0].children[0].remote_ts = nets(&["172.16.0.0/12"]);
        side
    }
    let mut pair = Pair::with(6, other_networks, leasing, Settings::default());
    pair.up();
    pair.run(SOON);
    assert_eq!(refused(&pair), Some(Closed::TsUnacceptable));
    assert_eq!(online(&pair), 0);
    // Nor does one that the kernel refuses keep it.
    let mut pair = self::pair(6);
    pair.gateway.kernel.fail_next = true;
    pair.up();
    pair.run(SOON);
    assert!(pair.gateway.established().is_empty());
    assert_eq!(online(&pair), 0);
}

#[test]
fn what_is_no_configuration_payload_leases_nothing() {
    let bad: [&[u8]; 4] = [
        &[],
        &[1, 0, 0, 0, 0, 1, 0, 3, 10, 3, 0],
        &[1, 0, 0, 0, 0, 8, 0, 255],
        &[9, 0, 0, 0, 0, 1, 0, 0],
    ];
    for body in bad {
        let mut pair = pair(7);
        pair.up();
        meddle(&mut pair, false, |payloads| {
            for (_, octets) in payloads
                .iter_mut()
                .filter(|(kind, _)| *kind == PayloadKind::CP)
            {
                *octets = body.to_vec();
            }
        });
        let answer = &auth_messages(&pair)[1];
        assert_eq!(
            crate::conformance::kinds(answer),
            [NotifyKind::INVALID_SYNTAX]
        );
        assert_eq!(online(&pair), 0);
    }
}

#[test]
fn a_client_takes_no_address_that_cannot_be_its_own() {
    for bad in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut pair = pair(8);
        pair.up();
        meddle(&mut pair, true, |payloads| {
            for (_, octets) in payloads
                .iter_mut()
                .filter(|(kind, _)| *kind == PayloadKind::CP)
            {
                *octets = [&[2, 0, 0, 0, 0, 1, 0, 4], &bad[..]].concat();
            }
        });
        assert!(pair.client.kernel.installed.is_empty());
        assert_eq!(refused(&pair), Some(Closed::NoAddress));
        assert_eq!(online(&pair), 0, "it has said goodbye");
    }
}

#[test]
fn rekeys_leave_the_lease_where_it_is() {
    let mut pair = up(9);
    let leased = pair.client.child().leased.clone();
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    pair.gateway_does(&Command::Rekey("rw".into()));
    // Both Child SAs have new keys by then.
    pair.run(Duration::from_mins(58));
    assert!(pair.keys_agree());
    assert!(
        pair.client
            .events
            .iter()
            .any(|e| matches!(e, Event::ChildRekeyed { .. }))
    );
    assert_eq!(pair.client.child().leased, leased);
    assert_eq!(
        pair.gateway.child().remote_ts,
        nets(&["10.3.0.1", "2001:db8:3::1"])
    );
    assert_eq!(online(&pair), 2);
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    assert_eq!(online(&pair), 0);
}

#[test]
fn a_second_login_of_a_client_takes_its_lease_over() {
    let mut pair = up(10);
    let before = pair.gateway.child().remote_ts.clone();
    // The client has lost everything, and the gateway has not noticed.
    let now = pair.now;
    pair.client.restart(now);
    pair.up();
    pair.run(SOON);
    assert_eq!(pair.gateway.established().len(), 1, "the old SA has gone");
    assert_eq!(pair.gateway.child().remote_ts, before);
    assert_eq!(online(&pair), 2);
}

#[test]
fn a_lost_client_keeps_its_flow_blocked_and_its_address() {
    let mut pair = up(11);
    let block = pair.client.kernel.blocked.clone();
    pair.suspend();
    assert_eq!(pair.client.kernel.blocked, block);
    let asleep = pair.client.endpoint.sas(pair.now);
    assert_eq!(asleep[0].leased.addresses.len(), 2);
    // The gateway finds out, and blocks what goes to its pools.
    pair.run(Duration::from_secs(200));
    assert!(pair.gateway.established().is_empty());
    assert!(pair.gateway.kernel.blocked.contains("rw/net"));
    assert_eq!(online(&pair), 0);
    let leases = pair.gateway.leases.leases();
    assert_eq!(leases.len(), 2);
    assert!(
        leases
            .iter()
            .all(|lease| lease.record.peer.to_string() == "client.example")
    );
}

/// Whatever happens on the way, as many leases are in use as SAs have some.
#[test]
fn leases_in_use_are_those_of_the_sas() {
    for seed in 0..60 {
        let mut pair = pair(1000 + seed);
        (
            pair.weather.loss,
            pair.weather.duplicate,
            pair.weather.reorder,
        ) = (15, 10, 20);
        for _ in 0..8 {
            let command = match pair.rng.below(5) {
                0 => Command::Down("home".into()),
                1 => Command::Suspend("home".into()),
                2 => Command::Rekey("home".into()),
                _ => Command::Up("home".into()),
            };
            // Refused for whatever is not as the command wants it.
            let _not_now = pair.command(&command);
            let span = Duration::from_millis(pair.rng.below(60_000));
            pair.run(span);
        }
        pair.weather = crate::bed::Weather::default();
        pair.run(Duration::from_mins(5));
        let sas = pair.gateway.established();
        let addresses: Vec<_> = sas.iter().flat_map(|sa| &sa.leased.addresses).collect();
        assert_eq!(online(&pair), addresses.len() as u64, "seed {seed}");
        assert!(sas.len() <= 1, "seed {seed}: one login of one client");
        pair.run(Duration::from_hours(5));
        let _gone = pair.command(&Command::Down("home".into()));
        pair.run(Duration::from_mins(10));
        assert_eq!(online(&pair), 0, "seed {seed}");
    }
}

/// Keeping track of time for what the book says of itself.
#[test]
fn the_book_says_since_when() {
    let pair = up(12);
    let Stamp { wall, .. } = pair.now;
    let leases = pair.gateway.leases.leases();
    assert!(
        leases
            .iter()
            .all(|lease| lease.online && lease.record.since_wall() <= wall)
    );
    assert_eq!(&*leases[0].pool, "rw4");
}
