//! A client that changes its way to the gateway: from a cable to a network behind NAT, and back. With
//! MOBIKE its SAs go along; without, it resumes from where it is.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::tunnel::{OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On kernels with ESP.
pub const MOVES: Case = Case {
    name: "a_client_goes_behind_a_nat_and_back_with_its_tunnel",
    run: moves,
};

/// On kernels with ESP.
pub const REFUSED: Case = Case {
    name: "a_state_that_the_kernel_does_not_move_gives_way_to_one_at_the_new_address",
    run: refused,
};

/// On kernels with ESP.
pub const EARLY: Case = Case {
    name: "a_connection_that_starts_before_there_is_a_route_is_blocked_and_comes_up_with_it",
    run: early,
};

const CLIENT: &str = "192.0.2.10";
const GATEWAY: &str = "192.0.2.1";
/// The client's other address, and the one that a NAT makes of it.
const HIDDEN: &str = "10.0.0.2";
const OUTSIDE: &str = "198.51.100.2";
const BRANCH: &str = "10.2.0.1";
const PATIENCE: Duration = Duration::from_secs(10);

/// A client with a cable to the gateway, and a router as second way.
fn ground() -> Result<[Namespace; 3]> {
    let (client, router) = (Namespace::new("client")?, Namespace::new("router")?);
    let gateway = Namespace::new("gateway")?;
    connect(
        (&client, "eth0", &[&format!("{CLIENT}/24")]),
        (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    connect(
        (&client, "eth1", &[&format!("{HIDDEN}/24")]),
        (&router, "eth0", &["10.0.0.1/24"]),
    )?;
    connect(
        (&router, "eth1", &[&format!("{OUTSIDE}/24")]),
        (&gateway, "eth1", &["198.51.100.1/24"]),
    )?;
    client.ip("route add default via 10.0.0.1")?;
    client.ip(&format!("address add {BRANCH}/32 dev lo"))?;
    client.ip(&format!("route add 10.1.0.0/24 via 10.0.0.1 src {BRANCH}"))?;
    router.ip(&format!("route add {GATEWAY}/32 via 198.51.100.1"))?;
    gateway.ip(&format!("address add {OFFICE}/32 dev lo"))?;
    gateway.ip(&format!("route add 10.2.0.0/24 via {CLIENT} src {OFFICE}"))?;
    router.masquerade("eth1")?;
    Ok([client, router, gateway])
}

fn moves(lab: &mut Lab) -> Result<()> {
    let [client_ns, _router, gateway_ns] = ground()?;
    let roaming = client_connection().replace(&format!("local_addrs = \"{CLIENT}\"\n"), "");
    ensure!(!roaming.contains("local_addrs"), "{roaming}");
    for mobike in [true, false] {
        let connection = roaming.replace("psk =", &format!("mobike = {mobike}\npsk ="));
        let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
        let own = Setting { node: 2, ..REAL };
        let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
        gateway.start(lab)?;
        client.start(lab)?;
        client.ikectl("up home")?;
        let first = client.established()?;
        carries(&client_ns, &gateway_ns, false)?;

        client_ns.ip("link set eth0 down")?;
        let there = arrived(&client, (&gateway, &gateway_ns), HIDDEN, OUTSIDE)?;
        ensure!(there["children"][0]["encap"] == "udp", "{there}");
        carries(&client_ns, &gateway_ns, true)?;

        client_ns.ip("link set eth0 up")?;
        let back = arrived(&client, (&gateway, &gateway_ns), CLIENT, CLIENT)?;
        ensure!(back["children"][0]["encap"] != "udp", "{back}");
        carries(&client_ns, &gateway_ns, false)?;

        for sa in [&there, &back] {
            ensure!((sa["spi_i"] == first["spi_i"]) == mobike, "{sa}");
            ensure!(sa["resumed"] == !mobike, "{sa}");
        }
        client.ikectl("down home")?;
        client.stop()?;
        gateway.stop()?;
    }
    Ok(())
}

/// Somebody else has a state where the gateway's is to go, so the kernel answers EEXIST.
fn refused(lab: &mut Lab) -> Result<()> {
    const ELSEWHERE: &str = "192.0.2.20";
    let (client_ns, gateway_ns) = two_sites()?;
    let roaming = client_connection().replace(&format!("local_addrs = \"{CLIENT}\"\n"), "");
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &roaming)?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let first = gateway.established()?;
    let spi = first["children"][0]["spi_out"].as_str().context("an SPI")?;
    let foreign = format!("src {GATEWAY} dst {ELSEWHERE} proto esp spi 0x{spi}");
    gateway_ns.ip(&format!(
        "xfrm state add {foreign} reqid 7 mode tunnel aead rfc4106(gcm(aes)) 0x{} 128",
        "07".repeat(20)
    ))?;

    client_ns.set("ipv4/conf/all/promote_secondaries", "1")?;
    client_ns.ip(&format!("address add {ELSEWHERE}/24 dev eth0"))?;
    client_ns.ip(&format!("address del {CLIENT}/24 dev eth0"))?;
    gateway_ns.ip(&format!(
        "route replace 10.2.0.0/24 via {ELSEWHERE} src {OFFICE}"
    ))?;
    until("another Child SA is at the new address", PATIENCE, || {
        let sa = gateway.established()?;
        let states = gateway_ns.ip("xfrm state")?;
        Ok(sa["children"][0]["spi_out"] != spi
            && sa["remote"]["addr"] == ELSEWHERE
            && !states.contains(CLIENT))
    })?;
    let sa = gateway.established()?;
    ensure!(sa["spi_i"] == first["spi_i"], "{sa}");
    carries(&client_ns, &gateway_ns, false)?;
    let why = gateway.ikectl("why client.example")?;
    let told = why.as_array().is_some_and(|all| {
        all.iter().any(|failure| {
            let verdict = failure["verdict"].as_str().unwrap_or_default();
            failure["reason"] == "move_child_sa_failed" && verdict.contains("exists")
        })
    });
    ensure!(told, "{why}");
    client.stop()?;
    gateway.stop()?;
    let left = gateway_ns.ip("xfrm state")?;
    ensure!(
        left.matches("proto esp").count() == 1,
        "somebody else's stays: {left}"
    );
    Ok(())
}

fn early(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    client_ns.ip("link set eth0 down")?;
    let starts =
        client_connection().replace(&format!("local_addrs = \"{CLIENT}\"\n"), "start = \"up\"\n");
    ensure!(starts.contains("start = "), "{starts}");
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &starts)?;
    gateway.start(lab)?;
    client.start(lab)?;
    until("the flow is blocked", PATIENCE, || {
        Ok(client_ns.ip("xfrm policy")?.contains("action block"))
    })?;
    let Err(error) = client.ikectl("up home") else {
        bail!("up without a route");
    };
    ensure!(error.to_string().contains("no route"), "{error}");

    let capture = Capture::start(&gateway_ns)?;
    client_ns.ip("link set eth0 up")?;
    client_ns.ip(&format!(
        "route replace 10.1.0.0/24 via {GATEWAY} src {BRANCH}"
    ))?;
    until("the connection is up", PATIENCE, || {
        Ok(client.established().is_ok())
    })?;
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "{reply:?}");
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    ensure!(tally.esp >= 3 && tally.clear == 0, "{tally:?}");
    client.stop()?;
    gateway.stop()
}

