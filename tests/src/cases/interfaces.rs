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
pub const ROUTED: Case = Case {
    name: "what_is_routed_to_an_xfrm_interface_and_nothing_else_is_protected",
    run: routed,
};

/// On kernels with ESP and xfrm interfaces.
pub const AROUND: Case = Case {
    name: "ike_and_esp_of_ours_to_another_gateway_do_not_go_into_an_interface_of_ours",
    run: around,
};

const PATIENCE: Duration = Duration::from_secs(15);
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

/// The client's daemon makes its interface and the route; at the gateway both are ours to make.
fn routed(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect(
        (&client_ns, "eth0", &["192.0.2.10/24"]),
        (&gateway_ns, "eth0", &["192.0.2.1/24"]),
    )?;
    client_ns.ip(&format!("address add {BRANCH}/32 dev lo"))?;
    gateway_ns.ip(&format!("address add {OFFICE}/32 dev lo"))?;
    gateway_ns.ip("link add ipsec0 type xfrm dev eth0 if_id 7")?;
    gateway_ns.ip("link set ipsec0 up")?;
    gateway_ns.ip(&format!("route add 10.2.0.0/24 dev ipsec0 src {OFFICE}"))?;
    let ids = "if_id_in = 7\nif_id_out = 7\n";
    let keys = format!("interface = \"ipsec0\"\nmss = 1234\n{ids}");
    let made = client_connection() + &keys;
    let mut gateway = bare(lab, &gateway_ns, 1, &(gateway_connection() + ids))?;
    let mut client = bare(lab, &client_ns, 2, &made)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    let way = client_ns.ip(&format!("route get {OFFICE}"))?;
    ensure!(
        way.contains("dev ipsec0") && way.contains(&format!("src {BRANCH}")),
        "{way}"
    );
    ensure!(way.contains("advmss 1234"), "{way}");
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());
    // By another way than the interface the same packet is not the tunnel's.
    let policies = client_ns.ip("xfrm policy")?;
    ensure!(policies.matches("if_id 0x7").count() == 3, "{policies}");

    // What the keeper has made is there for the next one, and for its tunnel.
    let index = || client_ns.ip("-o link show ipsec0");
    let before = index()?;
    client.kill()?;
    client.start(lab)?;
    ensure!(index()? == before, "{before}");
    client.ikectl("up home")?;
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());

    let mut tally = Tally::default();
    for capture in captures {
        let mut frames = capture.stop()?;
        // What goes to the interface is in clear there, and ESP on the cable, which came first.
        let others = frames.iter().map(|frame| frame.interface);
        let all: BTreeSet<usize> = others.filter(|index| *index > LOOPBACK).collect();
        ensure!(all.len() == 2, "nothing went by the interface: {all:?}");
        frames.retain(|frame| Some(&frame.interface) == all.first());
        tally.add_sent(&frames);
    }
    ensure!(tally.clear == 0 && tally.esp == 12, "{tally:?}");

    client.stop()?;
    gateway.stop()?;
    ensure!(client_ns.ip("link show ipsec0").is_err(), "it is left");
    let rules = client_ns.ip("rule")?;
    ensure!(!rules.contains("5723"), "{rules}");
    gateway_ns.ip("link show ipsec0").map(drop)
}

/// The networks behind the first gateway are where the second one is, as far as the routing table knows, and
/// where the first one is.
fn around(lab: &mut Lab) -> Result<()> {
    const SECOND: &str = "198.51.100.1";
    const SHOP: &str = "10.9.0.1";
    let [client_ns, gateway_ns, second_ns] = ["client", "gateway", "second"].map(Namespace::new);
    let (client_ns, gateway_ns, second_ns) = (client_ns?, gateway_ns?, second_ns?);
    for (gateway, interface, ours, theirs) in [
        (&gateway_ns, "eth0", "192.0.2.10", "192.0.2.1"),
        (&second_ns, "eth1", "198.51.100.10", SECOND),
    ] {
        connect(
            (&client_ns, interface, &[&format!("{ours}/24")]),
            (gateway, "eth0", &[&format!("{theirs}/24")]),
        )?;
        gateway.ip(&format!("route add 10.2.0.0/24 via {ours}"))?;
    }
    client_ns.ip(&format!("address add {BRANCH}/32 dev lo"))?;
    client_ns.ip(&format!("route add 10.9.0.0/24 via {SECOND} src {BRANCH}"))?;
    gateway_ns.ip(&format!("address add {OFFICE}/32 dev lo"))?;
    second_ns.ip(&format!("address add {SHOP}/32 dev lo"))?;
    let wide = |connection: String| {
        let networks = "\"10.1.0.0/24\", \"192.0.2.0/24\", \"198.51.100.0/24\"";
        connection.replace("\"10.1.0.0/24\"", networks)
    };
    let other = |connection: String| {
        let connection = connection.replace("10.1.0.0/24", "10.9.0.0/24");
        let connection = connection.replace("connections.home", "connections.shop");
        connection.replace("local_addrs = \"192.0.2.10\"\n", "")
    };
    let home = wide(client_connection()) + "interface = \"ipsec0\"\nif_id_in = 7\nif_id_out = 7\n";
    let shop = other(client_connection()).replace("192.0.2.1\"", &format!("{SECOND}\""));
    let mut gateway = bare(lab, &gateway_ns, 1, &wide(gateway_connection()))?;
    let mut second = bare(lab, &second_ns, 3, &other(gateway_connection()))?;
    let mut client = bare(lab, &client_ns, 2, &(home + &shop))?;
    gateway.start(lab)?;
    second.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let way = client_ns.ip(&format!("route get {SECOND}"))?;
    ensure!(way.contains("dev ipsec0"), "all else goes there: {way}");
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());

    let capture = Capture::start(&second_ns)?;
    client.ikectl("up shop")?;
    ensure!(ping(&client_ns, SHOP, 3, PATIENCE)?.all());
    let sa = second.established()?;
    ensure!(sa["remote"]["addr"] == "198.51.100.10", "{sa}");
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    ensure!((tally.esp, tally.clear) == (3, 0), "{tally:?}");
    // And the first one is where it was.
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());
    client.stop()?;
    let rules = client_ns.ip("rule")?;
    ensure!(!rules.contains("5723"), "{rules}");
    gateway.stop()?;
    second.stop()
}

/// The index of `lo`, in every namespace.
const LOOPBACK: usize = 1;
