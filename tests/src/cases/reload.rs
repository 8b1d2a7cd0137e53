//! Another configuration while packets flow: what has not changed loses none of them, what has changed comes
//! back by its new settings, what is gone ends; and a configuration that cannot be used changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::tunnel::{
    BRANCH, CLIENT, GATEWAY, OFFICE, REAL, client_connection, drained, gateway_connection,
    two_sites,
};
use crate::{
    capture::{Capture, Tally},
    ping::ping,
    site::{Setting, Site},
    stream::Stream,
    suite::{Case, Lab},
    until::until,
};

/// On a kernel with ESP.
pub const RELOAD: Case = Case {
    name: "another_configuration_counts_while_packets_flow",
    run: reload,
};

/// Two engines with two workers each, which all have to go by it.
pub const BY_BOTH: Case = Case {
    name: "another_configuration_counts_with_both_workers_of_either_end",
    run: by_both,
};

const NO_ESP: Setting<'static> = Setting {
    gate: "off",
    dataplane: "none",
    node: 1,
};
/// Connections of each end. A client's live where their names lead, a gateway's wherever the kernel brings them.
const PAIRS: u8 = 8;
const RATE: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(5);
const BACK_WITHIN: Duration = Duration::from_secs(10);
const OTHER: &str = "[connections.other]\npsk = \"another staple\"\n\
     local = { auth = \"psk\", id = \"gw.example\" }\n\
     remote = { auth = \"psk\", id = \"other.example\" }\n\
     [connections.other.children.net]\n\
     local_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.7.0.0/24\"]\n";

fn reload(lab: &mut Lab) -> Result<()> {
    let (client_ns, gateway_ns) = two_sites()?;
    let mut gateway = Site::prepare(lab, &gateway_ns, REAL, &gateway_connection())?;
    let own = Setting { node: 2, ..REAL };
    let mut client = Site::prepare(lab, &client_ns, own, &client_connection())?;
    gateway.start(lab)?;
    client.start(lab)?;
    let capture = Capture::start(&client_ns)?;
    client.ikectl("up home")?;
    let first = client.established()?;

    // Of what comes and goes beside it, and of what cannot be used, the tunnel notices nothing.
    let stream = Stream::start((&client_ns, BRANCH), (&gateway_ns, OFFICE), RATE)?;
    let more = drop_in(gateway.folder(), OTHER)?;
    changes(&gateway, "added", "other")?;
    ensure!(listed(&gateway)? == ["rw", "other"], "the new one");
    fs::write(
        &more,
        OTHER.replace("auth = \"psk\", id = \"gw", "auth = \"pks\", id = \"gw"),
    )?;
    refused(&gateway, "more.toml:3:")?;
    fs::write(&more, format!("{OTHER}[flood]\nmode = \"calm\"\n"))?;
    refused(&gateway, "would take a restart: [flood]")?;
    ensure!(listed(&gateway)? == ["rw", "other"], "nothing has changed");
    fs::remove_file(more)?;
    changes(&gateway, "removed", "other")?;
    ensure!(listed(&gateway)? == ["rw"], "it is gone");
    for site in [&client, &gateway] {
        let done = site.ikectl("reload")?;
        ensure!(
            done == json!({"lists": 0, "certificates_revoked": 0}),
            "{done}"
        );
    }
    let flow = stream.stop()?;
    ensure!(flow.sent > 0 && flow.lost == 0, "{flow:?}");
    ensure!(
        client.established()?["spi_i"] == first["spi_i"],
        "another SA"
    );

    // Another key: the gateway's SA stands, the client's comes back by the new one.
    let rekeyed = |text: &str| text.replace("correct horse battery", "a fresh staple, cut twice");
    rewrite(gateway.folder(), rekeyed)?;
    changes(&gateway, "changed", "rw")?;
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "by the SA that stands: {reply:?}");
    let stream = Stream::start((&client_ns, BRANCH), (&gateway_ns, OFFICE), RATE)?;
    rewrite(client.folder(), rekeyed)?;
    changes(&client, "changed", "home")?;
    let second = back(&client, &first)?;
    ensure!(second["resumed"] == false, "under another key: {second}");
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "by the new SA: {reply:?}");
    let flow = stream.stop()?;
    println!(
        "      {} of {} packets lost on the way to the new SA",
        flow.lost, flow.sent
    );
    ensure!(flow.lost < flow.sent / 2, "{flow:?}");

    // Less of the network: the rest of the flow is free, and the kernel has nothing left of it.
    rewrite(client.folder(), |text| {
        text.replace(
            "remote_ts = [\"10.1.0.0/24\"]",
            "remote_ts = [\"10.1.0.0/28\"]",
        )
    })?;
    changes(&client, "changed", "home")?;
    back(&client, &second)?;
    let reply = ping(&client_ns, OFFICE, 3, PATIENCE)?;
    ensure!(reply.all(), "by less of the network: {reply:?}");
    let policies = client_ns.ip("xfrm policy")?;
    ensure!(
        policies.contains("10.1.0.0/28") && !policies.contains("10.1.0.0/24"),
        "{policies}"
    );
    for namespace in [&client_ns, &gateway_ns] {
        drained(namespace)?;
    }
    let mut tally = Tally::default();
    tally.add_sent(&capture.stop()?);
    ensure!(tally.clear == 0 && tally.esp > 0, "{tally:?}");

    // None at all.
    rewrite(gateway.folder(), |text| {
        let connections = text.find("[connections.rw]").unwrap_or(text.len());
        text[..connections].to_owned()
    })?;
    changes(&gateway, "removed", "rw")?;
    until("both have deleted it", BACK_WITHIN, || {
        let none = |site: &Site<'_>| Ok::<_, anyhow::Error>(site.established().is_err());
        Ok(none(&gateway)? && none(&client)?)
    })?;
    let left = gateway_ns.ip("xfrm state")?;
    ensure!(!left.contains("proto esp"), "{left}");
    ensure!(listed(&gateway)?.is_empty(), "none is configured");
    client.stop()?;
    gateway.stop()
}