/// Waits until both ends have one SA at these addresses; the client's.
fn arrived(
    client: &Site<'_>,
    (gateway, kernel): (&Site<'_>, &Namespace),
    own: &str,
    seen: &str,
) -> Result<Value> {
    until("the SA is at the new address", PATIENCE, || {
        let at = |site: &Site<'_>, end: &str, address: &str| {
            let sa = site.established();
            sa.is_ok_and(|sa| sa[end]["addr"] == address)
        };
        let moved = kernel.ip("xfrm state")?.contains(&format!("dst {seen}\n"));
        Ok(at(client, "local", own) && at(gateway, "remote", seen) && moved)
    })?;
    client.established()
}

/// Pings go through from both ends, as ESP of the right kind.
fn carries(client: &Namespace, gateway: &Namespace, in_udp: bool) -> Result<()> {
    let capture = Capture::start(gateway)?;
    for (from, to) in [(client, OFFICE), (gateway, BRANCH)] {
        let reply = ping(from, to, 3, PATIENCE)?;
        ensure!(reply.all(), "from {} to {to}: {reply:?}", from.name());
    }
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    let (plain, wrapped) = if in_udp { (0, 6) } else { (6, 0) };
    ensure!(
        (tally.esp, tally.esp_in_udp, tally.clear) == (plain, wrapped, 0),
        "{tally:?}"
    );
    Ok(())
}
