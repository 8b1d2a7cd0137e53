//! Transport mode (RFC 7296, 1.3.1): both sides want it and are alone on the path, or it is tunnel mode.

use std::time::Duration;

use ike::{Settings, kernel::Mode, peer::Connection, wire::ts::TrafficSelector};

use crate::bed::{CLIENT, GATEWAY, Pair};
use crate::sides::{client_side, gateway_side};

const SOON: Duration = Duration::from_secs(1);

fn only(address: &str) -> Vec<TrafficSelector> {
    vec![TrafficSelector::from_text(address).expect("address")]
}

/// Between the two hosts, in transport mode if `wanted`.
fn hosts(mut side: Vec<Connection>, (own, other): (&str, &str), wanted: bool) -> Vec<Connection> {
    let connection = &mut side[0];
    // A Child SA in transport mode does not move (RFC 4555, 1.1).
    connection.mobike = false;
    let child = &mut connection.children[0];
    (child.local_ts, child.remote_ts) = (only(own), only(other));
    if wanted {
        child.carriage.mode = Mode::Transport;
    }
    side
}

fn client() -> Vec<Connection> {
    hosts(client_side(), (CLIENT, GATEWAY), true)
}

fn client_in_tunnel() -> Vec<Connection> {
    hosts(client_side(), (CLIENT, GATEWAY), false)
}

/// It takes any client.
fn gateway() -> Vec<Connection> {
    hosts(gateway_side(), (GATEWAY, "0.0.0.0/0"), true)
}

fn gateway_in_tunnel() -> Vec<Connection> {
    hosts(gateway_side(), (GATEWAY, "0.0.0.0/0"), false)
}

fn modes(pair: &Pair) -> (Mode, Mode) {
    let of = |node: &crate::bed::Node| {
        let mode = node.child().carriage.mode;
        let shown = node
            .established()
            .pop()
            .and_then(|mut sa| sa.children.pop());
        assert_eq!(shown.map(|child| child.mode), Some(mode));
        mode
    };
    (of(&pair.client), of(&pair.gateway))
}

fn up(seed: u64, client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Pair {
    let mut pair = Pair::with(seed, client, gateway, Settings::default());
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair
}

#[test]
fn two_hosts_that_both_want_transport_mode_have_it_and_keep_it() {
    let mut pair = up(1, client, gateway);
    assert_eq!(modes(&pair), (Mode::Transport, Mode::Transport));
    let before = pair.client.child().inbound.spi;
    pair.run(Duration::from_hours(1));
    assert_ne!(
        pair.client.child().inbound.spi,
        before,
        "nobody has rekeyed"
    );
    assert!(pair.keys_agree());
    assert_eq!(modes(&pair), (Mode::Transport, Mode::Transport));
    pair.suspend();
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    assert_eq!(modes(&pair), (Mode::Transport, Mode::Transport));
}

// RFC 5723: T13, X10, note 5
#[test]
fn a_resumption_agrees_on_the_mode_anew() {
    for (before, after) in [
        (Mode::Tunnel, Mode::Transport),
        (Mode::Transport, Mode::Tunnel),
    ] {
        let of = |mode: Mode| match mode {
            Mode::Tunnel => gateway_in_tunnel,
            Mode::Transport => gateway,
        };
        let mut pair = up(6, client, of(before));
        assert_eq!(modes(&pair), (before, before));
        pair.suspend();
        // The gateway's administrator has thought better of it meanwhile.
        pair.gateway.connections = of(after);
        pair.gateway.restart(pair.now);
        pair.up();
        pair.run(SOON);
        assert!(pair.keys_agree() && pair.client.established()[0].resumed);
        assert_eq!(modes(&pair), (after, after));
    }
}

#[test]
fn if_either_does_not_want_transport_mode_both_are_in_tunnel_mode() {
    let tunnel = (Mode::Tunnel, Mode::Tunnel);
    assert_eq!(modes(&up(2, client_in_tunnel, gateway)), tunnel);
    assert_eq!(modes(&up(3, client, gateway_in_tunnel)), tunnel);
}

#[test]
fn networks_behind_the_hosts_are_not_for_transport_mode() {
    fn with_networks() -> Vec<Connection> {
        let mut side = client_side();
        side[0].children[0].carriage.mode = Mode::Transport;
        side
    }
    fn networks_too() -> Vec<Connection> {
        let mut side = gateway_side();
        side[0].children[0].carriage.mode = Mode::Transport;
        side
    }
    let pair = up(4, with_networks, networks_too);
    assert_eq!(modes(&pair), (Mode::Tunnel, Mode::Tunnel));
}

#[test]
fn across_a_nat_it_is_tunnel_mode() {
    let mut pair = Pair::with(5, client, gateway, Settings::default());
    pair.nat = Some("203.0.113.9:500".parse().expect("address"));
    pair.up();
    pair.run(SOON);
    assert!(pair.gateway.child().udp_encap);
    assert_eq!(modes(&pair), (Mode::Tunnel, Mode::Tunnel));
}
