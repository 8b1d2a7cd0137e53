//! Inner addresses on real packets: leased by the gateway, put on an interface by the client, and the
//! same ones after a resumption, a crash of the gateway and a crash of the client.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tunnel::{CLIENT, OFFICE, REAL};
use crate::{
    capture::{Capture, Tally},
    netns::{Namespace, connect},
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// The whole life of a lease.
pub const STICKY: Case = Case {
    name: "leased_addresses_outlive_resumption_and_sigkill_of_either_side",
    run: sticky,
};

/// Everything goes through the tunnel but the tunnel.
pub const FULL: Case = Case {
    name: "a_client_that_sends_everything_through_the_tunnel_still_reaches_its_gateway",
    run: full_tunnel,
};

const GATEWAY: &str = "192.0.2.1";
/// An address behind the gateway, of the other family.
pub const OFFICE6: &str = "2001:db8:1::1";
/// The first lease of each pool.
pub const INNER4: &str = "10.3.0.1";
/// And of the other family.
pub const INNER6: &str = "2001:db8:3::1";
/// Of both ends.
pub const PSK: &str = "correct horse battery";
/// The networks behind the gateway.
pub const ROUTED: [&str; 2] = ["10.1.0.0/24", "2001:db8:1::/64"];
const POOLS: &str = "[pools.rw4]\naddrs = \"10.3.0.0/24\"\ndns = [\"10.1.0.53\"]\n\
     domains = [\"corp.example\"]\n[pools.rw6]\naddrs = \"2001:db8:3::/64\"\n";
const PINGS: u32 = 2;
const PATIENCE: Duration = Duration::from_secs(5);

/// Client and gateway on one cable, and behind the gateway a network of each family. Its routes to the
/// pools lead over the cable, so that what no policy stops would go out in clear.
pub fn remote_site() -> Result<(Namespace, Namespace)> {
    let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect(
        (&client, "eth0", &[&format!("{CLIENT}/24")]),
        (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    gateway.ip(&format!("address add {OFFICE}/32 dev lo"))?;
    gateway.ip(&format!("address add {OFFICE6}/128 dev lo"))?;
    gateway.ip(&format!("route add 10.3.0.0/24 via {CLIENT} src {OFFICE}"))?;
    gateway.ip(&format!("route add 2001:db8:3::/64 dev eth0 src {OFFICE6}"))?;
    Ok((client, gateway))
}

/// The gateway's end, with a pool of each family.
#[must_use]
pub fn gateway_connection() -> String {
    format!(
        "[connections.rw]\ndpd_delay = \"30s\"\npsk = \"{PSK}\"\npools = [\"rw4\", \"rw6\"]\n\
         local = {{ auth = \"psk\", id = \"gw.example\" }}\n\
         remote = {{ auth = \"psk\" }}\n\
         [connections.rw.children.net]\nlocal_ts = [\"{}\", \"{}\"]\n{POOLS}",
        ROUTED[0], ROUTED[1]
    )
}

/// The client's end.
#[must_use]
pub fn client_connection() -> String {
    format!(
        "[connections.home]\nlocal_addrs = \"{CLIENT}\"\nremote_addrs = \"{GATEWAY}\"\n\
         dpd_delay = \"30s\"\npsk = \"{PSK}\"\nvips = [\"0.0.0.0\", \"::\"]\n\
         local = {{ auth = \"psk\", id = \"client.example\" }}\n\
         remote = {{ auth = \"psk\", id = \"gw.example\" }}\n\
         [connections.home.children.net]\nremote_ts = [\"{}\", \"{}\"]\n",
        ROUTED[0], ROUTED[1]
    )
}

/// Pings both of the gateway's networks from wherever the client's routes say: eight packets there and
/// back.
pub fn ping_both(client: &Namespace) -> Result<()> {
    for to in [OFFICE, OFFICE6] {
        let reply = ping(client, to, PINGS, PATIENCE)?;
        ensure!(reply.all(), "{to}: {reply:?}");
    }
    Ok(())
}

/// Whether an interface has an address.
pub fn has_address(namespace: &Namespace, interface: &str, address: &str) -> Result<bool> {
    let shown = namespace.ip(&format!("-o address show dev {interface}"))?;
    Ok(shown.contains(&format!(" {address}/")))
}

fn second_daemon(lab: &Lab, namespace: &Namespace, first: &Path) -> Result<()> {
    let text = fs::read_to_string(first.join("rekindle.toml"))?;
    let folder = lab.work().join("second");
    fs::create_dir_all(&folder)?;
    let (first, second) = (first.display().to_string(), folder.display().to_string());
    let file = folder.join("rekindle.toml");
    // At once: the first one would bring back what it misses.
    let seen = || -> Result<String> {
        Ok(namespace.ip("address show dev lo")? + &namespace.ip("route show table 5723")?)
    };
    let before = seen()?;
    // With folders of its own, and with the first one's for what must not outlive it.
    for (other, why) in [
        (text.replace(&first, &second), "in use"),
        (
            text.replace(&format!("{first}/state"), &format!("{second}/state")),
            "another rekindled is running",
        ),
    ] {
        fs::write(&file, other)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        let mut command = namespace.command(lab.binary("rekindled")?);
        let output = command.arg("--config").arg(&file).output()?;
        let after = seen()?;
        ensure!(after == before, "{before}{after}");
        let said = String::from_utf8_lossy(&output.stderr);
        let refused = !output.status.success() && said.matches(why).count() == 1;
        ensure!(refused, "{}: {said}", output.status);
    }
    Ok(())
}

fn sticky(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection() + "mss = 1300\n";
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    let came_up = |client: &Site<'_>, resumed: bool| -> Result<()> {
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == resumed, "{up}");
        let sa = client.established()?;
        ensure!(
            sa["local"]["vips"] == Value::from(vec![INNER4, INNER6]),
            "{sa}"
        );
        ensure!(
            sa["dns"][0] == "10.1.0.53" && sa["domains"][0] == "corp.example",
            "{sa}"
        );
        for address in [INNER4, INNER6] {
            ensure!(
                has_address(&client_ns, "lo", address)?,
                "{address} is not on lo"
            );
        }
        ping_both(&client_ns)
    };

    came_up(&client, false)?;
    // A second daemon with folders of its own finds the ports taken, and takes nothing away.
    second_daemon(lab, &client_ns, client.folder())?;
    for (family, to) in [("-4", OFFICE), ("-6", OFFICE6)] {
        let way = client_ns.ip(&format!("{family} route get {to}"))?;
        ensure!(way.contains("advmss 1300"), "{way}");
    }
    let sa = gateway.established()?;
    ensure!(sa["remote"]["vips"][0] == INNER4, "{sa}");
    let pools = gateway.ikectl("pool")?;
    ensure!(
        pools[0]["name"] == "rw4" && pools[0]["size"] == 254,
        "{pools}"
    );
    ensure!(
        pools[0]["leases"] == 1 && pools[0]["online"] == 1,
        "{pools}"
    );

    // Asleep it keeps its addresses, and what leaves from them is blocked.
    client.ikectl("suspend home")?;
    for (address, to) in [(INNER4, OFFICE), (INNER6, OFFICE6)] {
        ensure!(has_address(&client_ns, "lo", address)?, "{address} is gone");
        let blocked = ping(&client_ns, to, 1, Duration::from_secs(1));
        ensure!(
            blocked.map_or(0, |reply| reply.received) == 0,
            "{to} answers"
        );
    }
    came_up(&client, true)?;
    online(&gateway, true)?;

    // The gateway comes back with its leases. What its kernel still holds is in use.
    client.ikectl("suspend home")?;
    gateway.kill()?;
    gateway.start(lab)?;
    online(&gateway, false)?;
    came_up(&client, true)?;
    online(&gateway, true)?;

    // The client loses its ticket with its processes, and finds its addresses where they were.
    client.kill()?;
    ensure!(
        has_address(&client_ns, "lo", INNER4)?,
        "gone with the keeper"
    );
    client.start(lab)?;
    came_up(&client, false)?;

    client.ikectl("down home")?;
    for address in [INNER4, INNER6] {
        ensure!(
            !has_address(&client_ns, "lo", address)?,
            "{address} is still on lo"
        );
    }
    let routes =
        client_ns.ip("route show table 5723")? + &client_ns.ip("-6 route show table 5723")?;
    ensure!(routes.trim().is_empty(), "{routes}");
    online(&gateway, false)?;
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp == 32, "{tally:?}");
    client.stop()?;
    let rules = client_ns.ip("rule")?;
    ensure!(!rules.contains("5723"), "a goodbye leaves nothing: {rules}");
    gateway.stop()
}

