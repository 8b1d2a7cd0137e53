//! Inner addresses over a resumption: they are not resumed but asked for again (RFC 5723, 5, note 5),
//! and what the gateway says besides is said anew.

use std::{net::IpAddr, time::Duration};

use ike::{
    Settings,
    wire::{cp::Configuration, payload::PayloadKind},
};

use super::{SOON, forget, resumed};
use crate::{
    bed::Pair,
    remote_access::{
        address, asking, grant_to, leasing, leasing_by_reference, leasing_elsewhere, online,
    },
    tap::{auth_messages, body},
};

fn asleep(seed: u64, by_reference: bool) -> Pair {
    let gateway = if by_reference {
        leasing_by_reference
    } else {
        leasing
    };
    let mut pair = Pair::with(seed, asking, gateway, Settings::default());
    // Not the first addresses of the pools, which anybody might get.
    let other = grant_to(&mut pair, "other.example", &["0.0.0.0", "::"]).expect("room");
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree());
    pair.gateway.leases.end(other.id, pair.now);
    pair.suspend();
    forget(&mut pair);
    pair
}

fn inner(pair: &Pair) -> Vec<IpAddr> {
    pair.client.child().leased.clone()
}

fn come_back(pair: &mut Pair) {
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && resumed(pair));
}

// RFC 5723: N32, T14, note 3
#[test]
fn t_vip_sticky() {
    let former = ["10.3.0.2", "2001:db8:3::2"].map(address);
    for by_reference in [false, true] {
        // While the old SA still holds the lease: it moves to the new one, and was never free.
        let mut pair = asleep(1, by_reference);
        assert_eq!(online(&pair), 2);
        assert_eq!(pair.gateway.established().len(), 1);
        come_back(&mut pair);
        assert_eq!(inner(&pair), former);
        assert_eq!((pair.gateway.established().len(), online(&pair)), (1, 2));
        if !by_reference {
            // Only what is in the ticket itself opens the messages here.
            let asked = &auth_messages(&pair)[0];
            let asked = Configuration::parse(body(asked, PayloadKind::CP)).expect("a request");
            let text = format!("{:?}", asked.attributes);
            assert!(
                text.contains("10.3.0.2") && text.contains("2001:db8:3::2"),
                "{text}"
            );
        }

        // After the gateway has found the client gone, and given addresses to two others.
        let mut pair = asleep(2, by_reference);
        pair.run(Duration::from_secs(200));
        assert_eq!(online(&pair), 0);
        for peer in ["third.example", "fourth.example"] {
            let granted = grant_to(&mut pair, peer, &["10.3.0.2", "::"]).expect("room");
            assert!(granted.addresses.iter().all(|one| !former.contains(one)));
        }
        come_back(&mut pair);
        assert_eq!(inner(&pair), former);

        // After a restart of the gateway, which keeps its leases.
        let mut pair = asleep(3, by_reference);
        let now = pair.now;
        pair.gateway.restart(now);
        come_back(&mut pair);
        assert_eq!(inner(&pair), former);

        // When another client has got it meanwhile: another address, and no failure.
        let mut pair = asleep(4, by_reference);
        pair.run(Duration::from_secs(200));
        let crowd = [0, 1, 2, 3].map(|number| {
            let peer = format!("crowd-{number}.example");
            grant_to(&mut pair, &peer, &["0.0.0.0"]).expect("none of them is in use")
        });
        assert_eq!(
            crowd[3].addresses,
            [former[0]],
            "unused for a shorter time than others"
        );
        pair.gateway.leases.end(crowd[0].id, pair.now);
        come_back(&mut pair);
        assert_eq!(inner(&pair), [crowd[0].addresses[0], former[1]]);
    }
}

// RFC 5723: T15
#[test]
fn t_cp_fresh() {
    let mut pair = asleep(5, false);
    pair.gateway.connections = leasing_elsewhere;
    let now = pair.now;
    pair.gateway.restart(now);
    come_back(&mut pair);
    let leased = &pair.client.established()[0].leased;
    assert_eq!(leased.dns, ["10.1.0.54", "2001:db8::53"].map(address));
    assert_eq!(leased.addresses, ["10.3.0.2", "2001:db8:3::2"].map(address));
}
