//! A client that sleeps on its ticket costs its gateway nothing, once the gateway has noticed: no SA,
//! no state in the kernel. It resumes all the same.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::tunnel::{CLIENT, OFFICE, REAL, client_connection, gateway_connection, two_sites};
use crate::{
    netns::Namespace,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
};

/// On a kernel with ESP.
pub const FORGOTTEN: Case = Case {
    name: "a_suspended_client_costs_the_gateway_nothing_from_the_liveness_limit_on",
    run: forgotten,
};

/// A second of silence, and half a minute of asking in vain.
const LIMIT: Duration = Duration::from_secs(45);
/// Of which the asking takes this much at least.
const ASKED_FOR: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(5);

fn forgotten(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    // A gateway of many: whoever knows the key may come.
    let connection = gateway_connection()
        .replace("dpd_delay = \"30s\"", "dpd_delay = \"1s\"")
        .replace(", id = \"client.example\"", "");
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &connection)?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;

    // Asked for a sign of life, a daemon that has put its client to sleep proves that it has.
    let told = sleep_until_forgotten(&client, &gateway, &gateway_ns)?;
    wake(&client, &client_ns)?;
    let unreachable = format!("blackhole {CLIENT}/32");
    gateway_ns.ip(&format!("route add {unreachable}"))?;
    let silent = sleep_until_forgotten(&client, &gateway, &gateway_ns)?;
    gateway_ns.ip(&format!("route del {unreachable}"))?;
    wake(&client, &client_ns)?;
    ensure!(silent > ASKED_FOR, "who has told? {silent:?}");
    println!(
        "      nothing of it {:.1} s after it fell asleep, {:.1} s if it cannot be asked",
        told.as_secs_f64(),
        silent.as_secs_f64()
    );
    client.stop()?;
    gateway.stop()
}

/// Puts the client to sleep, and looks at what the gateway has of it once it has noticed.
fn sleep_until_forgotten(
    client: &Site<'_>,
    gateway: &Site<'_>,
    gateway_ns: &Namespace,
) -> Result<Duration> {
    let states = gateway_ns.ip("xfrm state")?;
    ensure!(states.matches("proto esp").count() == 2, "{states}");
    let policies = gateway_ns.ip("xfrm policy")?;
    ensure!(policies.contains("tmpl"), "{policies}");

    client.ikectl("suspend home")?;
    let asleep = Instant::now();
    loop {
        let sas = gateway.ikectl("sa")?;
        if sas.as_array().is_some_and(Vec::is_empty) {
            break;
        }
        ensure!(asleep.elapsed() < LIMIT, "{sas}");
        thread::sleep(POLL);
    }
    let after = asleep.elapsed();
    let status = gateway.ikectl("status")?;
    for count in ["ike_sas_established", "ike_sas_half_open", "child_sas"] {
        ensure!(status[count] == 0, "{status}");
    }
    let states = gateway_ns.ip("xfrm state")?;
    ensure!(states.trim().is_empty(), "{states}");
    // Three blocks for the connection, however many its clients: no flow is to leave in clear.
    let policies = gateway_ns.ip("xfrm policy")?;
    ensure!(!policies.contains("tmpl"), "{policies}");
    ensure!(policies.matches("action block").count() == 3, "{policies}");

    Ok(after)
}

fn wake(client: &Site<'_>, client_ns: &Namespace) -> Result<()> {
    let up = client.ikectl("up home")?;
    ensure!(up["resumed"] == true, "{up}");
    ensure!(ping(client_ns, OFFICE, 3, PATIENCE)?.all(), "once resumed");
    Ok(())
}