/// Both leases are the client's, and in use or not.
fn online(gateway: &Site<'_>, online: bool) -> Result<()> {
    let leases = gateway.ikectl("pool leases")?;
    let all = leases.as_array().context("a list")?;
    ensure!(all.len() == 2, "{leases}");
    for (lease, address) in all.iter().zip([INNER4, INNER6]) {
        ensure!(
            lease["addr"] == address && lease["peer"] == "client.example",
            "{lease}"
        );
        ensure!(lease["online"] == online, "{lease}");
    }
    Ok(())
}

fn full_tunnel(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = remote_site()?;
    let all = "[\"0.0.0.0/0\", \"::/0\"]";
    let networks = format!("[\"{}\", \"{}\"]", ROUTED[0], ROUTED[1]);
    let connection = gateway_connection().replace(&networks, all);
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &connection)?;
    let own = Setting { node: 2, ..REAL };
    // The routing table chooses where it calls from: not from inside the tunnel that is to come.
    let connection = client_connection()
        .replace(&networks, all)
        .replace(&format!("local_addrs = \"{CLIENT}\"\n"), "");
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    for resumed in [false, true] {
        let up = client.ikectl("up home")?;
        ensure!(up["resumed"] == resumed, "{up}");
        let sa = client.established()?;
        ensure!(sa["local"]["addr"] == CLIENT, "{sa}");
        ping_both(&client_ns)?;
        client.ikectl("suspend home")?;
    }
    Ok(())
}
