//! Rekindle to Rekindle: a tunnel comes up, is suspended, outlives its gateway's processes, and
//! resumes; and on every wire only what may be there is seen.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    capture::{Capture, Tally, sent},
    netns::{Namespace, connect},
    packet::Content,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// The main job, on a kernel with ESP.
pub const RESUMES: Case = Case {
    name: "a_suspended_tunnel_resumes_after_sigkill_of_keeper_and_engine",
    run: resumes,
};

/// The data path of a client behind NAT does not need the engine.
pub const BEHIND_NAT: Case = Case {
    name: "a_peer_behind_nat_keeps_pinging_while_the_engine_is_dead_for_10_s",
    run: behind_nat,
};

/// The same over IPv6, with IPv4 inside.
pub const OVER_IPV6: Case = Case {
    name: "over_ipv6_a_tunnel_resumes_after_sigkill",
    run: over_ipv6,
};

/// The client's outer address.
pub const CLIENT: &str = "192.0.2.10";
pub(super) const GATEWAY: &str = "192.0.2.1";
/// The client's outer address behind a router.
pub(super) const HIDDEN: &str = "10.0.0.2";
/// Inside addresses: what the tunnel is for. This one is behind the client.
pub const BRANCH: &str = "10.2.0.1";
/// The address behind the gateway.
pub const OFFICE: &str = "10.1.0.1";
const IKE_SA_INIT: u8 = 34;
const INFORMATIONAL: u8 = 37;
const IKE_SESSION_RESUME: u8 = 38;
const PATIENCE: Duration = Duration::from_secs(5);

/// Client and gateway on one cable, with a network behind each. The routes to the other network lead
/// over the cable, so that what no policy stops would go out in clear.
pub fn two_sites() -> Result<(Namespace, Namespace)> {
    let (client, gateway) = (Namespace::new("client")?, Namespace::new("gateway")?);
    connect(
        (&client, "eth0", &[&format!("{CLIENT}/24")]),
        (&gateway, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    inside(&client, BRANCH, "10.1.0.0/24", GATEWAY)?;
    inside(&gateway, OFFICE, "10.2.0.0/24", CLIENT)?;
    Ok((client, gateway))
}

/// The same with a router that hides the client. The gateway has no way to it but the router's address.
pub(super) fn hidden_site() -> Result<[Namespace; 3]> {
    let (client_ns, router) = (Namespace::new("client")?, Namespace::new("router")?);
    let gateway_ns = Namespace::new("gateway")?;
    connect(
        (&client_ns, "eth0", &[&format!("{HIDDEN}/24")]),
        (&router, "eth0", &["10.0.0.1/24"]),
    )?;
    connect(
        (&router, "eth1", &["192.0.2.2/24"]),
        (&gateway_ns, "eth0", &[&format!("{GATEWAY}/24")]),
    )?;
    client_ns.ip("route add default via 10.0.0.1")?;
    client_ns.ip(&format!("address add {BRANCH}/32 dev lo"))?;
    client_ns.ip(&format!("route add 10.1.0.0/24 via 10.0.0.1 src {BRANCH}"))?;
    inside(&gateway_ns, OFFICE, "10.2.0.0/24", "192.0.2.2")?;
    router.masquerade("eth1")?;
    Ok([client_ns, router, gateway_ns])
}

fn inside(namespace: &Namespace, own: &str, other: &str, via: &str) -> Result<()> {
    namespace.ip(&format!("address add {own}/32 dev lo"))?;
    namespace.ip(&format!("route add {other} via {via} src {own}"))?;
    Ok(())
}

/// The client's end of the connection.
#[must_use]
pub fn client_connection() -> String {
    format!(
        "[connections.home]\nlocal_addrs = \"{CLIENT}\"\nremote_addrs = \"{GATEWAY}\"\n\
         dpd_delay = \"30s\"\npsk = \"correct horse battery\"\n\
         local = {{ auth = \"psk\", id = \"client.example\" }}\n\
         remote = {{ auth = \"psk\", id = \"gw.example\" }}\n\
         [connections.home.children.net]\n\
         local_ts = [\"10.2.0.0/24\"]\nremote_ts = [\"10.1.0.0/24\"]\n"
    )
}

/// The gateway's end.
#[must_use]
pub fn gateway_connection() -> String {
    "[connections.rw]\ndpd_delay = \"30s\"\npsk = \"correct horse battery\"\n\
     local = { auth = \"psk\", id = \"gw.example\" }\n\
     remote = { auth = \"psk\", id = \"client.example\" }\n\
     [connections.rw.children.net]\n\
     local_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.2.0.0/24\"]\n"
        .to_owned()
}

/// Both sites' settings: real ESP, the gate wherever it can be.
pub const REAL: Setting<'static> = Setting {
    gate: "auto",
    dataplane: "xfrm",
    node: 1,
};

fn resumes(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];

    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == false, "{up}");
    let before = client.established()?;
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "through the first SA: {reply:?}");
    let counted = client.established()?;
    ensure!(counted["children"][0]["out_packets"] == 3, "{counted}");
    ensure!(counted["children"][0]["in_packets"] == 3, "{counted}");

    client.ikectl("suspend home")?;
    let asleep = client.ikectl("sa")?;
    ensure!(asleep[0]["state"] == "suspended", "{asleep}");
    gateway.kill()?;
    let old_states = gateway_ns.ip("xfrm state")?;
    ensure!(
        old_states.contains("proto esp"),
        "the kernel keeps the dead gateway's SA"
    );
    // The block policy answers a local sender with EPERM, at which ping gives up without a summary.
    let refused = ping(&client_ns, OFFICE, 2, Duration::from_secs(1));
    let received = refused.map_or(0, |reply| reply.received);
    ensure!(
        received == 0,
        "a suspended tunnel carries nothing, not {received} replies"
    );
    gateway.start(lab)?;

    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "through the resumed SA: {reply:?}");
    let after = client.established()?;
    for key in ["spi_i", "spi_r"] {
        ensure!(before[key] != after[key], "{key} is the same: {after}");
    }
    for key in ["spi_in", "spi_out"] {
        ensure!(
            before["children"][0][key] != after["children"][0][key],
            "{key}: {after}"
        );
    }
    let spi =
        |sa: &serde_json::Value, key| sa["children"][0][key].as_str().unwrap_or("none").to_owned();
    let states = drained(&gateway_ns)?;
    for old in [spi(&before, "spi_in"), spi(&before, "spi_out")] {
        ensure!(
            !states.contains(&old),
            "orphan {old} is still there:\n{states}"
        );
    }
    for new in [spi(&after, "spi_in"), spi(&after, "spi_out")] {
        ensure!(states.contains(&new), "{new} is missing:\n{states}");
    }

    let mut tally = Tally::default();
    let mut exchanges = Vec::new();
    for capture in captures {
        let frames = capture.stop()?;
        tally.add_sent(&frames);
        exchanges.extend(sent(&frames).filter_map(|packet| match packet.content {
            Content::Ike { exchange, .. } => Some(exchange),
            _ => None,
        }));
    }
    let has = |wanted| exchanges.contains(&wanted);
    ensure!(has(IKE_SA_INIT) && has(IKE_SESSION_RESUME), "{exchanges:?}");
    ensure!(!has(INFORMATIONAL), "a DELETE on the wire: {exchanges:?}");
    ensure!(tally.clear == 0, "clear text on the wire: {tally:?}");
    ensure!(tally.esp == 12, "{tally:?}");
    client.stop()?;
    gateway.stop()?;
    let left = gateway_ns.ip("xfrm state")? + &gateway_ns.ip("xfrm policy")?;
    ensure!(
        !left.contains("proto esp"),
        "a goodbye leaves nothing:\n{left}"
    );
    Ok(())
}