/// One of the connections of either end.
fn one_of_many(number: u8, is_client: bool, key: &str) -> String {
    let (own, other) = (format!("client-{number}.example"), "gw.example".to_owned());
    let addresses = format!("local_addrs = \"{CLIENT}\"\nremote_addrs = \"{GATEWAY}\"\n");
    let inside = ["10.1.0.0/24".to_owned(), format!("10.2.{number}.0/24")];
    let ([local_ts, remote_ts], (local, remote), addresses) = if is_client {
        let [office, branch] = inside;
        ([branch, office], (own, other), addresses.as_str())
    } else {
        (inside, (other, own), "")
    };
    format!(
        "[connections.c{number}]\n{addresses}dpd_delay = \"30s\"\npsk = \"{key}\"\n\
         local = {{ auth = \"psk\", id = \"{local}\" }}\n\
         remote = {{ auth = \"psk\", id = \"{remote}\" }}\n\
         [connections.c{number}.children.net]\n\
         local_ts = [\"{local_ts}\"]\nremote_ts = [\"{remote_ts}\"]\n"
    )
}

/// Established SAs of a client by the names of their connections.
fn by_name(client: &Site<'_>) -> Result<BTreeMap<String, Value>> {
    let all = client.ikectl("sa")?;
    let up = all.as_array().into_iter().flatten();
    let up = up.filter(|sa| sa["state"] == "established");
    let named = |sa: &Value| Some((sa["connection"].as_str()?.to_owned(), sa.clone()));
    Ok(up.filter_map(named).collect())
}

