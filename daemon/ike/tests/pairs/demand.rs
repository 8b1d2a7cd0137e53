//! Connections that packets bring up: what the kernel is asked for, and that a flow never leaves in clear.

use std::time::Duration;

use ike::{CommandRefused, Settings, io::Command};

use crate::{
    bed::{GATEWAY, Pair},
    roaming::roaming_client,
    sides::gateway_side,
};

const SOON: Duration = Duration::from_secs(1);

fn trap(name: &str) -> Command {
    Command::Trap(name.into())
}

#[test]
fn a_trapped_flow_waits_until_a_packet_brings_it_up_and_waits_again() {
    let mut pair = Pair::new(1);
    pair.command(&trap("home")).expect("a client's connection");
    pair.run(SOON);
    let mut trapped = pair.client.kernel.trapped.clone().into_iter();
    let (owner, peer) = trapped.next().expect("its one child");
    assert_eq!((peer.to_string().as_str(), trapped.next()), (GATEWAY, None));
    assert!(pair.client.kernel.blocked.contains(&owner));
    assert!(pair.client.established().is_empty(), "nobody has asked");
    pair.up();
    pair.run(SOON);
    assert!(
        pair.client.kernel.installed.contains_key(&owner),
        "the owner that waited"
    );
    pair.suspend();
    assert!(pair.client.kernel.blocked.contains(&owner));
    pair.up();
    pair.run(SOON);
    assert!(pair.keys_agree() && pair.client.established()[0].resumed);
}

#[test]
fn whom_we_cannot_call_no_packet_brings_up() {
    let mut pair = Pair::new(2);
    let refused = pair.gateway_tries(&trap("rw"));
    assert!(
        matches!(refused, Err(CommandRefused::CannotInitiate)),
        "{refused:?}"
    );
}

#[test]
fn without_a_route_to_the_peer_nothing_leaves_in_clear() {
    let mut pair = Pair::with(3, roaming_client, gateway_side, Settings::default());
    let up = Command::Up("home".into());
    assert_eq!(pair.command(&up), Err(CommandRefused::NoRoute));
    assert_eq!(pair.client.kernel.blocked.len(), 1);
    pair.notice();
    assert_eq!(pair.command(&up), Ok(()));
    pair.run(SOON);
    assert!(pair.keys_agree());
}

#[test]
fn a_lost_connection_waits_no_longer_once_there_is_a_way_again() {
    let mut pair = Pair::roaming(4);
    pair.up();
    pair.run(SOON);
    let nowhere = pair.client_at;
    pair.gone.insert(nowhere);
    // Long enough for liveness to give up, and for pauses of a minute; then until the next one.
    pair.run(Duration::from_mins(20));
    while !pair.client.endpoint.sas(pair.now).is_empty() {
        pair.run(SOON);
    }
    pair.gone.remove(&nowhere);
    pair.run(5 * SOON);
    assert!(
        pair.client.established().is_empty(),
        "a pause has just begun"
    );
    pair.notice();
    pair.run(SOON);
    assert!(pair.keys_agree() && !pair.client.established().is_empty());
}
