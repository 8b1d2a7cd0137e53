//! Several Child SAs, parts of the traffic, and key exchanges of a Child SA's own.

use std::net::{IpAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};

use super::{
    super::{
        PATIENCE,
        bout::Bout,
        terms::{BRANCH, Foreign, Inner, NAME, OFFICE, PLAIN, SECOND, Terms},
    },
    Case, Lack, USUAL,
};
use crate::{netns::Namespace, until::until};

const TWO: Terms = Terms {
    inner: Inner::Both,
    apart: true,
    ..PLAIN
};
const OWN_GROUP: Terms = Terms {
    // Some exchange keys of a Child SA in the group of its IKE SA alone.
    ike: "aes256gcm16-prfsha256-ecp256",
    esp: "aes256gcm16-ecp256",
    ..PLAIN
};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "two Child SAs on one IKE SA",
        terms: TWO,
        plot: two,
        ..USUAL
    },
    Case {
        name: "one of two Child SAs deleted by Rekindle",
        terms: TWO,
        plot: |bout| one_goes(bout, true),
        ..USUAL
    },
    Case {
        name: "one of two Child SAs deleted by the peer",
        terms: TWO,
        plot: |bout| one_goes(bout, false),
        ..USUAL
    },
    Case {
        name: "two Child SAs rekeyed by Rekindle",
        terms: TWO,
        plot: both_rekeyed,
        ..USUAL
    },
    Case {
        name: "IKE SA made without a Child SA",
        terms: Terms {
            ours: "childless = true\n",
            swan: "childless = force",
            // A group that no Child SA of IKE_AUTH has.
            esp: "aes256gcm16-x25519",
            ..PLAIN
        },
        plot: childless,
        lacks: &[Lack {
            foreign: Some(Foreign::Libreswan),
            role: None,
            why: "libreswan: no option for it",
        }],
    },
    Case {
        name: "one protocol and port",
        terms: Terms {
            parts: Some(&["udp", "udp/5000"]),
            ..PLAIN
        },
        plot: one_port,
        ..USUAL
    },
    Case {
        name: "Child SA rekeyed by Rekindle with a group of its own",
        terms: OWN_GROUP,
        plot: |bout| own_group(bout, true),
        ..USUAL
    },
    Case {
        name: "Child SA rekeyed by the peer with a group of its own",
        terms: OWN_GROUP,
        plot: |bout| own_group(bout, false),
        ..USUAL
    },
];

/// Whether one IKE SA has so many Child SAs.
fn has(bout: &Bout<'_>, number: usize) -> Result<()> {
    until("the IKE SA has its Child SAs", PATIENCE, || {
        let sa = bout.sa()?;
        Ok(sa["children"]
            .as_array()
            .is_some_and(|all| all.len() == number))
    })
}

fn two_up(bout: &Bout<'_>) -> Result<()> {
    bout.call()?;
    has(bout, 2)?;
    bout.carries()
}

fn two(bout: &mut Bout<'_>) -> Result<()> {
    two_up(bout)?;
    bout.goodbye()
}

fn one_goes(bout: &mut Bout<'_>, by_us: bool) -> Result<()> {
    two_up(bout)?;
    if by_us {
        bout.rekindle.ikectl(&format!("down {NAME}/{SECOND}"))?;
    } else {
        bout.peer.down_second()?;
    }
    has(bout, 1)?;
    until("its states are gone at both ends", PATIENCE, || {
        let counted = bout.ground.counted()?;
        Ok(counted.iter().all(|states| states.len() == 2))
    })?;
    bout.goodbye()
}

fn both_rekeyed(bout: &mut Bout<'_>) -> Result<()> {
    two_up(bout)?;
    let spis = |bout: &Bout<'_>| -> Result<Vec<String>> {
        let sa = bout.sa()?;
        let children = sa["children"].as_array().cloned().unwrap_or_default();
        let spis = children.iter().map(|child| child["spi_in"].to_string());
        Ok(spis.collect())
    };
    let before = spis(bout)?;
    bout.rekindle.ikectl(&format!("rekey {NAME} --child"))?;
    let after = spis(bout)?;
    ensure!(
        after.iter().all(|spi| !before.contains(spi)),
        "{before:?} {after:?}"
    );
    has(bout, 2)?;
    until("the old states are gone at both ends", PATIENCE, || {
        let counted = bout.ground.counted()?;
        Ok(counted.iter().all(|states| states.len() == 4))
    })?;
    bout.carries()?;
    bout.goodbye()
}

/// The Child SA has keys of its own from the beginning.
fn childless(bout: &mut Bout<'_>) -> Result<()> {
    bout.call()?;
    has(bout, 1)?;
    bout.carries()?;
    let sa = bout.sa()?;
    let proposal = &sa["children"][0]["proposal"];
    ensure!(*proposal == bout.terms.esp, "it came with IKE_AUTH: {sa}");
    bout.goodbye()
}

/// What is meant goes as ESP, and what is not does not.
fn one_port(bout: &mut Bout<'_>) -> Result<()> {
    bout.call()?;
    let sa = bout.sa()?;
    let selectors = sa["children"][0].to_string();
    ensure!(selectors.contains("[udp/5000]"), "{selectors}");
    let office: IpAddr = OFFICE.parse()?;
    for (port, wanted) in [(5000, (SENT, 0)), (5001, (0, SENT))] {
        let watch = bout.ground.watch()?;
        // Without somebody who takes them there would be complaints in clear.
        let _taker = bout
            .ground
            .gateway
            .within(|| UdpSocket::bind((office, port)))??;
        send(&bout.ground.client, (office, port))?;
        let tally = watch.stop()?.tally;
        ensure!((tally.esp, tally.clear) == wanted, "port {port}: {tally:?}");
    }
    bout.goodbye()
}

/// Datagrams to one port.
const SENT: u64 = 3;

fn send(from: &Namespace, to: (IpAddr, u16)) -> Result<()> {
    let branch: IpAddr = BRANCH.parse()?;
    from.within(|| -> Result<()> {
        let socket = UdpSocket::bind((branch, 4000)).context("a socket inside")?;
        for _ in 0..SENT {
            socket.send_to(b"a datagram", to)?;
        }
        Ok(())
    })?
}

fn own_group(bout: &mut Bout<'_>, by_us: bool) -> Result<()> {
    bout.come_up()?;
    let sa = bout.sa()?;
    ensure!(
        sa["children"][0]["proposal"] == "aes256gcm16",
        "none in IKE_AUTH: {sa}"
    );
    if by_us {
        bout.rekindle.ikectl(&format!("rekey {NAME} --child"))?;
    } else {
        bout.peer.rekey_child()?;
    }
    until("the Child SA has keys of its own", PATIENCE, || {
        Ok(bout.sa()?["children"][0]["proposal"] == bout.terms.esp)
    })?;
    bout.carries()?;
    bout.goodbye()
}
