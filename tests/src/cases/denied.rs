//! What an operator does to a gate that stands: networks from which nobody is heard, for a while, by the
//! gate and without one; networks where nobody is asked for a cookie; and the gate taken off its interfaces and put back, while the daemon serves.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::tunnel::{client_connection, gateway_connection, two_sites};
use crate::{
    netns::Namespace,
    site::{Setting, Site},
    suite::{Case, Lab},
    until::until,
};

/// The gate drops what comes from a denied network.
pub const BY_THE_GATE: Case = Case {
    name: "nobody_is_heard_from_a_network_that_an_operator_has_denied",
    run: by_the_gate,
};
/// Without one the engine does.
pub const BY_THE_ENGINE: Case = Case {
    name: "without_a_gate_nobody_is_heard_from_a_denied_network_either",
    run: by_the_engine,
};
/// Under attack, those in an allowed network are taken as they come.
pub const ALLOWED: Case = Case {
    name: "nobody_in_a_network_that_an_operator_has_allowed_is_asked_for_a_cookie",
    run: allowed,
};
/// Where there is no gate, the daemon's own cookies.
pub const ALLOWED_BY_THE_ENGINE: Case = Case {
    name: "without_a_gate_nobody_in_an_allowed_network_is_asked_for_a_cookie_either",
    run: allowed_by_the_engine,
};
/// Off and on again.
pub const DETACHED: Case = Case {
    name: "a_gate_taken_off_leaves_the_daemon_serving_and_comes_back",
    run: detached,
};

/// Where the client is, and where nobody is.
const NETWORK: &str = "192.0.2.8/29";
/// Around that.
const AROUND: &str = "192.0.2.0/24";
const ELSEWHERE: &str = "203.0.113.0/24";
/// For as long as it takes to see that nobody answers: the first message and a repetition.
const NO_ANSWER: &str = "up home --timeout 2";
const SOON: Duration = Duration::from_secs(5);
const ENGINE_BACK: Duration = Duration::from_secs(20);

fn by_the_gate(lab: &mut Lab) -> Result<()> {
    denied(lab, "native")
}

fn by_the_engine(lab: &mut Lab) -> Result<()> {
    denied(lab, "off")
}

fn denied(lab: &Lab, mode: &str) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let (client, mut gateway) = sites(lab, [&client_ns, &gateway_ns], ["off", mode])?;
    client.ikectl("up home")?;
    client.ikectl("down home")?;

    let done = gateway.ikectl(&format!("gate deny {NETWORK} --for 1h"))?;
    ensure!(done["network"] == NETWORK, "{done}");
    ensure!(done["denied_for_seconds"] == 3600, "{done}");
    let listed = gateway.ikectl("gate")?["denied"].clone();
    ensure!(
        listed[0]["network"] == NETWORK && listed[0]["denied_for_seconds"].as_u64() > Some(3500),
        "{listed}"
    );
    unheard(&client, &gateway, mode)?;
    // The list is the keeper's: the next engine knows it too.
    let before = gateway.kill_engine()?;
    until("another engine", ENGINE_BACK, || {
        Ok(gateway.engine()? != before && gateway.ikectl("status").is_ok())
    })?;
    unheard(&client, &gateway, mode)?;
    // And it outlives the keeper.
    gateway.kill()?;
    gateway.start(lab)?;
    let listed = gateway.ikectl("gate")?["denied"].clone();
    let left = listed[0]["denied_for_seconds"].as_u64();
    ensure!(
        listed[0]["network"] == NETWORK && left.is_some_and(|left| (3400..=3600).contains(&left)),
        "{listed}"
    );
    unheard(&client, &gateway, mode)?;
    // A damaged list is named and left as it is: nobody is heard again by mistake.
    gateway.kill()?;
    let file = gateway.folder().join("state/denied");
    let whole = fs::read(&file)?;
    let mut bent = whole.clone();
    bent[20] ^= 1;
    fs::write(&file, &bent)?;
    let mut daemon = gateway_ns.command(lab.binary("rekindled")?);
    daemon.arg("--config");
    let started = daemon
        .arg(gateway.folder().join("rekindle.toml"))
        .output()?;
    let said = String::from_utf8_lossy(&started.stderr);
    ensure!(
        !started.status.success() && said.contains("state/denied: damaged (wrong checksum)"),
        "{said}"
    );
    ensure!(fs::read(&file)? == bent, "the file was touched");
    fs::write(&file, whole)?;
    gateway.start(lab)?;
    unheard(&client, &gateway, mode)?;

    gateway.ikectl(&format!("gate undeny {NETWORK}"))?;
    ensure!(gateway.ikectl("gate")?["denied"] == Value::Null, "listed");
    client.ikectl("up home")?;
    client.ikectl("down home")?;

    // By itself, when its time has come.
    gateway.ikectl(&format!("gate deny {NETWORK} --for 1s"))?;
    until("it is heard again", SOON, || {
        Ok(gateway.ikectl("gate")?["denied"] == Value::Null)
    })?;
    client.ikectl("up home")?;

    // Others are not meant, and an SA that is up is not ended.
    gateway.ikectl(&format!("gate deny {ELSEWHERE}"))?;
    client.ikectl("rekey home")?;
    for wrong in [
        format!("gate undeny {NETWORK}"),
        "gate deny 192.0.2.10/24".to_owned(),
    ] {
        ensure!(gateway.ikectl(&wrong).is_err(), "{wrong}");
    }
    Ok(())
}