fn by_both(lab: &mut Lab) -> Result<()> {
    const KEY: &str = "correct horse battery";
    const OTHER_KEY: &str = "a fresh staple, cut twice";
    let (client_ns, gateway_ns) = two_sites()?;
    let all = |is_client, keys: &dyn Fn(u8) -> Option<&'static str>| -> String {
        let some = (0..PAIRS).filter_map(|number| Some((number, keys(number)?)));
        some.map(|(number, key)| one_of_many(number, is_client, key))
            .collect()
    };
    let own = Setting { node: 2, ..NO_ESP };
    // The last one is new at both ends later.
    let at_first = |number| (number + 1 < PAIRS).then_some(KEY);
    let mut gateway = Site::prepare(lab, &gateway_ns, NO_ESP, &all(false, &at_first))?;
    let mut client = Site::prepare(lab, &client_ns, own, &all(true, &at_first))?;
    for site in [&mut gateway, &mut client] {
        site.set("workers", 2)?;
        site.start(lab)?;
    }
    for number in 0..PAIRS - 1 {
        client.ikectl(&format!("up c{number}"))?;
    }
    let before = by_name(&client)?;
    let ids = before.values().filter_map(|sa| sa["id"].as_u64());
    let workers: BTreeSet<_> = ids.map(|id| id % 2).collect();
    ensure!(workers.len() == 2, "both workers have some: {before:?}");

    // Even ones have another key, the first odd one is gone, the last is new.
    let later = |number: u8| match number {
        1 => None,
        _ if number + 1 == PAIRS => Some(KEY),
        _ if number.is_multiple_of(2) => Some(OTHER_KEY),
        _ => Some(KEY),
    };
    for (site, is_client) in [(&gateway, false), (&client, true)] {
        rewrite(site.folder(), |text| {
            let connections = text.find("[connections.").unwrap_or(text.len());
            text[..connections].to_owned() + &all(is_client, &later)
        })?;
        let done = site.ikectl("reload")?;
        ensure!(
            done["changed"] == json!(["c0", "c2", "c4", "c6"])
                && done["removed"] == json!(["c1"])
                && done["added"] == json!(["c7"]),
            "{done}"
        );
        let mut names = listed(site)?;
        names.sort();
        ensure!(
            names == ["c0", "c2", "c3", "c4", "c5", "c6", "c7"],
            "{names:?}"
        );
    }
    client.ikectl("up c7")?;
    let is_new = |now: &BTreeMap<String, Value>, name: &str| {
        let spi = |all: &BTreeMap<String, Value>| all.get(name).map(|sa| sa["spi_i"].clone());
        spi(now).is_some_and(|now| Some(now) != spi(&before))
    };
    until("those with another key are back by it", BACK_WITHIN, || {
        let now = by_name(&client)?;
        Ok(["c0", "c2", "c4", "c6"]
            .iter()
            .all(|name| is_new(&now, name)))
    })?;
    let now = by_name(&client)?;
    ensure!(!now.contains_key("c1"), "it is gone: {now:?}");
    for name in ["c3", "c5"] {
        ensure!(!is_new(&now, name), "{name} has noticed something: {now:?}");
    }
    until("the gateway has as many", BACK_WITHIN, || {
        Ok(by_name(&gateway)?.len() == now.len() && by_name(&client)?.len() == now.len())
    })?;
    client.stop()?;
    gateway.stop()
}

/// A reload finds this, and no other connection changed.
fn changes(site: &Site<'_>, how: &str, name: &str) -> Result<()> {
    let done = site.ikectl("reload")?;
    let expected = json!({how: [name], "lists": 0, "certificates_revoked": 0});
    ensure!(done == expected, "{done}");
    Ok(())
}

/// A reload is refused with these words.
fn refused(site: &Site<'_>, why: &str) -> Result<()> {
    let refused = site.ikectl("reload").map_err(|error| error.to_string());
    ensure!(
        refused.as_ref().is_err_and(|said| said.contains(why)),
        "{refused:?}"
    );
    Ok(())
}

/// The client's SA, once it is another one than before.
fn back(client: &Site<'_>, before: &Value) -> Result<Value> {
    let other = || {
        client
            .established()
            .ok()
            .filter(|sa| sa["spi_i"] != before["spi_i"])
    };
    until("another SA", BACK_WITHIN, || Ok(other().is_some()))?;
    client.established()
}

/// Names of the configured connections.
fn listed(site: &Site<'_>) -> Result<Vec<String>> {
    let all = site.ikectl("conn")?;
    let names = all.as_array().into_iter().flatten();
    let names = names.filter_map(|one| Some(one["name"].as_str()?.to_owned()));
    Ok(names.collect())
}

fn rewrite(folder: &Path, change: impl Fn(&str) -> String) -> Result<()> {
    let file = folder.join("rekindle.toml");
    let text = fs::read_to_string(&file)?;
    let other = change(&text);
    ensure!(other != text, "nothing to change in {text}");
    Ok(fs::write(file, other)?)
}

/// A file of its own beside the main one, which only its owner can read.
fn drop_in(folder: &Path, text: &str) -> Result<PathBuf> {
    let conf_d = folder.join("conf.d");
    fs::create_dir_all(&conf_d)?;
    let file = conf_d.join("more.toml");
    fs::write(&file, text)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}