/// The kernel's states, once those that have been replaced are gone: two for the one tunnel.
pub(super) fn drained(namespace: &Namespace) -> Result<String> {
    let states = || namespace.ip("xfrm state");
    until("two ESP states are left", PATIENCE, || {
        Ok(states()?.matches("proto esp").count() == 2)
    })?;
    states()
}

fn behind_nat(lab: &mut Lab) -> Result<()> {
    let [client_ns, _router, gateway_ns] = hidden_site()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection().replace(CLIENT, HIDDEN);
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let sa = client.established()?;
    ensure!(sa["children"][0]["encap"] == "udp", "{sa}");
    let capture = Capture::start(&gateway_ns)?;
    ensure!(
        ping(&client_ns, OFFICE, 3, PATIENCE)?.all(),
        "before the engine died"
    );

    // A stopped keeper starts no new engine; its sockets, and the kernel behind them, work on.
    gateway.signal_keeper(Signal::SIGSTOP)?;
    let died = Instant::now();
    gateway.kill_engine()?;
    let dead = Duration::from_secs(10);
    let (mut asked, mut answered) = (0, 0);
    while died.elapsed() < dead {
        let reply = ping(&client_ns, OFFICE, 5, PATIENCE)?;
        asked += reply.sent;
        answered += reply.received;
    }
    gateway.signal_keeper(Signal::SIGCONT)?;
    ensure!(
        asked >= 20 && answered == asked,
        "{answered} of {asked} answered"
    );
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    ensure!(tally.clear == 0 && tally.esp == 0, "{tally:?}");
    ensure!(tally.esp_in_udp >= u64::from(asked), "{tally:?}");
    // The keeper starts another engine, and the control socket answers again.
    let deadline = Instant::now() + Duration::from_secs(15);
    while gateway.ikectl("status").is_err() {
        ensure!(Instant::now() < deadline, "no new engine");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn over_ipv6(lab: &mut Lab) -> Result<()> {
    const CLIENT6: &str = "2001:db8::10";
    const GATEWAY6: &str = "2001:db8::1";
    let (client_ns, gateway_ns) = two_sites()?;
    for (namespace, address) in [(&client_ns, CLIENT6), (&gateway_ns, GATEWAY6)] {
        namespace.ip(&format!("address add {address}/64 dev eth0 nodad"))?;
    }
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let connection = client_connection()
        .replace(CLIENT, CLIENT6)
        .replace(&format!("\"{GATEWAY}\""), &format!("\"{GATEWAY6}\""));
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());
    client.ikectl("suspend home")?;
    gateway.kill()?;
    gateway.start(lab)?;
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    ensure!(ping(&client_ns, OFFICE, 3, PATIENCE)?.all());
    let sa = client.established()?;
    ensure!(sa["remote"]["addr"] == GATEWAY6, "{sa}");
    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp == 12, "{tally:?}");
    Ok(())
}