fn allowed(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    // XDP_TX over veth needs a program at the other end, which is the client's own gate.
    let gates = ["native"; 2];
    let (client, mut gateway) = sites(lab, [&client_ns, &gateway_ns], gates)?;
    gateway.ikectl("flood level attack --for 1h")?;
    // In full and by ticket, with a cookie or without.
    let logins = |gateway: &Site<'_>, reasons: [&str; 2]| -> Result<()> {
        let count = || -> Result<[u64; 2]> {
            let [first, second] = reasons;
            Ok([gateway.gate_count(first)?, gateway.gate_count(second)?])
        };
        let before = count()?;
        client.ikectl("up home")?;
        client.ikectl("suspend home")?;
        client.ikectl("up home")?;
        client.ikectl("down home")?;
        let after = count()?;
        let grown = [after[0] > before[0], after[1] > before[1]];
        ensure!(grown == [true; 2], "{reasons:?}: {before:?}, {after:?}");
        Ok(())
    };
    let challenges = |gateway: &Site<'_>| -> Result<u64> {
        Ok(gateway.gate_count("cookie_sa_init")? + gateway.gate_count("cookie_resume")?)
    };
    logins(&gateway, ["cookie_sa_init", "cookie_resume"])?;

    // The narrower network counts: its neighbours are heard no more.
    gateway.ikectl(&format!("gate deny {AROUND}"))?;
    let done = gateway.ikectl(&format!("flood allow {NETWORK} --for 1h"))?;
    ensure!(done["allowed_for_seconds"] == 3600, "{done}");
    let listed = gateway.ikectl("flood")?["allowed"].clone();
    ensure!(listed[0]["network"] == NETWORK, "{listed}");
    let before = challenges(&gateway)?;
    logins(&gateway, ["allowed", "resume_proven"])?;
    ensure!(challenges(&gateway)? == before, "somebody was asked");

    // It outlives the keeper, and so does the gate's level not: that is chosen anew.
    gateway.kill()?;
    gateway.start(lab)?;
    gateway.ikectl("flood level attack --for 1h")?;
    let before = challenges(&gateway)?;
    logins(&gateway, ["allowed", "resume_proven"])?;
    ensure!(challenges(&gateway)? == before, "somebody was asked");

    for wrong in [
        format!("gate deny {NETWORK}"),
        format!("gate undeny {NETWORK}"),
        format!("flood allow {AROUND}"),
        format!("flood unallow {ELSEWHERE}"),
    ] {
        ensure!(gateway.ikectl(&wrong).is_err(), "{wrong}");
    }
    gateway.ikectl(&format!("flood unallow {NETWORK}"))?;
    ensure!(gateway.ikectl("flood")?["allowed"] == Value::Null, "listed");
    unheard(&client, &gateway, "native")?;
    gateway.ikectl(&format!("gate undeny {AROUND}"))?;
    logins(&gateway, ["cookie_sa_init", "cookie_resume"])
}

fn allowed_by_the_engine(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let setting = |node| Setting {
        gate: "off",
        dataplane: "none",
        node,
    };
    let attack = format!("[flood]\nmode = \"attack\"\n{}", gateway_connection());
    let mut gateway = Site::prepare(lab, &gateway_ns, setting(1), &attack)?;
    let mut client = Site::prepare(lab, &client_ns, setting(2), &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let asked = |gateway: &Site<'_>| -> Result<u64> {
        let flood = gateway.ikectl("flood")?;
        let before = flood["cookies_sent"].as_u64().context("a count")?;
        client.ikectl("up home")?;
        client.ikectl("down home")?;
        let after = gateway.ikectl("flood")?["cookies_sent"].as_u64();
        Ok(after.context("a count")? - before)
    };
    ensure!(asked(&gateway)? > 0, "it does not ask");
    gateway.ikectl(&format!("flood allow {NETWORK}"))?;
    ensure!(asked(&gateway)? == 0, "it asks");
    let before = gateway.kill_engine()?;
    until("another engine", ENGINE_BACK, || {
        Ok(gateway.engine()? != before && gateway.ikectl("status").is_ok())
    })?;
    ensure!(asked(&gateway)? == 0, "the next engine asks");
    gateway.ikectl(&format!("flood unallow {NETWORK}"))?;
    ensure!(asked(&gateway)? > 0, "it asks no more");
    Ok(())
}

