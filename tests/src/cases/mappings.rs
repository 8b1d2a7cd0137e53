//! A router that forgets behind which port, or at which address, a client of its own is, while nothing but
//! ESP flows: neither side asks for signs of life, and neither knows MOBIKE.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::tunnel::{
    BRANCH, CLIENT, HIDDEN, OFFICE, REAL, client_connection, gateway_connection, hidden_site,
};
use crate::{
    capture::{Capture, Tally, sent},
    netns::Namespace,
    packet::Content,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On kernels with ESP and NAT.
pub const FOLLOWED: Case = Case {
    name: "a_nat_that_changes_its_mapping_is_followed_by_esp_alone",
    run: followed,
};

const PATIENCE: Duration = Duration::from_secs(10);
const BRIEFLY: Duration = Duration::from_secs(1);
const OUTSIDE: [&str; 2] = ["192.0.2.2", "192.0.2.3"];

fn followed(lab: &mut Lab) -> Result<()> {
    let [client_ns, router, gateway_ns] = hidden_site()?;
    let plain = |connection: String| {
        let quiet = connection.replace("dpd_delay = \"30s\"", "dpd_delay = \"0s\"");
        quiet.replacen("psk =", "mobike = false\npsk =", 1)
    };
    let connection = plain(gateway_connection());
    ensure!(
        connection.contains("\"0s\"\nmobike = false"),
        "{connection}"
    );
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &connection)?;
    let own = Setting { node: 2, ..REAL };
    let connection = plain(client_connection().replace(CLIENT, HIDDEN));
    let mut client = Site::prepare(lab, &client_ns, own, &connection)?;
    gateway.start(lab)?;
    client.start(lab)?;
    client.ikectl("up home")?;
    let first = gateway.established()?;
    ensure!(first["children"][0]["encap"] == "udp", "{first}");
    both_ways(&client_ns, &gateway_ns)?;

    router.remasquerade("eth1", "20000-20999")?;
    let there = recovers((&client_ns, &gateway_ns), &gateway)?;
    let port = there["remote"]["port"].as_u64().unwrap_or(0);
    ensure!((20000..21000).contains(&port), "{there}");

    router.set("ipv4/conf/all/promote_secondaries", "1")?;
    let [before, now] = OUTSIDE;
    router.ip(&format!("address add {now}/24 dev eth1"))?;
    router.ip(&format!("address del {before}/24 dev eth1"))?;
    let there = recovers((&client_ns, &gateway_ns), &gateway)?;
    ensure!(there["remote"]["addr"] == now, "{there}");
    let states = gateway_ns.ip("xfrm state")?;
    ensure!(!states.contains(before) && states.contains(now), "{states}");

    // The gateway's own requests go there as well, and all are the SAs that they were.
    for key in ["spi_i", "spi_r", "children"] {
        let of = |sa: &Value| match key {
            "children" => sa[key][0]["spi_in"].clone(),
            _ => sa[key].clone(),
        };
        ensure!(of(&there) == of(&first), "{key}: {there}");
    }
    gateway.ikectl("rekey rw")?;
    until("the IKE SA has new keys at both ends", PATIENCE, || {
        let new = |site: &Site<'_>| {
            site.established()
                .is_ok_and(|sa| sa["spi_i"] != first["spi_i"])
        };
        Ok(new(&client) && new(&gateway))
    })?;
    both_ways(&client_ns, &gateway_ns)?;
    client.stop()?;
    gateway.stop()
}

/// Nothing reaches the client until its own ESP has shown where it is, and nobody says a word of IKE.
fn recovers((client, gateway): (&Namespace, &Namespace), site: &Site<'_>) -> Result<Value> {
    let unheard = ping(gateway, BRANCH, 2, BRIEFLY)?;
    ensure!(unheard.received == 0, "the old mapping stands: {unheard:?}");
    let capture = Capture::start(gateway)?;
    until(
        "ESP shows the gateway where its client is",
        PATIENCE,
        || Ok(ping(client, OFFICE, 1, BRIEFLY)?.all()),
    )?;
    both_ways(client, gateway)?;
    let frames = capture.stop()?;
    let is_ike = |content| matches!(content, Content::Ike { .. });
    let said = sent(&frames)
        .filter(|packet| is_ike(packet.content))
        .count();
    ensure!(said == 0, "IKE helped: {said} messages");
    let mut tally = Tally::default();
    tally.add_sent(&frames);
    ensure!(tally.clear == 0 && tally.esp_in_udp >= 6, "{tally:?}");
    site.established()
}

fn both_ways(client: &Namespace, gateway: &Namespace) -> Result<()> {
    for (from, to) in [(client, OFFICE), (gateway, BRANCH)] {
        let reply = ping(from, to, 3, PATIENCE)?;
        ensure!(reply.all(), "from {} to {to}: {reply:?}", from.name());
    }
    Ok(())
}
