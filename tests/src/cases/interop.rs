//! Rekindle against foreign IKE daemons, in both roles; first the peers among themselves, so that a
//! failure of ours is told from one of theirs.

mod afterwards;
mod collisions;
mod detours;
mod fragments;
mod libreswan;
mod logins;
mod rekeys;
mod remote_access;
mod sides;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::capture::{Capture, Tally};
use crate::netns::{Namespace, connect};
use crate::peer::Strongswan;
use crate::ping::ping;
use crate::suite::{Case, Lab};

/// In the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "strongswan_starts_and_answers_its_socket",
        run: strongswan_starts,
    },
    Case {
        name: "two_strongswans_ping_through_esp",
        run: two_strongswans,
    },
    Case {
        name: "two_strongswans_ping_through_esp_in_udp_behind_nat",
        run: behind_nat,
    },
    logins::CALLED_PSK,
    logins::CALLED_CERTIFICATE,
    logins::CALLING_PSK,
    logins::CALLING_CERTIFICATE,
    logins::CALLED_BY_STRANGER,
    logins::CALLING_STRANGER,
    detours::OTHER_GROUP,
    detours::OTHER_GROUP_FOR_THEM,
    detours::COOKIE,
    detours::COOKIE_FOR_THEM,
    detours::NAT_CALLED,
    detours::NAT_CALLING,
    detours::NO_TICKET,
    detours::MANGLED,
    rekeys::THEIRS,
    rekeys::OURS_AS_GATEWAY,
    rekeys::OURS_AS_CLIENT,
    fragments::CALLED,
    fragments::CALLING,
    collisions::OURS_FIRST,
    collisions::THEIRS_FIRST,
    libreswan::CALLED_PSK,
    libreswan::CALLING_CERTIFICATE,
    remote_access::CALLED,
    remote_access::CALLING,
    remote_access::REFUSED,
    afterwards::SERVED_BY_ANOTHER,
];

fn strongswan_starts(lab: &mut Lab) -> Result<()> {
    let peer = Namespace::new("peer")?;
    let strongswan = Strongswan::start(lab, &peer, "")?;
    let said = strongswan.swanctl("--stats")?;
    for plugin in ["openssl", "kernel-netlink", "vici"] {
        ensure!(said.contains(plugin), "{plugin} is not loaded: {said}");
    }
    Ok(())
}

fn two_strongswans(lab: &mut Lab) -> Result<()> {
    let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
    connect(
        (&left, "eth0", &["192.0.2.1/24"]),
        (&right, "eth0", &["192.0.2.2/24"]),
    )?;
    let initiator = Strongswan::start(lab, &left, "")?;
    let responder = Strongswan::start(lab, &right, "")?;
    let (one, other) = ("192.0.2.1", "192.0.2.2");
    initiator.load(&connection(
        [one, other],
        [one, other],
        ["left.test", "right.test"],
    ))?;
    responder.load(&connection(
        [other, one],
        [other, one],
        ["right.test", "left.test"],
    ))?;

    let captures = [Capture::start(&left)?, Capture::start(&right)?];
    initiator.swanctl("--initiate --child net --timeout 20")?;
    let reply = ping(&left, "192.0.2.2", 3, Duration::from_secs(5))?;
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(reply.all(), "{reply:?}");
    ensure!(tally.esp == 6 && tally.clear == 0, "{tally:?}");
    ensure!(
        tally.ike == 4,
        "IKE_SA_INIT and IKE_AUTH, a pair each: {tally:?}"
    );
    Ok(())
}

fn behind_nat(lab: &mut Lab) -> Result<()> {
    const INSIDE: &str = "10.0.0.2";
    const OUTSIDE: &str = "192.0.2.2";
    let inside = Namespace::new("inside")?;
    let router = Namespace::new("router")?;
    let outside = Namespace::new("outside")?;
    connect(
        (&inside, "eth0", &["10.0.0.2/24"]),
        (&router, "eth0", &["10.0.0.1/24"]),
    )?;
    connect(
        (&router, "eth1", &["192.0.2.1/24"]),
        (&outside, "eth0", &["192.0.2.2/24"]),
    )?;
    inside.ip("route add default via 10.0.0.1")?;
    // The peer's network is reached through the SA; a route only has to exist.
    outside.ip("route add 10.0.0.0/24 dev eth0")?;
    router.masquerade("eth1")?;

    let initiator = Strongswan::start(lab, &inside, "")?;
    let responder = Strongswan::start(lab, &outside, "")?;
    initiator.load(&connection(
        [INSIDE, OUTSIDE],
        [INSIDE, OUTSIDE],
        ["in.test", "out.test"],
    ))?;
    responder.load(&connection(
        [OUTSIDE, "%any"],
        [OUTSIDE, INSIDE],
        ["out.test", "in.test"],
    ))?;

    let capture = Capture::start(&router)?;
    initiator.swanctl("--initiate --child net --timeout 20")?;
    let reply = ping(&inside, OUTSIDE, 3, Duration::from_secs(5))?;
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    ensure!(reply.all(), "{reply:?}");
    ensure!(
        tally.esp_in_udp == 6 && tally.clear == 0 && tally.esp == 0,
        "{tally:?}"
    );
    Ok(())
}

/// Addresses, traffic selectors and identities, ours first.
fn connection(addresses: [&str; 2], selectors: [&str; 2], identities: [&str; 2]) -> String {
    let [own, other] = addresses;
    let [own_net, other_net] = selectors;
    let [id, other_id] = identities;
    format!(
        "connections {{ peer {{
            version = 2\n local_addrs = {own}\n remote_addrs = {other}
            proposals = aes128gcm16-prfsha256-ecp256\n mobike = no
            local {{ auth = psk\n id = {id} }}
            remote {{ auth = psk\n id = {other_id} }}
            children {{ net {{
                local_ts = {own_net}/32\n remote_ts = {other_net}/32
                esp_proposals = aes128gcm16\n mode = tunnel }} }}
        }} }}
        secrets {{ ike-peer {{ id = {other_id}\n secret = \"correct horse\" }} }}\n"
    )
}