/// The client calls, is not answered, and leaves nothing with the gateway.
fn unheard(client: &Site<'_>, gateway: &Site<'_>, mode: &str) -> Result<()> {
    let (dropped, read) = (gateway.gate_count("denied")?, unproven(gateway)?);
    let up = client.ikectl(NO_ANSWER);
    ensure!(up.is_err(), "{up:?}");
    let (dropped, read) = (
        gateway.gate_count("denied")? - dropped,
        unproven(gateway)? - read,
    );
    // By the gate, or in the lane where the engine reads and discards it.
    let seen = if mode == "off" { read } else { dropped };
    ensure!(seen > 0, "{dropped} dropped, {read} came to the lane");
    ensure!(mode == "off" || read == 0, "{read} passed the gate");
    let status = gateway.ikectl("status")?;
    ensure!(status["ike_sas_half_open"] == 0, "{status}");
    ensure!(status["ike_sas_established"] == 0, "{status}");
    // What goes on trying would come to something when the network is heard again.
    client.ikectl("down home").map(drop).or(Ok(()))
}

fn detached(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let (client, gateway) = sites(lab, [&client_ns, &gateway_ns], ["off", "native"])?;
    let eth0 = |gate: &Value| -> Result<Value> {
        let all = gate["attachments"].as_array().context("attachments")?;
        let eth0 = all.iter().find(|one| one["interface"] == "eth0");
        eth0.context("eth0").cloned()
    };
    let on = eth0(&gateway.ikectl("gate")?)?;
    ensure!(on["mode"] == "native", "{on}");
    let holds = |program: &Value| -> Result<bool> {
        let link = gateway_ns.ip("-details link show eth0")?;
        let id = program.as_u64().context("the kernel's number")?;
        Ok(link.contains(&format!("prog/xdp id {id} ")))
    };
    ensure!(holds(&on["program_id"])?, "{on}");
    client.ikectl("up home")?;
    client.ikectl("down home")?;
    let counted = gateway.gate_count("sa_init")?;
    ensure!(counted > 0, "the gate has seen no login");

    gateway.ikectl("gate detach")?;
    ensure!(!holds(&on["program_id"])?, "the program is still there");
    let gate = gateway.ikectl("gate")?;
    ensure!(gate["mode"] == "none", "{gate}");
    let why = gate["reason"].to_string();
    ensure!(why.contains("operator"), "{why}");
    let read = unproven(&gateway)?;
    client.ikectl("up home")?;
    client.ikectl("down home")?;
    ensure!(gateway.gate_count("sa_init")? == counted, "it counts still");
    ensure!(unproven(&gateway)? > read, "nothing came to the lane");

    gateway.ikectl("gate attach")?;
    let on = eth0(&gateway.ikectl("gate")?)?;
    ensure!(on["mode"] == "native" && holds(&on["program_id"])?, "{on}");
    client.ikectl("up home")?;
    ensure!(
        gateway.gate_count("sa_init")? > counted,
        "it counts no more"
    );
    Ok(())
}

/// Datagrams that came to the lane of those who have proved nothing.
fn unproven(gateway: &Site<'_>) -> Result<u64> {
    let gate = gateway.ikectl("gate")?;
    let lanes = gate["lanes"].as_array().context("lanes")?;
    let unproven = lanes.iter().find(|one| one["lane"] == "unproven");
    let packets = unproven.and_then(|one| one["packets"].as_u64());
    packets.with_context(|| gate.to_string())
}

fn sites<'a>(
    lab: &Lab,
    [client_ns, gateway_ns]: [&'a Namespace; 2],
    [client_gate, gateway_gate]: [&str; 2],
) -> Result<(Site<'a>, Site<'a>)> {
    let setting = |gate, node| Setting {
        gate,
        dataplane: "none",
        node,
    };
    let gateway = gateway_connection();
    let mut gateway = Site::prepare(lab, gateway_ns, setting(gateway_gate, 1), &gateway)?;
    let mut client = Site::prepare(
        lab,
        client_ns,
        setting(client_gate, 2),
        &client_connection(),
    )?;
    gateway.start(lab)?;
    client.start(lab)?;
    Ok((client, gateway))
}
