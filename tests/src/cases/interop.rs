//! Rekindle against foreign IKE daemons, in both roles; first the peers among themselves, so that a
//! failure of ours is told from one of theirs.

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
    initiator.load(&connection(
        "192.0.2.1",
        "192.0.2.2",
        "left.test",
        "right.test",
    ))?;
    responder.load(&connection(
        "192.0.2.2",
        "192.0.2.1",
        "right.test",
        "left.test",
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

fn connection(own: &str, other: &str, id: &str, other_id: &str) -> String {
    format!(
        "connections {{ peer {{
            version = 2\n local_addrs = {own}\n remote_addrs = {other}
            proposals = aes128gcm16-prfsha256-ecp256\n mobike = no
            local {{ auth = psk\n id = {id} }}
            remote {{ auth = psk\n id = {other_id} }}
            children {{ net {{
                local_ts = {own}/32\n remote_ts = {other}/32
                esp_proposals = aes128gcm16\n mode = tunnel }} }}
        }} }}
        secrets {{ ike-peer {{ id = {other_id}\n secret = \"correct horse\" }} }}\n"
    )
}
