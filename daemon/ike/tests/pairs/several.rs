//! Several Child SAs on one IKE SA: each is made, replaced, refused and deleted without the others
//! (RFC 7296, 1.3.1, 1.4.1, 2.8 and 2.9).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ike::{
    Settings,
    io::{Command, Event},
    peer::{Child, Connection, Start},
    sa::proposal::{OwnExchange, offer_esp},
    view::{Closed, SaView},
    wire::{header::Exchange, notify::NotifyKind, payload::PayloadKind, ts::TrafficSelector},
};

use crate::{
    bed::{Node, Pair, Weather},
    collisions::{kinds, says},
    sides::{client_side, gateway_side},
    tap::{Payloads, Tap},
};

const SOON: Duration = Duration::from_secs(1);

pub(crate) fn nets(texts: &[&str]) -> Vec<TrafficSelector> {
    let net = |text: &&str| TrafficSelector::from_text(text).expect("network");
    texts.iter().map(net).collect()
}

/// The same connection with these children: name, networks of the client, networks of the gateway.
pub(crate) fn for_children(
    mut side: Vec<Connection>,
    is_client: bool,
    children: &[(&str, &[&str], &[&str])],
) -> Vec<Connection> {
    let model = side[0].children.remove(0);
    for (name, client, gateway) in children {
        let (local, remote) = if is_client {
            (client, gateway)
        } else {
            (gateway, client)
        };
        side[0].children.push(Child {
            name: Arc::from(*name),
            local_ts: nets(local),
            remote_ts: nets(remote),
            ..model.clone()
        });
    }
    side
}

pub(crate) type Table = [(
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
)];
pub(crate) const THREE: &Table = &[
    ("net", &["10.2.0.0/24"], &["10.1.0.0/24"]),
    ("lab", &["10.2.0.0/24"], &["10.9.0.0/24"]),
    ("six", &["2001:db8:2::/64"], &["2001:db8:1::/64"]),
];

pub(crate) fn client() -> Vec<Connection> {
    for_children(client_side(), true, THREE)
}

pub(crate) fn roaming_client() -> Vec<Connection> {
    let mut side = client();
    side[0].local_addr = None;
    side
}

pub(crate) fn gateway() -> Vec<Connection> {
    for_children(gateway_side(), false, THREE)
}

/// The last comes on the operator's word alone.
fn reluctant_client() -> Vec<Connection> {
    let mut side = client();
    side[0].children[2].start = Start::None;
    side
}

fn up_with(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    pair
}

fn up(seed: u64) -> Pair {
    let pair = up_with(seed, client, gateway);
    assert_eq!(names(&pair.client), ["lab", "net", "six"]);
    assert!(pair.keys_agree());
    pair
}

/// Children of the one IKE SA, by name.
fn names(node: &Node) -> Vec<String> {
    let [sa]: [SaView; 1] = node.established().try_into().expect("one IKE SA");
    let mut names: Vec<_> = sa.children.iter().map(|one| one.name.to_string()).collect();
    names.sort_unstable();
    names
}

fn spis(node: &Node) -> BTreeMap<Arc<str>, u32> {
    let installed = node.kernel.installed.iter();
    installed
        .map(|(owner, child)| (Arc::clone(owner), child.inbound.spi))
        .collect()
}

fn about(pair: &mut Pair, command: fn(Arc<str>, Arc<str>) -> Command, child: &str) {
    pair.command(&command("home".into(), child.into()))
        .expect("can be done");
    pair.run(SOON);
}

fn rekey(child: &str) -> Command {
    Command::RekeyChild("home".into(), Some(child.into()))
}

fn failed(node: &Node) -> Vec<(String, Closed)> {
    let failed = |event: &Event| match event {
        Event::ChildFailed { child, reason, .. } => Some((child.to_string(), *reason)),
        _ => None,
    };
    node.events.iter().filter_map(failed).collect()
}

#[test]
fn the_first_comes_with_ike_auth_and_the_others_after_it() {
    let pair = up(1);
    let of = |exchange: u8| {
        let requests = pair
            .sent
            .iter()
            .filter(|flight| flight.message[18] == exchange && flight.message[19] & 0x20 == 0);
        requests.count()
    };
    assert_eq!((of(35), of(36)), (1, 2));
    let owners: Vec<_> = spis(&pair.gateway).into_keys().collect();
    assert_eq!(
        owners.iter().map(|one| &**one).collect::<Vec<_>>(),
        ["rw/lab", "rw/net", "rw/six"]
    );
    let lab = &pair.client.kernel.installed["home/lab"];
    assert_eq!(lab.remote_ts, nets(&["10.9.0.0/24"]));
}

