//! States that end by a time which only the kernel knows, because somebody has set another one: their Child
//! SA has new keys, or its connection comes up again, and nothing stays that carries no traffic.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tunnel::{
    BRANCH, CLIENT, OFFICE, REAL, client_connection, gateway_connection, two_sites,
};
use crate::{
    capture::{Capture, Tally},
    netns::Namespace,
    ping::ping,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const ENDED: Case = Case {
    name: "a_state_that_ends_by_a_time_only_the_kernel_knows_has_a_successor",
    run: ended,
};

const GATEWAY: &str = "192.0.2.1";
const PATIENCE: Duration = Duration::from_secs(20);

fn ended(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let captures = [Capture::start(&client_ns)?, Capture::start(&gateway_ns)?];
    client.ikectl("up home")?;

    // Either side's kernel says that it is time: new keys, and the same IKE SA.
    let (there, back) = ((CLIENT, GATEWAY), (GATEWAY, CLIENT));
    for (namespace, ends, spi) in [
        (&client_ns, there, "spi_out"),
        (&gateway_ns, there, "spi_out"),
        (&client_ns, back, "spi_in"),
    ] {
        let before = client.established()?;
        // What the gateway receives by is what the client sends by.
        limit(namespace, ends, &before["children"][0][spi], "time-soft 1")?;
        let now = changed(&client, &before["children"][0], |sa| &sa["children"][0])?;
        ensure!(now["spi_i"] == before["spi_i"], "{now}");
        carries(&client_ns, &gateway_ns)?;
    }

    // Either side's kernel has ended a state: the only Child SA takes its IKE SA along, and the client comes
    // again by itself.
    for (namespace, ends, spi) in [
        (&gateway_ns, there, "spi_out"),
        (&client_ns, there, "spi_out"),
        (&gateway_ns, back, "spi_in"),
    ] {
        let before = client.established()?;
        limit(namespace, ends, &before["children"][0][spi], "time-hard 1")?;
        changed(&client, &before, |sa| sa)?;
        carries(&client_ns, &gateway_ns)?;
        gateway.established()?;
    }
    gateway.log_has("expired", PATIENCE)?;

    let mut tally = Tally::default();
    for capture in captures {
        tally.add_sent(&capture.stop()?);
    }
    ensure!(tally.clear == 0 && tally.esp >= 6 * 12, "{tally:?}");
    client.stop()?;
    gateway.stop()
}

/// Gives a state another lifetime, as an operator may. Of all else that is said here the kernel takes nothing.
fn limit(
    namespace: &Namespace,
    (source, destination): (&str, &str),
    spi: &Value,
    limit: &str,
) -> Result<()> {
    let spi = spi.as_str().context("an SPI")?;
    let key = "07".repeat(20);
    namespace.ip(&format!(
        "xfrm state update src {source} dst {destination} proto esp spi 0x{spi} mode tunnel \
         aead rfc4106(gcm(aes)) 0x{key} 128 limit {limit}"
    ))?;
    Ok(())
}

/// Waits until the client has another one of these; its SA.
fn changed(client: &Site<'_>, before: &Value, part: fn(&Value) -> &Value) -> Result<Value> {
    let key = if before["spi_i"].is_null() {
        "spi_in"
    } else {
        "spi_i"
    };
    until("another one in its place", PATIENCE, || {
        let sa = client.established();
        Ok(sa.is_ok_and(|sa| {
            let now = &part(&sa)[key];
            !now.is_null() && *now != before[key]
        }))
    })?;
    client.established()
}

fn carries(client: &Namespace, gateway: &Namespace) -> Result<()> {
    for (from, to) in [(client, OFFICE), (gateway, BRANCH)] {
        let reply = ping(from, to, 3, PATIENCE)?;
        ensure!(reply.all(), "from {} to {to}: {reply:?}", from.name());
    }
    Ok(())
}
