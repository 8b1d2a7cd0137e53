//! xfrm interfaces that the daemon makes: whose they are, how long they stay, and what goes by them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rekindled::kernel::{Dataplane as _, Xfrm, XfrmInterface};

use super::{
    machine::bare,
    tunnel::{OFFICE, client_connection, gateway_connection},
};
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::ping,
    suite::{Case, Lab},
};

/// On kernels with xfrm interfaces.
pub const OURS: Case = Case {
    name: "interfaces_of_ours_are_made_found_again_and_taken_away_and_no_others",
    run: ours,
};

/// On kernels with ESP and xfrm interfaces.
pub const MADE: Case = Case {
    name: "an_interface_that_the_daemon_makes_leads_into_the_tunnel_until_it_ends",
    run: made,
};

const PATIENCE: Duration = Duration::from_secs(5);
const BRANCH: &str = "10.2.0.1";

fn ours(lab: &mut Lab) -> Result<()> {
    let ns = Namespace::new("ours")?;
    let wanted = |name: &str, if_id| XfrmInterface {
        name: name.into(),
        if_id,
    };
    let open = |wanted: &[XfrmInterface]| {
        ns.within(|| Xfrm::open(lab.work(), Duration::from_hours(1), "lo", wanted))
    };
    let index = |name: &str| -> Result<String> {
        let shown = ns.ip(&format!("-o -d link show {name}"))?;
        ensure!(
            shown.contains("UP") && shown.contains("group 5723"),
            "{shown}"
        );
        Ok(shown.split(':').next().context("an index")?.to_owned())
    };

    drop(open(&[wanted("ipsec0", 7), wanted("ipsec1", 8)])??);
    let made = index("ipsec0")?;
    let other = index("ipsec1")?;
    // A daemon that comes after a crash; the configuration has lost one of them.
    let mut xfrm = open(&[wanted("ipsec0", 7)])??;
    ensure!(index("ipsec0")? == made, "another one than before");
    ensure!(ns.ip("link show ipsec1").is_err(), "{other} is still there");
    xfrm.clear();
    ensure!(
        ns.ip("link show ipsec0").is_err(),
        "it outlives the goodbye"
    );

    ns.ip("link add ipsec0 type xfrm dev lo if_id 9")?;
    for (wanted, words) in [
        (wanted("ipsec0", 7), "ipsec0: there is one of this name"),
        (wanted("ipsec0", 9), "with if_id 9"),
        (wanted("ipsec2", 9), "if_id 9 is that of ipsec0"),
    ] {
        let error = open(&[wanted])?.err().context("taken over")?;
        ensure!(error.to_string().contains(words), "{words}: {error}");
    }
    open(&[])??.clear();
    let left = ns.ip("-o -d link show type xfrm")?;
    ensure!(
        left.lines().count() == 1 && left.contains("if_id 0x9"),
        "{left}"
    );
    Ok(())
}

fn made(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect(
        (&client_ns, "eth0", &["192.0.2.10/24"]),
        (&gateway_ns, "eth0", &["192.0.2.1/24"]),
    )?;
    // No route leads to the other side but the daemons' own.
    client_ns.ip(&format!("address add {BRANCH}/32 dev lo"))?;
    gateway_ns.ip(&format!("address add {OFFICE}/32 dev lo"))?;
    let lines = "interface = \"ipsec0\"\nif_id_in = 7\nif_id_out = 7\n";
    let mut gateway = bare(lab, &gateway_ns, 1, &(gateway_connection() + lines))?;
    let mut client = bare(lab, &client_ns, 2, &(client_connection() + lines))?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    let way = client_ns.ip(&format!("route get {OFFICE}"))?;
    ensure!(
        way.contains("dev ipsec0") && way.contains(&format!("src {BRANCH}")),
        "{way}"
    );
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());

    // What the client's keeper has made is there for the next one, and the gateway's goes on.
    let index = |ns: &Namespace| ns.ip("-o link show ipsec0");
    let before = index(&client_ns)?;
    client.kill()?;
    client.start(lab)?;
    ensure!(index(&client_ns)? == before, "{before}");
    client.ikectl("up home")?;
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());

    let mut tally = Tally::default();
    let mut by = BTreeSet::new();
    for capture in captures {
        let mut frames = capture.stop()?;
        // What goes to the interface is in clear there, and ESP on the cable.
        let others = frames.iter().map(|frame| frame.interface);
        let cable = others.filter(|index| *index > LOOPBACK).min();
        by.extend(frames.iter().map(|frame| Some(frame.interface) == cable));
        frames.retain(|frame| Some(frame.interface) == cable);
        tally.add_sent(&frames);
    }
    ensure!(by.len() == 2, "nothing went by another interface");
    ensure!(tally.clear == 0 && tally.esp == 12, "{tally:?}");

    client.stop()?;
    gateway.stop()?;
    for ns in [&client_ns, &gateway_ns] {
        ensure!(ns.ip("link show ipsec0").is_err(), "{} keeps it", ns.name());
        let rules = ns.ip("rule")?;
        ensure!(!rules.contains("5723"), "{rules}");
    }
    Ok(())
}

/// The index of `lo`, in every namespace.
const LOOPBACK: usize = 1;
