//! Connections that packets bring up: what the kernel is asked for, and that a flow never leaves in clear.

use std::time::Duration;

use ike::{CommandRefused, io::Command};

use crate::bed::{GATEWAY, Pair};

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
