//! A client behind a NAT that gives it another mapping while only ESP flows (RFC 7296, 2.23). The gateway's
//! kernel says where the packets come from.

use std::{net::SocketAddr, time::Duration};

use ike::{
    Settings,
    io::{Command, Event, Input},
    peer::Connection,
};

use crate::{
    bed::Pair,
    roaming::{plain_client, roaming_client},
    sides::gateway_side,
};

const SOON: Duration = Duration::from_secs(1);
/// The NAT's ports for IKE begin here, and the next one is that of port 4500.
const BEFORE: &str = "203.0.113.200:40000";
const NOW: &str = "203.0.113.201:50000";

fn outside(nat: &str) -> SocketAddr {
    let first: SocketAddr = nat.parse().expect("address");
    SocketAddr::new(first.ip(), first.port() + 1)
}

fn no_replay_window() -> Vec<Connection> {
    let mut side = gateway_side();
    side[0].children[0].carriage.replay_window = 0;
    side
}

impl Pair {
    /// Up behind a NAT, which then has another mapping.
    fn remapped(client: fn() -> Vec<Connection>, gateway: fn() -> Vec<Connection>) -> Self {
        let mut pair = Self::roaming_with(1, client, gateway);
        pair.nat = Some(BEFORE.parse().expect("address"));
        pair.up();
        pair.run(SOON);
        assert_eq!(pair.gateway.child().path.remote, outside(BEFORE));
        pair.nat = Some(NOW.parse().expect("address"));
        pair.gone.insert(outside(BEFORE).ip());
        pair
    }

    /// The gateway's kernel says that the client's ESP comes from there.
    fn mapped(&mut self, source: SocketAddr) {
        let child = self.gateway.child();
        let (owner, spi) = (child.owner.clone(), child.inbound.spi);
        let mapped = Input::Mapped { owner, spi, source };
        self.gateway.handle(mapped, self.now);
        self.drain();
    }
}

#[test]
fn esp_from_elsewhere_takes_ike_along() {
    for told in [true, false] {
        let mut pair = Pair::remapped(plain_client, gateway_side);
        let (ops, sent) = (pair.gateway.kernel.ops, pair.sent.len());
        if told {
            pair.mapped(outside(NOW));
            assert_eq!(pair.gateway.child().path.remote, outside(NOW));
            assert!(pair.gateway.child().udp_encap);
            let at = pair.gateway.established()[0].path.map(|path| path.remote);
            assert_eq!(at, Some(outside(NOW)));
            // Repeated, it is nothing new.
            pair.mapped(outside(NOW));
            assert_eq!(pair.gateway.kernel.ops, ops + 1);
        }
        // The gateway asks, which it could not do otherwise.
        pair.gateway_does(&Command::RekeyChild("rw".into(), None));
        pair.run(SOON);
        let rekeyed = |event: &Event| matches!(event, Event::ChildRekeyed { .. });
        assert_eq!(pair.client.events.iter().any(rekeyed), told);
        if told {
            assert!(pair.keys_agree());
            assert_eq!(pair.gateway.child().path.remote, outside(NOW));
            assert_eq!(pair.sent.len(), sent + 4, "each message once");
        }
    }
}

#[test]
fn what_was_asked_at_the_old_mapping_is_asked_again_at_the_new_one() {
    let mut pair = Pair::remapped(plain_client, gateway_side);
    pair.gateway_does(&Command::Rekey("rw".into()));
    pair.run(Duration::from_millis(50));
    pair.mapped(outside(NOW));
    pair.run(Duration::from_secs(5));
    let rekeyed = |event: &Event| matches!(event, Event::Rekeyed { .. });
    assert!(pair.client.events.iter().any(rekeyed) && pair.keys_agree());
    let at = pair.gateway.established()[0].path.map(|path| path.remote);
    assert_eq!(at, Some(outside(NOW)));
}

#[test]
fn nobody_is_followed_who_moves_by_other_means_or_cannot_be_trusted() {
    let stays = |pair: &mut Pair| {
        let (path, ops) = (pair.gateway.child().path, pair.gateway.kernel.ops);
        pair.mapped(outside(NOW));
        assert_eq!(
            (pair.gateway.child().path, pair.gateway.kernel.ops),
            (path, ops)
        );
    };
    // With MOBIKE; and where an old packet passes for a new one.
    stays(&mut Pair::remapped(roaming_client, gateway_side));
    stays(&mut Pair::remapped(plain_client, no_replay_window));
    // Without a NAT.
    let mut pair = Pair::with(2, plain_client, gateway_side, Settings::default());
    let at = pair.client_at;
    pair.client.endpoint.set_local_address("home", at);
    pair.up();
    pair.run(SOON);
    stays(&mut pair);
    // To an SPI that is not its own, to no port, or in the other family.
    let mut pair = Pair::remapped(plain_client, gateway_side);
    let ops = pair.gateway.kernel.ops;
    let child = pair.gateway.child();
    let (owner, spi) = (child.owner.clone(), child.inbound.spi);
    for (spi, source) in [
        (child.outbound.spi, outside(NOW)),
        (spi, "203.0.113.201:0".parse().expect("address")),
        (spi, "[2001:db8::1]:4500".parse().expect("address")),
    ] {
        let owner = owner.clone();
        let mapped = Input::Mapped { owner, spi, source };
        pair.gateway.handle(mapped, pair.now);
        pair.drain();
    }
    assert_eq!(pair.gateway.kernel.ops, ops);
    assert_eq!(pair.gateway.child().path.remote, outside(BEFORE));
}

/// Somebody on the way repeats each packet from another address, and is the first to arrive.
#[test]
fn a_mapping_that_flaps_costs_little_and_ends_with_the_peer() {
    let mut pair = Pair::remapped(plain_client, gateway_side);
    let ops = pair.gateway.kernel.ops;
    let elsewhere = "198.51.100.66:4500".parse().expect("address");
    let rounds = 600;
    for _ in 0..rounds {
        for source in [elsewhere, outside(NOW)] {
            pair.mapped(source);
            pair.run(Duration::from_millis(50));
        }
    }
    let moves = pair.gateway.kernel.ops - ops;
    assert!(
        (8..=8 + 6 + 1).contains(&moves),
        "{moves} moves in a minute"
    );
    for _ in 0..20 {
        pair.mapped(outside(NOW));
        pair.run(SOON);
    }
    assert_eq!(pair.gateway.child().path.remote, outside(NOW));
    pair.gateway_does(&Command::RekeyChild("rw".into(), None));
    pair.run(SOON);
    assert!(pair.keys_agree());
}