#[test]
fn an_operator_brings_single_ones_up_and_down() {
    let mut pair = up_with(2, reluctant_client, gateway);
    assert_eq!(names(&pair.client), ["lab", "net"]);
    assert!(!pair.client.kernel.blocked.contains("home/six"));
    about(&mut pair, Command::UpChild, "six");
    assert_eq!(names(&pair.gateway), ["lab", "net", "six"]);
    assert!(pair.keys_agree());
    about(&mut pair, Command::DownChild, "net");
    assert_eq!(names(&pair.gateway), ["lab", "six"]);
    assert!(pair.keys_agree());
    assert!(
        !pair.client.kernel.blocked.contains("home/net"),
        "its flow is free"
    );
    assert!(pair.client.kernel.blocked.contains("home/lab"));
    // What was brought up comes again with a resumption, what was taken down with its connection.
    pair.suspend();
    assert!(
        pair.client.kernel.blocked.contains("home/six"),
        "nothing in clear"
    );
    pair.up();
    pair.run(SOON);
    assert_eq!(names(&pair.client), ["lab", "net", "six"]);
    let refused = pair.command(&Command::UpChild("home".into(), "none".into()));
    assert_eq!(refused, Err(ike::CommandRefused::NoChild));
    pair.command(&Command::Down("home".into())).expect("is up");
    pair.run(SOON);
    assert!(pair.client.kernel.blocked.is_empty() && pair.client.kernel.installed.is_empty());
    assert!(pair.gateway.kernel.installed.is_empty());
    // And brings the connection up first if need be.
    about(&mut pair, Command::UpChild, "six");
    assert_eq!(names(&pair.client), ["lab", "net", "six"]);
}

#[test]
fn a_gateway_makes_one_too_and_asks_in_vain_for_none() {
    let mut pair = up_with(3, reluctant_client, gateway);
    pair.gateway_does(&Command::UpChild("rw".into(), "six".into()));
    pair.run(SOON);
    assert_eq!(names(&pair.client), ["lab", "net", "six"]);
    assert!(pair.keys_agree());
    pair.gateway_does(&Command::DownChild("rw".into(), "lab".into()));
    pair.run(SOON);
    assert_eq!(names(&pair.client), ["net", "six"]);
    assert!(pair.keys_agree());
}

#[test]
fn a_delete_that_overtakes_the_answer_comes_again() {
    for outage in [0, 5, 900, 4000, 20_000] {
        let mut pair = up_with(12, reluctant_client, gateway);
        let up = Command::UpChild("home".into(), "six".into());
        pair.command(&up).expect("is up");
        pair.weather.loss = 100;
        pair.run(Duration::from_millis(100));
        assert_eq!(names(&pair.gateway), ["lab", "net", "six"]);
        pair.gateway_does(&Command::DownChild("rw".into(), "six".into()));
        pair.run(Duration::from_millis(outage));
        pair.weather.loss = 0;
        pair.run(Duration::from_secs(35));
        assert_eq!(names(&pair.client), ["lab", "net"], "after {outage} ms");
        assert_eq!(names(&pair.gateway), ["lab", "net"], "after {outage} ms");
        assert!(pair.keys_agree());
    }
}

#[test]
fn each_has_its_own_keys_and_its_own_time() {
    let mut pair = up(4);
    let before = spis(&pair.client);
    pair.command(&rekey("lab")).expect("is up");
    pair.run(SOON);
    let after = spis(&pair.client);
    let changed: Vec<_> = before
        .iter()
        .filter(|(owner, spi)| after[*owner] != **spi)
        .collect();
    assert_eq!(changed.len(), 1);
    assert_eq!(&**changed[0].0, "home/lab");
    assert!(pair.keys_agree());
    // All three at their times, and each at both ends.
    pair.run(Duration::from_hours(1));
    assert!(
        spis(&pair.client)
            .iter()
            .all(|(owner, spi)| before[owner] != *spi)
    );
    assert!(pair.keys_agree());
    assert_eq!(names(&pair.client), ["lab", "net", "six"]);
}

