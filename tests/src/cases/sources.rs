//! What a site's gateway itself sends to the other site: where it comes from, and by which way it goes.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::tunnel::{CLIENT, OFFICE, REAL, client_connection, gateway_connection};
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const NAMED: Case = Case {
    name: "a_sites_gateway_itself_reaches_the_other_site_through_the_tunnel",
    run: named,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// The client's address in its own network.
const LAN: &str = "10.2.0.1";
/// The gateway's, not on the cable.
const BEYOND: &str = "198.51.100.1";
const FOREIGN: &str = "10.1.0.0/24 via 192.0.2.1 dev eth0 metric 7";

/// Client and gateway on one cable; the client is in a network with a machine besides.
fn sites() -> Result<[Namespace; 3]> {
    let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
    let machine = Namespace::new("machine")?;
    connect(
        (&client, "eth0", &[&format!("{CLIENT}/24")]),
        (&gateway, "eth0", &["192.0.2.1/24"]),
    )?;
    connect(
        (&client, "eth1", &[&format!("{LAN}/24")]),
        (&machine, "eth0", &["10.2.0.7/24"]),
    )?;
    client.set("ipv4/ip_forward", "1")?;
    client.ip("route add default via 192.0.2.1")?;
    client.ip(&format!("route add {FOREIGN}"))?;
    client.ip("route add 10.9.0.0/16 via 192.0.2.1 table 220 proto 59")?;
    for address in [OFFICE, BEYOND] {
        gateway.ip(&format!("address add {address}/32 dev lo"))?;
    }
    gateway.ip(&format!("route add default via {CLIENT}"))?;
    Ok([client, gateway, machine])
}

fn named(lab: &mut Lab) -> Result<()> {
    let [client_ns, gateway_ns, _machine_ns] = sites()?;
    // The office is wider than its network, and the client's own lies in it.
    let wide = |text: String| text.replace("10.1.0.0/24", "10.0.0.0/8");
    let mut gateway = Site::prepare(
        lab,
        &gateway_ns,
        REAL,
        &(wide(gateway_connection()) + "source_route = false\n"),
    )?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection().replace("\"192.0.2.1\"", &format!("\"{BEYOND}\""));
    let mut client = Site::prepare(lab, &client_ns, own, &wide(connection))?;
    gateway.start(lab)?;
    client.start(lab)?;
    let way = |to: &str| client_ns.ip(&format!("route get {to}"));
    let before = way(OFFICE)?;
    ensure!(before.contains(&format!("src {CLIENT}")), "{before}");
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    let through = |client_ns: &Namespace| -> Result<()> {
        let led = way(OFFICE)?;
        let expected = ["via 192.0.2.1", "table 5724", &format!("src {LAN}")];
        ensure!(expected.iter().all(|word| led.contains(word)), "{led}");
        let reply = ping(client_ns, OFFICE, 3, PATIENCE)?;
        ensure!(reply.all(), "{reply:?}");
        Ok(())
    };
    through(&client_ns)?;
    // What is nearer than the tunnel, and what is forwarded, goes as ever.
    let near = way("10.2.0.7")?;
    ensure!(
        near.contains("dev eth1") && !near.contains("5724"),
        "{near}"
    );
    let forwarded = way(&format!("{OFFICE} from 10.2.0.7 iif eth1"))?;
    ensure!(!forwarded.contains("5724"), "{forwarded}");
    let none = gateway_ns.ip("rule")?;
    ensure!(!none.contains("5724"), "not wanted there: {none}");

    // They come back with the link that took them; another's the operator puts in again.
    let routes = || client_ns.ip("route show table 5724");
    let left = routes()?;
    client_ns.ip("link set eth0 down")?;
    ensure!(routes().is_ok_and(|now| now != left), "still {left}");
    client_ns.ip("link set eth0 up")?;
    client_ns.ip("route add default via 192.0.2.1")?;
    client_ns.ip(&format!("route add {FOREIGN}"))?;
    client_ns.ip("route add 10.9.0.0/16 via 192.0.2.1 table 220 proto 59")?;
    until(&left, PATIENCE, || Ok(routes()? == left))?;
    through(&client_ns)?;

    // Of a daemon that was killed the next one finds them; without the peer nothing leaves otherwise.
    client.kill()?;
    ensure!(
        left.contains(&format!(
            "10.0.0.0/8 via 192.0.2.1 dev eth0 proto 59 src {LAN}"
        )),
        "{left}"
    );
    client.start(lab)?;
    client.log_has("adopted sources of an earlier run", PATIENCE)?;
    ensure!(routes()? == left, "{left}");
    client.ikectl("up home")?;
    through(&client_ns)?;
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp == 18, "{tally:?}");

    client.ikectl("down home")?;
    let gone = routes().unwrap_or_default();
    ensure!(gone.trim().is_empty(), "{gone}");
    client.stop()?;
    let rules = client_ns.ip("rule")?;
    ensure!(!rules.contains("5724"), "{rules}");
    let main = client_ns.ip("route show")?;
    ensure!(main.contains(FOREIGN), "{main}");
    let other = client_ns.ip("route show table 220")?;
    ensure!(other.contains("10.9.0.0/16"), "{other}");
    gateway.stop()
}
