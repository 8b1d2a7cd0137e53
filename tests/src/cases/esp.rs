//! ESP by the kernel: first by hand-made SAs, so that a failure of the daemon's is told from one of
//! the lab's.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    asleep, carriage, dataplane, demand, deploy, leases, lifetime, log, mappings, neighbours,
    outage, reload, roaming, sniffed, sources, suspend, tunnel, underway, volume, workers,
};
use crate::capture::{Capture, Tally};
use crate::netns::{Namespace, connect};
use crate::ping::ping;
use crate::suite::{Case, Lab};

/// In the order in which they run.
pub const CASES: &[Case] = &[
    Case {
        name: "hand_made_sas_carry_a_ping_as_esp",
        run: hand_made_sas,
    },
    dataplane::UNDO,
    dataplane::REPLACE,
    dataplane::SHARED,
    dataplane::FORGOTTEN,
    dataplane::REKEY,
    dataplane::MOVE,
    tunnel::RESUMES,
    tunnel::BEHIND_NAT,
    tunnel::OVER_IPV6,
    mappings::FOLLOWED,
    neighbours::SPARED,
    roaming::MOVES,
    roaming::REFUSED,
    roaming::EARLY,
    asleep::FORGOTTEN,
    suspend::ON_DISK,
    suspend::BY_REFERENCE,
    deploy::DEPLOYS,
    workers::MOVES_ESP,
    sniffed::ESP,
    leases::STICKY,
    leases::FULL,
    sources::NAMED,
    outage::OUTAGE,
    reload::RELOAD,
    log::LOGGED,
    carriage::SHOWN,
    demand::WAKES,
    demand::OVERRUN,
    underway::LOADED,
    underway::APART,
    volume::LIMITED,
    lifetime::ENDED,
];

const LEFT: &str = "192.0.2.1";
const RIGHT: &str = "192.0.2.2";
/// AES-128 and four octets of salt.
const KEY: &str = "0x000102030405060708090a0b0c0d0e0f10111213";

fn hand_made_sas(_lab: &mut Lab) -> Result<()> {
    let (left, right) = (Namespace::new("left")?, Namespace::new("right")?);
    connect(
        (&left, "eth0", &[&format!("{LEFT}/24")]),
        (&right, "eth0", &[&format!("{RIGHT}/24")]),
    )?;
    for ns in [&left, &right] {
        for (spi, from, to) in [("0x1001", LEFT, RIGHT), ("0x1002", RIGHT, LEFT)] {
            ns.ip(&format!(
                "xfrm state add src {from} dst {to} proto esp spi {spi} reqid 1 mode tunnel \
                 aead rfc4106(gcm(aes)) {KEY} 128"
            ))?;
        }
    }
    for (ns, own, other) in [(&left, LEFT, RIGHT), (&right, RIGHT, LEFT)] {
        for (direction, from, to) in [("out", own, other), ("in", other, own)] {
            ns.ip(&format!(
                "xfrm policy add src {from}/32 dst {to}/32 dir {direction} \
                 tmpl src {from} dst {to} proto esp reqid 1 mode tunnel"
            ))?;
        }
    }

    let captures = [Capture::start(&left)?, Capture::start(&right)?];
    let reply = ping(&left, RIGHT, 3, Duration::from_secs(5))?;
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(reply.received == 3, "{reply:?}");
    ensure!(
        tally.esp == 6,
        "three requests and three replies as ESP, not {tally:?}"
    );
    ensure!(tally.clear == 0, "clear text on the wire: {tally:?}");
    Ok(())
}
