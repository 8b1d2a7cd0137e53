//! What an operator sees of connections that are up, and of those that are not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// On any kernel.
pub const SHOWN: Case = Case {
    name: "connections_are_shown_with_what_is_to_come_and_what_they_wait_for",
    run: shown,
};

const PATIENCE: Duration = Duration::from_secs(15);

fn named(site: &Site<'_>, name: &str) -> Result<Value> {
    let all = site.ikectl("conn")?;
    let mut all = all.as_array().context("a list")?.iter();
    let one = all.find(|one| one["name"] == name);
    one.cloned().with_context(|| format!("no {name}"))
}

fn shown(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = Setting {
        gate: "off",
        dataplane: "none",
        node: 1,
    };
    let mut gateway = Site::prepare(lab, &gateway_ns, setting, &gateway_connection())?;
    let broken = client_connection()
        .replace("connections.home", "connections.broken")
        .replace("correct horse battery", "another secret")
        .replacen("psk =", "start = \"up\"\npsk =", 1);
    let both = client_connection() + &broken;
    let own = Setting { node: 2, ..setting };
    let mut client = Site::prepare(lab, &client_ns, own, &both)?;
    gateway.start(lab)?;
    client.start(lab)?;

    ensure!(named(&gateway, "rw")?["state"] == "listening");
    let idle = named(&client, "home")?;
    ensure!(idle["state"] == "down" && idle["start"] == "none", "{idle}");
    ensure!(idle["remote"] == "192.0.2.1", "{idle}");
    // It fails, and each time it waits a little longer.
    until("an attempt that failed", PATIENCE, || {
        Ok(named(&client, "broken")?["state"] == "waiting")
    })?;
    let waits = named(&client, "broken")?;
    ensure!(waits["start"] == "up" && waits["ike_sas"] == 0, "{waits}");
    let left = waits["next_attempt_seconds"].as_u64();
    ensure!(left.is_some_and(|left| left <= 13), "{waits}");
    let why = &waits["last_failure"];
    ensure!(
        why["exchange"] == "IKE_AUTH" && why["cure"].is_string(),
        "{waits}"
    );
    ensure!(
        why["verdict"] == "the peer refuses: AUTHENTICATION_FAILED",
        "{waits}"
    );

    client.ikectl("up home")?;
    let up = named(&client, "home")?;
    ensure!(up["state"] == "up" && up["ike_sas"] == 1, "{up}");
    ensure!(up["next_attempt_seconds"].is_null(), "{up}");
    let up = named(&gateway, "rw")?;
    ensure!(up["state"] == "up" && up["ike_sas"] == 1, "{up}");
    // What is to come of its SA; nobody has asked for a login in time.
    let sa = client.established()?;
    let within = |value: &Value, least: u64, most: u64| {
        value
            .as_u64()
            .is_some_and(|seconds| (least..=most).contains(&seconds))
    };
    let child = &sa["children"][0];
    for (value, least, most) in [
        (&sa["rekey_in_seconds"], 11_000, 13_000),
        (&sa["liveness_in_seconds"], 20, 30),
        (&sa["ends_in_seconds"], 86_000, 86_400),
        (&sa["ticket"]["expires_in_seconds"], 43_000, 43_200),
        (&child["rekey_in_seconds"], 2_800, 3_300),
        (&child["ends_in_seconds"], 86_000, 86_400),
    ] {
        ensure!(within(value, least, most), "{least} to {most}: {sa}");
    }
    ensure!(sa["reauth_in_seconds"].is_null(), "{sa}");
    client.ikectl("suspend home")?;
    let asleep = named(&client, "home")?;
    ensure!(asleep["state"] == "suspended", "{asleep}");
    Ok(())
}