#[test]
fn both_sides_replace_all_of_them_at_once_in_any_weather() {
    for seed in 0..60 {
        let mut pair = up(seed);
        pair.weather = Weather {
            loss: seed % 25,
            duplicate: seed % 12,
            reorder: seed % 40,
        };
        for _ in 0..3 {
            pair.command(&Command::RekeyChild("home".into(), None))
                .expect("is up");
            pair.gateway_does(&Command::RekeyChild("rw".into(), None));
            pair.run(Duration::from_secs(20));
        }
        pair.weather = Weather::default();
        pair.run(Duration::from_mins(3));
        assert_eq!(names(&pair.client), ["lab", "net", "six"], "seed {seed}");
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn both_sides_ask_for_the_same_one_at_once() {
    for seed in 0..40 {
        let mut pair = up_with(seed, reluctant_client, gateway);
        pair.gateway_does(&Command::UpChild("rw".into(), "six".into()));
        pair.command(&Command::UpChild("home".into(), "six".into()))
            .expect("is up");
        pair.run(Duration::from_mins(1));
        assert_eq!(names(&pair.client), ["lab", "net", "six"], "seed {seed}");
        assert!(pair.keys_agree(), "seed {seed}: {:?}", pair.client.events);
    }
}

#[test]
fn new_keys_for_the_ike_sa_leave_none_behind() {
    let mut pair = up(5);
    let before = spis(&pair.client);
    pair.command(&Command::Rekey("home".into())).expect("is up");
    pair.run(SOON);
    assert_eq!(spis(&pair.client), before);
    assert_eq!(names(&pair.gateway), ["lab", "net", "six"]);
    pair.gateway_does(&Command::RekeyChild("rw".into(), None));
    pair.run(SOON);
    assert!(pair.keys_agree());
}

#[test]
fn a_resumption_brings_all_back_and_leaves_none_of_the_old() {
    for gateway_knows in [true, false] {
        let mut pair = up(6);
        let before = pair.gateway.kernel.inbound();
        pair.suspend();
        if !gateway_knows {
            pair.gateway.restart(pair.now);
        }
        pair.up();
        pair.run(SOON);
        assert!(pair.client.established()[0].resumed);
        assert_eq!(names(&pair.gateway), ["lab", "net", "six"]);
        assert!(pair.keys_agree());
        assert!(pair.gateway.kernel.inbound().is_disjoint(&before));
        // Each gets keys that no ticket opens.
        pair.run(Duration::from_secs(1900));
        assert_eq!(pair.client.established()[0].fresh_keys, Some(true));
        assert!(pair.keys_agree());
    }
}

#[test]
fn a_child_that_only_one_side_knows_is_refused_and_asked_for_again() {
    fn without_lab() -> Vec<Connection> {
        let mut side = gateway();
        side[0].children.remove(1);
        side
    }
    let mut pair = up_with(7, client, without_lab);
    assert_eq!(names(&pair.client), ["net", "six"]);
    assert_eq!(
        failed(&pair.client),
        [("lab".to_owned(), Closed::TsUnacceptable)]
    );
    assert!(
        pair.client.kernel.blocked.contains("home/lab"),
        "nothing in clear"
    );
    pair.run(Duration::from_mins(3));
    assert!(
        (3..=5).contains(&failed(&pair.client).len()),
        "{:?}",
        failed(&pair.client)
    );
    assert_eq!(names(&pair.client), ["net", "six"]);
}

#[test]
fn the_first_may_be_refused_and_the_ike_sa_is_for_the_others() {
    fn without_net() -> Vec<Connection> {
        let mut side = gateway();
        side[0].children.remove(0);
        side
    }
    let mut pair = up_with(8, client, without_net);
    assert_eq!(names(&pair.client), ["lab", "six"]);
    assert_eq!(
        failed(&pair.client),
        [("net".to_owned(), Closed::TsUnacceptable)]
    );
    assert!(pair.keys_agree());
    // So it is with a ticket.
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.client.established()[0].resumed);
    assert_eq!(names(&pair.client), ["lab", "six"]);
}

#[test]
fn a_peer_may_ask_for_one_child_in_parts() {
    const PARTS: &Table = &[
        ("a", &["10.2.0.0/24"], &["10.1.0.0/24"]),
        ("b", &["10.2.0.0/24"], &["10.9.0.0/24"]),
    ];
    const WHOLE: &Table = &[("all", &["10.2.0.0/24"], &["10.1.0.0/24", "10.9.0.0/24"])];
    fn parts() -> Vec<Connection> {
        for_children(client_side(), true, PARTS)
    }
    fn whole() -> Vec<Connection> {
        for_children(gateway_side(), false, WHOLE)
    }
    let mut pair = up_with(9, parts, whole);
    assert!(pair.keys_agree());
    assert_eq!(names(&pair.gateway), ["all", "all"]);
    let owners: Vec<_> = spis(&pair.gateway).into_keys().collect();
    assert_eq!(
        owners.iter().map(|one| &**one).collect::<Vec<_>>(),
        ["rw/all", "rw/all#2"]
    );
    pair.gateway_does(&Command::RekeyChild("rw".into(), None));
    pair.run(SOON);
    assert!(pair.keys_agree());
    about(&mut pair, Command::DownChild, "a");
    assert!(pair.keys_agree());
    let left = pair
        .gateway
        .kernel
        .installed
        .values()
        .next()
        .expect("the other");
    assert_eq!(left.local_ts, nets(&["10.9.0.0/24"]));
}

#[test]
fn the_last_one_may_go_and_another_come() {
    let mut pair = Pair::established(10);
    about(&mut pair, Command::DownChild, "net");
    assert!(pair.client.kernel.installed.is_empty() && pair.gateway.kernel.installed.is_empty());
    assert_eq!(names(&pair.client), Vec::<String>::new());
    pair.up();
    pair.run(SOON);
    assert_eq!(names(&pair.gateway), ["net"]);
    assert!(pair.keys_agree());
}

#[test]
fn a_kernel_that_refuses_one_takes_no_other_along() {
    for on_client in [true, false] {
        let mut pair = up_with(11, reluctant_client, gateway);
        let node = if on_client {
            &mut pair.client
        } else {
            &mut pair.gateway
        };
        node.kernel.fail_next = true;
        about(&mut pair, Command::UpChild, "six");
        assert_eq!(
            names(&pair.client),
            ["lab", "net"],
            "on client: {on_client}"
        );
        assert!(pair.keys_agree());
        pair.run(Duration::from_mins(2));
        assert_eq!(
            names(&pair.client),
            ["lab", "net", "six"],
            "on client: {on_client}"
        );
        assert!(pair.keys_agree());
    }
}

/// CREATE_CHILD_SA for these networks, with the first SPI of its own.
fn request(spi: u32, from: &str, to: &str) -> Payloads {
    let proposals = &client_side()[0].children[0].proposals;
    let mut offer = Vec::new();
    offer_esp(proposals, OwnExchange::Never, spi, &mut offer);
    let body = |text: &str| {
        let mut body = Vec::new();
        TrafficSelector::emit_all(&nets(&[text]), &mut body);
        body
    };
    vec![
        (PayloadKind::SA, offer),
        (PayloadKind::NONCE, vec![9; 32]),
        (PayloadKind::TS_I, body(from)),
        (PayloadKind::TS_R, body(to)),
    ]
}

#[test]
fn there_is_a_bound_and_nothing_is_carried_twice() {
    const WIDE: &Table = &[("all", &["10.2.0.0/16"], &["10.1.0.0/16"])];
    fn wide() -> Vec<Connection> {
        for_children(gateway_side(), false, WIDE)
    }
    let mut pair = up_with(12, client_side, wide);
    let tap = Tap::on(&pair);
    let mut id = 2;
    let mut ask = |pair: &mut Pair, from: &str| {
        let asked = request(0x1000 + id, from, "10.1.0.0/24");
        let answer = says(pair, &tap, Exchange::CreateChildSa, id, asked);
        id += 1;
        kinds(&answer).first().copied()
    };
    // It has that already.
    assert_eq!(
        ask(&mut pair, "10.2.0.0/24"),
        Some(NotifyKind::NO_ADDITIONAL_SAS)
    );
    assert_eq!(
        ask(&mut pair, "10.99.0.0/24"),
        Some(NotifyKind::TS_UNACCEPTABLE)
    );
    for more in 1..Connection::MAX_CHILDREN {
        assert_eq!(ask(&mut pair, &format!("10.2.{more}.0/24")), None, "{more}");
    }
    assert_eq!(
        pair.gateway.kernel.installed.len(),
        Connection::MAX_CHILDREN
    );
    assert_eq!(
        ask(&mut pair, "10.2.200.0/24"),
        Some(NotifyKind::NO_ADDITIONAL_SAS)
    );
}
